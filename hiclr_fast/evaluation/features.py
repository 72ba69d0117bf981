"""A frozen encoder is a pure function: run it once per checkpoint, dataset and stream, and keep the features."""

import copy
import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from hiclr_kernels.augment.reference import Stream, to_stream
from torch import Tensor, nn
from tqdm import tqdm

from hiclr_fast.data.packed.dataset import Packed, Split
from hiclr_fast.errors import InputError, writing
from hiclr_fast.files.archives import open_regular, open_zip, read_npz
from hiclr_fast.files.atomic import write_npz
from hiclr_fast.inference.encoder import pooled
from hiclr_fast.inference.rows import BATCH
from hiclr_fast.models.build import Encoder
from hiclr_fast.models.load import Weights, check_fits
from hiclr_fast.models.pooling import OWN, Readout
from hiclr_fast.skeletons import Layout
from hiclr_fast.training.precision import exact

FeatureDtype = Literal["float32", "bf16"]


@dataclass(frozen=True)
class Features:
    """feature: (N, D) float32; label: (N,) int64; name: (N,) unicode."""

    feature: np.ndarray
    label: np.ndarray
    name: np.ndarray


def extract(
    encoder: Encoder,
    split: Split,
    layout: Layout,
    stream: Stream,
    device: torch.device,
    rows: Tensor | None = None,
    dtype: FeatureDtype = "float32",
) -> Features:
    """Pooled features (N, D) of a split, float32: eval mode, no augmentation.

    rows: its x, where the device has it already. dtype: bf16 runs the encoder under bfloat16 autocast.
    """
    encoder.eval()
    x, parts = split.x if rows is None else rows, []
    for start in tqdm(range(0, len(split), BATCH), desc="features", unit="batch", leave=False, disable=len(split) < 2048):
        parts.append(pooled(encoder, x[start : start + BATCH], layout, stream, device, half=dtype == "bf16"))
    return Features(np.concatenate(parts), split.label, split.name)


