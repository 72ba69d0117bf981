"""Layers that a CPU step would otherwise spend most of its time in, and batch norm with statistics per view."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from hiclr_kernels import batch_norm as kernel
from hiclr_kernels.backend import choose_backend, forced
from hiclr_kernels.batch_norm.parts import After, Norm, Rule
from torch import Tensor, nn

from hiclr_fast.distributed import ALONE, Ranks


class BatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d, same state and names, with two properties more.

    `groups`: in training the rows are that many equal parts, one after another; each is normalised by its own statistics,
    and the running ones are updated part by part, in order: what as many separate passes do. Set by `in_groups`.
    `ranks`: the processes over which a part's statistics are taken together; alone by default. Set by `synchronise`.
    """

    groups = 1
    ranks = ALONE

    def forward(
        self, x: Tensor, *, slope: float = 1.0, dropout: "Dropout | None" = None, residual: Tensor | None = None
    ) -> Tensor:
        """(R, C, T, V). With dropout, residual and a (leaky) ReLU of that slope after it, in this order, where given."""
        if self.training and on_triton(x):
            return normalised(x, self, residual, None, dropout=dropout, slope=slope)
        if self.training and (self.ranks.world > 1 or (kernel.fused(x) and not plain())):
            return self._fused(x, slope, dropout, residual)
        if self.training and self.groups > 1:
            y = torch.cat([super(BatchNorm, self).forward(part) for part in x.chunk(self.groups)])
        else:
            y = super().forward(x)
        y = y if dropout is None else dropout(y)
        y = y if residual is None else y + residual
        return activation(y, slope)

    def _fused(self, x: Tensor, slope: float, dropout: "Dropout | None", residual: Tensor | None) -> Tensor:
        drops = dropout is not None and dropout.training and dropout.p > 0
        y, means, variances = kernel.batch_norm(
            x,
            self.weight,
            self.bias,
            eps=self.eps,
            groups=self.groups,
            slope=slope,
            residual=residual,
            bits=random_bits(x) if drops else None,
            dropped=dropout.dropped if drops else 0,
            mean_of=self.ranks.mean if self.ranks.world > 1 else None,
        )
        count = x.numel() // x.shape[1] // self.groups * self.ranks.world
        with torch.no_grad():
            for mean, var in zip(means.to(self.weight), (variances * (count / max(1, count - 1))).to(self.weight), strict=True):
                self.num_batches_tracked += 1
                share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(var, share)
        return y

    def as_kernel(self) -> Norm:
        """As the kernels take them."""
        return Norm(self.weight, self.bias, self.running_mean, self.running_var, self.num_batches_tracked)

    @property
    def rule(self) -> Rule:
        """How the kernels take statistics."""
        ranks = self.ranks
        return Rule(self.eps, self.momentum, ranks.mean if ranks.world > 1 else None, ranks.world)


def activation(x: Tensor, slope: float) -> Tensor:
    """(Leaky) ReLU with that slope below zero; 1: none."""
    return x if slope == 1 else F.relu(x) if slope == 0 else F.leaky_relu(x, slope)


def on_triton(x: Tensor) -> bool:
    """Whether the Triton passes take x in training: on CUDA, or where HICLR_KERNELS says so; not under torch.compile."""
    return not torch.compiler.is_compiling() and choose_backend(x.device, x.dtype) == "triton"


