"""One table of several runs: a row a run, a column a protocol; as Markdown, CSV or LaTeX."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.results import read_results, result_folders
from hiclr_fast.files.archives import sha256
from hiclr_fast.models.load import CHECKPOINT

TableFormat = Literal["markdown", "csv", "latex"]
ENDINGS: dict[str, TableFormat] = {".md": "markdown", ".csv": "csv", ".tex": "latex"}
OLDER = "of another checkpoint than the run has now; evaluate again"


@dataclass(frozen=True)
class Cell:
    """percent; spread: over repeats, where there are some; stale: of another checkpoint than the run has now."""

    percent: float
    spread: float | None = None
    stale: bool = False


Table = dict[str, dict[str, Cell]]  # run -> column -> cell


def names_of(runs: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart."""
    parts = [run.resolve().parts for run in runs]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    raise InputError(f"the same run is given twice among {', '.join(map(str, runs))}; give each once")


def collect(runs: Sequence[Path]) -> Table:
    """The headline number of every protocol below each run's eval folder: top-1 (the first of the row where there is none)."""
    table: Table = {}
    for name, run in zip(names_of(runs), runs, strict=True):
        folder = run / "eval"
        places = result_folders(folder) if folder.is_dir() else []
        if not places:
            raise InputError(f"{run} holds no results; evaluate it first: hiclr evaluate linear --run {run}")
        now = sha256(run / CHECKPOINT) if (run / CHECKPOINT).is_file() else None
        for place in places:
            results, where = read_results(place), place.relative_to(folder).as_posix()
            percent = results.get("percent", {})
            if not percent or "/repeat" in where:  # a repeat is in the mean beside it
                continue
            number = "top1" if "top1" in percent else next(iter(percent))
            stale = now is not None and results.get("checkpoint_sha256", now) != now
            space = results.get("space", "plain")  # of k-NN and retrieval
            where += "" if space == "plain" else f" ({space})"
            cell = Cell(float(percent[number]), results.get("top1_spread"), stale)
            table.setdefault(name, {})[f"{where}, {number}"] = cell
    return table


def columns_of(table: Table) -> list[str]:
    """Every column that any run has, in the order in which they come."""
    return sorted({column for cells in table.values() for column in cells})


def _text(cell: Cell | None, mark: str, sign: str) -> str:
    if cell is None:
        return "-"
    return f"{cell.percent:.1f}" + (f" {sign} {cell.spread:.1f}" if cell.spread is not None else "") + mark * cell.stale


def markdown(table: Table) -> str:
    columns = columns_of(table)
    rows = [["run", *columns], ["---"] + ["---:"] * len(columns)]
    rows += [[name, *(_text(cells.get(c), " \\*", "±") for c in columns)] for name, cells in table.items()]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(["Percent.", "", *lines, *["", f"\\* {OLDER}"] * _any_stale(table)]) + "\n"


def latex(table: Table) -> str:
    """A tabular that needs booktabs."""
    columns = columns_of(table)
    lines = [r"\begin{tabular}{l" + "r" * len(columns) + "}", r"\toprule"]
    lines += [" & ".join(map(_escaped, ["run", *columns])) + r" \\", r"\midrule"]
    for name, cells in table.items():
        lines.append(" & ".join([_escaped(name), *(_text(cells.get(c), "*", r"$\pm$") for c in columns)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *[f"% * {OLDER}"] * _any_stale(table)]) + "\n"


def _escaped(text: str) -> str:
    words = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(words.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def as_csv(table: Table) -> str:
    """A line a number: run, protocol, number, percent, spread, stale."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["run", "protocol", "number", "percent", "spread", "stale"])
    for name, cells in table.items():
        for column, cell in cells.items():
            protocol, number = column.rsplit(", ", 1)
            spread = "" if cell.spread is None else f"{cell.spread:.4f}"
            rows.writerow([name, protocol, number, f"{cell.percent:.4f}", spread, cell.stale])
    return text.getvalue()


def _any_stale(table: Table) -> bool:
    return any(cell.stale for cells in table.values() for cell in cells.values())


WRITERS = {"markdown": markdown, "csv": as_csv, "latex": latex}
