"""Batch norm that keeps float32 accuracy channels-last on CPU, and dropout that does not dominate a CPU step."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CL = torch.channels_last


class _TwoPassBatchNorm(torch.autograd.Function):
    """Training-mode batch norm of a channels-last (R, C, T, V), every sum pairwise.

    torch's channels-last CPU kernels add a channel up one value at a time: 10 times the rounding noise of its contiguous
    kernels in the output, 50 times in the gradients. The contiguous ones need two copies of every activation.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float):
        mean = _rows(x).mean(0)
        var = (_rows(x) - mean).square_().mean(0)
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt())
        ctx.mark_non_differentiable(mean, var)
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps), mean, var

    @staticmethod
    def backward(ctx, grad: Tensor, *_):
        x, weight, mean, rstd = ctx.saved_tensors
        g, centred = _rows(grad.contiguous(memory_format=_CL)), _rows(x) - mean
        grad_bias, grad_weight = g.sum(0), (g * centred).sum(0) * rstd
        scale, n = weight * rstd, len(g)
        # dx = scale * (g - mean(g) - xhat * mean(g * xhat)), in the buffer of `centred`
        dx = centred.mul_(-scale * rstd * grad_weight / n).addcmul_(g, scale.expand_as(g)).sub_(scale * grad_bias / n)
        r, c, frames, joints = x.shape
        return dx.view(r, frames, joints, c).permute(0, 3, 1, 2), grad_weight, grad_bias, None


def _rows(x: Tensor) -> Tensor:
    """(R, C, T, V) channels last -> (R * T * V, C), a view."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


class BatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d; float32 training on CPU goes through `_TwoPassBatchNorm`. Same state, same names."""

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda or x.dtype != torch.float32 or not self.training:
            return super().forward(x)
        out, mean, var = _TwoPassBatchNorm.apply(x.contiguous(memory_format=_CL), self.weight, self.bias, self.eps)
        with torch.no_grad():
            count = x.numel() // x.shape[1]
            self.num_batches_tracked += 1
            share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(var * (count / max(1, count - 1)), share)
        return out


class Dropout(nn.Dropout):
    """nn.Dropout; on CPU it spends 16 random bits a value instead of one generator call, so that p is rounded to a
    multiple of 1/65536. Draws from torch's default generator."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.is_cuda:
            return F.dropout(x, self.p, True)
        words = -(-x.numel() // 4)
        bits = torch.empty(words, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[: x.numel()]
        dropped = round(self.p * 65536)
        keep = (bits >= dropped - 32768).to(x.dtype).mul_(65536 / (65536 - dropped))
        return x * keep.as_strided(x.shape, torch.empty_like(x).stride())
