"""The settings of a pretraining run in one dataclass. Flag > YAML > default."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hiclr_fast.errors import InputError
from hiclr_fast.files.settings import read_yaml, update
from hiclr_fast.models.config import EncoderConfig
from hiclr_fast.views.augment import AugmentConfig


@dataclass(frozen=True)
class PretrainConfig(EncoderConfig):
    """Defaults are the released NTU pretraining configuration (ST-GCN, pretext_hiclr_xsub_joint.yaml)."""

    data: Path | None = None
    """Packed dataset folder; none: the built-in synthetic one."""
    out: Path | None = None
    """Run folder, must not exist; none: a free name under runs/."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    """CPU threads; 0: torch's choice."""
    loader: Literal["auto", "resident", "stream"] = "auto"
    """resident: the training split lies on the device; stream: read from disk as it goes; auto: by memory_share."""
    memory_share: float = 0.5
    """auto loader: resident when the split takes at most this share of the free memory (of RAM on CPU)."""
    amp: bool = False
    """Mixed precision."""
    amp_dtype: Literal["bf16", "fp16"] = "bf16"

    branches: tuple[str, ...] = ("basic", "normal", "strong")
    """View set of every query branch, weakest first."""
    key_view: Literal["basic", "normal", "strong"] = "basic"
    """View set of the key. branches normal with key_view normal: SkeletonCLR."""
    consistency: Literal["one-way", "two-way"] = "one-way"
    """one-way: the weaker branch teaches the stronger (official); two-way: half of the weight the other way round."""
    weights: tuple[float, ...] = (1.0, 0.5, 0.5)
    """InfoNCE, then one consistency weight for every further branch."""
    queue_size: int = 32768
    momentum: float = 0.999
    temperature: float = 0.07
    mining_epoch: int = 150
    """From the epoch after this one InfoNCE's positives include mined neighbours."""
    topk: int = 1

    epochs: int = 300
    batch_size: int = 128
    """Of all ranks together."""
    lr: float = 0.1
    weight_decay: float = 1e-4
    schedule: Literal["step", "cosine"] = "step"
    drops: tuple[int, ...] = (250,)
    """step schedule: x0.1 from the epoch after each."""
    warmup_epochs: int = 0

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
    no_graph: bool = False
    """Run the step eagerly on CUDA too, instead of as one CUDA graph."""

    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def check(self) -> None:
        """InputError on values that cannot work together."""
        if self.queue_size % self.batch_size:
            raise InputError(
                f"queue_size {self.queue_size} is not a multiple of batch_size {self.batch_size}; "
                f"try queue_size {max(1, round(self.queue_size / self.batch_size)) * self.batch_size}"
            )
        if len(self.weights) != len(self.branches):
            raise InputError(f"{len(self.weights)} weights for {len(self.branches)} branches; give one a branch")
        unknown = set(self.branches) - {"basic", "normal", "strong"}
        if unknown:
            raise InputError(f"branches: unknown view set {min(unknown)!r}; expected basic, normal or strong")
        if self.accumulate < 1 or self.batch_size % self.accumulate:
            raise InputError(f"batch_size {self.batch_size} does not divide into {self.accumulate} passes; change accumulate")
        for name in ("epochs", "read_every", "batch_size", "hidden_channels", "hidden_dim", "feature_dim"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: expected at least 1")
        if self.topk > self.queue_size:
            raise InputError(f"topk {self.topk} is more than queue_size {self.queue_size}; make it smaller")


def load_yaml(path: Path) -> PretrainConfig:
    """A run's YAML on top of the defaults."""
    return update(PretrainConfig(), read_yaml(path) or {}, str(path))
