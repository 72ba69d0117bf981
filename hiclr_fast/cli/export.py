"""Writes an encoder for use elsewhere: .safetensors (weights, for --checkpoint here), .onnx (rows as in a packed dataset ->
pooled features) or .pt (weights under the names of the official HiCLR code). With --head a classifier: .safetensors, or .onnx
(features and probabilities). What a file reads (skeleton, preprocessing, shape, classes) stands in its metadata.

    hiclr export --run runs/ucla --out encoder.onnx
    hiclr export --run runs/ucla --head linear --out classifier.onnx
    hiclr export --checkpoint official.pt --format official --stream bone --out bone.safetensors
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from hiclr_fast.errors import InputError
from hiclr_fast.files.atomic import replacing
from hiclr_fast.flags import default
from hiclr_fast.inference.classifier import classifier_of, load_classifier
from hiclr_fast.inference.encoder import contract_of
from hiclr_fast.models.load import Format, checkpoint_of, export_encoder, load_weights, save_official
from hiclr_fast.models.onnx import export_onnx


@dataclass(frozen=True)
class Args:
    out: Path
    """File to write, .safetensors, .onnx or .pt; must not exist."""
    run: Annotated[Path | None, default("none")] = None
    """Run folder; or give --checkpoint."""
    checkpoint: Annotated[Path | None, default("that of --run")] = None
    """checkpoint.pt or encoder.safetensors of ours; with --format official a HiCLR, AimCLR or SkeletonCLR .pt or .npz."""
    format: Format = "hiclr_fast"
    """Whose checkpoint it is."""
    stream: Annotated[Literal["joint", "bone", "motion"] | None, default("the stream it was trained on")] = None
    """What the joints are taken to; official checkpoints do not tell theirs: joint."""
    layout: Annotated[str | None, default("the one it was trained on; of official checkpoints by the number of joints")] = None
    """Skeleton, a name or a .json file."""
    head: Annotated[str | None, default("no head")] = None
    """With --run: its encoder with the class head of that protocol (linear, finetune, semi_1/repeat0, ...)."""
    data: Annotated[Path | None, default("none")] = None
    """Packed dataset that says how input is made, for checkpoints that do not (official and old ones)."""


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    if (args.run is None) == (args.checkpoint is None):
        raise InputError("give either --run RUN or --checkpoint FILE")
    if args.out.suffix not in (".safetensors", ".onnx", ".pt"):
        raise InputError(f"{args.out}: unknown kind of file; name it .safetensors, .onnx or .pt")
    if args.out.exists():
        raise InputError(f"{args.out} exists already; choose another --out")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    print(classifier(args) if args.head else encoder(args))


def classifier(args: Args) -> str:
    """Writes the classifier of a run; what was written."""
    if args.run is None or args.stream or args.layout or args.data:
        raise InputError("--head takes a classifier of --run as it is; leave --checkpoint, --stream, --layout and --data out")
    if args.out.suffix == ".pt":
        raise InputError(f"{args.out}: the official code has no such classifier; name it .safetensors or .onnx")
    found = load_classifier(args.run, head=args.head, device="cpu")
    module, config, contract = found.encoder.module, found.encoder.config, found.encoder.contract
    said = f"{args.out}: {found.protocol}, {len(found.classes)} classes, {contract.stream} stream, {contract.layout.name}"
    if args.out.suffix == ".onnx":
        facts = {"protocol": found.protocol, "classes": json.dumps(found.classes)}
        return f"{said}, within {export_onnx(module, config, contract, args.out, found.head, facts):.0e} of torch in onnxruntime"
    with replacing(args.out) as temporary:
        shutil.copyfile(classifier_of(args.run, args.head), temporary)
    return said


def encoder(args: Args) -> str:
    """Writes an encoder; what was written."""
    weights = load_weights(checkpoint_of(args.run) if args.run else args.checkpoint, args.format)
    contract = contract_of(weights, args.stream, args.data, args.layout, lambda text: tqdm.write(f"note: {text}"))
    encoder, config = weights.encoder, replace(weights.config, layout=contract.layout.name, stream=contract.stream)
    said = f"{args.out}: {config.encoder}, {config.stream} stream, {config.layout}, {encoder.projector[0].in_features} features"
    if args.out.suffix == ".onnx":
        said += f", within {export_onnx(encoder, config, contract, args.out):.0e} of torch in onnxruntime"
    elif args.out.suffix == ".pt":
        save_official(encoder, contract.shape[1], args.out)
    else:
        export_encoder(encoder, config, contract, args.out)
    return said
