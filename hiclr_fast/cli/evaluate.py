"""Evaluates a pretrained encoder. Every protocol writes results.json and per-sample scores by name, and prints one row."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from hiclr_fast.cli.arguments import Counts, Numbers, choose
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.distributed import join, leaving
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.candidate import Candidate
from hiclr_fast.evaluation.features import FeatureDtype, cached_features, save_features
from hiclr_fast.evaluation.protocols.cluster import ClusterConfig, cluster
from hiclr_fast.evaluation.protocols.ensemble import ensemble
from hiclr_fast.evaluation.protocols.finetune import finetune
from hiclr_fast.evaluation.protocols.knn import KS, TEMPERATURE, KnnConfig, knn
from hiclr_fast.evaluation.protocols.linear import LinearConfig, linear_protocol
from hiclr_fast.evaluation.protocols.retrieval import RetrievalConfig, retrieval
from hiclr_fast.evaluation.protocols.semi import run_semi
from hiclr_fast.evaluation.protocols.transfer import folder_of, moved, run_transfer
from hiclr_fast.evaluation.schedule import FinetuneConfig
from hiclr_fast.evaluation.spaces import Space
from hiclr_fast.flags import called, default
from hiclr_fast.machine import pick_device
from hiclr_fast.models.load import checkpoint_of
from hiclr_fast.models.pooling import Readout
from hiclr_fast.pretraining.run_folder import load_run_config


@dataclass(frozen=True)
class Source:
    """What to evaluate: a run folder, or a checkpoint and a dataset."""

    run: Annotated[Path | None, default("none")] = None
    """Run folder; or give --checkpoint and --data."""
    checkpoint: Annotated[Path | None, default("that of --run")] = None
    """checkpoint.pt or encoder.safetensors of ours; with --format official a HiCLR, AimCLR or SkeletonCLR .pt or .npz."""
    data: Annotated[Path | None, default("with --run the one it was trained on")] = None
    """Packed dataset to evaluate on."""
    format: Literal["hiclr_fast", "official"] = "hiclr_fast"
    """Whose checkpoint it is."""
    stream: Annotated[Literal["joint", "bone", "motion"] | None, default("the stream it was trained on")] = None
    """What the joints are taken to."""
    origin: Literal["pretrained", "random", "raw"] = "pretrained"
    """The pretrained encoder, the same encoder as its run began, or the raw coordinates."""
    recalibrate: bool = False
    """Batch-norm statistics from clean training data instead of those that pretraining left."""
    readout: Annotated[Literal["all", "parts", "joints"] | None, default("as the encoder was trained")] = None
    """Frozen features: means over all joints, each body part, or each joint."""
    segments: int = 1
    """Frozen features: equal spans of time, each with its own means."""
    feature_dtype: FeatureDtype = "float32"
    """Frozen features: bf16 runs the encoder in bfloat16."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is a GPU."""
    no_graph: Annotated[bool, called("--eager")] = False
    """Train step by step on CUDA too, instead of as one CUDA graph."""
    out: Annotated[Path | None, default("eval/ beside the checkpoint")] = None
    """Folder that gets one folder a protocol."""

    def candidate(self) -> Candidate:
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
        same = ("format", "stream", "origin", "recalibrate", "feature_dtype", "no_graph")
        ranks = join(pick_device(self.device))
        place = checkpoint, open_packed(data), self.out or checkpoint.parent / "eval", pick_device(self.device, ranks.local)
        readout = Readout(self.readout, self.segments)
        return Candidate(*place, ranks=ranks, readout=readout, **{name: getattr(self, name) for name in same})


Candidates = tyro.conf.OmitArgPrefixes[Source]


@dataclass(frozen=True)
class Knn:
    """k nearest neighbours by cosine similarity, majority and weighted vote."""

    source: Candidates
    k: Counts = KS
    """Numbers of neighbours that vote."""
    temperature: float = TEMPERATURE
    """Of the weighted vote, exp(cosine / temperature)."""
    space: Space = "plain"
    """plain, or centred or whitened by the training features; inner: what is best inside the training split."""

    def run(self) -> None:
        self.source.candidate().evaluate("knn", KnnConfig(self.k, self.temperature, self.space), knn)


@dataclass(frozen=True)
class Linear:
    """Linear classifier on frozen features, official schedule."""

    source: Candidates
    schedule: tyro.conf.OmitArgPrefixes[LinearConfig]

    def run(self) -> None:
        self.source.candidate().evaluate("linear", self.schedule, linear_protocol)


