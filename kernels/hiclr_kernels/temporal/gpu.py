"""Launches the Triton kernels of the temporal convolution. Nothing here waits for the device or depends on its data."""

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from hiclr_kernels.temporal.gpu_gradient_kernels import diagonals_kernel, inputs_kernel, sums_kernel, weights_kernel
from hiclr_kernels.temporal.gpu_kernels import SET_BITS, SET_MASK, band_kernel, forward_kernel, moments_kernel
from hiclr_kernels.temporal.reference import Fold, Gradients, out_frames
from hiclr_kernels.temporal.tiles import CHUNK, cdiv, covers, forward_config, inputs_config, lane_count, weights_config

if triton.knobs.runtime.interpret:
    from hiclr_kernels.interpreter import correct_bfloat16

    correct_bfloat16()

BAND_BLOCK = 1024
JOIN_BLOCK = 64
DIAGONAL_TILE = 1024  # weights by parts at a time
MAX_GROUPS = 64 // SET_BITS.value - 1


def pack_sets(sets: Sequence[int]) -> int:
    """All groups' weight sets in one integer argument, so that nothing is copied to the device."""
    if len(sets) > MAX_GROUPS or max(sets) > SET_MASK.value:
        raise ValueError(f"{len(sets)} groups, {max(sets) + 1} weight sets: the Triton kernels take {MAX_GROUPS} and 16")
    return sum(s << (SET_BITS.value * group) for group, s in enumerate(sets))


def band_matrix(weight: Tensor, dtype: torch.dtype, constants: dict) -> Tensor:
    """(S, STEPS * BI, F * OB): what a tile's inputs are multiplied with."""
    own = band_constants(tuple(weight.shape), constants)
    band = torch.empty(len(weight), own["I"], own["F"] * own["OB"], dtype=dtype, device=weight.device)
    band_kernel[cdiv(band.numel(), BAND_BLOCK),](weight.contiguous(), band, band.numel(), **own)
    return band


def band_constants(shape: tuple[int, ...], constants: dict) -> dict:
    _, c_out, c_in, _ = shape
    shared = {name: constants[name] for name in ("CP", "OB", "F", "K", "STRIDE")}
    depth = constants["STEPS"] * constants["BI"]
    return dict(shared, C_OUT=c_out, C_IN=c_in, I=depth, LEAD=constants.get("LEAD", -1), BLOCK=BAND_BLOCK)


def moments_constants(width: int, last: bool) -> dict:
    return dict(OP=width, OB=16, CHUNK=CHUNK, BLOCK=JOIN_BLOCK, LAST=last)


def sums_constants(width: int) -> dict:
    return dict(W=width, BLOCK_W=32, CHUNK=CHUNK, BLOCK=JOIN_BLOCK)


