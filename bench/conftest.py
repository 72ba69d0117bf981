"""Prints every variant's ratio to `official_style` of the same op, shape and device; `--record` appends to bench/results/.

Each benchmark fills `benchmark.extra_info` with op, variant, device, dtype, shape and items_per_s.
"""

import datetime
import gc
import json
import os
import platform
import subprocess
import time
from pathlib import Path

import pytest
import torch

RESULTS = Path(__file__).parent / "results"
KEYS = ("op", "variant", "device", "dtype", "shape", "items_per_s")


def pytest_addoption(parser):
    say = "append every benchmark to {op}.jsonl in this folder; default: bench/results"
    parser.addoption("--record", nargs="?", const=RESULTS, type=Path, help=say)


def clock() -> float:
    """Seconds, after the device has done what it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=clock))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def machine() -> dict:
    """What a reader needs to know of the machine; no host names."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    cpu = next((line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")), platform.machine())
    try:
        git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=RESULTS.parent)
        commit = git.stdout.strip()
    except OSError:  # no git on this machine
        commit = ""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit or os.environ.get("COMMIT", ""),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def rows(config) -> list[dict]:
    session = getattr(config, "_benchmarksession", None)
    found = []
    for bench in session.benchmarks if session else ():
        if bench.has_error or not bench.extra_info:
            continue
        stats = bench.stats
        times = {"median_s": stats.median, "min_s": stats.min, "max_s": stats.max, "n": stats.rounds}
        found.append({**bench.extra_info, **times})
    return found


def pytest_terminal_summary(terminalreporter, config):
    found = rows(config)
    if not found:
        return
    base = {(r["op"], r["shape"], r["device"]): r["median_s"] for r in found if r["variant"] == "official_style"}
    terminalreporter.section("ratio to official_style in this run (median; higher is faster)")
    for r in sorted(found, key=lambda r: (r["op"], r["shape"], -r["median_s"])):
        reference = base.get((r["op"], r["shape"], r["device"]))
        ratio = f"{reference / r['median_s']:8.2f}x" if reference else "       -"
        spread = f"{r['min_s'] * 1e3:.2f} to {r['max_s'] * 1e3:.2f}"
        extra = " ".join(f"{k}={v:.3g}" for k, v in r.items() if k not in KEYS and not k.endswith("_s") and isinstance(v, float))
        terminalreporter.write_line(
            f"{r['op']:10} {r['shape']:28} {r['variant']:18} {r['dtype']:9} {r['device']:5} {ratio} "
            f"{r['median_s'] * 1e3:10.2f} ms ({spread}, n={r['n']}) {r['items_per_s']:12.1f} items/s {extra}"
        )
    if folder := config.getoption("--record"):
        facts = machine()
        folder.mkdir(parents=True, exist_ok=True)
        for r in found:
            with open(folder / f"{r['op']}.jsonl", "a") as file:
                file.write(json.dumps({**r, **facts}) + "\n")


@pytest.fixture(autouse=True)
def freed():
    """Compiled modules and captured graphs are cycles: without this their memory stays for the next benchmark."""
    yield
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@pytest.fixture
def graphed():
    """graphed(run): `run` as one CUDA graph, the way the training step calls it; without it, a short kernel's time is
    that of the Python that launches it."""

    def captured(run):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph.replay

    return captured


@pytest.fixture
def measure(benchmark):
    """measure(run, items=, rounds=, calls=, **extra_info): times `run()` after one warm-up round; items a call -> items_per_s.

    calls: in a round; the device is waited for before and after a round, and times are those of one call.
    """

    def timed(run, *, items: int, rounds: int = 5, calls: int = 1, **info):
        missing = set(KEYS) - {"items_per_s"} - set(info)
        assert not missing, f"extra_info lacks {sorted(missing)}"
        benchmark.extra_info.update(info)
        benchmark.pedantic(run, rounds=rounds, iterations=calls, warmup_rounds=1)
        if benchmark.stats is not None:  # None with --benchmark-disable
            benchmark.extra_info["items_per_s"] = items / benchmark.stats.stats.median

    return timed
