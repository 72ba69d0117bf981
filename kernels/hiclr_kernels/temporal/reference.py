"""Temporal convolution of normalised activations in plain torch: what the kernels have to reproduce.

    a = act(z1 * scale[g] + shift[g]),  z2[r, t, v, o] = bias[o] + sum_{k, c} weight[o, c, k] a[r, stride t + k - K // 2, v, c]

a is zero outside of 0 <= frame < T; act(x) = x for x > 0, else slope * x; g is the group (view) of row r;
TO = ceil(T / stride). mean and var of z2 are those of the values as stored.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Fold(NamedTuple):
    """What follows z2 in the forward pass, folded into the gradient: d loss / d z2 = a[g] * h + b[g] * z2 + c[g].

    marks: (R * TO * V * O / 8,) uint8, a bit a value, the lowest first: in the place of h, `inverse` * h where it is set, else 0.
    """

    z2: Tensor  # (R, TO, V, O)
    a: Tensor  # (G, O) float32
    b: Tensor
    c: Tensor
    marks: Tensor | None = None
    inverse: float = 1.0

    def passed(self, h: Tensor) -> Tensor:
        """h, or what the marks make of it."""
        if self.marks is None:
            return h
        bits = self.marks[:, None] >> torch.arange(8, dtype=torch.uint8, device=h.device)
        return torch.where((bits & 1).bool().view(h.shape), h * self.inverse, 0)


class Gradients(NamedTuple):
    """With y = z1 * scale + shift, g = d loss / d y: g (R, T, V, C) in the dtype of z1; the rest at least float32."""

    g: Tensor
    weight: Tensor  # like weight
    total: Tensor  # (G, C): sum of g
    products: Tensor  # (G, C): sum of g * (z1 - center)
    bias: Tensor | None  # like bias, where asked for


def out_frames(frames: int, stride: int) -> int:
    return (frames - 1) // stride + 1


def check_temporal(
    z1: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor | None, groups: int, stride: int, sets: Sequence[int]
) -> None:
    """Raises ValueError, in one sentence, on shapes that do not fit together."""
    if z1.ndim != 4 or 0 in z1.shape or not z1.is_contiguous():
        raise ValueError(f"z1 {tuple(z1.shape)}, strides {z1.stride()}: expected contiguous (R, T, V, C), none of them 0")
    if groups < 1 or len(z1) % groups:
        raise ValueError(f"{len(z1)} rows do not divide into {groups} groups")
    channels = z1.shape[3]
    if scale.shape != (groups, channels) or shift.shape != (groups, channels):
        raise ValueError(
            f"scale {tuple(scale.shape)}, shift {tuple(shift.shape)}: expected (groups, C) = ({groups}, {channels}) both"
        )
    if weight.ndim != 4 or weight.shape[2] != channels or weight.shape[3] % 2 == 0:
        raise ValueError(f"weight {tuple(weight.shape)}: expected (S, C_out, {channels}, K) or without S, K odd")
    if bias is not None and bias.shape != weight.shape[:2]:
        raise ValueError(f"bias {tuple(bias.shape)}: expected {tuple(weight.shape[:2])}, or without the sets of both")
    if stride not in (1, 2):
        raise ValueError(f"stride {stride}: expected 1 or 2")
    if len(sets) != groups or not all(0 <= s < len(weight) for s in sets):
        raise ValueError(f"sets {tuple(sets)}: expected one of {len(weight)} weight sets for each of {groups} groups")


def _groups(x: Tensor, groups: int) -> Tensor:
    return x.reshape(groups, -1, x.shape[-1])


def _activation(z1: Tensor, scale: Tensor, shift: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    """a (R, T, V, C) in the dtype of z1, and y before the activation, at least float32."""
    wide = torch.promote_types(z1.dtype, torch.float32)
    y = torch.addcmul(shift[:, None].to(wide), _groups(z1, len(scale)).to(wide), scale[:, None].to(wide)).view(z1.shape)
    return F.leaky_relu(y, slope).to(z1.dtype), y


def _convolve(a: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    half = weight.shape[-1] // 2
    with torch.autocast(a.device.type, enabled=False):
        z2 = F.conv2d(a.permute(0, 3, 1, 2), weight[..., None], bias, (stride, 1), (half, 0))
    return z2.permute(0, 2, 3, 1).contiguous()


def temporal(
    z1: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, *, groups: int, stride: int, slope: float,
    sets: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """z2 (R, TO, V, O) in the dtype of z1; mean and biased variance (G, O), at least float32. weight: (S, O, C, K)."""
    a, _ = _activation(z1, scale, shift, slope)
    parts = [
        _convolve(rows, weight[s].to(z1.dtype), bias[s].to(z1.dtype), stride)
        for rows, s in zip(a.chunk(groups), sets, strict=True)
    ]
    z2 = torch.cat(parts)
    var, mean = torch.var_mean(_groups(z2, groups).double(), dim=1, correction=0)
    wide = torch.promote_types(z1.dtype, torch.float32)
    return z2, mean.to(wide), var.to(wide)


def temporal_backward(
    h: Tensor, z1: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, *, groups: int, stride: int, slope: float,
    sets: Sequence[int], center: Tensor | None, fold: Fold | None, bias: bool,
) -> Gradients:  # fmt: skip
    """Gradients for h, the gradient of the loss to z2 (or what `fold` makes it from). center: (G, C) or None for zero."""
    wide = torch.promote_types(z1.dtype, torch.float32)
    dz2 = _groups(h, groups).to(wide)
    if fold is not None:
        dz2 = _groups(fold.passed(h.to(wide)), groups)
        dz2 = fold.a[:, None] * dz2 + fold.b[:, None] * _groups(fold.z2, groups) + fold.c[:, None]
    dz2 = dz2.to(z1.dtype).view(h.shape)
    a, y = _activation(z1, scale, shift, slope)
    d_weight, g = torch.zeros_like(weight, dtype=wide), []
    for rows, grad, s in zip(a.chunk(groups), dz2.chunk(groups), sets, strict=True):
        with torch.enable_grad():
            rows, w = rows.detach().requires_grad_(), weight[s].detach().to(z1.dtype).requires_grad_()
            da, dw = torch.autograd.grad(_convolve(rows, w, None, stride), (rows, w), grad)
        d_weight[s] += dw.to(wide)
        g.append(da)
    g = torch.where(y > 0, torch.cat(g), torch.cat(g) * slope).to(z1.dtype)
    parts, centred = _groups(g, groups).to(wide), _groups(z1, groups).to(wide)
    if center is not None:
        centred = centred - center[:, None]
    d_bias = bias_gradient(dz2, weight, sets) if bias else None
    return Gradients(g, d_weight, parts.sum(1), (parts * centred).sum(1), d_bias)


def bias_gradient(dz2: Tensor, weight: Tensor, sets: Sequence[int]) -> Tensor:
    """(S, O), at least float32."""
    wide = torch.promote_types(dz2.dtype, torch.float32)
    out = torch.zeros(weight.shape[:2], dtype=wide, device=dz2.device)
    for total, s in zip(_groups(dz2, len(sets)).sum(1, dtype=wide), sets, strict=True):
        out[s] += total
    return out
