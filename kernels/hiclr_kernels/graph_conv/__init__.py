"""Graph convolution with learned importance of edges (Yan et al., AAAI 2018).

    z[w] = sum_k W_k sum_v a_k[v, w] x[v] + sum_k b_k sum_v a_k[v, w],      a_k = A_k E_k

Up to 32 input channels it is one product of a frame's V * C values with the folded matrix B[(w, d), (v, c)] = sum_k a_k[v, w]
W_k[d, c], whose gradient is folded back into those of E, W and b:

    dW_k[d, c] = sum_vw a_k[v, w] dB    dE_k[v, w] = A_k[v, w] (sum_dc W_k[d, c] dB + sum_d b_k[d] S[w, d])    S = sum_rt dz

Above, Triton kernels gather and multiply tile by tile in registers. Nothing is materialised or transposed either way: x is read
and z written once; backward, dz is read twice, x once or twice, dx written once.
"""

import torch
from torch import Tensor

from hiclr_kernels.backend import choose_backend
from hiclr_kernels.graph_conv import reference


class _GraphConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, adjacency, importance, weight, bias):
        from hiclr_kernels.graph_conv import gpu  # here: a machine without Triton imports the rest

        z, folded, _ = gpu.forward(x[None].flatten(1, 2), adjacency, (gpu.Weights(importance, weight, bias),), 1, moments=False)
        ctx.save_for_backward(x, adjacency, importance, weight, bias, *(folded or ()))
        return z.view(*x.shape[:3], -1)

    @staticmethod
    def backward(ctx, grad):
        from hiclr_kernels.graph_conv import gpu

        x, adjacency, importance, weight, bias, *folded = ctx.saved_tensors
        dz = grad.contiguous()[None].flatten(1, 2)
        sums = dz.sum((0, 1), dtype=torch.float32).flatten()[None]
        own, folded = gpu.Weights(importance, weight, bias), gpu.Folded(*folded) if folded else None
        dx, d = gpu.backward(dz, sums, x[None].flatten(1, 2), adjacency, own, folded, None)
        return dx.view(x.shape), None, *d


def graph_conv(x: Tensor, adjacency: Tensor, importance: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """z (R, T, V, D) in the dtype of x.

    x: (R, T, V, C) contiguous; adjacency, importance: (K, V, V) float32; weight: (K * D, C), bias: (K * D,), channel k * D + d.
    No gradient to the adjacency.
    """
    if choose_backend(x.device, x.dtype) != "triton":
        return reference.graph_conv(x, adjacency, importance, weight, bias)
    return _GraphConv.apply(x, adjacency, importance, weight, bias)
