"""Launches the Triton passes of batch norm: tiles, splits, buffers. Nothing here waits for the device or depends on its data.

Operands are (G, L, C) contiguous. Groups from `split` on may have a batch norm of their own (a momentum encoder's, whose rows
need no gradient): backward passes are given the groups before `split` only, with the statistics of all.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from hiclr_kernels.batch_norm import gpu_kernels as kernels
from hiclr_kernels.batch_norm import gpu_sums as sums
from hiclr_kernels.batch_norm.gpu_kernels import NONE, NORM, PLAIN
from hiclr_kernels.batch_norm.parts import After, Norm, Rule

if triton.knobs.runtime.interpret:
    from hiclr_kernels.interpreter import correct_bfloat16

    correct_bfloat16()

TILE = 2048  # values a program holds at a time: 16 a thread
WIDEST = 256  # channels of a tile
SPLITS = 512  # programs that share the groups of a sum: three or four a multiprocessor
JOINED = 2048  # parts, by groups and channels, that a program joins at a time
WARPS, JOIN_WARPS = 4, 8


class Operand(NamedTuple):
    """x (G, L, C), and the (4, G, C) statistics it is normalised with, or None."""

    x: Tensor
    stats: Tensor | None = None

    @property
    def kind(self) -> int:
        return PLAIN.value if self.stats is None else NORM.value


def power_of_2(x: int) -> int:
    return 1 << (x - 1).bit_length()


def tile(channels: int) -> dict[str, int]:
    block = min(max(8, power_of_2(channels)), WIDEST)
    return dict(C=channels, ROWS=TILE // block, BLOCK=block)


def splits(groups: int, rows: int, rows_of_tile: int) -> tuple[int, int]:
    """Chunks of a group's rows, and rows of a chunk: as the kernels cut them."""
    count = max(1, min(SPLITS // groups, triton.cdiv(rows, rows_of_tile)))
    return count, triton.cdiv(triton.cdiv(rows, count), rows_of_tile) * rows_of_tile


def join_tile(groups: int, parts: int, channels: int) -> dict[str, int]:
    """Of a program that joins the parts of all groups: few channels, so that it takes many parts at a time."""
    gp = power_of_2(groups)
    sp = min(power_of_2(parts), max(1, JOINED // gp))
    return dict(G=groups, C=channels, GP=gp, SP=sp, BLOCK=max(1, min(power_of_2(channels), JOINED // (gp * sp))))


def _new(like: Tensor, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=like.device)


def statistics(
    x: Tensor, norms: Sequence[Norm], rule: Rule, split: int | None = None, part: Tensor | None = None
) -> Tensor:
    """(4, G, C) float32 of x (G, L, C): mean, 1 / deviation, scale, shift; moves the running statistics, group by group.

    norms: of the groups before `split`, and of those from it on. part: (G, S, 3, W >= C) count, mean and sum of squared
    deviations of the parts of every group, where who made x left them.
    """
    groups, rows, channels = x.shape
    with torch.cuda.device_of(x):
        part = moments(x) if part is None else part
        (count, width), joins = (part.shape[1], part.shape[3]), join_tile(groups, part.shape[1], channels)
        grid = (triton.cdiv(channels, joins["BLOCK"]),)
        if rule.mean_of is not None:
            both = _new(x, 2, groups, channels, dtype=torch.float64)
            sums.join_kernel[grid](part, both, count, width, **joins, num_warps=JOIN_WARPS)
            part = rule.mean_of(both)
        total = rows * rule.world
        unbias = total / max(1, total - 1)
        stats = _new(x, 4, groups, channels)
        sums.finish_kernel[grid](
            part, *norms[0], *norms[-1], stats, count, width, rule.eps, rule.momentum, unbias, split or groups, **joins,
            RAW=rule.mean_of is not None, TWO=len(norms) == 2, num_warps=JOIN_WARPS,
        )  # fmt: skip
    return stats


def moments(x: Tensor) -> Tensor:
    """(G, S, 3, C) count, mean and sum of squared deviations of S chunks of every group of x (G, L, C)."""
    groups, rows, channels = x.shape
    cut = tile(channels)
    count, _ = splits(groups, rows, cut["ROWS"])
    part = _new(x, groups, count, 3, channels)
    grid = (count, groups, triton.cdiv(channels, cut["BLOCK"]))
    sums.moments_kernel[grid](x, part, rows, **cut, num_warps=WARPS)
    return part


def _arguments(first: Operand, second: Operand | None, after: After) -> tuple[tuple, tuple, dict[str, int], int]:
    """Operands, numbers and constants as the kernels take them; what is absent is the first operand in its place.

    The number is how many groups the statistics have: those of the operands are the first of them.
    """
    x, other = first.x, second or Operand(first.x)
    stats1 = x if first.stats is None else first.stats
    operands = x, stats1, other.x, stats1 if other.stats is None else other.stats
    inverse = 65536 / (65536 - after.dropped)
    numbers = x if after.seed is None else after.seed, after.dropped, inverse, after.slope
    kinds = dict(KIND1=first.kind, KIND2=NONE.value if second is None else second.kind)
    constants = kinds | dict(DROP=after.dropped > 0, ACT=after.slope != 1)
    return operands, numbers, constants, stats1.shape[1] if first.stats is not None else operands[3].shape[1]


def apply(first: Operand, second: Operand | None, after: After, dtype: torch.dtype | None = None) -> Tensor:
    """act(keep * n(first) + n(second)) in the dtype of first, or in that one."""
    groups, rows, channels = first.x.shape
    operands, numbers, constants, of = _arguments(first, second, after)
    out, cut = _new(first.x, groups, rows, channels, dtype=dtype or first.x.dtype), tile(channels)
    grid = (triton.cdiv(rows, cut["ROWS"]), groups, triton.cdiv(channels, cut["BLOCK"]))
    with torch.cuda.device_of(first.x):
        kernels.apply_kernel[grid](*operands, out, *numbers, rows, of, **cut, **constants, num_warps=WARPS)
    return out


def pool(first: Operand, second: Operand | None, after: After, pooled: int) -> Tensor:
    """(G * L / pooled, C) float32: what `apply` gives, averaged over every `pooled` rows."""
    groups, rows, channels = first.x.shape
    operands, numbers, constants, of = _arguments(first, second, after)
    per_group = rows // pooled
    out, cut = _new(first.x, groups * per_group, channels), tile(channels)
    grid = (groups * per_group, triton.cdiv(channels, cut["BLOCK"]))
    with torch.cuda.device_of(first.x):
        kernels.pool_kernel[grid](*operands, out, *numbers, pooled, per_group, of, **cut, **constants, num_warps=WARPS)
    return out


class Back(NamedTuple):
    """A norm's backward: (3, G, C) coefficients of dx = a h + b x + c, gradients of weight and bias, of a bias in front (0)."""

    coefficients: Tensor
    weight: Tensor
    bias: Tensor
    front: Tensor | None


def coefficients(
    part: Tensor, weight: Tensor, stats: Tensor, rows: int, mean_of: Callable[[Tensor], Tensor] | None = None, front: bool = False
) -> Back:
    """part: (groups, S, 2, C) float32, sums of h and h (x - mean) over parts of a group's `rows`; any strides but of C."""
    groups, count, _, channels = part.shape
    out, d = _new(part, 3, groups, channels), _new(part, 2 + front, channels)
    joins, shared = join_tile(groups, count, channels), part
    if mean_of is not None:
        shared = mean_of(part.double().sum(1))  # (G, 2, C)
    with torch.cuda.device_of(part):
        sums.coefficients_kernel[triton.cdiv(channels, joins["BLOCK"]),](
            part, shared, weight, stats, out, d[0], d[1], d[-1], count, *part.stride()[:3], 1 / rows, stats.shape[1], **joins,
            SHARED=mean_of is not None, FRONT=front, num_warps=JOIN_WARPS,
        )  # fmt: skip
    return Back(out, d[0], d[1], d[2] if front else None)


def reduce(
    grad: Tensor, first: Operand, second: Operand | None, after: After, write: bool = False, pooled: int = 0, own: bool = False
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Partial sums (G, S, 4, C) of both operands; with `write` also the gradient h of the second, with `own` that of the first.

    grad: (G, L, C), or with `pooled` that of `pool`'s output.
    """
    groups, rows, channels = first.x.shape
    operands, numbers, constants, of = _arguments(first, second, after)
    cut = tile(channels)
    count, _ = splits(groups, rows, cut["ROWS"])
    part = _new(first.x, groups, count, 4, channels)
    before, h = (_new(first.x, groups, rows, channels, dtype=first.x.dtype) if w else None for w in (write, own))
    if own and write and not after.dropped:
        h, own = before, False  # they are the same
    grid = (count, groups, triton.cdiv(channels, cut["BLOCK"]))
    with torch.cuda.device_of(grad):
        kernels.reduce_kernel[grid](
            grad, *operands, part if h is None else h, part if before is None else before, part, *numbers, rows, of,
            max(1, pooled), **cut, **constants, POOL=pooled > 0, OWN=own, WRITE=write, num_warps=WARPS,
        )  # fmt: skip
    return part, before, h


def spread(
    grad: Tensor,
    first: Operand,
    second: Operand | None,
    after: After,
    back1: Tensor | None,
    back2: Tensor | None,
    pooled: int = 0,
) -> tuple[Tensor, Tensor | None]:
    """Gradients (G, L, C) of the operands. back: coefficients of those that are normalised."""
    groups, rows, channels = first.x.shape
    operands, numbers, constants, of = _arguments(first, second, after)
    cut = tile(channels)
    dx1, dx2 = (None if o is None else _new(o.x, groups, rows, channels, dtype=o.x.dtype) for o in (first, second))
    backs = [operands[0] if b is None else b for b in (back1, back2)]
    grid = (triton.cdiv(rows, cut["ROWS"]), groups, triton.cdiv(channels, cut["BLOCK"]))
    with torch.cuda.device_of(grad):
        kernels.spread_kernel[grid](
            grad, *operands, *backs, dx1, dx1 if dx2 is None else dx2, *numbers, rows, of, groups, max(1, pooled),
            **cut, **constants, POOL=pooled > 0, num_warps=WARPS,
        )  # fmt: skip
    return dx1, dx2


def backward(
    grad: Tensor,
    first: Operand,
    second: Operand | None,
    after: After,
    weights: tuple[Tensor | None, Tensor | None],
    rule: Rule,
    pooled: int = 0,
    front: bool = False,
) -> tuple[Tensor, Tensor | None, Back | None, Back | None]:
    """Gradients of both operands and of their norms, whose weights are given. front: biases lie in front of the norms."""
    plain, rows = second is not None and second.stats is None, first.x.shape[1]
    part, before, _ = reduce(grad, first, second, after, plain, pooled)
    back1, back2 = (
        None if o is None or o.stats is None else coefficients(part[:, :, i : i + 2], w, o.stats, rows, rule.mean_of, front)
        for o, w, i in ((first, weights[0], 0), (second, weights[1], 2))
    )
    ways = (None if b is None else b.coefficients for b in (back1, back2))
    if plain:  # its gradient is there, and says what the activation let through
        dx1, _ = spread(before, first, None, after._replace(slope=1.0), *ways)
        return dx1, before, back1, back2
    return *spread(grad, first, second, after, *ways, pooled), back1, back2
