"""The four passes of batch norm with activation, in plain torch: what `batch_norm.cpu` does, for any device and dtype.

x, out, grad: (G, L, C), G groups of rows that are normalised each by itself. Sums are taken in float64.
"""

import torch
from torch import Tensor


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
