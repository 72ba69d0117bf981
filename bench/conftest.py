"""pytest bench/ --benchmark-only: every variant's ratio to `official_style` of the same op, shape and device.

A test is one variant. All selected variants of a test function that share its other parameters form a race: the first of them
runs it, prints its ratios, and each test reports its own rounds. Each fills `benchmark.extra_info` with op, variant, device,
dtype, shape, items_per_s, threads, and ratio_median and ratio_least (of medians, of least times) where official_style ran too.
"""

import datetime
import json
import os
import platform
import subprocess
from functools import partial
from pathlib import Path

import pytest
import race as racing
import torch

RESULTS = Path(__file__).parent / "results"
KEYS = ("op", "variant", "device", "dtype", "shape", "items_per_s", "threads")
ENTRANT = ("variant", "dtype")  # parameters that tell the entrants of one race apart
OFFICIAL = "official_style"
ROUNDS = 7


def pytest_addoption(parser):
    said = "append every benchmark to {op}.jsonl in this folder; default: bench/results"
    parser.addoption("--record", nargs="?", const=RESULTS, type=Path, help=said)
    parser.addoption("--full", action="store_true", help="compiled variants and large sizes too, most of an hour on a CPU")
    parser.addoption("--tiny", action="store_true", help="every benchmark once at a tiny size: nothing is measured")


def pytest_configure(config):
    config.addinivalue_line("markers", "full: only with --full")
    if config.getoption("--tiny") and config.getoption("--record"):
        raise pytest.UsageError("--tiny measures nothing that could be recorded")


def case(item) -> tuple:
    """What the variants of one race share."""
    others = {name: value for name, value in item.callspec.params.items() if name not in ENTRANT}
    return item.nodeid.split("[")[0], repr(sorted(others.items(), key=lambda pair: pair[0]))


def entrant(item) -> tuple:
    return tuple(item.callspec.params.get(name) for name in ENTRANT)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """After -k and -m: leaves out what --full or --tiny leave out, and finds the races."""
    config.races, kept, left_out, seen = {}, [], [], set()
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=racing.clock))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        once = (item.nodeid.split("[")[0], *entrant(item), item.callspec.params.get("device"))
        again = config.getoption("--tiny") and once in seen  # another size, which would be as tiny
        if again or (item.get_closest_marker("full") and not config.getoption("--full")):
            left_out.append(item)
            continue
        seen.add(once)
        kept.append(item)
        config.races.setdefault(case(item), []).append(entrant(item))
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


def machine() -> dict:
    """What a reader needs to know of the machine; no host names."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    cpu = next((line.split(":")[1].strip() for line in info.splitlines() if line.startswith("model name")), platform.machine())
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=RESULTS.parent)
    return {
        "date": datetime.date.today().isoformat(),
        "commit": git.stdout.strip(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "openblas_coretype": os.environ.get("OPENBLAS_CORETYPE"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def described(row: dict) -> str:
    """One line: ratios of medians and of least times, then the times themselves."""
    ratio = "-"
    if "ratio_median" in row:
        ratio = f"{row['ratio_median']:.2f}x ({row['ratio_least']:.2f}x)"
    times = f"{row['median_s'] * 1e3:.2f} ms ({row['min_s'] * 1e3:.2f} to {row['max_s'] * 1e3:.2f}, n={row['n']})"
    hidden = (*KEYS, "ratio_median", "ratio_least")
    extra = " ".join(f"{k}={v:.3g}" for k, v in row.items() if k not in hidden and not k.endswith("_s") and isinstance(v, float))
    name = f"{row['op']:9} {row['shape']:28} {row['variant']:18} {row['dtype']:8} {row['device']:4}"
    return f"{name} {ratio:>18} {times:>46} {row['items_per_s']:12.1f} items/s {extra}"


def row_of(info: dict, seconds: list[float]) -> dict:
    result = racing.Result(seconds, {})
    return {**info, "median_s": result.median, "min_s": result.least, "max_s": max(seconds), "n": len(seconds)}


def pytest_terminal_summary(terminalreporter, config):
    session = getattr(config, "_benchmarksession", None)
    done = [bench for bench in (session.benchmarks if session else ()) if not bench.has_error and bench.extra_info]
    found = [row_of(bench.extra_info, bench.stats.data) for bench in done]
    if not found or config.getoption("--tiny"):
        return
    terminalreporter.section("ratio to official_style: of medians (of least times); higher is faster")
    for row in sorted(found, key=lambda r: (r["op"], r["shape"], -r["median_s"])):
        terminalreporter.write_line(described(row))
    if folder := config.getoption("--record"):
        facts = machine()
        folder.mkdir(parents=True, exist_ok=True)
        for row in found:
            with open(folder / f"{row['op']}.jsonl", "a") as file:
                file.write(json.dumps({**row, **facts}) + "\n")


@pytest.fixture(scope="session")
def tiny(request) -> bool:
    return request.config.getoption("--tiny")


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


FINISHED: dict[tuple, dict] = {}


def filled(which: tuple, results: dict, items: int, facts: dict) -> dict:
    """extra_info of one entrant of a race."""
    result, base = results[which], next((r for e, r in results.items() if e[0] == OFFICIAL), None)
    given = {name: str(value).removeprefix("torch.") for name, value in zip(ENTRANT, which, strict=True) if value is not None}
    info = facts | given | result.info | {"items_per_s": items / result.median}
    if isinstance(base, racing.Result):
        info |= {"ratio_median": base.median / result.median, "ratio_least": base.least / result.least}
    missing = set(KEYS) - set(info)
    assert not missing, f"extra_info lacks {sorted(missing)}"
    return info


def show(config, lines: list[str]) -> None:
    reporter, capture = (config.pluginmanager.get_plugin(name) for name in ("terminalreporter", "capturemanager"))
    with capture.global_and_fixture_disabled():
        for line in ("", *lines):
            reporter.write_line(line)


@pytest.fixture
def race(request, benchmark, tiny):
    """race(build, items=, op=, device=, shape=, dtype=): build(variant=, dtype=, as the test is parametrised) -> race.Entrant.

    items: a call -> items_per_s. dtype: where it is neither a parameter nor in the entrant's info. rounds, warm, alternate: of
    `race.run`.
    """

    def run(build, *, items: int, rounds: int = ROUNDS, warm: bool = True, alternate: bool = True, **facts):
        key, mine, short = case(request.node), entrant(request.node), tiny or benchmark.disabled
        if key not in FINISHED:
            builds = {}
            for which in request.config.races[key]:
                named = {name: value for name, value in zip(ENTRANT, which, strict=True) if value is not None}
                builds[which] = partial(build, **named)
            FINISHED[key] = racing.run(builds, 1 if short else rounds, warm and not short, alternate)
            timed = {e: r for e, r in FINISHED[key].items() if isinstance(r, racing.Result)}
            if not short:
                rows = [row_of(filled(e, FINISHED[key], items, facts), r.seconds) for e, r in timed.items()]
                show(request.config, [described(row) for row in rows])
        if isinstance(FINISHED[key][mine], BaseException):
            raise FINISHED[key][mine]
        racing.replay(benchmark, FINISHED[key][mine])
        benchmark.extra_info.update(filled(mine, FINISHED[key], items, facts))

    return run
