"""Damaged and hostile files of every kind: a right result or one clear sentence, in bounded memory and time, nothing executed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KINDS = (
    *("ntu", "pku", "pku_labels", "ucla", "pyskl", "official_npy", "official_pkl", "sequences"),
    *("packed_meta", "packed_rows", "packed_samples"),
)
COUNT = 300


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_mutations(tmp_path, kind):
    paths = [str(HERE), str(HERE.parent), str(HERE.parent / "kernels")]
    command = [sys.executable, str(HERE / "fuzz_inputs.py"), kind, str(tmp_path), str(COUNT)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["right"] + outcome["refused"] >= COUNT + 2 and outcome["refused"] >= COUNT // 4
    assert not outcome["executed"] and outcome["grown_mb"] < 600
