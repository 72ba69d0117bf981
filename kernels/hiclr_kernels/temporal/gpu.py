"""Launches the Triton kernels of the temporal convolution. Nothing here waits for the device or depends on its data."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from hiclr_kernels.temporal.gpu_gradient_kernels import diagonals_kernel, inputs_kernel, weights_kernel
from hiclr_kernels.temporal.gpu_joint import both_gradients
from hiclr_kernels.temporal.gpu_kernels import SET_BITS, SET_MASK, band_kernel, forward_kernel
from hiclr_kernels.temporal.reference import Fold, Gradients, out_frames
from hiclr_kernels.temporal.tiles import (
    cdiv,
    covers,
    forward_config,
    inputs_config,
    joint_tile,
    lane_count,
    takes_marks,
    weights_config,
)

if triton.knobs.runtime.interpret:
    from hiclr_kernels.interpreter import correct_bfloat16

    correct_bfloat16()

BAND_BLOCK = 1024
DIAGONAL_TILE = 1024  # weights by parts at a time
MAX_GROUPS = 64 // SET_BITS.value - 1


def pack_sets(sets: Sequence[int]) -> int:
    """All groups' weight sets in one integer argument, so that nothing is copied to the device."""
    if len(sets) > MAX_GROUPS or max(sets) > SET_MASK.value:
        raise ValueError(f"{len(sets)} groups, {max(sets) + 1} weight sets: the Triton kernels take {MAX_GROUPS} and 16")
    return sum(s << (SET_BITS.value * group) for group, s in enumerate(sets))


class Sets(NamedTuple):
    """Weights (O, C, K) and biases (O,) of set 0 and of set 1, behind which the others lie, `apart` weights from one to the next.

    The two weights have the same strides, whatever these are, so that parameters are read where they lie.
    """

    weight: Tensor
    weight2: Tensor
    bias: Tensor | None
    bias2: Tensor | None
    count: int
    apart: int = 0


def in_one(weight: Tensor, bias: Tensor | None) -> Sets:
    """Of all weights (S, O, C, K) and biases (S, O) in one tensor each."""
    second = min(1, len(weight) - 1)
    bias = None if bias is None else bias.contiguous()
    biases = (None, None) if bias is None else (bias[0], bias[second])
    return Sets(weight[0], weight[second], *biases, len(weight), weight.stride(0))


