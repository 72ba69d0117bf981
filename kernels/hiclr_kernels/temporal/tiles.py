"""Tiles of the temporal kernels and which widths they cover. No Triton here."""

from typing import NamedTuple

import torch

MAX_CHANNELS = 128
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
JOINT_DTYPES = (torch.bfloat16, torch.float16)
JOINT = {9: 12288, 10: 20480}  # by compute capability: values of the weights' gradient that a program of both gradients can hold
MARKS = (9, 10)  # compute capabilities


class Tile(NamedTuple):
    """M (row, joint) pairs by F frames; BI values of a pair a step of the product."""

    M: int
    F: int
    BI: int
    warps: int
    stages: int


def covers(c_in: int, c_out: int, dtype: torch.dtype, backward: bool = False) -> bool:
    """Whether the Triton kernels take this width; beyond, a convolution library is bound by products and the better choice."""
    return max(c_in, c_out) <= MAX_CHANNELS and dtype in DTYPES


def padded(channels: int) -> int:
    return max(16, 1 << (channels - 1).bit_length())


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def band_tile(inputs: int, outputs: int, stride: int, dtype: torch.dtype) -> Tile:
    """Of a product with a band matrix, by padded widths: 128 columns in 16 bits, fewer in float32, which has no tensor cores."""
    warps = 8 if max(inputs, outputs) == 128 else 4
    if dtype == torch.float32:
        return Tile(64 if inputs < 32 else 32, 2 if outputs == 16 else 1, inputs, warps, 1)
    frames = 4 if stride == 2 and outputs == 16 else 128 // outputs
    return Tile(64, frames, max(64, inputs), warps, 2)


def _steps(frames: int, inputs: int, tile: Tile, held: int = 1) -> int:
    return cdiv(cdiv(frames * inputs, tile.BI), held) * held


def forward_config(v: int, c: int, o: int, kernel: int, stride: int, slope: float, dtype: torch.dtype) -> tuple[Tile, dict]:
    """Tile and compile-time arguments of the forward kernel; tests compile exactly these."""
    cp, ob = padded(c), padded(o)
    tile = band_tile(cp, ob, stride, dtype)
    steps = _steps(stride * (tile.F - 1) + kernel, cp, tile)
    constants = dict(V=v, C=c, CP=cp, O=o, OB=ob, F=tile.F, K=kernel, STRIDE=stride, M=tile.M, BI=tile.BI, STEPS=steps)
    return tile, dict(constants, SLOPE=float(slope))


def _inputs_steps(tile: Tile, inputs: int, kernel: int, stride: int) -> tuple[int, int]:
    """Frames of z2 that lie before a tile's, and steps over all that it needs."""
    half = kernel // 2
    lead = cdiv(half, stride)
    return lead, _steps((tile.F - 1 + half) // stride + lead + 1, inputs, tile)


def joint_tile(c: int, o: int, kernel: int, stride: int, dtype: torch.dtype, major: int) -> Tile | None:
    """Of the kernel that makes both gradients, where their sums fit its registers. major: of the compute capability."""
    width = padded(c)
    if dtype not in JOINT_DTYPES or padded(o) != width or width > 32 or o % 8 or kernel > 9:
        return None
    tile = Tile(64, 64 // width, 64 if stride == 1 else width, 8, 1)
    held = tile.F * width * _inputs_steps(tile, width, kernel, stride)[1] * tile.BI
    return tile if held <= JOINT.get(major, 0) else None


def takes_marks(c: int, o: int, dtype: torch.dtype, major: int) -> bool:
    """Whether the kernels of the gradients take marks as they read, for so many registers more."""
    return dtype in JOINT_DTYPES and max(padded(c), padded(o)) <= 64 and major in MARKS


def inputs_config(
    v: int, c: int, o: int, kernel: int, stride: int, slope: float, dtype: torch.dtype, fold: bool, major: int
) -> tuple[Tile, dict]:
    """The same of the gradient to the inputs, or to both: a band product from O to C whose tiles begin at a multiple of the
    stride."""
    cp, ob = padded(o), padded(c)
    tile = joint_tile(c, o, kernel, stride, dtype, major)
    if tile is None:
        tile = band_tile(cp, ob, 1, dtype)
        if stride > 1:  # fewer frames of z2 belong to a tile, and more registers to each
            tile = tile._replace(F=max(stride, tile.F // 2), stages=1 if ob == 128 else tile.stages)
    lead, steps = _inputs_steps(tile, cp, kernel, stride)
    constants = dict(V=v, C=c, OB=ob, O=o, CP=cp, F=tile.F, K=kernel, STRIDE=stride, LEAD=lead, M=tile.M, BI=tile.BI, STEPS=steps)
    return tile, dict(constants, SLOPE=float(slope), FOLD=fold)


def weights_config(
    v: int, c: int, o: int, kernel: int, stride: int, slope: float, dtype: torch.dtype, fold: bool
) -> tuple[Tile, dict]:
    """The same of the gradient to the weights, whose band matrix is held in registers, up to three steps of it a program."""
    cp, ob = padded(c), padded(o)
    wide, single = max(cp, ob) == 128, dtype == torch.float32
    tile = Tile(32, 1, cp, 8 if wide else 4, 1) if single else Tile(64, max(1, 64 // ob), max(64, cp), 8, 1)
    held = 1 if wide or (single and max(cp, ob) > 32) else 3
    steps = _steps(stride * (tile.F - 1) + kernel, cp, tile, held)
    constants = dict(V=v, C=c, CP=cp, O=o, OB=ob, F=tile.F, K=kernel, STRIDE=stride, M=tile.M, BI=tile.BI, STEPS=steps)
    return tile, dict(constants, HELD=held, SLOPE=float(slope), FOLD=fold)


def lane_count(groups: int, tiles: int, splits: int, slots: int) -> int:
    """Programs of one group that share the tiles of the gradient to the weights: together one wave of `slots`."""
    return max(1, min(tiles, slots // (groups * splits)))
