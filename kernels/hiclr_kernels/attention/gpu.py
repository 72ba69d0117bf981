"""Scores between joints in Triton: queries and keys are read, and their gradients written, where one product put them."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hiclr_kernels.batch_norm.gpu import power_of_2

COLUMNS = 64  # of a tile: frames times channels
WARPS = 4


@triton.jit
def _place(r, t, n, v, which, h, T, V: tl.constexpr, H: tl.constexpr, C: tl.constexpr, CP: tl.constexpr):
    """Offsets and mask (J, F * CP) of the queries (which 0) or keys (1) of a head, frames from t on."""
    f, c = t + n // CP, n % CP
    ok = (v < V)[:, None] & ((f < T) & (c < C))[None, :]
    at = r.to(tl.int64) * T * (V * 2 * H * C) + (f * (V * 2 * H * C) + (which * H + h) * C + c)[None, :]
    return at + v[:, None] * (2 * H * C), ok


@triton.jit
def scores_kernel(
    qk, scores, scale, T, V: tl.constexpr, H: tl.constexpr, C: tl.constexpr, CP: tl.constexpr, J: tl.constexpr, N: tl.constexpr
):
    r, h = tl.program_id(0), tl.program_id(1)
    v, n = tl.arange(0, J), tl.arange(0, N)
    acc = tl.zeros((J, J), tl.float32)
    for t in range(0, T, N // CP):
        at, ok = _place(r, t, n, v, 0, h, T, V, H, C, CP)
        q = tl.load(qk + at, ok, other=0.0)
        k = tl.load(qk + at + H * C, ok, other=0.0)
        acc = tl.dot(q, tl.trans(k), acc, input_precision="ieee")
    at = scores + (r * H + h).to(tl.int64) * (V * V) + v[:, None] * V + v[None, :]
    tl.store(at, acc * scale, (v < V)[:, None] & (v < V)[None, :])


@triton.jit
def gradient_kernel(
    grad, qk, dqk, scale, T, V: tl.constexpr, H: tl.constexpr, C: tl.constexpr, CP: tl.constexpr, J: tl.constexpr, N: tl.constexpr
):
    r, h = tl.program_id(0), tl.program_id(1)
    v, n = tl.arange(0, J), tl.arange(0, N)
    place = grad + (r * H + h).to(tl.int64) * (V * V) + v[:, None] * V + v[None, :]
    g = tl.load(place, (v < V)[:, None] & (v < V)[None, :], other=0.0) * scale
    g = g.to(qk.dtype.element_ty)
    for t in range(0, T, N // CP):
        at, ok = _place(r, t, n, v, 0, h, T, V, H, C, CP)
        q = tl.load(qk + at, ok, other=0.0)
        k = tl.load(qk + at + H * C, ok, other=0.0)
        tl.store(dqk + at, tl.dot(g, k, input_precision="ieee").to(dqk.dtype.element_ty), ok)
        tl.store(dqk + at + H * C, tl.dot(tl.trans(g), q, input_precision="ieee").to(dqk.dtype.element_ty), ok)


def config(joints: int, heads: int, channels: int) -> dict[str, int]:
    cp = power_of_2(channels)
    return dict(V=joints, H=heads, C=channels, CP=cp, J=max(16, power_of_2(joints)), N=max(COLUMNS, cp))


def scores(qk: Tensor) -> Tensor:
    rows, frames, joints, _, heads, channels = qk.shape
    out = torch.empty(rows, heads, joints, joints, dtype=torch.float32, device=qk.device)
    with torch.cuda.device_of(qk):
        cut = config(joints, heads, channels)
        scores_kernel[rows, heads](qk, out, 1 / (channels * frames), frames, **cut, num_warps=WARPS, num_stages=1)
    return out


def gradient(grad: Tensor, qk: Tensor) -> Tensor:
    rows, frames, joints, _, heads, channels = qk.shape
    dqk = torch.empty_like(qk)
    with torch.cuda.device_of(qk):
        cut = config(joints, heads, channels)
        gradient_kernel[rows, heads](grad, qk, dqk, 1 / (channels * frames), frames, **cut, num_warps=WARPS, num_stages=1)
    return dqk
