"""Coordinates as somebody has them -> the rows that a network reads."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hiclr_fast.data.contract import Contract
from hiclr_fast.errors import InputError
from hiclr_fast.skeletons import Layout, get_layout

BATCH = 256  # samples at a time


class Samples:
    """x as the public functions take it, as rows (3, T, V, M) of a network's contract.

    x: one array (N, C, T', V, M'), or a list of ragged (F, V, C) or (F, V, C, M'); numpy, torch on CPU, or nested lists. C = 3:
    x, y, z as the training recordings had them (metres). For networks of poses in an image: C = 2, pixels, y down, or C = 3
    with the score of the detection. layout: its skeleton, by name or whole; none: the network's. preprocessed: x holds rows of
    a packed set, which are taken as they are; none: found out, an array of T frames whose centre joint is at 0 throughout is
    taken for such rows. image: width and height in pixels, where the network's poses were scaled by them.
    Raises InputError on what does not fit the contract: skeleton, joints, shape, more bodies, frames of rows, NaN or Inf.
    """

    def __init__(
        self,
        x: Any,
        contract: Contract,
        layout: str | Layout | None = None,
        preprocessed: bool | None = None,
        image: tuple[float, float] | None = None,
    ):
        self.contract, self.image = contract, image
        self.sizes = (2, 3) if contract.space.flat else (3,)
        if layout is not None and layout != contract.layout.name:
            contract.check_layout(get_layout(layout) if isinstance(layout, str) else layout, "x", "the network")
        self.x = x if isinstance(x, (list, tuple)) else _numbers(x, "x")
        if isinstance(self.x, np.ndarray):
            self._check_array(self.x)
            preprocessed = self._looks_preprocessed() if preprocessed is None else preprocessed
            if preprocessed and self.x.shape[1:] != contract.shape:
                raise InputError(f"x {self.x.shape}: rows of a packed set are (N, {', '.join(map(str, contract.shape))}) here")
        elif preprocessed:
            raise InputError("x is a list: rows of a packed set are one array (N, 3, T, V, M); leave preprocessed out")
        self.preprocessed = bool(preprocessed)

    def __len__(self) -> int:
        return len(self.x)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, 3, T, V, M) float32 of those samples."""
        part = self.x[start:stop]
        if self.preprocessed:
            part = np.ascontiguousarray(part, np.float32)
            bad = np.flatnonzero(~np.isfinite(part.reshape(len(part), -1)).all(axis=1))
            if len(bad):
                raise InputError(f"x: sample {start + bad[0]} holds NaN or Inf; repair or drop it")
            return part
        out = np.empty((len(part), *self.contract.shape), np.float32)
        for i, one in enumerate(part, start):
            x, score = self._sequence(one, f"x: sample {i}")
            out[i - start] = self.contract.row(x, f"x: sample {i}", score, self.image)
        return out

    def _sequence(self, one: Any, where: str) -> tuple[np.ndarray, np.ndarray | None]:
        """(F, V, C, M') float32 of one sample, and in an image (F, V, M') scores, where there are some."""
        if isinstance(self.x, np.ndarray):
            found = one.transpose(1, 2, 0, 3)
        else:
            found, joints = _numbers(one, where), self.contract.layout.num_joints
            if found.ndim not in (3, 4) or found.shape[1] != joints or found.shape[2] not in self.sizes:
                sizes = " or ".join(map(str, self.sizes))
                expected = f"expected (frames, {joints} joints of {self.contract.layout.name}, {sizes}) or with bodies at the end"
                raise InputError(f"{where}: shape {found.shape}, {expected}")
            found = found[..., None] if found.ndim == 3 else found
        with np.errstate(over="ignore"):
            found = found.astype(np.float32)  # as every recording is read
        scored = self.contract.space.flat and found.shape[2] == 3
        return (found[:, :, :2], found[:, :, 2]) if scored else (found, None)

    def _check_array(self, x: np.ndarray) -> None:
        _, _, joints, _ = self.contract.shape
        if x.ndim != 5 or x.shape[1] not in self.sizes or x.shape[3] != joints:
            sizes = " or ".join(map(str, self.sizes))
            expected = f"expected (N, {sizes}, T, {joints} joints of {self.contract.layout.name}, M)"
            raise InputError(f"x {x.shape}: {expected}, or a list of (frames, joints, {sizes}) for sequences of other lengths")

    def _looks_preprocessed(self) -> bool:
        c = self.contract
        if c.how.center not in ("frame", "pose") or self.x.shape[1:] != c.shape:
            return False
        return not self.x[:, : c.space.dimensions, :, c.layout.center].any()


def _numbers(x: Any, where: str) -> np.ndarray:
    """x as an array of real numbers."""
    try:
        found = x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: not an array of numbers ({error}); give ragged sequences as a list of arrays") from None
    if found.dtype.kind not in "fiu":
        raise InputError(f"{where}: {found.dtype}, expected real numbers; give ragged sequences as a list of arrays")
    return found


def batches(samples: Sequence, size: int) -> list[tuple[int, int]]:
    """(start, stop) of every batch."""
    if size < 1:
        raise InputError(f"batch_size {size}: expected at least 1")
    return [(start, min(start + size, len(samples))) for start in range(0, len(samples), size)]
