"""Writes the features of recordings: an .npz with features (N, D) float32 and name (N,).

    hiclr embed clips/ --run runs/ucla --out features.npz
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from hiclr_fast.cli.clips import Reading, in_batches
from hiclr_fast.errors import InputError
from hiclr_fast.files.atomic import new_file, replacing
from hiclr_fast.flags import default
from hiclr_fast.inference.encoder import load_encoder


@dataclass(frozen=True)
class Args:
    clips: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Recordings: .skeleton, .json, .txt, .pkl, .npz or .npy as `hiclr prepare` reads them, packed datasets, folders of these."""
    out: Path
    """The .npz to write; must not exist."""
    reading: tyro.conf.OmitArgPrefixes[Reading]
    run: Annotated[Path | None, default("none")] = None
    """Run folder; or give --checkpoint."""
    checkpoint: Annotated[Path | None, default("that of --run")] = None
    """checkpoint.pt or encoder.safetensors of ours, or an official HiCLR, AimCLR or SkeletonCLR .pt or .npz."""
    stream: Annotated[Literal["joint", "bone", "motion"] | None, default("the stream it was trained on")] = None
    """What the joints are taken to; official checkpoints do not tell theirs: joint."""
    data: Annotated[Path | None, default("none")] = None
    """Packed dataset that says how input is made, for checkpoints that do not (official and old ones)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is a GPU."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    if (args.run is None) == (args.checkpoint is None):
        raise InputError("give either --run RUN or --checkpoint FILE")
    new_file(args.out, (".npz",))
    encoder = load_encoder(args.run or args.checkpoint, stream=args.stream, data=args.data, device=args.device)
    names, parts = [], []
    for batch, rows in in_batches(args.clips, encoder.contract, args.reading):
        names += batch
        parts.append(encoder.encode(rows))
    with replacing(args.out) as temporary:
        np.savez(temporary, features=np.concatenate(parts), name=np.array(names))
    print(f"{args.out}: features {(len(names), encoder.dim)} of {encoder.contract.stream}s, float32")