@dataclass(frozen=True)
class Semi:
    """Finetuning on a class-balanced part of the labels."""

    source: Candidates
    schedule: tyro.conf.OmitArgPrefixes[FinetuneConfig]
    percent: Numbers = (1, 5, 10, 20)
    """Of the training set's labels."""
    repeats: int = 5
    """Subsets a percentage, drawn with seeds 0, 1, ..."""

    def run(self) -> None:
        run_semi(self.source.candidate(), self.percent, self.repeats, self.schedule)


@dataclass(frozen=True)
class Finetune:
    """All weights, all labels, official schedule of the encoder."""

    source: Candidates
    schedule: tyro.conf.OmitArgPrefixes[FinetuneConfig]

    def run(self) -> None:
        self.source.candidate().evaluate("finetune", self.schedule, finetune)


@dataclass(frozen=True)
class Supervised:
    """The same network and schedule from scratch: the baseline of finetune."""

    source: Candidates
    schedule: tyro.conf.OmitArgPrefixes[FinetuneConfig]

    def run(self) -> None:
        if self.source.origin == "raw":
            raise InputError("supervised trains from the random initialisation; leave --origin out")
        replace(self.source, origin="random").candidate().evaluate("supervised", self.schedule, finetune)


@dataclass(frozen=True)
class Transfer:
    """Linear and finetune on another dataset with the same joints; the class head is new."""

    source: Candidates
    to: Path
    """Packed dataset to go to."""
    head: LinearConfig = field(default_factory=LinearConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)

    def run(self) -> None:
        target, source = open_packed(self.to), self.source
        if source.checkpoint and not source.data:  # nothing of the data it was pretrained on is needed
            there = replace(source, data=self.to).candidate()
            there = replace(there, folder=there.folder / folder_of(target))
        else:
            there = moved(source.candidate(), target)
        run_transfer(there, self.head, self.finetune)


@dataclass(frozen=True)
class Ensemble:
    """Weighted sum of the raw scores of two or more runs, by sample name: of the three streams, or of several seeds."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, two or more."""
    protocol: str = "linear"
    """Folder in each run's eval/: linear, finetune, supervised, semi_1/repeat0, linear_random, ..."""
    weights: Literal["equal", "less-motion"] = "equal"
    """equal: every run alike; less-motion: joint and bone 0.6, motion 0.4. Say which before looking at the numbers."""
    out: Annotated[Path | None, default("ensemble_PROTOCOL_WEIGHTS in the first run's eval/")] = None
    """Result folder."""

    def run(self) -> None:
        if not self.runs:
            raise InputError("an ensemble of no runs: give two or more run folders")
        name = f"ensemble_{self.protocol.replace('/', '_')}_{self.weights}"
        ensemble([run / "eval" / self.protocol for run in self.runs], self.weights, self.out or self.runs[0] / "eval" / name)


@dataclass(frozen=True)
class Retrieval:
    """Every validation sample queries the training set: mAP and the nearest neighbours by name."""

    source: Candidates
    settings: tyro.conf.OmitArgPrefixes[RetrievalConfig]

    def run(self) -> None:
        self.source.candidate().evaluate("retrieval", self.settings, retrieval)


@dataclass(frozen=True)
class Cluster:
    """k-means of the validation features: NMI, ARI, matched accuracy."""

    source: Candidates
    settings: tyro.conf.OmitArgPrefixes[ClusterConfig]

    def run(self) -> None:
        self.source.candidate().evaluate("cluster", self.settings, cluster)


@dataclass(frozen=True)
class FeaturesOnly:
    """Writes an .npz with features (N, D), label (N,) and name (N,) of every split."""

    source: Candidates

    def run(self) -> None:
        s = replace(self.source, out=None).candidate()
        if s.origin == "pretrained":
            features = cached_features(s.weights, s.data, s.stream, s.device, s.recalibrate, s.feature_dtype, s.readout)
        else:
            features = dict(zip(("train", "val"), s.features, strict=True))
        out = self.source.out or s.folder / "features.npz"
        save_features(features, out)
        print(f"{out}: " + ", ".join(f"{split} {f.feature.shape}" for split, f in features.items()))


COMMANDS: dict[str, Callable] = {
    "knn": Knn,
    "linear": Linear,
    "semi": Semi,
    "finetune": Finetune,
    "supervised": Supervised,
    "transfer": Transfer,
    "ensemble": Ensemble,
    "retrieval": Retrieval,
    "cluster": Cluster,
    "features": FeaturesOnly,
}


def main() -> None:
    with leaving():
        choose(COMMANDS, __doc__).run()
