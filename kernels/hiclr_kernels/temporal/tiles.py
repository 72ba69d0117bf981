"""Tiles of the temporal kernels, which widths they cover, and the bytes that their launches read and write. No Triton here."""

from typing import NamedTuple

import torch

MAX_CHANNELS = 128
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
CHUNK = 256  # partial moments or sums that one program joins


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
    """Of a product with a band matrix, by padded widths: 128 columns in 16 bits, one or two frames in float32 without tensor cores."""
    if dtype == torch.float32:
        return Tile(64 if inputs < 64 else 32, 2 if outputs == 16 else 1, inputs, 8 if max(inputs, outputs) == 128 else 4, 1)
    frames = 4 if stride == 2 and outputs == 16 else 128 // outputs
    return Tile(64, frames, max(64, inputs), 8 if max(inputs, outputs) == 128 else 4, 2)


def forward_config(v: int, c: int, o: int, kernel: int, stride: int, slope: float, dtype: torch.dtype) -> tuple[Tile, dict]:
    """Tile and compile-time arguments of the forward kernel; tests compile exactly these."""
    cp, ob = padded(c), padded(o)
    tile = band_tile(cp, ob, stride, dtype)
    steps = cdiv((stride * (tile.F - 1) + kernel) * cp, tile.BI)
    constants = dict(V=v, C=c, CP=cp, O=o, OB=ob, F=tile.F, K=kernel, STRIDE=stride, M=tile.M, BI=tile.BI, STEPS=steps)
    return tile, dict(constants, SLOPE=float(slope))
