"""Graph convolution whose edges differ from row to row: attention over joints, then a product, in one pass.

    z[r, t, w] = sum_k W_k sum_v a[r, k, v, w] x[r, t, v] + b

The gathered x, three times as wide with three heads, is never written. The bias is taken to lie in front of a batch norm: its
gradient is zero by algebra.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hiclr_kernels.backend import choose_backend

SUBSETS = 3


class _RowGraphConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, edges, weight, bias):
        import triton

        from hiclr_kernels.graph_conv import gpu, row_kernels

        (rows, frames, joints, channels), (subsets, out, _) = x.shape, weight.shape
        cut = gpu.wide_tile(subsets, joints, channels, out) | _steps(weight)
        z = torch.empty(rows, frames, joints, out, dtype=x.dtype, device=x.device)
        with torch.cuda.device_of(x):
            row_kernels.forward_kernel[rows, triton.cdiv(out, cut["DB"])](
                x, edges, weight, bias, z, frames, **cut, num_warps=gpu.FORWARD_WARPS, num_stages=1
            )  # fmt: skip
        ctx.save_for_backward(x, edges, weight)
        return z

    @staticmethod
    def backward(ctx, grad):
        import triton

        from hiclr_kernels.graph_conv import gpu, row_kernels

        x, edges, weight = ctx.saved_tensors
        (rows, frames, joints, channels), (subsets, out, _) = x.shape, weight.shape
        sizes = [gpu.wide_tile(subsets, joints, channels, out, f) for f in (gpu.FRAMES, gpu.INPUT_FRAMES)]
        cut, narrow = (size | _steps(weight) for size in sizes)
        dz = grad.contiguous()
        blocks = triton.cdiv(channels, cut["CB"]), triton.cdiv(out, cut["DB"])
        dx, shares = torch.empty_like(x), max(1, min(gpu.SHARES // subsets, rows))
        d_edges = torch.empty(blocks[0], *edges.shape, dtype=torch.float32, device=x.device)
        part = torch.empty(shares, weight.numel(), dtype=torch.float32, device=x.device)
        with torch.cuda.device_of(x):
            options = dict(num_warps=gpu.WARPS, num_stages=1)
            row_kernels.input_kernel[rows, blocks[0]](dz, x, edges, weight, dx, d_edges, rows, frames, **narrow, **options)
            row_kernels.weight_kernel[shares, subsets, blocks[0] * blocks[1]](dz, x, edges, part, rows, frames, **cut, **options)
        d_edges = d_edges[0] if blocks[0] == 1 else d_edges.sum(0)
        d_weight = part.sum(0).as_strided(weight.shape, weight.stride())
        return dx, d_edges, d_weight, weight.new_zeros(out) if ctx.needs_input_grad[3] else None


def _steps(weight: Tensor) -> dict[str, int]:
    return dict(TO_K=weight.stride(0), TO_D=weight.stride(1))


def row_graph_conv_reference(x: Tensor, edges: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`row_graph_conv` in plain torch, with a gradient of the bias."""
    gathered = torch.einsum("rkvw,rtvc->rtwkc", edges.to(x.dtype), x)
    return F.linear(gathered.flatten(3), weight.to(x.dtype).permute(1, 0, 2).flatten(1), bias.to(x.dtype))


def row_graph_conv(x: Tensor, edges: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """z (R, T, V, D) in the dtype of x.

    x: (R, T, V, C) contiguous; edges: (R, K, V, V), weight: (K, D, C), float32; bias: (D,). On CUDA float32 x takes torch's
    operations: without tensor cores the kernels gain nothing, and spill. Weights of a convolution are read where they lie.
    """
    covered = len(weight) <= SUBSETS and not (x.is_cuda and x.dtype == torch.float32)
    if choose_backend(x.device, x.dtype) != "triton" or not covered:
        return row_graph_conv_reference(x, edges, weight, bias)
    subsets, out, channels = weight.shape
    as_it_lies = weight.stride() in ((out * channels, channels, 1), (channels, subsets * channels, 1))
    return _RowGraphConv.apply(x, edges.contiguous(), weight if as_it_lies else weight.contiguous(), bias)