@torch.no_grad()
def recalibrate(encoder: Encoder, split: Split, layout: Layout, stream: Stream, device: torch.device) -> None:
    """Replaces the batch-norm running statistics by averages over clean training data, without dropout.

    Pretraining leaves a moving average that mixes clean, normal and masked views, while evaluation sees clean data only.
    """
    norms = [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    encoder.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
        norm.train()
    for rows in np.array_split(np.arange(len(split)), max(1, len(split) // BATCH)):
        with exact():
            encoder.features(to_stream(torch.from_numpy(split.x[rows]).to(device), stream, layout.parents))
    encoder.eval()


def raw_features(split: Split, layout: Layout, stream: Stream) -> Features:
    """The coordinates themselves as features, the baseline that an encoder has to beat: (N, 3 * T * V * M)."""
    x = to_stream(torch.from_numpy(np.array(split.x)), stream, layout.parents)
    return Features(x.flatten(1).numpy(), split.label, split.name)


def check_finite(found: Iterable[Features], where: str) -> None:
    """InputError naming the first sample with NaN or Inf in its features."""
    for features in found:
        bad = np.flatnonzero(~np.isfinite(features.feature).all(axis=1))
        if len(bad):
            raise InputError(
                f"{where}: the features of sample {features.name[bad[0]]} are NaN or Inf; take a checkpoint from before the "
                "weights diverged, and look at the data with scripts/prepare.py check"
            )


def check_statistics(model: nn.Module, where: str) -> None:
    """InputError where a weight or a batch-norm statistic is NaN or Inf: with an infinite variance features are finite, and
    say nothing."""
    for name, x in model.state_dict().items():
        if x.is_floating_point() and not bool(torch.isfinite(x).all()):
            raise InputError(f"{where}: {name} holds NaN or Inf; take weights from before that, and check the data")


def _digest(key: str, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the key of a cache and of every name, dtype, shape and value in it."""
    found = hashlib.sha256(key.encode())
    for name, x in sorted(arrays.items()):
        found.update(f"\n{name} {x.dtype} {x.shape}\n".encode())
        found.update(np.ascontiguousarray(x).reshape(-1).view(np.uint8))
    return found.hexdigest()


def _from_cache(cache: Path, key: str, data: Packed) -> dict[str, Features]:
    """InputError where it is damaged, of another key, or not of that data."""
    file, found = read_npz(cache), {}
    if str(file.pop("sha256", None)) != _digest(key, file):
        raise InputError(f"{cache}: its checksum is absent or not the one of its content")
    for name, split in data.splits.items():
        one = Features(*(file.get(f"{name}/{column}") for column in ("features", "label", "name")))
        rows = one.feature is not None and one.feature.dtype == np.float32 and one.feature.ndim == 2
        same = np.array_equal(one.label, split.label) and np.array_equal(one.name, split.name)
        if not (rows and same and len(one.feature) == len(split)):
            raise InputError(f"{cache}: not the features of {data.path}")
        found[name] = one
    if len({one.feature.shape[1] for one in found.values()}) > 1:
        raise InputError(f"{cache}: features of different width in the splits")
    check_finite(found.values(), str(cache))
    return found


def cached_features(
    weights: Weights,
    data: Packed,
    stream: Stream,
    device: torch.device,
    recalibrated: bool = False,
    dtype: FeatureDtype = "float32",
    readout: Readout = OWN,
) -> dict[str, Features]:
    """Features of every split, from `features/` beside the checkpoint when they are there.

    The key is the checkpoint's content, the data's checksum, the stream, the kind of device, whether the batch-norm
    statistics were recalibrated on the training split, the number format where it is not float32, and the readout where it is
    not the encoder's own, so that nothing stale is ever used. A cache that is damaged or without its checksum is made anew.
    """
    check_fits(weights.encoder, data, str(weights.path))
    facts = [weights.sha256, data.checksum, stream, device.type, str(recalibrated), *([] if dtype == "float32" else [dtype])]
    facts += [readout.name] * (readout != OWN)
    key = hashlib.sha256(" ".join(facts).encode()).hexdigest()[:16]
    cache = weights.path.parent / "features" / f"{key}.npz"
    if cache.is_file():
        try:
            return _from_cache(cache, key, data)
        except InputError as error:
            tqdm.write(f"note: {error}; the features are extracted again")
            cache.unlink(missing_ok=True)
    encoder = copy.deepcopy(weights.encoder).to(device, memory_format=torch.channels_last)
    readout.set(encoder, data.layout)
    if recalibrated:
        recalibrate(encoder, data["train"], data.layout, stream, device)
    features = {s: extract(encoder, split, data.layout, stream, device, dtype=dtype) for s, split in data.splits.items()}
    check_finite(features.values(), str(weights.path))
    check_statistics(encoder, str(weights.path))
    _write(features, cache, key)
    return features


def save_features(features: dict[str, Features], path: Path) -> None:
    """{split}/features, {split}/label, {split}/name of every split in one .npz. A file that is not of this kind stays."""
    if path.exists() and not _is_features(path):
        raise InputError(f"{path} exists already and holds no features; choose another --out")
    _write(features, path)


def _write(features: dict[str, Features], path: Path, key: str | None = None) -> None:
    """key: of a cache, which gets a checksum."""
    arrays = {}
    for split, f in features.items():
        arrays |= {f"{split}/features": f.feature, f"{split}/label": f.label, f"{split}/name": f.name}
    if key is not None:
        arrays["sha256"] = np.array(_digest(key, arrays))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_npz(path, arrays)


def _is_features(path: Path) -> bool:
    """By the names of the arrays alone."""
    try:
        with open_regular(path) as file, open_zip(file) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):  # an InputError is a ValueError
        return False
    return bool(names) and all(name.rpartition("/")[2] in ("features", "label", "name") and "/" in name for name in names)
