"""From a packed dataset to the paper's table: pretrains three streams, evaluates every protocol, fuses, prints the table.

Run the same command again to continue: whatever is finished is skipped. Runs lie in OUT/{stream}_s{seed}/ (with
several folders of --data, one a fold, in OUT/{fold}/{stream}_s{seed}/); a run with the same settings put there is taken.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from hiclr_fast.cli.arguments import Counts, Numbers, Words
from hiclr_fast.data.formats.synthetic import pack_synthetic
from hiclr_fast.data.preprocess import Preprocess
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.schedule import FinetuneConfig
from hiclr_fast.evaluation.spaces import Space
from hiclr_fast.flags import default
from hiclr_fast.models.pooling import Readout
from hiclr_fast.pretraining.config import PretrainConfig, load_yaml
from hiclr_fast.pretraining.presets import DATASETS, preset
from hiclr_fast.reports.ablation import ablate
from hiclr_fast.reports.plan import Plan
from hiclr_fast.reports.reproduce import reproduce
from hiclr_fast.skeletons import STREAMS

USUAL = {name: field.default for name, field in Plan.__dataclass_fields__.items()}


@dataclass(frozen=True)
class Args:
    dataset: str = "ntu60"
    """Name for the table; with ntu60, ntu120, pku2 and ucla xview the published numbers are printed beside ours."""
    split: str = "xsub"
    """Name for the table, and of the presets."""
    data: Words = ()
    """Packed datasets, one a fold; none: that of the config or preset, data/ntu60_xsub, data/ucla, ..."""
    encoder: Literal["stgcn", "dsta"] = "stgcn"
    """Of the presets."""
    config: Annotated[Path | None, default("the presets of {dataset}_{split} or of {dataset}, and the encoder")] = None
    """Pretraining YAML for all streams."""
    out: Annotated[Path | None, default("runs/{dataset}_{split}_{encoder}")] = None
    """Folder for the runs and the table."""
    seeds: Counts = USUAL["seeds"]
    """One run a seed and stream."""
    streams: Words = STREAMS
    """Which streams; all three are fused."""
    protocols: Words = USUAL["protocols"]
    """Which protocols."""
    epochs: Annotated[int | None, default("the config's")] = None
    """Of pretraining."""
    linear_epochs: int = USUAL["linear_epochs"]
    """Of the linear protocol."""
    finetune_epochs: Annotated[int | None, default("official: 70 for stgcn, 80 for dsta")] = None
    """Of finetune and transfer."""
    semi_epochs: Annotated[int | None, default("official: 42 for stgcn, 50 for dsta")] = None
    """Of semi."""
    semi_percent: Numbers = USUAL["semi_percent"]
    """Of the training labels."""
    semi_repeats: int = USUAL["semi_repeats"]
    """Subsets a percentage."""
    dropout: Annotated[float | None, default("official: 0.5 for stgcn, 0 for dsta")] = None
    """Of finetune, semi and transfer."""
    batch_size: Annotated[int | None, default("official: 64 for stgcn, 128 for dsta")] = None
    """Of finetune, semi and transfer; the official ones give one step an epoch on a hundred samples."""
    transfer_to: Annotated[Path | None, default("no transfer")] = None
    """Packed dataset for the transfer protocol."""
    amp: bool = False
    """Mixed precision in everything that trains an encoder."""
    readout: Annotated[Literal["all", "parts", "joints"] | None, default("as the encoder was trained")] = None
    """Frozen features: means over all joints, each body part, or each joint."""
    segments: int = 1
    """Frozen features: equal spans of time, each with its own means."""
    space: Space = "plain"
    """k-NN and retrieval: plain, centred or whitened features; inner: what is best inside the training split."""
    ablation: bool = False
    """Instead of the table: one branch, two and three, ways of consistency, strong operations, mining; joint stream."""
    smoke: bool = False
    """The whole chain on tiny synthetic sets, in minutes on two cores; the numbers mean nothing. Heeds only --encoder, --out."""


def smoke_plan(out: Path, encoder: str) -> Plan:
    """Every stage once: 48 training samples, two pretraining epochs, two seeds."""
    for name, seed in (("actors", 0), ("others", 1)):
        if not (out / name).exists():
            pack_synthetic(out / name, Preprocess(), subjects=3, repeats=2, views=1, seed=seed)
    sizes = dict(hidden_channels=2, hidden_dim=8, feature_dim=8, queue_size=16, batch_size=8)
    config = PretrainConfig(encoder=encoder, **sizes, epochs=2, lr=0.01, init="torch", knn_every=0)
    return Plan(
        "synthetic",
        "smoke",
        (out / "actors",),
        out / "runs",
        dict.fromkeys(STREAMS, config),
        seeds=(0, 1),
        linear_epochs=2,
        finetune_epochs=2,
        semi_epochs=1,
        semi_percent=(20,),
        semi_repeats=2,
        transfer_to=out / "others",
    )


def pretraining(args: Args) -> dict[str, PretrainConfig]:
    """The config of every stream."""
    name = f"{args.dataset}_{args.split}"
    name = name if name in DATASETS else args.dataset
    found = {}
    for stream in args.streams:
        config = load_yaml(args.config) if args.config else preset(f"{name}/{stream}/{args.encoder}")
        found[stream] = replace(config, amp=config.amp or args.amp, epochs=args.epochs or config.epochs)
    return found


def plan_of(args: Args) -> Plan:
    name = f"{args.dataset}_{args.split}"
    if args.smoke:
        return smoke_plan(args.out or Path("runs/smoke"), args.encoder)
    configs = pretraining(args)
    if not (args.data or args.config or name in DATASETS or args.split == USUAL["split"]):
        raise InputError(f"no preset says where {name} lies; give --data DIR, the packed set of that split")
    data = tuple(map(Path, args.data)) or (next(iter(configs.values())).data or Path("data") / name,)
    same = {field: getattr(args, field) for field in ("protocols", "semi_percent", "semi_repeats", "transfer_to", "space")}
    same |= {field: getattr(args, field) for field in ("linear_epochs", "finetune_epochs", "semi_epochs")}
    training = FinetuneConfig(dropout=args.dropout, batch_size=args.batch_size, amp=args.amp)
    out, readout = args.out or Path("runs") / f"{name}_{args.encoder}", Readout(args.readout, args.segments)
    return Plan(args.dataset, args.split, data, out, configs, seeds=args.seeds, training=training, readout=readout, **same)


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    if not (ablate if args.ablation else reproduce)(plan_of(args)):
        print("stopped; run the same command again to continue")
