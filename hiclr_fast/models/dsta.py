"""DSTA-Net (Shi et al., ACCV 2020) as HiCLR's release uses it: eight blocks of spatial attention between joints, each
followed by a temporal convolution.

Inside, activations are logically (R, C, T, V) with R = N * M rows (row n * M + m), stored channels last. Nothing depends
on the number of frames: the positional encoding is one of joints, and attention is averaged over frames. `official.py`
maps the parameter names to the official ones.
"""

import math

import torch
import torch.nn.functional as F
from hiclr_kernels.attention import joint_scores
from hiclr_kernels.attention.reference import joint_scores as attention_reference
from hiclr_kernels.casts import cast_all
from hiclr_kernels.graph_conv.rows import row_graph_conv
from torch import Tensor, nn

from hiclr_fast.models.encoder import PooledEncoder, projector
from hiclr_fast.models.layers import (
    BatchNorm,
    Dropout,
    Weights,
    front_conv,
    new_seeds,
    normalised_rows,
    on_triton,
    rows_of,
    working_dtype,
)
from hiclr_fast.models.pooling import pool_rows
from hiclr_fast.views.strong import Edges, add_attention_edges, drop_edges

SUBSETS = 3  # attention heads, released configuration
SLOPE = 0.1  # of every leaky ReLU, official net/dsta.py
TEMPORAL_KERNEL = 7
BLOCK_STRIDES = (1, 1, 2, 1, 2, 1, 1, 1)


