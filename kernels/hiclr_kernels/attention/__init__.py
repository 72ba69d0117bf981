"""Scores between joints, averaged over frames (Shi et al., ACCV 2020, attention of DSTA-Net).

    s[r, h, u, v] = sum_{t, c} q[r, t, u, h, c] k[r, t, v, h, c] / (C T)      dq[u] = sum_v ds[u, v] k[v] / (C T), dk likewise

Queries and keys stay in the layout of the product that makes them, (R, T, V, 2, H, C): one read forward; one read and one write
backward; nothing is transposed.
"""

import torch
from torch import Tensor

from hiclr_kernels.attention.reference import joint_scores as reference
from hiclr_kernels.backend import choose_backend


class _JointScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx, qk):
        from hiclr_kernels.attention import gpu  # here: a machine without Triton imports the rest

        ctx.save_for_backward(qk)
        return gpu.scores(qk)

    @staticmethod
    def backward(ctx, grad):
        from hiclr_kernels.attention import gpu

        return gpu.gradient(grad.contiguous(), *ctx.saved_tensors)


def joint_scores(qk: Tensor) -> Tensor:
    """(R, H, V, V) at least float32, query joint u, key joint v. qk: (R, T, V, 2, H, C) contiguous, queries first."""
    if choose_backend(qk.device, qk.dtype) != "triton":
        return reference(qk)
    return _JointScores.apply(qk)
