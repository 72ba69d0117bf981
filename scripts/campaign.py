"""Tries to crash it, to let two runs meet and to make a result lie: with files, settings, processes, signals and full disks.

Every case runs in a child with limits on memory and time. It counts as refused (one line, exit code 2 or 128 + signal), fine, or
wrong: a traceback, a crash, no end, too much memory, another state, mixed results, a NaN as a number, files left behind. Prints a
table at the end and writes it as Markdown and JSON. Exit code 1 when anything is wrong.
"""

import json
import os
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import tyro

TESTS = Path(__file__).parent.parent / "tests"


@dataclass(frozen=True)
class Args:
    minutes: float = 10
    cases: int | None = None
    """Of every category, instead of minutes."""
    only: tuple[str, ...] = ()
    """Categories; none: all."""
    seed: int = 0
    """Of every case's choices: case n of a category is a function of (seed, category, n)."""
    first: int = 0
    """Number of the first case, to look at one again."""
    out: Path = Path("campaign")
    """Stem of the table: OUT.md, OUT.json."""


def table(found: dict[str, list[tuple[str, str, str]]], args: Args, minutes: float) -> str:
    """Markdown: counts of every category, then every wrong case."""
    lines = [
        f"{minutes:.0f} minutes, seed {args.seed}, Python {platform.python_version()}, {platform.machine()}",
        "",
        "| category | tried | refused in one line | fine | wrong |",
        "|---|---|---|---|---|",
    ]
    for category, cases in [*found.items(), ("all", [case for some in found.values() for case in some])]:
        counts = Counter(outcome for _, outcome, _ in cases)
        lines.append(f"| {category} | {len(cases)} | {counts['refused']} | {counts['fine']} | {counts['wrong']} |")
    every = ((category, *case) for category, cases in found.items() for case in cases)
    bad = [f"- {category}: {name}: {why}" for category, name, outcome, why in every if outcome == "wrong"]
    return "\n".join([*lines, "", *bad]).rstrip() + "\n"


def main() -> int:
    args = tyro.cli(Args, description=__doc__)
    sys.path.insert(0, str(TESTS))
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    os.environ["NUMBA_THREADING_LAYER"] = "workqueue"  # the others send SIGTERM to forked children
    import campaign_files
    import campaign_places
    import campaign_processes
    import campaign_settings
    from children import Place

    kinds = campaign_processes.CASES | campaign_settings.CASES | campaign_places.CASES | campaign_files.CASES
    unknown = set(args.only) - set(kinds)
    if unknown:
        print(f"error: unknown category {min(unknown)!r}; expected some of {', '.join(kinds)}", file=sys.stderr)
        return 2
    kinds = {name: case for name, case in kinds.items() if not args.only or name in args.only}
    found: dict[str, list] = {name: [] for name in kinds}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        place, number = Place(Path(folder)), args.first
        while number < args.first + args.cases if args.cases else time.monotonic() - began < 60 * args.minutes:
            for category, case in kinds.items():
                rng = random.Random(f"{args.seed} {category} {number}")
                one = case(place, rng)
                if one is None:
                    continue
                name, outcome, why = f"{number}, {one[0]}", *one[1:]
                found[category].append((name, outcome, why.replace(folder, "")))
                if outcome == "wrong":
                    print(f"WRONG {category} {name}: {why}", flush=True)
            number += 1
    text = table(found, args, (time.monotonic() - began) / 60)
    args.out.with_suffix(".md").write_text(text)
    args.out.with_suffix(".json").write_text(json.dumps(found, indent=1))
    print(text)
    return 1 if "wrong" in {outcome for cases in found.values() for _, outcome, _ in cases} else 0


if __name__ == "__main__":
    sys.exit(main())
