"""The settings of a pretraining run in one dataclass. Flag > YAML > default."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from hiclr_fast.errors import InputError
from hiclr_fast.files.ranges import COUNT, FINITE, SEED, SHARE, SOME, Range, check_ranges
from hiclr_fast.files.settings import update
from hiclr_fast.files.yaml_files import read_yaml
from hiclr_fast.flags import called, default
from hiclr_fast.models.config import EncoderConfig
from hiclr_fast.views.augment import VIEW_SETS, AugmentConfig


@dataclass(frozen=True)
class PretrainConfig(EncoderConfig):
    """Defaults are the released NTU pretraining configuration (ST-GCN, pretext_hiclr_xsub_joint.yaml)."""

    data: Annotated[Path | None, default("the built-in synthetic one")] = None
    """Packed dataset folder."""
    out: Annotated[Path | None, default("a free name under runs/")] = None
    """Run folder, must not exist."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is a GPU."""
    threads: int = 0
    """CPU threads; 0: torch's choice."""
    loader: Literal["auto", "resident", "stream"] = "auto"
    """resident: the training split lies on the device; stream: read from disk as it goes; auto: by memory_share."""
    memory_share: float = 0.5
    """auto loader: resident when the split takes at most this share of the free memory (of RAM on CPU)."""
    amp: bool = False
    """Mixed precision."""
    amp_dtype: Literal["bf16", "fp16"] = "bf16"
    """Half type of mixed precision."""

    branches: tuple[str, ...] = ("basic", "normal", "strong")
    """View set of every query branch, weakest first."""
    key_view: Literal["basic", "normal", "strong"] = "basic"
    """View set of the key. branches normal with key_view normal: SkeletonCLR."""
    consistency: Literal["one-way", "two-way"] = "one-way"
    """one-way: the weaker branch teaches the stronger (official); two-way: half of the weight the other way round."""
    weights: tuple[float, ...] = (1.0, 0.5, 0.5)
    """InfoNCE, then one consistency weight for every further branch."""
    queue_size: int = 32768
    """Keys that a query is compared with; a multiple of the batch."""
    momentum: float = 0.999
    """Of the key encoder's moving average."""
    temperature: float = 0.07
    """Of the similarities, all are divided by it."""
    mining_epoch: int = 150
    """From the epoch after this one InfoNCE's positives include mined neighbours."""
    topk: int = 1
    """Neighbours that are mined for each query and branch."""

    epochs: int = 300
    """Passes over the training split."""
    batch_size: int = 128
    """Of all ranks together."""
    lr: float = 0.1
    """Learning rate of SGD, before the schedule."""
    weight_decay: float = 1e-4
    """Of all weights."""
    schedule: Literal["step", "cosine"] = "step"
    """step: x0.1 at the drops; cosine: down to 0 at the last epoch."""
    drops: tuple[int, ...] = (250,)
    """step schedule: x0.1 from the epoch after each."""
    warmup_epochs: int = 0
    """The rate rises linearly over these."""

    knn_every: int = 10
    """Epochs between k-NN monitors; 0: only at the end."""
    keep_every: int = 0
    """Epochs between checkpoints that stay; 0: only the latest."""
    save_minutes: float = 5.0
    """Minutes between checkpoints inside an epoch, beside the one at its end."""
    read_every: int = 20
    """Steps between readings of loss and health from the device."""

    lr_batch: int = 0
    """The batch that lr is meant for: the rate is lr * batch_size / lr_batch (linear rule); 0: lr as it stands."""
    accumulate: int = 1
    """Passes that one step's batch is cut into. Each has its own batch-norm statistics; all see the queue as it stood
    before the step, and their keys enter it together after it."""
    sync_batch_norm: bool = False
    """Batch-norm statistics over all ranks instead of each rank's own."""
    compile: bool = False
    """torch.compile the encoders."""
    no_graph: Annotated[bool, called("--eager")] = False
    """Run the step eagerly on CUDA too, instead of as one CUDA graph."""

    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def check(self) -> None:
        """InputError on values that make no sense, or cannot work together."""
        check_ranges(self, RANGES)
        self.augment.check()
        if not 1 <= len(self.branches) <= MOST_BRANCHES:
            raise InputError(f"{len(self.branches)} branches: expected 1 to {MOST_BRANCHES}")
        unknown = set(self.branches) - set(VIEW_SETS)
        if unknown:
            raise InputError(f"branches: unknown view set {min(unknown)!r}; expected basic, normal or strong")
        if len(self.weights) != len(self.branches):
            raise InputError(f"{len(self.weights)} weights for {len(self.branches)} branches; give one a branch")
        if not any(self.weights):
            raise InputError(f"weights {self.weights}: all are 0, so nothing would be learned")
        if self.queue_size % self.batch_size:
            raise InputError(
                f"queue_size {self.queue_size} is not a multiple of batch_size {self.batch_size}; "
                f"try queue_size {max(1, round(self.queue_size / self.batch_size)) * self.batch_size}"
            )
        if self.batch_size % self.accumulate:
            raise InputError(f"batch_size {self.batch_size} does not divide into {self.accumulate} passes; change accumulate")
        if self.topk > self.queue_size:
            raise InputError(f"topk {self.topk} is more than queue_size {self.queue_size}; make it smaller")


MOST_BRANCHES = 16
RANGES = {  # the upper ends are far beyond use: what is above them would only run out of memory
    "frames": Range(1, 10**5),
    "hidden_channels": Range(1, 4096),
    "hidden_dim": Range(1, 2**16),
    "feature_dim": Range(1, 2**16),
    "dropout": Range(0, 1, below=True),
    "seed": SEED,
    "threads": Range(0, 1024),
    "memory_share": SHARE,
    "weights": Range(0, 10**6),
    "queue_size": Range(1, 2**24),
    "momentum": SHARE,
    "temperature": Range(0, 1000, above=True),
    "topk": COUNT,
    "epochs": SOME,
    "batch_size": Range(1, 2**20),
    "lr": FINITE,
    "weight_decay": FINITE,
    "drops": COUNT,
    "save_minutes": FINITE,
    "read_every": SOME,
    "lr_batch": COUNT,
    "accumulate": SOME,
    **dict.fromkeys(("mining_epoch", "warmup_epochs", "knn_every", "keep_every"), COUNT),
}


def load_yaml(path: Path) -> PretrainConfig:
    """A run's YAML on top of the defaults."""
    found = read_yaml(path)
    return update(PretrainConfig(), {} if found is None else found, str(path))
