"""One dataclass holds a pretraining run. Flag > YAML > default; unknown keys are refused with the nearest valid name."""

import dataclasses
import difflib
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from hiclr_fast.errors import InputError
from hiclr_fast.views.augment import AugmentConfig


@dataclass(frozen=True)
class PretrainConfig:
    """Defaults are the released NTU pretraining configuration (ST-GCN, pretext_hiclr_xsub_joint.yaml)."""

    data: Path | None = None
    """Packed dataset folder; none: the built-in synthetic one."""
    out: Path | None = None
    """Run folder, must not exist; none: a free name under runs/."""
    stream: Literal["joint", "bone", "motion"] = "joint"
    layout: str | None = None
    """Expected joint layout; none: the data's."""
    frames: int | None = None
    """Expected frames T; none: the data's."""
    seed: int = 0
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

    encoder: Literal["stgcn", "dsta"] = "stgcn"
    """dsta: DSTA-Net, the Transformer of the paper."""
    hidden_channels: int = 16
    """stgcn: width of the first blocks; dsta: of a first attention head, whose blocks are twice as wide."""
    hidden_dim: int = 256
    feature_dim: int = 128
    dropout: float = 0.5
    """stgcn: of every block but the first; dsta: of the temporal shortcuts (attentiondrop)."""
    graph: Literal["spatial", "distance", "uniform"] = "spatial"
    """stgcn: partition of the joints' graph."""
    init: Literal["torch", "official"] = "official"
    """torch: each layer's own default, safer on small data; official: N(0, 0.02)."""

    branches: tuple[str, ...] = ("basic", "normal", "strong")
    """View set of every query branch, weakest first; the key view is always basic."""
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


def _fits(value: Any, hint: Any) -> Any:
    """`value` from YAML as the annotated type; ValueError when it is something else."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in args:
            raise ValueError(f"expected one of {', '.join(map(str, args))}")
        return value
    if origin is types.UnionType:
        if value is None and type(None) in args:
            return None
        return _fits(value, next(a for a in args if a is not type(None)))
    if origin is tuple:
        if not isinstance(value, list) or (args[-1] is not Ellipsis and len(value) != len(args)):
            raise ValueError("expected a list" + ("" if args[-1] is Ellipsis else f" of {len(args)}"))
        return tuple(_fits(v, args[0]) for v in value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise ValueError(f"expected {hint.__name__}")
    return value


def update(config: Any, values: Mapping[str, Any], where: str) -> Any:
    """A copy of a config dataclass with `values` (nested mappings) put in; InputError on unknown keys and wrong types."""
    hints, new = typing.get_type_hints(type(config)), {}
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: expected a mapping of settings, got {type(values).__name__}")
    for key, value in values.items():
        if key not in hints:
            close = difflib.get_close_matches(str(key), hints, n=1, cutoff=0)
            raise InputError(f"{where}: unknown key {key!r}; the nearest valid one is {close[0]!r}")
        if dataclasses.is_dataclass(hints[key]):
            new[key] = update(getattr(config, key), value, f"{where} {key}")
            continue
        try:
            new[key] = _fits(value, hints[key])
        except ValueError as error:
            raise InputError(f"{where}: {key} is {value!r}, {error}") from None
    return dataclasses.replace(config, **new)


def as_plain(config: Any) -> dict[str, Any]:
    """The config as YAML and JSON can hold it."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    return plain(dataclasses.asdict(config))


def load_yaml(path: Path) -> PretrainConfig:
    """A run's YAML on top of the defaults."""
    try:
        values = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give the path of a config YAML") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not readable YAML ({' '.join(str(error).split())})") from None
    return update(PretrainConfig(), values or {}, str(path))


def save_yaml(config: PretrainConfig, path: Path) -> None:
    """Under a temporary name, then renamed."""
    temporary = Path(path).with_name(f".{Path(path).name}.tmp")
    temporary.write_text(yaml.safe_dump(as_plain(config), sort_keys=False))
    os.replace(temporary, path)
