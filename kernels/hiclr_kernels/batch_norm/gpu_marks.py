"""A block's end whose backward pass needs no second look at the operands' sum: what passed is marked, one bit a value.

    v = keep * n1(x1) + x2,  y = relu(v)      dx2 = passed dy,  h1 = passed kept / (1 - p) dy      passed: v > 0

Marks are (planes, G * L * C / 8) uint8: passed and kept; and, with a second operand, passed. So the backward pass reads not that
operand, draws nothing again, and makes h1 on the way into what needs it (`temporal`): here are its sums and dx2 alone.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hiclr_kernels.batch_norm.gpu import WARPS, Operand, splits, tile
from hiclr_kernels.batch_norm.gpu_kernels import _coefficients, _kept, _operand
from hiclr_kernels.batch_norm.parts import After
from hiclr_kernels.bits import pack, unpack


@triton.jit(do_not_specialize=["marked"])
def apply_kernel(
    x1, stats1, x2, out, marks, seed, threshold, inverse, L, G, marked, C: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    SECOND: tl.constexpr, DROP: tl.constexpr,
):  # fmt: skip
    """y (G, L, C), and the marks of the first `marked` groups."""
    g, c0 = tl.program_id(1), tl.program_id(2) * BLOCK
    c, c8 = c0 + tl.arange(0, BLOCK), c0 + 8 * tl.arange(0, BLOCK // 8)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ok = (row < L)[:, None] & (c < C)[None, :]
    base = g.to(tl.int64) * L * C
    at = base + row.to(tl.int64)[:, None] * C + c[None, :]
    v = _operand(x1, at, ok) * _coefficients(stats1, 2, g, c, c < C, G, C) + _coefficients(stats1, 3, g, c, c < C, G, C)
    kept = ok
    if DROP:
        kept = _kept(seed, base, row, c0, threshold, C, ROWS, BLOCK)
        v = tl.where(kept, v * inverse, 0.0)
    if SECOND:
        v += _operand(x2, at, ok)
    passed = v > 0
    tl.store(out + at, tl.where(passed, v, 0.0).to(out.dtype.element_ty), ok)
    if g < marked:
        place = marks + ((base + row.to(tl.int64)[:, None] * C + c8[None, :]) >> 3)
        inside = (row < L)[:, None] & (c8 < C)[None, :]
        tl.store(place, pack(passed & kept, ROWS, BLOCK), inside)
        if SECOND:
            tl.store(place + (marked.to(tl.int64) * L * C >> 3), pack(passed, ROWS, BLOCK), inside)


@triton.jit
def reduce_kernel(
    grad, x, stats, marks, before, part, inverse, L, G, plane, C: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    WRITE: tl.constexpr,
):  # fmt: skip
    """part (groups, S, 2, C): sums of h1 and h1 (x1 - mean) of chunk s. before: dx2, if WRITE; plane: bytes of one."""
    s, g, splits = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    c0 = tl.program_id(2) * BLOCK
    c, c8 = c0 + tl.arange(0, BLOCK), c0 + 8 * tl.arange(0, BLOCK // 8)
    size = tl.cdiv(tl.cdiv(L, splits), ROWS) * ROWS
    begin, end = s * size, tl.minimum(L, (s + 1) * size)
    base = g.to(tl.int64) * L * C
    mean = _coefficients(stats, 0, g, c, c < C, G, C)
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    products = tl.zeros((ROWS, BLOCK), tl.float32)
    for first in range(begin, end, ROWS):
        row = first + tl.arange(0, ROWS)
        ok = (row < end)[:, None] & (c < C)[None, :]
        start = base + row.to(tl.int64)[:, None] * C
        place, inside = marks + ((start + c8[None, :]) >> 3), (row < end)[:, None] & (c8 < C)[None, :]
        h = _operand(grad, start + c[None, :], ok)
        if WRITE:
            passed = unpack(tl.load(place + plane, inside, other=0), ROWS, BLOCK)
            tl.store(before + start + c[None, :], tl.where(passed, h, 0.0).to(before.dtype.element_ty), ok)
        h = tl.where(unpack(tl.load(place, inside, other=0), ROWS, BLOCK), h, 0.0)
        total += h
        products += h * (_operand(x, start + c[None, :], ok) - mean)
    place = part + (g * splits + s) * (2 * C) + c
    tl.store(place, tl.sum(total, 0) * inverse, c < C)
    tl.store(place + C, tl.sum(products, 0) * inverse, c < C)


def covers(channels: int) -> bool:
    """Whether eight values of a mark are of one row."""
    return channels % 8 == 0


def inverse(after: After) -> float:
    """Of the share of values that the dropout keeps."""
    return 65536 / (65536 - after.dropped)


def apply(first: Operand, second: Tensor | None, after: After, marked: int) -> tuple[Tensor, Tensor]:
    """y (G, L, C) of a normalised operand and a plain one or none, and the marks of the first `marked` groups."""
    x, (groups, rows, channels) = first.x, first.x.shape
    y, cut = torch.empty_like(x), tile(channels)
    planes = 1 if second is None else 2
    marks = torch.empty(planes, marked * rows * channels // 8, dtype=torch.uint8, device=x.device)
    grid = (triton.cdiv(rows, cut["ROWS"]), groups, triton.cdiv(channels, cut["BLOCK"]))
    with torch.cuda.device_of(x):
        apply_kernel[grid](
            x, first.stats, x if second is None else second, y, marks, x if after.seed is None else after.seed, after.dropped,
            inverse(after), rows, first.stats.shape[1], marked, **cut, SECOND=second is not None, DROP=after.dropped > 0,
            num_warps=WARPS,
        )  # fmt: skip
    return y, marks


def reduce(grad: Tensor, first: Operand, marks: Tensor, after: After) -> tuple[Tensor, Tensor | None]:
    """(G, S, 2, C), partial sums of the first operand, as `gpu.coefficients` takes them, and the gradient of the second, if any.

    grad: (G, L, C), like y; marks: of its groups. The gradient h1 is `inverse` times grad where the first plane is set.
    """
    groups, rows, channels = first.x.shape
    cut, two = tile(channels), len(marks) == 2
    count, _ = splits(groups, rows, cut["ROWS"])
    part, before = torch.empty(groups, count, 2, channels, device=grad.device), torch.empty_like(grad) if two else None
    with torch.cuda.device_of(grad):
        reduce_kernel[count, groups, triton.cdiv(channels, cut["BLOCK"])](
            grad, first.x, first.stats, marks, before if two else part, part, inverse(after), rows, first.stats.shape[1],
            marks.shape[1], **cut, WRITE=two, num_warps=WARPS,
        )  # fmt: skip
    return part, before
