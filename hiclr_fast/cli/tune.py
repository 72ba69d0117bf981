"""Chooses pretraining settings without the test set: leaves part of the training split out, compares a grid of settings by it
(successive halving), and writes the preset that won and the evidence. Run the same command again to continue.

    hiclr tune --data data/mine --preset small/joint/stgcn --out runs/tune
    hiclr pretrain --data data/mine --config runs/tune/preset.yaml
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.errors import InputError
from hiclr_fast.flags import default
from hiclr_fast.pretraining.config import PretrainConfig, load_yaml
from hiclr_fast.pretraining.presets import preset
from hiclr_fast.tuning.grid import read_grid
from hiclr_fast.tuning.halving import EVIDENCE, PRESET, Halving, halve


@dataclass(frozen=True)
class Args:
    data: Path
    """Packed dataset; only its training split is used."""
    out: Path
    """Folder of the runs; gets preset.yaml and evidence.json."""
    grid: Annotated[Path | None, default("momentum 0.99, 0.997; pool all, parts; augment.flip_p 0, 0.5")] = None
    """YAML of settings, each with a list of values to try."""
    preset: Annotated[str | None, default("none")] = None
    """dataset/stream/encoder: what is not in the grid, as small/joint/stgcn."""
    config: Annotated[Path | None, default("the released configuration")] = None
    """YAML of what is not in the grid, instead of a preset."""
    threads: int = 0
    """CPU threads; 0: torch's choice."""
    amp: bool = False
    """Mixed precision."""
    halving: tyro.conf.OmitArgPrefixes[Halving] = field(default_factory=Halving)


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    if args.config and args.preset:
        raise InputError("give either --config or --preset")
    base = load_yaml(args.config) if args.config else preset(args.preset) if args.preset else PretrainConfig()
    base = replace(base, amp=base.amp or args.amp, threads=args.threads or base.threads)
    found = halve(read_grid(args.grid, base), open_packed(args.data), args.out, args.halving)
    if found is None:
        print("stopped; run the same command again to continue")
        return
    rounds, left_out = found
    print(f"judged by {', '.join(left_out)} of the training split; the best of {len(rounds[0])} settings:")
    for scored in rounds[-1][:3]:
        print(f"  {scored.score:.1f} {scored.said}")
    print(f"{args.out / PRESET}, {args.out / EVIDENCE}")
