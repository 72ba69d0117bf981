"""Damaged and hostile files of every kind: a right result or one clear sentence, in bounded memory and time, nothing executed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz_inputs import KINDS

HERE = Path(__file__).parent
COUNT = 50  # of each kind; `scripts/campaign.py` goes on for as long as it is asked to


@pytest.mark.parametrize("part", [0, 1])
def test_mutations(tmp_path, part):
    kinds = list(KINDS)[part::2]
    paths = [str(HERE), str(HERE.parent), str(HERE.parent / "kernels")]
    command = [sys.executable, str(HERE / "fuzz_inputs.py"), str(tmp_path), str(COUNT), *kinds]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [outcome["kind"] for outcome in outcomes] == kinds
    for outcome in outcomes:
        assert outcome["right"] + outcome["refused"] >= COUNT + 2 and outcome["refused"] >= COUNT // 4, outcome
        assert not outcome["executed"] and outcome["grown_mb"] < 200, outcome
