"""A frozen encoder is a pure function: run it once per checkpoint, dataset and stream, and keep the features.

Also where weights of any origin become an encoder: our runs and exports, and official checkpoints.
"""

import hashlib
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from hiclr_kernels.augment_ref import Stream, to_stream
from torch import Tensor, nn
from tqdm import tqdm

from hiclr_fast.config import PretrainConfig, update
from hiclr_fast.data.files import read_npz, sha256
from hiclr_fast.data.packed import Packed, Split
from hiclr_fast.errors import InputError
from hiclr_fast.models.official import official_name
from hiclr_fast.models.stgcn import STGCN
from hiclr_fast.run import CHECKPOINT, load_checkpoint, load_encoder_file
from hiclr_fast.skeletons import Layout, adjacency

BATCH = 256


@dataclass(frozen=True)
class Features:
    """feature: (N, D) float32; label: (N,) int64; name: (N,) unicode."""

    feature: np.ndarray
    label: np.ndarray
    name: np.ndarray


def build_encoder(config: PretrainConfig, layout: Layout) -> STGCN:
    """The encoder of a config, as torch initialises it."""
    graph = torch.from_numpy(adjacency(layout, config.graph))
    return STGCN(graph, 3, config.hidden_channels, config.hidden_dim, config.feature_dim, config.dropout)


def encoder_from_state(state: dict[str, Tensor], where: str, naming: Literal["hiclr_fast", "official"]) -> STGCN:
    """An ST-GCN with these weights; the widths are read off the weights. naming: whose parameter names `state` has."""
    name_of = official_name if naming == "official" else str
    try:
        graph = state["A"]
        first, last = state[name_of("blocks.0.conv.weight")], state[name_of("projector.2.weight")]
        in_channels = state[name_of("blocks.0.gcn.weight")].shape[1]
        model = STGCN(graph, in_channels, first.shape[0], last.shape[1], last.shape[0])
        model.load_state_dict({name: state[name_of(name)] for name in model.state_dict()})
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        raise InputError(f"{where}: not the weights of an ST-GCN encoder ({str(error).splitlines()[0]})") from None
    return model


def load_official(path: Path) -> STGCN:
    """The query encoder of an official HiCLR checkpoint: .pt (tensors only) or .npz of the same keys."""
    try:
        if path.suffix == ".npz":
            state = {name: torch.from_numpy(array) for name, array in read_npz(path).items() if array.dtype.kind in "fi"}
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give the path of an official checkpoint") from None
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError, KeyError) as error:
        raise InputError(f"{path}: not a readable checkpoint of plain tensors ({str(error).splitlines()[0]})") from None
    if not isinstance(state, dict):
        raise InputError(f"{path}: holds a {type(state).__name__}, expected a dict of tensors")
    prefix = "encoder_q."
    query = {name.removeprefix("module.").removeprefix(prefix): t for name, t in state.items() if prefix in name}
    return encoder_from_state(query, str(path), "official")


def load_encoder(path: Path, fmt: Literal["hiclr_fast", "official"] = "hiclr_fast") -> tuple[STGCN, PretrainConfig]:
    """(encoder in eval mode, config) of a checkpoint, an exported encoder, or an official checkpoint."""
    path = Path(path)
    if fmt == "official":
        return load_official(path).eval(), PretrainConfig()
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a checkpoint.pt or an encoder.safetensors")
    if path.suffix == ".safetensors":
        state, values = load_encoder_file(path)
    else:
        content = load_checkpoint(path)
        values, prefix = content["config"], "encoder_q."
        state = {name.removeprefix(prefix): t for name, t in content["model"].items() if name.startswith(prefix)}
    config = update(PretrainConfig(), values, f"{path} config")
    return encoder_from_state(state, str(path), "hiclr_fast").eval(), config


def check_fits(encoder: nn.Module, data: Packed, where: str) -> None:
    """InputError when the encoder was made for another number of joints."""
    joints = encoder.A.shape[1]
    if joints != data.shape[2]:
        raise InputError(f"{where} is for {joints} joints, {data.path} has {data.shape[2]} ({data.layout.name})")


@torch.no_grad()
def extract(encoder: STGCN, split: Split, layout: Layout, stream: Stream, device: torch.device) -> Features:
    """Pooled features (N, D) of a split: eval mode, float32, no augmentation."""
    encoder.eval()
    parts = []
    for start in tqdm(range(0, len(split), BATCH), desc="features", unit="batch", leave=False, disable=len(split) < 2048):
        x = torch.from_numpy(split.x[start : start + BATCH]).to(device)
        parts.append(encoder.features(to_stream(x, stream, layout.parents)).float().cpu())
    return Features(torch.cat(parts).numpy(), split.label, split.name)


@torch.no_grad()
def recalibrate(encoder: STGCN, split: Split, layout: Layout, stream: Stream, device: torch.device) -> None:
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
        encoder.features(to_stream(torch.from_numpy(split.x[rows]).to(device), stream, layout.parents))
    encoder.eval()


def raw_features(split: Split, layout: Layout, stream: Stream) -> Features:
    """The coordinates themselves as features, the baseline that an encoder has to beat: (N, 3 * T * V * M)."""
    x = to_stream(torch.from_numpy(np.array(split.x)), stream, layout.parents)
    return Features(x.flatten(1).numpy(), split.label, split.name)


def cached_features(
    checkpoint: Path,
    fmt: Literal["hiclr_fast", "official"],
    data: Packed,
    stream: Stream | None,
    device: torch.device,
    recalibrated: bool = False,
) -> dict[str, Features]:
    """Features of every split, from `features/` beside the checkpoint when they are there.

    The key is the checkpoint's content, the data's checksum, the stream and whether the batch-norm statistics were
    recalibrated on the training split, so that nothing stale is ever used.
    """
    encoder, config = load_encoder(checkpoint, fmt)
    check_fits(encoder, data, str(checkpoint))
    stream = stream or config.stream
    key = hashlib.sha256(f"{sha256(checkpoint)} {data.checksum} {stream} {recalibrated}".encode()).hexdigest()[:16]
    cache = Path(checkpoint).parent / "features" / f"{key}.npz"
    if cache.is_file():
        with np.load(cache, allow_pickle=False) as file:
            return {s: Features(file[f"{s}/features"], file[f"{s}/label"], file[f"{s}/name"]) for s in data.splits}
    encoder.to(device, memory_format=torch.channels_last)
    if recalibrated:
        recalibrate(encoder, data["train"], data.layout, stream, device)
    features = {s: extract(encoder, split, data.layout, stream, device) for s, split in data.splits.items()}
    save_features(features, cache)
    return features


def save_features(features: dict[str, Features], path: Path) -> None:
    """{split}/features, {split}/label, {split}/name of every split in one .npz, renamed into place."""
    arrays = {}
    for split, f in features.items():
        arrays |= {f"{split}/features": f.feature, f"{split}/label": f.label, f"{split}/name": f.name}
    temporary = path.with_name(f".{path.name}.tmp.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(temporary, **arrays)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: features cannot be written ({error}); copy the checkpoint to a writable folder") from None


def checkpoint_of(run: Path) -> Path:
    """The checkpoint of a run folder."""
    file = Path(run) / CHECKPOINT
    if not file.is_file():
        raise InputError(f"{run} holds no {CHECKPOINT}; pretrain first, or give --checkpoint FILE")
    return file
