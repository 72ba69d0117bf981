"""Launches the Triton kernels of the temporal convolution. Nothing here waits for the device or depends on its data."""

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from hiclr_kernels.temporal.gpu_kernels import SET_BITS, SET_MASK, band_kernel, forward_kernel, moments_kernel
from hiclr_kernels.temporal.reference import out_frames
from hiclr_kernels.temporal.tiles import CHUNK, cdiv, covers, forward_config

if triton.knobs.runtime.interpret:
    from hiclr_kernels.interpreter import correct_bfloat16

    correct_bfloat16()

BAND_BLOCK = 1024
MOMENTS_BLOCK = 64
MAX_GROUPS = 64 // SET_BITS.value - 1


def pack_sets(sets: Sequence[int]) -> int:
    """All groups' weight sets in one integer argument, so that nothing is copied to the device."""
    if len(sets) > MAX_GROUPS or max(sets) > SET_MASK.value:
        raise ValueError(f"{len(sets)} groups, {max(sets) + 1} weight sets: the Triton kernels take {MAX_GROUPS} and 16")
    return sum(s << (SET_BITS.value * group) for group, s in enumerate(sets))


def band_matrix(weight: Tensor, dtype: torch.dtype, constants: dict, lead: int = -1) -> Tensor:
    """(S, STEPS * BI, F * OB): what a tile's inputs are multiplied with."""
    sets, c_out, c_in, kernel = weight.shape
    shape = (sets, constants["STEPS"] * constants["BI"], constants["F"] * constants["OB"])
    band = torch.empty(shape, dtype=dtype, device=weight.device)
    shared = {name: constants[name] for name in ("CP", "OB", "F", "STRIDE")}
    band_kernel[cdiv(band.numel(), BAND_BLOCK),](
        weight.contiguous(), band, band.numel(), C_OUT=c_out, C_IN=c_in, K=kernel, I=shape[1], LEAD=lead, BLOCK=BAND_BLOCK, **shared
    )
    return band


def join_moments(parts: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and variance (G, channels) of partial moments (G, parts, 3, padded channels): a tree, joined in fixed order."""
    groups, count, _, width = parts.shape
    while True:
        programs = cdiv(count, CHUNK)
        out = torch.empty(groups, programs, 3, width, device=parts.device)
        moments_kernel[programs, groups, width // 16](
            parts, out, count, OP=width, OB=16, CHUNK=CHUNK, BLOCK=MOMENTS_BLOCK, LAST=programs == 1, num_warps=4
        )
        if programs == 1:
            return out[:, 0, 1, :channels], out[:, 0, 2, :channels]
        parts, count = out, programs


def temporal(
    z1: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, *, groups: int, stride: int, slope: float,
    sets: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """As `temporal.reference.temporal`. Raises ValueError on a width or dtype that the kernels do not cover."""
    r, frames, v, c = z1.shape
    o, kernel = weight.shape[1], weight.shape[3]
    check_covered(z1, weight)
    frames_out = out_frames(frames, stride)
    tile, constants = forward_config(v, c, o, kernel, stride, slope, z1.dtype)
    tiles = cdiv(r // groups * v, tile.M) * cdiv(frames_out, tile.F)
    z2 = torch.empty(r, frames_out, v, o, dtype=z1.dtype, device=z1.device)
    parts = torch.empty(groups, tiles, 3, constants["OB"], device=z1.device)
    with torch.cuda.device_of(z1):
        band = band_matrix(weight, z1.dtype, constants)
        forward_kernel[groups * tiles,](
            z1, scale.float(), shift.float(), band, bias.contiguous(), z2, parts, pack_sets(sets), r // groups, frames, frames_out, tiles,
            **constants, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
        mean, var = join_moments(parts, o)
    return z2, mean, var


def check_covered(z1: Tensor, weight: Tensor) -> None:
    if not covers(z1.shape[3], weight.shape[1], z1.dtype):
        raise ValueError(
            f"{z1.shape[3]} to {weight.shape[1]} channels in {z1.dtype}: the Triton kernels take up to 128 channels in "
            "bfloat16, float16 or float32; set HICLR_KERNELS=reference to go without them"
        )
