"""The table of a reproduction: every protocol for every origin and stream, mean and spread over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hiclr_fast.evaluation.metrics import mean_spread
from hiclr_fast.evaluation.protocols.ensemble import WEIGHTS
from hiclr_fast.reports.published import Published
from hiclr_fast.skeletons import STREAMS

ORIGINS = {
    "pretrained": "HiCLR",
    "random": "random initialisation",
    "random, recalibrated": "random, clean statistics",
    "raw": "raw features",
}
FUSED = {name: f"3 streams, {'/'.join(f'{w:g}' for w in weights)}" for name, weights in WEIGHTS.items()}


@dataclass
class Measured:
    """values[origin, row, column][seed] = one percentage a fold. column: a stream or a name of WEIGHTS."""

    values: dict[tuple[str, str, str], dict[int, list[float]]] = field(default_factory=dict)

    def add(self, origin: str, row: str, column: str, seed: int, value: float) -> None:
        self.values.setdefault((origin, row, column), {}).setdefault(seed, []).append(value)

    def rows(self) -> list[tuple[str, str]]:
        """(origin, row) in the order in which they came, origins together."""
        seen = dict.fromkeys((origin, row) for origin, row, _ in self.values)
        return sorted(seen, key=lambda pair: list(ORIGINS).index(pair[0]))

    def cell(self, origin: str, row: str, column: str) -> dict[str, Any] | None:
        """Mean over folds for every seed, then mean and spread over seeds."""
        by_seed = self.values.get((origin, row, column))
        if not by_seed:
            return None
        seeds = {seed: sum(folds) / len(folds) for seed, folds in sorted(by_seed.items())}
        mean, spread = mean_spread(list(seeds.values()))
        folds = {seed: values for seed, values in sorted(by_seed.items())}
        return {"mean": mean, "spread": spread, "n": len(seeds), "by_seed": seeds, "folds_by_seed": folds}


def _text(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "-"
    return f"{cell['mean']:.1f}" + (f" ± {cell['spread']:.1f}" if cell["spread"] is not None else "")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def markdown(measured: Measured, known: Sequence[Published], encoder: str, caption: Sequence[str]) -> str:
    """Our rows, each with the paper's three-stream number for this encoder; then what else is published."""
    columns = {**{stream: stream for stream in STREAMS}, **FUSED}
    paper = {p.protocol: f"{p.fused:g}" for p in known if p.encoder == encoder and p.source.startswith("HiCLR (")}
    lines = [*caption, "", _line(["features", "protocol", *columns.values(), "paper, 3 streams"]), _line(["---"] * 8)]
    for origin, row in measured.rows():
        cells = [_text(measured.cell(origin, row, column)) for column in columns]
        lines.append(_line([ORIGINS[origin], row, *cells, paper.get(row, "-") if origin == "pretrained" else "-"]))
    if known:
        lines += ["", "Published by others and by the authors, top-1 percent:", ""]
        lines += [_line(["source", "encoder", "protocol", *STREAMS, "3 streams"]), _line(["---"] * 7)]
        for p in known:
            numbers = ["-" if value is None else f"{value:g}" for value in (*p.streams, p.fused)]
            lines.append(_line([p.source, p.encoder, p.protocol, *numbers]))
    return "\n".join(lines) + "\n"


def as_json(measured: Measured, known: Sequence[Published], caption: Sequence[str]) -> dict[str, Any]:
    rows = [
        {"origin": origin, "row": row, "cells": {c: measured.cell(origin, row, c) for c in (*STREAMS, *WEIGHTS)}}
        for origin, row in measured.rows()
    ]
    return {"caption": list(caption), "rows": rows, "published": [vars(p) for p in known]}
