"""The four passes of batch norm with activation, in plain torch: what `batch_norm.cpu` does, for any device and dtype.

x, out, grad: (G, L, C), G groups of rows that are normalised each by itself. Sums are taken in float64.
"""

import torch
from torch import Tensor

from hiclr_kernels.batch_norm.parts import After, Norm, Rule
from hiclr_kernels.philox.reference import keep


def _keep(bits: Tensor | None, dropped: int) -> Tensor | float:
    """0 or 65536 / (65536 - dropped). bits: (G, L, C) int16."""
    return 1.0 if bits is None else (bits >= dropped - 32768) * (65536 / (65536 - dropped))


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (G, C) float64."""
    var, mean = torch.var_mean(x.double(), dim=1, correction=0)
    return mean, var


def apply(
    x: Tensor, mean: Tensor, scale: Tensor, bias: Tensor, slope: float, residual: Tensor | None, bits: Tensor | None, dropped: int
) -> Tensor:
    """act(keep * ((x - mean) * scale + bias) + residual); act(v) = v for v > 0, else slope * v. mean, scale: (G, C)."""
    v = ((x - mean[:, None]) * scale[:, None] + bias) * _keep(bits, dropped)
    v = v if residual is None else v + residual
    return torch.where(v > 0, v, slope * v).to(x.dtype)


def reduce(
    grad: Tensor, out: Tensor, slope: float, x: Tensor, mean: Tensor, bits: Tensor | None, dropped: int, split: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Sums over L of g and g * (x - mean), both (G, C) float64, with g the gradient before activation and dropout.

    split: also the gradient before the activation, in the dtype of x: what the residual gets.
    """
    g = torch.where(out > 0, grad, slope * grad)
    kept = g * _keep(bits, dropped)
    sums = kept.sum(1, dtype=torch.float64), (kept * (x - mean[:, None])).sum(1, dtype=torch.float64)
    return *sums, g.to(x.dtype) if split else None


def spread(
    grad: Tensor,
    out: Tensor | None,
    slope: float,
    x: Tensor,
    mean: Tensor,
    bits: Tensor | None,
    dropped: int,
    a: Tensor,
    b: Tensor,
    c: Tensor,
) -> Tensor:
    """dx = a * g + b * (x - mean) + c. out None: grad is already the one before the activation. a, b, c: (G, C)."""
    g = grad if out is None else torch.where(out > 0, grad, slope * grad)
    g = g * _keep(bits, dropped)
    return (a[:, None] * g + b[:, None] * (x - mean[:, None]) + c[:, None]).to(x.dtype)


def _normalised(x: Tensor, norm: Norm | None, rule: Rule) -> Tensor:
    """(G, L, C), at least float32. Statistics of every group, in at least float32; the running ones move group by group."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    if norm is None:
        return wide
    var, mean = torch.var_mean(wide, dim=1, correction=0)  # (G, C)
    if rule.mean_of is not None:
        both = rule.mean_of(torch.stack([mean, var + mean.square()]))
        mean, var = both[0], both[1] - both[0].square()
    count = x.shape[1] * rule.world
    with torch.no_grad():
        for m, v in zip(mean, var * (count / max(1, count - 1)), strict=True):
            norm.running_mean.lerp_(m.to(norm.running_mean), rule.momentum)
            norm.running_var.lerp_(v.to(norm.running_var), rule.momentum)
        norm.tracked.add_(len(x))
    return (wide - mean[:, None]) * ((var + rule.eps).rsqrt() * norm.weight)[:, None] + norm.bias


def normalise(
    x1: Tensor,
    x2: Tensor | None,
    norm1: Norm | None,
    norm2: Norm | None,
    *,
    rule: Rule,
    after: After,
    pooled: int = 0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """`batch_norm.normalise` in torch's own operations; over several processes without the gradient through their mean."""
    v = _normalised(x1, norm1, rule)
    if after.dropped:
        kept = keep(after.seed, x1.numel(), after.dropped, x1.device).view(x1.shape)
        v = v * kept * (65536 / (65536 - after.dropped))
    if x2 is not None:
        v = v + _normalised(x2, norm2, rule)
    v = torch.where(v > 0, v, after.slope * v)
    if pooled:
        return v.reshape(-1, pooled, v.shape[-1]).mean(1)
    return v.to(dtype or x1.dtype)
