"""Every benchmark runs, at a tiny size, and keeps the contract that its readers rely on."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXPECTED = {
    "augment": {"reference", "kernel", "copy"},
    "contrast": {"reference", "chunked", "sdpa", "kernel"},
    "parse": {"numba"},
    "prepare": {"prepare"},
    "loader": {"torch_stream"},
    "step": {"step", "step_amp"},
    "linear": {"cached", "cold"},
}


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory):
    """extra_info and stats of one tiny run, by op and variant; one thread."""
    out = tmp_path_factory.mktemp("bench") / "out.json"
    command = [sys.executable, "-m", "pytest", "bench", "-q", "-m", "not gpu", "--benchmark-only", "--tiny"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")])
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # of a worker of xdist
    environment = {**inherited, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command += [f"--benchmark-json={out}", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return json.loads(out.read_text())["benchmarks"]


def test_every_benchmark_runs_beside_the_official_style(benchmarks):
    found = {}
    for bench in benchmarks:
        info = bench["extra_info"]
        found.setdefault((info["op"], info["shape"], info["device"]), {})[info["variant"]] = bench
    assert {op for op, *_ in found} == set(EXPECTED)
    for (op, *_), variants in found.items():
        assert {"official_style", *EXPECTED[op]} <= set(variants), op
        official = variants["official_style"]["stats"]["median"]
        for bench in variants.values():
            info, seconds = bench["extra_info"], bench["stats"]["median"]
            assert seconds > 0 and isinstance(info["dtype"], str) and info["threads"] >= 1
            assert math.isclose(info["ratio_median"], official / seconds, rel_tol=1e-6)
            assert info["items_per_s"] > 0