def normalised(
    x: Tensor,
    norm: BatchNorm | None,
    y: Tensor | None,
    norm_y: BatchNorm | None,
    *,
    dropout: "Dropout | None" = None,
    slope: float = 1.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """act(dropout(norm(x)) + norm_y(y)), each norm where given, in training: `batch_norm.normalise` of (R, C, T, V)."""
    rows = (None if t is None else rows_of(t) for t in (x, y))
    first, second = rows
    return normalised_rows(first, norm, second, norm_y, dropout=dropout, slope=slope, dtype=dtype).permute(0, 3, 1, 2)


def normalised_rows(
    x: Tensor,
    norm: BatchNorm | None,
    y: Tensor | None,
    norm_y: BatchNorm | None,
    *,
    dropout: "Dropout | None" = None,
    seed: Tensor | None = None,
    slope: float = 1.0,
    pooled: int = 0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """`normalised` of (R, T, V, C) contiguous; with `pooled` its mean over so many (t, v), float32 (R * T * V / pooled, C)."""
    either = norm if norm is not None else norm_y
    if len(x) % either.groups:
        raise ValueError(f"{len(x)} rows do not divide into {either.groups} groups")
    x1, x2 = (None if t is None else t.reshape(either.groups, -1, t.shape[-1]) for t in (x, y))
    norms = (None if n is None else n.as_kernel() for n in (norm, norm_y))
    out = kernel.normalise(x1, x2, *norms, rule=either.rule, after=after(x, slope, dropout, seed), pooled=pooled, dtype=dtype)
    return out if pooled else out.view(x.shape)


Weights = dict[nn.Conv2d, tuple[Tensor, Tensor]]


def front_conv(x: Tensor, conv: nn.Conv2d, weights: Weights) -> Tensor:
    """The convolution of rows (R, T, V, C) contiguous, in front of a batch norm: its bias's gradient is zero by algebra.

    weights: of `conv`, from `cast_all`, which gives the bias that gradient.
    """
    weight, bias = weights[conv]
    if conv.kernel_size == (1, 1) and conv.stride == (1, 1):
        return F.linear(x, weight.flatten(1), bias.detach())
    return rows_of(F.conv2d(x.permute(0, 3, 1, 2), weight, bias.detach(), conv.stride, conv.padding))


def working_dtype(x: Tensor) -> torch.dtype:
    """That of autocast where it is on, else that of x."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def rows_of(x: Tensor) -> Tensor:
    """(R, C, T, V) -> (R, T, V, C) contiguous, a view where channels are last."""
    return x.permute(0, 2, 3, 1).contiguous()


def after(x: Tensor, slope: float, dropout: "Dropout | None", seed: Tensor | None = None) -> After:
    """What follows a batch norm, as the kernels take it. seed: of the dropout; None: drawn by x's device's default generator."""
    if dropout is None or not dropout.training or dropout.p == 0:
        return After(slope)
    return After(slope, new_seeds(x, ()) if seed is None else seed, dropout.dropped)


def new_seeds(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """int64, on the device of x, by its default generator: a captured graph draws new ones at every replay."""
    return torch.empty(shape, dtype=torch.int64, device=x.device).random_()


def plain() -> bool:
    """Whether torch's own operations are wanted: under torch.compile, which fuses them, or by HICLR_KERNELS=reference."""
    return torch.compiler.is_compiling() or forced() == "reference"


@contextmanager
def in_groups(model: nn.Module, groups: int) -> Iterator[None]:
    """Inside, the rows of a batch are `groups` equal parts for every batch norm of the model."""
    norms = [m for m in model.modules() if isinstance(m, BatchNorm)]
    for norm in norms:
        norm.groups = groups
    try:
        yield
    finally:
        for norm in norms:
            norm.groups = 1


def synchronise(model: nn.Module, ranks: Ranks) -> None:
    """Every batch norm of the model takes its statistics over all ranks."""
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.ranks = ranks


def random_bits(x: Tensor) -> Tensor:
    """16 random bits (int16) for every value of x, from torch's default generator, in one call for four."""
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    return words.random_(-(2**63), None).view(torch.int16)[: x.numel()]


class Dropout(nn.Dropout):
    """nn.Dropout; on CPU it spends 16 random bits a value instead of one generator call, so that p is rounded to a
    multiple of 1/65536. Draws from torch's default generator."""

    @property
    def dropped(self) -> int:
        """Of 65536 values."""
        return round(self.p * 65536)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.is_cuda or plain():
            return F.dropout(x, self.p, True)
        keep = (random_bits(x) >= self.dropped - 32768).to(x.dtype).mul_(65536 / (65536 - self.dropped))
        return x * keep.as_strided(x.shape, torch.empty_like(x).stride())


def distinct_bodies(x: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows n * M + m of x (N, C, T, V, M) have to be run in evaluation, where all empty (zero) bodies give one result.

    Returns (K,) int64 rows to run, the first empty one among them, and (N * M,) int64: where in those each row's result is.
    Reads from the device, so never in a training step.
    """
    empty = (x == 0).all(dim=1).all(dim=1).all(dim=1).flatten()
    runs = ~empty
    runs[empty.nonzero()[:1, 0]] = True
    place = runs.cumsum(0) - 1
    return runs.nonzero()[:, 0], torch.where(empty, place[empty.int().argmax()], place)
