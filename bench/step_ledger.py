"""Prints what a training step costs on CUDA, phase by phase: counted on any machine, without a GPU. Times are predictions."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import tyro

from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.pretraining.step_ledger import step_ledger, table
from hiclr_fast.skeletons import LAYOUTS
from hiclr_fast.training.ledger import Ledger

SHAPE = (3, 50, 25, 2)  # of NTU samples


@dataclass(frozen=True)
class Args:
    batch: int = 128
    """Samples of this rank's step."""
    encoder: Literal["stgcn", "dsta"] = "stgcn"
    amp: bool = True
    """bfloat16 autocast."""
    detail: int = 0
    """So many operations of every phase, those with most bytes first."""


def detail(ledger: Ledger, most: int) -> str:
    """The operations of every phase by bytes."""
    found: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for e in ledger.entries:
        for i, value in enumerate((e.kernels, e.read, e.written, e.flops)):
            found[e.phase, e.name][i] += value
    lines = [f"{'phase':14}{'operation':28}{'kernels':>8}{'MB read':>10}{'written':>10}{'GFLOP':>10}"]
    for phase in dict.fromkeys(e.phase for e in ledger.entries):
        rows = sorted(((name, v) for (p, name), v in found.items() if p == phase), key=lambda row: -row[1][1] - row[1][2])
        for name, (kernels, read, written, flops) in rows[:most]:
            lines.append(f"{phase:14}{name:28}{kernels:8}{read / 1e6:10.1f}{written / 1e6:10.1f}{flops / 1e9:10.1f}")
    return "\n".join(lines)


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    config = PretrainConfig(encoder=args.encoder, amp=args.amp)
    print(table(config, LAYOUTS["ntu25"], SHAPE, args.batch))
    if args.detail:
        print(detail(step_ledger(config, LAYOUTS["ntu25"], SHAPE, args.batch), args.detail))


if __name__ == "__main__":
    main()
