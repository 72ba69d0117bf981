"""A pretrained encoder, used: coordinates in, features out, prepared as it was trained."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from hiclr_kernels.augment.reference import Stream, to_stream
from torch import Tensor, nn

from hiclr_fast.data.contract import Contract
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.errors import InputError
from hiclr_fast.inference.rows import BATCH, Samples, batches
from hiclr_fast.machine import pick_device
from hiclr_fast.models.config import EncoderConfig
from hiclr_fast.models.load import Format, Weights, checkpoint_of, format_of, load_weights
from hiclr_fast.skeletons import Layout, get_layout
from hiclr_fast.training.precision import autocast, exact


@torch.no_grad()
def pooled(
    encoder: nn.Module, rows: np.ndarray | Tensor, layout: Layout, stream: Stream, device: torch.device, half: bool = False
) -> np.ndarray:
    """(n, D) float32 features of rows (n, 3, T, V, M) by an encoder in eval mode, no augmentation. half: bfloat16 autocast."""
    x = torch.as_tensor(rows).to(device)
    with exact(), autocast(device, half):
        return encoder.features(to_stream(x, stream, layout.parents)).float().cpu().numpy()


class PretrainedEncoder:
    """What `load_encoder` gives.

    module: the torch encoder, in eval mode on `device`. config: its `EncoderConfig`. contract: what it reads (layout, shape
    (3, T, V, M), stream, preprocessing). dim: D, the number of features.
    """

    def __init__(self, module: nn.Module, config: EncoderConfig, contract: Contract, device: torch.device):
        self.module = module.eval().to(device, memory_format=torch.channels_last)
        self.config, self.contract, self.device = config, contract, device
        self.dim = config.hidden_dim * (1 if module.pooling is None else len(module.pooling)) * module.segments

    def __repr__(self) -> str:
        c = self.contract
        return f"{type(self).__name__}({self.config.encoder}, {c.stream}, layout {c.layout.name}, {c.shape} -> {self.dim})"

    def rows(
        self,
        x: Any,
        layout: str | Layout | None = None,
        *,
        preprocessed: bool | None = None,
        image: tuple[float, float] | None = None,
    ) -> np.ndarray:
        """(N, 3, T, V, M) float32: what the encoder reads for x, bit for bit what `hiclr prepare` makes of the same recordings.

        Arguments and errors: `features`.
        """
        samples = Samples(x, self.contract, layout, preprocessed, image)
        return samples.rows(0, len(samples))

    def features(
        self,
        x: Any,
        layout: str | Layout | None = None,
        *,
        preprocessed: bool | None = None,
        image: tuple[float, float] | None = None,
        batch_size: int = BATCH,
    ) -> np.ndarray:
        """Features of skeleton sequences: a numpy array (N, D) float32, in the order of x, not normalised.

        x: one array (N, 3, T', V, M') of N sequences with T' frames, V joints and M' bodies, or a list of ragged (F, V, 3) or
        (F, V, 3, M'). Metres (or the unit of the training recordings, `contract.how.unit`), y up; an absent body is zero. Numpy
        arrays, or torch tensors. For an encoder of poses in an image, two numbers a joint (pixels, y down), or three, with the
        score of the detection. Every sequence is preprocessed as the training data were: centred, resampled to T frames,
        turned; fewer than M bodies are completed with empty ones.
        layout: skeleton of x, a name of `hiclr_fast.LAYOUTS` or a `hiclr_fast.Layout`; none: that of the encoder.
        preprocessed: True where x holds rows of a packed set, which go in as they are, False where it does not; none: an array
        of T frames in which the centre joint is at exactly 0 throughout is taken for such rows.
        image: width and height of the image in pixels, where the training poses were scaled by them.
        batch_size: samples that are encoded at a time; memory holds no more.

        Raises InputError (a ValueError) in one sentence where x does not fit: another skeleton, another number of joints, more
        than M bodies, no frame with the first body, NaN or Inf.
        """
        samples = Samples(x, self.contract, layout, preprocessed, image)
        out = np.empty((len(samples), self.dim), np.float32)
        for start, stop in batches(samples, batch_size):
            out[start:stop] = self.encode(samples.rows(start, stop))
        return out

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """(n, D) float32 features of rows (n, 3, T, V, M) float32 that are in the encoder's form already."""
        return pooled(self.module, rows, self.contract.layout, self.contract.stream, self.device)


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)  # at the call of load_encoder


def contract_of(
    weights: Weights,
    stream: Stream | None = None,
    data: Path | None = None,
    layout: str | None = None,
    say: Callable[[str], None] = _warn,
) -> Contract:
    """What an encoder reads: as its file says; for a file that does not, of the packed set `data`; else assumed, and what is
    assumed is said. layout: a name, for files that do not say theirs."""
    config = weights.config
    stream = stream or config.stream
    wanted, joints = layout or config.layout, weights.encoder.num_joints
    if weights.contract and not weights.contract.is_assumed:
        found = replace(weights.contract, stream=stream)
        if layout not in (None, found.layout.name):
            found.check_layout(get_layout(layout), f"the layout {layout}", str(weights.path))
        return found
    if data is not None:
        found = Contract.of(open_packed(data), stream)
        where = str(data)
    elif wanted is None:
        raise InputError(f"{weights.path} is for {joints} joints and does not say which; name their layout, or a packed set")
    else:
        found, where = Contract.assumed(get_layout(wanted), stream, config.frames), f"the layout {wanted}"
    if found.layout.num_joints != joints:
        there = found.layout.num_joints
        raise InputError(f"{weights.path}: the encoder is for {joints} joints, {where} has {there}; name another")
    if found.is_assumed:
        say(
            f"{weights.path} does not say how its input was made; assumed: layout {found.layout.name}, the official "
            f"preprocessing, {found.shape[1]} frames, {found.shape[3]} bodies, {stream} stream (a packed set given as its data "
            "says all of it)"
        )
    return found


def load_encoder(
    path: str | Path,
    *,
    format: Format | None = None,
    stream: Stream | None = None,
    data: str | Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> PretrainedEncoder:
    """A pretrained encoder, ready for `features`.

    path: a run folder; or a file: checkpoint.pt, encoder.safetensors, or an official HiCLR, AimCLR or SkeletonCLR .pt or .npz.
    format: whose file it is, hiclr_fast or official; none: seen from its content.
    stream: joint, bone or motion; none: the one it was trained on (official files do not tell: joint).
    data: a packed set to take layout, preprocessing and shape from, for files that do not say (official ones and old ones);
    none: the official chain is assumed (50 frames, two bodies), and a warning says so.

    Raises InputError (a ValueError) on what is no such file. Nothing in a file is executed.
    """
    path = Path(path)
    file = checkpoint_of(path) if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{path} does not exist; give a run folder, a checkpoint.pt, an encoder.safetensors or an official .pt")
    weights = load_weights(file, format or format_of(file))
    contract = contract_of(weights, stream, None if data is None else Path(data))
    return PretrainedEncoder(weights.encoder, weights.config, contract, pick_device(device))
