"""The graph convolution in plain torch, as it is usually written: joints are gathered, then multiplied."""

import torch
import torch.nn.functional as F
from torch import Tensor


def graph_conv(x: Tensor, adjacency: Tensor, importance: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`graph_conv.graph_conv` with the autograd of torch."""
    r, frames, joints, c_in = x.shape
    a = adjacency * importance  # (K, V, W)
    subsets = a.shape[0]
    gather = a.permute(2, 0, 1).reshape(joints * subsets, joints)  # ((w, k), v)
    gathered = gather.to(x.dtype) @ x.reshape(r * frames, joints, c_in)
    by_subset = weight.view(subsets, -1, c_in).permute(1, 0, 2).reshape(-1, subsets * c_in)
    out = F.linear(gathered.reshape(-1, subsets * c_in), by_subset.to(x.dtype)).view(r, frames, joints, -1)
    column = a.sum(1).T @ bias.view(subsets, -1)  # (W, D)
    return out + column.to(out.dtype)


def folded(adjacency: Tensor, importance: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """What `gpu.fold` makes: the weights as one matrix (V * D, V * C), the bias as one column (V * D,)."""
    a = adjacency * importance
    subsets, joints, _ = a.shape
    matrix = torch.einsum("kvw,kdc->wdvc", a, weight.view(subsets, -1, weight.shape[1]))
    return matrix.reshape(-1, joints * weight.shape[1]), (a.sum(1).T @ bias.view(subsets, -1)).reshape(-1)
