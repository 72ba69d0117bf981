"""Evaluates a frozen encoder: k-NN, linear protocol, or its features."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from hiclr_fast.data.packed import Packed, open_packed
from hiclr_fast.errors import InputError, run_script
from hiclr_fast.features import Features, cached_features, checkpoint_of, save_features
from hiclr_fast.pretrain import pick_device
from hiclr_fast.protocols.knn import KS, knn_scores
from hiclr_fast.protocols.linear import LinearConfig, linear
from hiclr_fast.protocols.metrics import topk_accuracy, write_results
from hiclr_fast.run import load_run_config


@dataclass(frozen=True)
class Source:
    """What to evaluate: a run folder, or a checkpoint and a dataset."""

    run: Path | None = None
    checkpoint: Path | None = None
    """checkpoint.pt or encoder.safetensors of ours; with --format official a HiCLR .pt or .npz."""
    data: Path | None = None
    """Packed dataset; with --run, default: the one it was trained on."""
    format: Literal["hiclr_fast", "official"] = "hiclr_fast"
    stream: Literal["joint", "bone", "motion"] | None = None
    """Default: the stream it was trained on."""
    recalibrate: bool = False
    """Batch-norm statistics from clean training data instead of those that pretraining left."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    out: Path | None = None
    """Result file; default: eval/ beside the checkpoint."""

    def resolve(self) -> tuple[Path, Packed, Path]:
        """(checkpoint, data, folder for results)."""
        if (self.run is None) == (self.checkpoint is None):
            raise InputError("give either --run RUN or --checkpoint FILE (with --data DIR)")
        data = self.data
        if self.run is not None:
            checkpoint = checkpoint_of(self.run)
            data = data or load_run_config(self.run).data
        else:
            checkpoint = self.checkpoint
            if not checkpoint.is_file():
                raise InputError(f"{checkpoint} does not exist; give the path of a checkpoint")
        if data is None:
            raise InputError("--checkpoint needs --data DIR, the packed dataset to evaluate on")
        return checkpoint, open_packed(data), checkpoint.parent / "eval"


@dataclass(frozen=True)
class Knn:
    """k nearest neighbours by cosine similarity, majority vote."""

    source: tyro.conf.OmitArgPrefixes[Source]
    k: tuple[int, ...] = KS


@dataclass(frozen=True)
class Linear:
    """Linear classifier on frozen features, official schedule."""

    source: tyro.conf.OmitArgPrefixes[Source]
    schedule: tyro.conf.OmitArgPrefixes[LinearConfig]


@dataclass(frozen=True)
class FeaturesOnly:
    """Writes an .npz with features (N, D), label (N,) and name (N,) of every split."""

    source: tyro.conf.OmitArgPrefixes[Source]


def load(source: Source) -> tuple[dict[str, Features], dict, Path]:
    checkpoint, data, folder = source.resolve()
    device = pick_device(source.device)
    features = cached_features(checkpoint, source.format, data, source.stream, device, source.recalibrate)
    facts = {
        "checkpoint": str(checkpoint),
        "data": str(data.path),
        "stream": source.stream or "as trained",
        "recalibrated": source.recalibrate,
    }
    return features, facts, folder


def train_val(features: dict[str, Features], facts: dict) -> tuple[Features, Features]:
    missing = {"train", "val"} - set(features)
    if missing:
        raise InputError(f"{facts['data']} has no {min(missing)} split; the protocol needs train and val")
    return features["train"], features["val"]


def print_row(protocol: str, setting: str, numbers: dict[str, float]) -> None:
    print(f"| {protocol} | {setting} | " + " | ".join(f"{name} {value:.2f} %" for name, value in numbers.items()) + " |")


def run_knn(args: Knn) -> None:
    features, facts, folder = load(args.source)
    train, val = train_val(features, facts)
    votes = knn_scores(train, val, args.k)
    accuracy = {f"k={k}": topk_accuracy(v, val.label, 1) for k, v in votes.items()}
    results = {"protocol": "knn", "metric": "cosine, majority vote", **facts, "top1_percent": accuracy}
    write_results(results, votes[args.k[0]], val.label, val.name, args.source.out or folder / "knn.json")
    print_row("k-NN", "cosine, majority", accuracy)


def run_linear(args: Linear) -> None:
    features, facts, folder = load(args.source)
    train, val = train_val(features, facts)
    result = linear(train, val, args.schedule, pick_device(args.source.device))
    numbers = {"last_epoch_top1_percent": result.top1, "last_epoch_top5_percent": result.top5}
    best = {"best_epoch_on_test_top1_percent": result.best_on_test_top1, "best_epoch_on_test": result.best_on_test_epoch}
    results = {"protocol": "linear", **facts, "schedule": vars(args.schedule), **numbers, **best}
    write_results(results, result.scores, val.label, val.name, args.source.out or folder / "linear.json")
    shown = {"top-1": result.top1, "top-5": result.top5, "best epoch on test, top-1": result.best_on_test_top1}
    print_row("linear", f"last of {args.schedule.epochs} epochs", shown)


def run_features(args: FeaturesOnly) -> None:
    features, _, folder = load(args.source)
    out = args.source.out or folder / "features.npz"
    save_features(features, out)
    print(f"{out}: " + ", ".join(f"{split} {f.feature.shape}" for split, f in features.items()))


def main() -> None:
    args = tyro.cli(
        Annotated[Knn, tyro.conf.subcommand("knn")]
        | Annotated[Linear, tyro.conf.subcommand("linear")]
        | Annotated[FeaturesOnly, tyro.conf.subcommand("features")],
        description=__doc__,
    )
    {Knn: run_knn, Linear: run_linear, FeaturesOnly: run_features}[type(args)](args)


if __name__ == "__main__":
    run_script(main)
