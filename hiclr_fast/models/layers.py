"""Batch norm with statistics per view, float32-accurate channels-last on CPU; dropout that does not dominate a CPU step."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiclr_fast.distributed import ALONE, Ranks

_CL = torch.channels_last


class _TwoPassBatchNorm(torch.autograd.Function):
    """Training-mode batch norm of a channels-last (R, C, T, V) in `groups` equal parts of its rows, every sum pairwise.

    torch's channels-last CPU kernels add a channel up one value at a time: 10 times the rounding noise of its contiguous
    kernels in the output, 50 times in the gradients. The contiguous ones need two copies of every activation.
    ranks: whose statistics are taken together, part by part.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float, groups: int, ranks: Ranks):
        mean = ranks.mean(_parts(x, groups).mean(1))  # (G, C)
        centred = _parts(x, groups) - mean[:, None]
        var = ranks.mean(centred.square().mean(1))
        rstd = (var + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.groups, ctx.ranks = groups, ranks
        ctx.mark_non_differentiable(mean, var)
        out = torch.addcmul(bias.expand_as(mean)[:, None], centred, (weight * rstd)[:, None], out=centred)
        return _joined(out, x), mean, var

    @staticmethod
    def backward(ctx, grad: Tensor, *_):
        x, weight, mean, rstd = ctx.saved_tensors
        g = _parts(grad.contiguous(memory_format=_CL), ctx.groups)
        centred = _parts(x, ctx.groups) - mean[:, None]
        grad_bias, grad_weight = g.sum(1), (g * centred).sum(1) * rstd  # (G, C)
        scale, n = weight * rstd, g.shape[1]
        mean_g, mean_gx = ctx.ranks.mean(grad_bias / n), ctx.ranks.mean(grad_weight / n)
        # dx = scale * (g - mean(g) - xhat * mean(g * xhat)), in the buffer of `centred`
        dx = centred.mul_((-scale * rstd * mean_gx)[:, None]).addcmul_(g, scale[:, None].expand_as(g)).sub_((scale * mean_g)[:, None])
        return _joined(dx, x), grad_weight.sum(0), grad_bias.sum(0), None, None, None


def _parts(x: Tensor, groups: int) -> Tensor:
    """(R, C, T, V) channels last -> (groups, R / groups * T * V, C), a view."""
    return x.permute(0, 2, 3, 1).reshape(groups, -1, x.shape[1])


def _joined(parts: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_parts`."""
    r, c, frames, joints = like.shape
    return parts.view(r, frames, joints, c).permute(0, 3, 1, 2)


class BatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d, same state and names, with two properties more.

    `groups`: in training the rows are that many equal parts, one after another; each is normalised by its own statistics,
    and the running ones are updated part by part, in order: what as many separate passes do. Set by `in_groups`.
    `ranks`: the processes over which a part's statistics are taken together (SyncBatchNorm); alone by default.
    float32 training on CPU goes through `_TwoPassBatchNorm`.
    """

    groups = 1
    ranks = ALONE

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        if len(x) % self.groups:
            raise ValueError(f"{len(x)} rows do not divide into {self.groups} groups")
        alone = self.ranks.world == 1
        if alone and (x.is_cuda or x.dtype != torch.float32 or torch.compiler.is_compiling()):
            parts = [super(BatchNorm, self).forward(part) for part in x.chunk(self.groups)]
            return parts[0] if self.groups == 1 else torch.cat(parts)
        wide = x.to(torch.promote_types(x.dtype, torch.float32)).contiguous(memory_format=_CL)
        out, means, variances = _TwoPassBatchNorm.apply(wide, self.weight, self.bias, self.eps, self.groups, self.ranks)
        count = x.numel() // x.shape[1] // self.groups * self.ranks.world
        with torch.no_grad():
            for mean, var in zip(means, variances * (count / max(1, count - 1)), strict=True):
                self.num_batches_tracked += 1
                share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(var, share)
        return out.to(x.dtype)


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


class Dropout(nn.Dropout):
    """nn.Dropout; on CPU it spends 16 random bits a value instead of one generator call, so that p is rounded to a
    multiple of 1/65536. Draws from torch's default generator."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.is_cuda or torch.compiler.is_compiling():
            return F.dropout(x, self.p, True)
        words = -(-x.numel() // 4)
        bits = torch.empty(words, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[: x.numel()]
        dropped = round(self.p * 65536)
        keep = (bits >= dropped - 32768).to(x.dtype).mul_(65536 / (65536 - dropped))
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