def bands(sets: Sets, shape: tuple, dtype: torch.dtype, forwards: int, gradients: int) -> tuple[Tensor, Tensor]:
    """(forwards, STEPS * BI, F * OB), what a tile's inputs are multiplied with, and the same for the gradient to the inputs.

    shape: V, C, O, K, stride. So many of either are made, of the first sets, in one launch.
    """
    constants = band_constants(shape, dtype, major_of(sets.weight.device))
    device = sets.weight.device
    made = [
        torch.empty(count, constants[f"I{n}"], constants[f"F{n}"] * constants[f"OB{n}"], dtype=dtype, device=device)
        for count, n in ((forwards, ""), (gradients, "2"))
    ]
    most = max(one.numel() // len(one) for one in made if len(one))
    with torch.cuda.device_of(sets.weight):
        band_kernel[cdiv(most, BAND_BLOCK), forwards + gradients](
            sets.weight, sets.weight2, *made, sets.apart, *sets.weight.stride(), forwards, **constants
        )
    return made[0], made[1]


def band_constants(shape: tuple, dtype: torch.dtype, major: int) -> dict:
    _, c, o, k, stride = shape
    found = dict(C_OUT=o, C_IN=c, K=k, STRIDE=stride, BLOCK=BAND_BLOCK)
    for n, (_, own) in (("", forward_config(*shape, 0.0, dtype)), ("2", inputs_config(*shape, 0.0, dtype, True, major))):
        found |= {f"CP{n}": own["CP"], f"OB{n}": own["OB"], f"F{n}": own["F"], f"I{n}": own["STEPS"] * own["BI"]}
    return found | dict(LEAD=own["LEAD"])


def diagonals_constants(constants: dict) -> dict:
    shared = {name: constants[name] for name in ("C", "CP", "O", "OB", "F", "K", "STRIDE")}
    block = 32 if constants["C"] * constants["O"] <= 512 else 256  # few weights have many parts each
    return dict(shared, I=constants["STEPS"] * constants["BI"], BLOCK=block, PARTS=DIAGONAL_TILE // block)


def joined(parts: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and variance (G, channels) float32 of partial moments (G, S, 3, padded channels), off the hot path."""
    count, means, squares = parts[..., :channels].double().unbind(2)
    total = count.sum(1)
    mean = (count * means).sum(1) / total
    var = (squares + count * (means - mean[:, None]) ** 2).sum(1) / total
    return mean.float(), var.float()


def temporal(
    z1: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, *, groups: int, stride: int, slope: float,
    sets: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """As `temporal.reference.temporal`. Raises ValueError on a width or dtype that the kernels do not cover."""
    check_covered(z1, weight.shape[1])
    given = in_one(weight, bias)
    shape = *z1.shape[2:], weight.shape[1], weight.shape[3], stride
    band, _ = bands(given, shape, z1.dtype, len(weight), 0)
    z2, parts = forward(z1, scale, shift, given, band, groups=groups, stride=stride, slope=slope, sets=sets)
    return z2, *joined(parts, weight.shape[1])


def forward(
    z1: Tensor, scale: Tensor, shift: Tensor, given: Sets, band: Tensor, *, groups: int, stride: int, slope: float,
    sets: Sequence[int],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """z2, and (G, S, 3, padded O) count, mean and sum of squared deviations of its tiles, as `batch_norm` joins them."""
    (r, frames, v, c), (o, _, kernel) = z1.shape, given.weight.shape
    frames_out = out_frames(frames, stride)
    tile, constants = forward_config(v, c, o, kernel, stride, slope, z1.dtype)
    tiles = cdiv(r // groups * v, tile.M) * cdiv(frames_out, tile.F)
    z2 = torch.empty(r, frames_out, v, o, dtype=z1.dtype, device=z1.device)
    parts = torch.empty(groups, tiles, 3, constants["OB"], device=z1.device)
    with torch.cuda.device_of(z1):
        forward_kernel[groups * tiles,](
            z1, scale.float(), shift.float(), band, given.bias, given.bias2, z2, parts, pack_sets(sets), r // groups, frames,
            frames_out, tiles, **constants, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return z2, parts


def check_covered(z1: Tensor, width: int) -> None:
    if not covers(z1.shape[3], width, z1.dtype):
        raise ValueError(
            f"{z1.shape[3]} to {width} channels in {z1.dtype}: the Triton kernels take up to 128 channels in "
            "bfloat16, float16 or float32; set HICLR_KERNELS=reference to go without them"
        )


def major_of(device: torch.device) -> int:
    """Of the compute capability, which tiles depend on; the interpreter pretends to be Hopper."""
    return torch.cuda.get_device_properties(device).major if device.type == "cuda" else 9


def slots_of(device: torch.device) -> int:
    """Programs that a device runs side by side, two a multiprocessor; the interpreter pretends to have a few."""
    return 2 * torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 6


def temporal_backward(
    h: Tensor, z1: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, *, groups: int, stride: int, slope: float,
    sets: Sequence[int], center: Tensor | None, fold: Fold | None, bias: bool,
) -> Gradients:  # fmt: skip
    """As `temporal.reference.temporal_backward`. Raises ValueError on a width or dtype that the kernels do not cover."""
    check_covered(z1, weight.shape[1])
    shape = *z1.shape[2:], weight.shape[1], weight.shape[3], stride
    _, band = bands(in_one(weight, None), shape, z1.dtype, 0, len(weight))
    center = torch.zeros_like(scale) if center is None else center
    given = dict(stride=stride, slope=slope, sets=sets, center=center, fold=fold)
    g, d_weight, parts = backward(h, z1, scale, shift, weight, band, **given)
    total, products = parts.double().sum(1).float()[..., : z1.shape[3]].unbind(1)
    return Gradients(g, d_weight, total, products, bias_gradient(h, fold, weight, sets) if bias else None)


def backward(
    h: Tensor, z1: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, band: Tensor, *, stride: int, slope: float,
    sets: Sequence[int], center: Tensor, fold: Fold | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """g, the gradient of weight (S, O, C, K) in its strides, and (G, tiles, 2, padded C) sums of g and g (z1 - center)."""
    scale, shift, center = (x.float().contiguous() for x in (scale, shift, center))
    (v, c), (o, _, kernel), major = z1.shape[2:], weight.shape[1:], major_of(z1.device)
    joint = joint_tile(c, o, kernel, stride, z1.dtype, major) is not None
    if joint and fold is not None and fold.marks is None:  # that kernel folds with marks only, for its registers: all pass
        fold = fold._replace(marks=torch.full((h.numel() // 8,), 255, dtype=torch.uint8, device=h.device))
    given, marked = (h, h, scale, scale, scale, h), fold is not None and fold.marks is not None  # without a fold only h is read
    if marked and not takes_marks(c, o, z1.dtype, major):
        h, marked = fold.passed(h), False
    if fold is not None:
        abc = (x.float().contiguous() for x in (fold.a, fold.b, fold.c))
        given = h, fold.z2, *abc, fold.marks if marked else h
    inverse, shape = fold.inverse if marked else 1.0, (v, c, o, kernel, stride, slope, z1.dtype, fold is not None)
    tile, constants = inputs_config(*shape, major)
    norm, constants = (z1, scale, shift, center), constants | dict(MARKED=marked)
    with torch.cuda.device_of(z1):
        if joint:
            slots = slots_of(z1.device)
            return both_gradients(given, inverse, norm, weight, band, len(sets), pack_sets(sets), slots, tile, constants)
        g, parts = inputs_gradient(given, inverse, norm, band, sets, tile, constants)
        tile, constants = weights_config(*shape)
        d_weight = weights_gradient(given, inverse, norm, weight, sets, tile, constants | dict(MARKED=marked))
    return g, d_weight, parts


def inputs_gradient(given, inverse, norm, band, sets, tile, constants) -> tuple[Tensor, Tensor]:
    groups, z1 = len(sets), norm[0]
    r, frames, v, _ = z1.shape
    tiles = cdiv(r // groups * v, tile.M) * cdiv(frames, tile.F)
    g, parts = torch.empty_like(z1), torch.empty(groups, tiles, 2, constants["OB"], device=z1.device)
    inputs_kernel[groups * tiles,](
        *given, *norm, band, g, parts, inverse, pack_sets(sets), r // groups, frames, given[0].shape[1], tiles, **constants,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return g, parts


def weights_gradient(given, inverse, norm, weight, sets, tile, constants) -> Tensor:
    """Like weight, strides too, in float32."""
    groups, z1, frames_out = len(sets), norm[0], given[0].shape[1]
    r, frames, v, _ = z1.shape
    tiles = cdiv(r // groups * v, tile.M) * cdiv(frames_out, tile.F)
    splits, depth = constants["STEPS"] // constants["HELD"], constants["STEPS"] * tile.BI
    lanes = lane_count(groups, tiles, splits, slots_of(z1.device))
    parts = torch.empty(groups * lanes, depth, tile.F * constants["OB"], device=z1.device)
    weights_kernel[groups * lanes, splits](
        *given, *norm[:3], parts, inverse, r // groups, frames, frames_out, lanes, **constants,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    d_weight, own = torch.empty_like(weight, dtype=torch.float32), diagonals_constants(constants)
    diagonals_kernel[cdiv(weight.numel(), own["BLOCK"]),](
        parts, d_weight, pack_sets(sets), groups * lanes, lanes, weight.numel(), *d_weight.stride(), **own
    )
    return d_weight


def bias_gradient(h: Tensor, fold: Fold | None, weight: Tensor, sets: Sequence[int]) -> Tensor:
    """(S, O) float32, off the hot path: in front of a batch norm it is zero."""

    def total(x: Tensor) -> Tensor:
        return x.reshape(len(sets), -1, x.shape[-1]).sum(1, dtype=torch.float32)

    each, values = total(h if fold is None else fold.passed(h)), h[0, ..., 0].numel() * len(h) // len(sets)
    if fold is not None:
        each = fold.a * each + fold.b * total(fold.z2) + fold.c * values
    out = torch.zeros(weight.shape[:2], device=h.device)
    for one, s in zip(each, sets, strict=True):
        out[s] += one
    return out
