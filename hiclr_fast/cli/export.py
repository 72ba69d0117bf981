"""Writes an encoder for use elsewhere: .safetensors (weights, for --checkpoint here), .onnx (joint coordinates -> pooled
features) or .pt (weights under the names of the official HiCLR code).

    python scripts/export.py --run runs/ucla --out encoder.onnx
    python scripts/export.py --checkpoint official.pt --format official --stream bone --out bone.safetensors
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from hiclr_fast.errors import InputError
from hiclr_fast.models.load import Format, checkpoint_of, export_encoder, load_encoder, save_official
from hiclr_fast.models.onnx import FRAMES, export_onnx
from hiclr_fast.skeletons import get_layout


@dataclass(frozen=True)
class Args:
    out: Path
    """File to write, .safetensors, .onnx or .pt; must not exist."""
    run: Path | None = None
    checkpoint: Path | None = None
    """checkpoint.pt or encoder.safetensors of ours; with --format official a HiCLR, AimCLR or SkeletonCLR .pt or .npz."""
    format: Format = "hiclr_fast"
    stream: Literal["joint", "bone", "motion"] | None = None
    """Default: the stream it was trained on; official checkpoints do not tell, joint is assumed."""
    layout: str | None = None
    """Default: the layout it was trained on; of official checkpoints by the number of joints."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    if (args.run is None) == (args.checkpoint is None):
        raise InputError("give either --run RUN or --checkpoint FILE")
    if args.out.suffix not in (".safetensors", ".onnx", ".pt"):
        raise InputError(f"{args.out}: unknown kind of file; name it .safetensors, .onnx or .pt")
    if args.out.exists():
        raise InputError(f"{args.out} exists already; choose another --out")
    encoder, config = load_encoder(checkpoint_of(args.run) if args.run else args.checkpoint, args.format)
    name = args.layout or config.layout
    if name is None or get_layout(name).num_joints != encoder.num_joints:
        raise InputError(f"the encoder is for {encoder.num_joints} joints; name a layout of as many with --layout, not {name}")
    config = replace(config, layout=name, stream=args.stream or config.stream)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    said = f"{args.out}: {config.encoder}, {config.stream} stream, {name}, {config.hidden_dim} features"
    if args.out.suffix == ".onnx":
        said += f", within {export_onnx(encoder, config, args.out):.0e} of torch in onnxruntime"
    elif args.out.suffix == ".pt":
        save_official(encoder, config.frames or FRAMES, args.out)
    else:
        export_encoder(encoder, config, name, args.out)
    print(said)