def block_widths(hidden_channels: int, hidden_dim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(output channels, query and key channels a head) of the eight blocks; released configuration at c = 16, 256.

    Output: 2c x2, 4c x2, 8c x3, and the feature width. Attention: c x4, 2c x4.
    """
    c = hidden_channels
    return (2 * c,) * 2 + (4 * c,) * 2 + (8 * c,) * 3 + (hidden_dim,), (c,) * 4 + (2 * c,) * 4


def joint_encoding(channels: int, joints: int) -> Tensor:
    """(C, 1, V) float32: sin(v w) in even channels, cos(v w) in odd ones, w = 10000^(-2i / C)."""
    w = torch.exp(torch.arange(0, channels, 2).float() * -(math.log(10000.0) / channels))
    angle = torch.arange(joints).float() * w[:, None]
    return torch.stack([angle.sin(), angle.cos()], 1).flatten(0, 1)[:channels, None]


def _conv_bn(c_in: int, c_out: int, stride: int = 1, kernel: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_out, (kernel, 1), (stride, 1), (kernel // 2, 0)), BatchNorm(c_out))


class Block(nn.Module):
    """Attention between joints, feed-forward, (7, 1) convolution with stride; a shortcut around each.

    dropout acts on the temporal shortcut (official `attentiondrop`).
    """

    def __init__(self, c_in: int, c_out: int, c_attention: int, joints: int, stride: int, dropout: float):
        super().__init__()
        self.register_buffer("encoding", joint_encoding(c_in, joints), persistent=False)
        self.qk = nn.Conv2d(c_in, 2 * SUBSETS * c_attention, 1)  # channel = (query or key, head, c)
        self.alphas = nn.Parameter(torch.ones(1, SUBSETS, 1, 1))
        self.attention0s = nn.Parameter(torch.full((1, SUBSETS, joints, joints), 1 / joints))
        self.out = _conv_bn(SUBSETS * c_in, c_out)  # input channel = head * c_in + c
        self.ff = _conv_bn(c_out, c_out)
        self.temporal = _conv_bn(c_out, c_out, stride, TEMPORAL_KERNEL)
        self.dropout = Dropout(dropout)
        same = c_in == c_out and stride == 1
        self.down1, self.down2, self.down_t = (
            nn.Identity() if same else _conv_bn(*shape) for shape in ((c_in, c_out), (c_in, c_out), (c_out, c_out, stride))
        )

    def attention(self, x: Tensor, weights: Weights | None = None) -> Tensor:
        """(R, S, V, V), entry [u, v] weighs source joint u for target v; at least float32. x: (R, C, T, V)."""
        r, _, frames, joints = x.shape
        given = x + self.encoding.to(x.dtype)
        qk = self.qk(given) if weights is None else F.conv2d(given, *weights[self.qk])
        qk = qk.permute(0, 2, 3, 1)  # (R, T, V, 2 S c)
        qk = qk.reshape(r, frames, joints, 2, SUBSETS, -1)
        scores = joint_scores(qk.contiguous()) if self.training and on_triton(x) else attention_reference(qk)
        return torch.tanh(scores.to(self.alphas.dtype)) * self.alphas + self.attention0s

    def maps(self, x: Tensor, edges: Edges | None, weights: Weights | None = None) -> Tensor:
        """`attention`, with this block's dropped and added edges."""
        attention = self.attention(x, weights)
        if edges is None:
            return attention
        return add_attention_edges(drop_edges(attention, edges.kept, edges.rate), edges.added)

    def fused(self, x: Tensor, edges: Edges | None, weights: Weights, seed: Tensor | None = None, bodies: int = 0) -> Tensor:
        """`forward` in training by the Triton passes: (R, T, V, C) -> (R, T', V, C'); with bodies the pooled (N, C') instead.

        seed: of the dropout; None: drawn here.
        """
        attention = self.maps(x.permute(0, 3, 1, 2), edges, weights)
        conv, norm = self.out
        weight = conv.weight.view(len(conv.bias), SUBSETS, -1).permute(1, 0, 2)
        y = row_graph_conv(x, attention, weight, weights[conv][1].detach())
        y = self._joined(y, norm, x, self.down1, weights)
        y = self._joined(front_conv(y, self.ff[0], weights), self.ff[1], x, self.down2, weights)
        z = front_conv(y, self.temporal[0], weights)
        pooled = bodies * z.shape[1] * z.shape[2]
        shortcut, own = y, None
        if not isinstance(self.down_t, nn.Identity):
            shortcut, own = front_conv(y, self.down_t[0], weights), self.down_t[1]
        return normalised_rows(shortcut, own, z, self.temporal[1], dropout=self.dropout, seed=seed, slope=SLOPE, pooled=pooled)

    @staticmethod
    def _joined(y: Tensor, norm: BatchNorm, x: Tensor, down: nn.Module, weights: Weights) -> Tensor:
        if isinstance(down, nn.Identity):
            return normalised_rows(y, norm, x, None, slope=SLOPE)
        return normalised_rows(y, norm, front_conv(x, down[0], weights), down[1], slope=SLOPE)

    def forward(self, x: Tensor, edges: Edges | None = None) -> Tensor:
        """(R, C, T, V) -> (R, C', T', V). edges: this block's dropped and added edges."""
        if self.training and on_triton(x):
            rows = rows_of(x.to(working_dtype(x)))
            return self.fused(rows, edges, cast_convolutions(self, rows.dtype)).permute(0, 3, 1, 2)
        attention = self.maps(x, edges)
        r, _, frames, joints = x.shape
        gather = attention.to(x.dtype).permute(0, 3, 1, 2).reshape(r, 1, joints * SUBSETS, joints)  # ((v, s), u)
        y = (gather @ x.permute(0, 2, 3, 1)).view(r, frames, joints, -1).permute(0, 3, 1, 2)  # (R, S C, T, V)
        y = F.leaky_relu(self.down1(x) + self.out(y), SLOPE)
        y = F.leaky_relu(self.down2(x) + self.ff(y), SLOPE)
        return F.leaky_relu(self.dropout(self.down_t(y)) + self.temporal(y), SLOPE)


def cast_convolutions(model: nn.Module, dtype: torch.dtype) -> Weights:
    """Weight and bias of every convolution in that dtype, copied at once; but for the weights that a kernel rounds itself."""
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    rounded = [block.out[0] for block in model.modules() if isinstance(block, Block)]
    cast = [conv for conv in convolutions if conv not in rounded]
    found = cast_all([*(conv.weight for conv in cast), *(conv.bias for conv in convolutions)], dtype)
    weights = dict(zip(cast, found, strict=False)) | {conv: conv.weight for conv in rounded}
    return {conv: (weights[conv], bias) for conv, bias in zip(convolutions, found[len(cast) :], strict=True)}


class DSTA(PooledEncoder):
    """Encoder and projector.

    joints: V, fixed by the learned attention; frames and bodies are free. Forward takes (N, C, T, V, M) and returns the
    projection (N, feature_dim), not normalised; `features` returns the pooled (N, hidden_dim). Defaults: the released
    pretraining configuration.
    """

    A = None  # no graph of its own: every row has its attention maps

    def __init__(
        self,
        joints: int,
        in_channels: int = 3,
        hidden_channels: int = 16,
        hidden_dim: int = 256,
        feature_dim: int = 128,
        dropout: float = 0.5,
        pooling: Tensor | None = None,
    ):
        super().__init__()
        self.set_pooling(pooling)
        self.num_joints = joints
        widths, attention = block_widths(hidden_channels, hidden_dim)
        self.proj = nn.Conv2d(in_channels, widths[0], 1)
        self.bn = BatchNorm(widths[0])
        widths = (widths[0], *widths)
        self.blocks = nn.ModuleList(
            Block(widths[i], widths[i + 1], attention[i], joints, stride, dropout) for i, stride in enumerate(BLOCK_STRIDES)
        )
        self.projector = projector(hidden_dim, feature_dim, 1 if pooling is None else len(pooling))

    def edge_shape(self, rows: int) -> tuple[int, ...]:
        """Shape of the drawn edges of one block: every row drops and adds its own."""
        return rows, *self.blocks[0].attention0s.shape[1:]

    def embed(self, x: Tensor) -> Tensor:
        """(N, C, T, V, M) -> rows (N * M, C', T, V), channels last."""
        rows = x.permute(0, 4, 1, 2, 3).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return F.leaky_relu(self.bn(self.proj(rows)), SLOPE)

    def features(self, x: Tensor, graphs: Edges | None = None) -> Tensor:
        """(N, hidden_dim): mean over frames, joints and bodies (an empty body counts, as in the release).

        graphs: the edges that every block drops and adds, from `draw_graphs`.
        """
        n, bodies = x.shape[0], x.shape[4]
        edges = [None if graphs is None else graphs.of(number) for number in range(len(self.blocks))]
        if self.training and on_triton(x):
            x, weights = x.permute(0, 4, 2, 3, 1).flatten(0, 1).contiguous(), cast_convolutions(self, working_dtype(x))
            x = normalised_rows(front_conv(x, self.proj, weights), self.bn, None, None, slope=SLOPE)
            seeds = new_seeds(x, (len(self.blocks),))
            for own, block, seed in zip(edges, self.blocks, seeds, strict=True):
                last = self.plainly_pooled and block is self.blocks[-1]
                x = block.fused(x, own, weights, seed, bodies if last else 0)
            if self.plainly_pooled:
                return x
            x = x.permute(0, 3, 1, 2)
        else:
            x = self.embed(x)
            for own, block in zip(edges, self.blocks, strict=True):
                x = block(x, own)
        pooled = pool_rows(x, self.pooling, self.segments)
        return pooled.view(n, -1, pooled.shape[1]).mean(dim=1)