def diagonals_constants(constants: dict) -> dict:
    shared = {name: constants[name] for name in ("C", "CP", "O", "OB", "F", "K", "STRIDE")}
    block = 32 if constants["C"] * constants["O"] <= 512 else 256  # few weights have many parts each
    return dict(shared, I=constants["STEPS"] * constants["BI"], BLOCK=block, PARTS=DIAGONAL_TILE // block)


def join_moments(parts: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and variance (G, channels) of partial moments (G, parts, 3, padded channels): a tree, joined in fixed order."""
    groups, count, _, width = parts.shape
    while True:
        programs = cdiv(count, CHUNK)
        out = torch.empty(groups, programs, 3, width, device=parts.device)
        moments_kernel[programs, groups, width // 16](parts, out, count, **moments_constants(width, programs == 1))
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
            z1, scale.float(), shift.float(), band, bias.contiguous(), z2, parts, pack_sets(sets), r // groups, frames,
            frames_out, tiles, **constants, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
        mean, var = join_moments(parts, o)
    return z2, mean, var


def check_covered(z1: Tensor, weight: Tensor) -> None:
    if not covers(z1.shape[3], weight.shape[1], z1.dtype):
        raise ValueError(
            f"{z1.shape[3]} to {weight.shape[1]} channels in {z1.dtype}: the Triton kernels take up to 128 channels in "
            "bfloat16, float16 or float32; set HICLR_KERNELS=reference to go without them"
        )


def slots_of(device: torch.device) -> int:
    """Programs that a device runs side by side, two a multiprocessor; the interpreter pretends to have a few."""
    return 2 * torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 6


def join_sums(parts: Tensor) -> Tensor:
    """(G, W) of partial sums (G, parts, W), W a multiple of 32: a tree, added in fixed order."""
    groups, count, width = parts.shape
    while count > 1:
        programs = cdiv(count, CHUNK)
        out = torch.empty(groups, programs, width, device=parts.device)
        sums_kernel[programs, groups, width // 32](parts, out, count, **sums_constants(width))
        parts, count = out, programs
    return parts[:, 0]


def temporal_backward(
    h: Tensor, z1: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, *, groups: int, stride: int, slope: float,
    sets: Sequence[int], center: Tensor | None, fold: Fold | None, bias: bool,
) -> Gradients:  # fmt: skip
    """As `temporal.reference.temporal_backward`. Raises ValueError on a width or dtype that the kernels do not cover."""
    check_covered(z1, weight)
    scale, shift = scale.float().contiguous(), shift.float().contiguous()
    center = torch.zeros_like(scale) if center is None else center.float().contiguous()
    upstream = h, h, scale, scale, scale  # without a fold only h is read
    if fold is not None:
        upstream = h, fold.z2, *(x.float().contiguous() for x in (fold.a, fold.b, fold.c))
    shape = (*z1.shape[2:], weight.shape[1], weight.shape[3], stride, slope, z1.dtype, fold is not None)
    with torch.cuda.device_of(z1):
        g, sums = inputs_gradient(upstream, z1, scale, shift, center, weight, sets, *inputs_config(*shape))
        d_weight = weights_gradient(upstream, z1, scale, shift, weight, sets, *weights_config(*shape))
    total, products = sums.unflatten(1, (2, -1))[..., : z1.shape[3]].unbind(1)
    return Gradients(g, d_weight, total, products, bias_gradient(h, fold, weight, sets) if bias else None)


def inputs_gradient(upstream, z1, scale, shift, center, weight, sets, tile, constants) -> tuple[Tensor, Tensor]:
    """g, and its sums (G, 2 * padded channels)."""
    groups, (r, frames, v, _) = len(sets), z1.shape
    tiles = cdiv(r // groups * v, tile.M) * cdiv(frames, tile.F)
    g, parts = torch.empty_like(z1), torch.empty(groups, tiles, 2 * constants["OB"], device=z1.device)
    inputs_kernel[groups * tiles,](
        *upstream, z1, scale, shift, center, band_matrix(weight, z1.dtype, constants), g, parts, pack_sets(sets), r // groups,
        frames, upstream[0].shape[1], tiles, **constants, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return g, join_sums(parts)


def weights_gradient(upstream, z1, scale, shift, weight, sets, tile, constants) -> Tensor:
    """Like weight, in float32."""
    groups, (r, frames, v, _), frames_out = len(sets), z1.shape, upstream[0].shape[1]
    tiles = cdiv(r // groups * v, tile.M) * cdiv(frames_out, tile.F)
    splits, depth = constants["STEPS"] // constants["HELD"], constants["STEPS"] * tile.BI
    lanes = lane_count(groups, tiles, splits, slots_of(z1.device))
    parts = torch.empty(groups * lanes, depth, tile.F * constants["OB"], device=z1.device)
    weights_kernel[groups * lanes, splits](
        *upstream, z1, scale, shift, parts, r // groups, frames, frames_out, lanes, **constants,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    d_weight = torch.empty_like(weight, dtype=torch.float32, memory_format=torch.contiguous_format)
    own = diagonals_constants(constants)
    diagonals_kernel[cdiv(weight.numel(), own["BLOCK"]),](
        parts, d_weight, pack_sets(sets), groups * lanes, lanes, weight.numel(), **own
    )
    return d_weight


def bias_gradient(h: Tensor, fold: Fold | None, weight: Tensor, sets: Sequence[int]) -> Tensor:
    """(S, O) float32, off the hot path: in front of a batch norm it is zero."""

    def total(x: Tensor) -> Tensor:
        return x.reshape(len(sets), -1, x.shape[-1]).sum(1, dtype=torch.float32)

    each, values = total(h), h[0, ..., 0].numel() * len(h) // len(sets)
    if fold is not None:
        each = fold.a * each + fold.b * total(fold.z2) + fold.c * values
    out = torch.zeros(weight.shape[:2], device=h.device)
    for one, s in zip(each, sets, strict=True):
        out[s] += one
    return out
