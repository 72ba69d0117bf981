"""ST-GCN (Yan et al., AAAI 2018) as HiCLR's release uses it: ten blocks, 16 channels at the start, 256 features.

Inside, activations are logically (R, C, T, V) with R = N * M rows (row n * M + m), stored channels last. Each block
aggregates over joints before its 1x1 convolution (fewer values, since no block narrows); the convolution's bias then
becomes a bias per joint. `official.py` maps the parameter names to the official ones.
"""

from collections.abc import Sequence

import torch
from hiclr_kernels import batch_norm as norms
from hiclr_kernels import stgcn_block as kernel
from hiclr_kernels.batch_norm.parts import After
from hiclr_kernels.batch_norm.views import normalise_views
from hiclr_kernels.graph_conv.reference import graph_conv
from torch import Tensor, nn

from hiclr_fast.models.encoder import PooledEncoder, projector
from hiclr_fast.models.layers import BatchNorm, Dropout, after, distinct_bodies, new_seeds, on_triton, rows_of, working_dtype
from hiclr_fast.models.pooling import pool_rows

TEMPORAL_KERNEL = 9
BLOCK_STRIDES = (1, 1, 1, 1, 2, 1, 1, 2, 1, 1)


def block_widths(hidden_channels: int, hidden_dim: int) -> tuple[int, ...]:
    """Output channels of the ten blocks: c x4, 2c x3, 4c x2, and the feature width (official net/st_gcn.py)."""
    c = hidden_channels
    return (c,) * 4 + (2 * c,) * 3 + (4 * c,) * 2 + (hidden_dim,)


class Block(nn.Module):
    """Graph convolution, BN, ReLU, (9, 1) convolution with stride, BN, dropout, + residual, ReLU."""

    def __init__(self, c_in: int, c_out: int, subsets: int, joints: int, stride: int, dropout: float, residual: bool):
        super().__init__()
        self.edge_importance = nn.Parameter(torch.ones(subsets, joints, joints))
        self.gcn = nn.Conv2d(c_in, subsets * c_out, 1)  # channel = subset * c_out + c
        self.bn1 = BatchNorm(c_out)
        self.conv = nn.Conv2d(c_out, c_out, (TEMPORAL_KERNEL, 1), (stride, 1), (TEMPORAL_KERNEL // 2, 0))
        self.bn2 = BatchNorm(c_out)
        self.dropout = Dropout(dropout)
        self.residual: nn.Module | None = None
        if residual:
            same = c_in == c_out and stride == 1
            project = (nn.Conv2d(c_in, c_out, 1, (stride, 1)), BatchNorm(c_out))
            self.residual = nn.Identity() if same else nn.Sequential(*project)

    def graph_conv(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """out[:, :, w] = sum_k W_k sum_v x[:, :, v] A_k[v, w] + sum_k b_k sum_v A_k[v, w]. x: (R, C, T, V)."""
        weight, bias = self.gcn.weight.flatten(1), self.gcn.bias
        return graph_conv(x.permute(0, 2, 3, 1), adjacency, self.edge_importance, weight, bias).permute(0, 3, 1, 2)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        if self.training and on_triton(x):
            rows = rows_of(x.to(working_dtype(x)))
            return self.fused(rows, rows, adjacency, after(x, 0.0, self.dropout))[0].permute(0, 3, 1, 2)
        y = self.bn1(self.graph_conv(x, adjacency), slope=0.0)
        residual = None if self.residual is None else self.residual(x)
        return self.bn2(self.conv(y), dropout=self.dropout, residual=residual, slope=0.0)

    def as_kernel(self) -> kernel.Block:
        """Parameters, as the kernels take them."""
        conv, project = self.conv, ()
        if isinstance(self.residual, nn.Sequential):
            linear, norm3 = self.residual
            project = linear.weight.flatten(1), linear.bias, norm3.as_kernel()
        norm1, norm2 = self.bn1.as_kernel(), self.bn2.as_kernel()
        return kernel.Block(
            self.edge_importance, self.gcn.weight.flatten(1), self.gcn.bias, norm1, conv.weight, conv.bias, norm2, *project
        )

    def fused(
        self, x: Tensor, rows: Tensor, adjacency: Tensor, after: After, pooled: int = 0, key: "Block | None" = None
    ) -> tuple[Tensor, Tensor]:
        """`stgcn_block`: x (R, T, V, C) contiguous; with `key`, the rows behind it are one group more, of that block."""
        groups, identity = self.bn1.groups, isinstance(self.residual, nn.Identity)
        plan = kernel.Plan(groups + (key is not None), groups, self.conv.stride[0], identity, self.bn1.rule, after, pooled)
        blocks = [block.as_kernel() for block in (self, key) if block is not None]
        return kernel.stgcn_block(x, rows, adjacency, blocks, plan)


class STGCN(PooledEncoder):
    """Encoder and projector.

    adjacency: (K, V, V). Forward takes (N, C, T, V, M) and returns the projection (N, feature_dim), not normalised;
    `features` returns the pooled (N, hidden_dim). Defaults: the released pretraining configuration.
    """

    def __init__(
        self,
        adjacency: Tensor,
        in_channels: int = 3,
        hidden_channels: int = 16,
        hidden_dim: int = 256,
        feature_dim: int = 128,
        dropout: float = 0.5,
        pooling: Tensor | None = None,
    ):
        super().__init__()
        self.set_pooling(pooling)
        subsets, joints, _ = adjacency.shape
        self.register_buffer("A", adjacency.float())
        self.data_bn = BatchNorm(in_channels * joints)
        widths = (in_channels, *block_widths(hidden_channels, hidden_dim))
        self.blocks = nn.ModuleList(
            Block(widths[i], widths[i + 1], subsets, joints, stride, dropout if i else 0.0, residual=i > 0)
            for i, stride in enumerate(BLOCK_STRIDES)
        )
        self.projector = projector(hidden_dim, feature_dim, 1 if pooling is None else len(pooling))

    @property
    def num_joints(self) -> int:
        return self.A.shape[1]

    def edge_shape(self, rows: int) -> tuple[int, ...]:
        """Shape of the drawn edges of one block: all rows share them."""
        return tuple(self.A.shape)

    def normalize_input(self, x: Tensor) -> Tensor:
        """(N, C, T, V, M) -> rows (N * M, C, T, V), batch-normalised per joint and coordinate (channel = v * C + c)."""
        n, c, frames, joints, bodies = x.shape
        rows = x.permute(0, 4, 2, 3, 1).reshape(n * bodies, frames, 1, joints * c)  # a view of what apply_views returns
        rows = self.data_bn(rows.permute(0, 3, 1, 2))
        rows = rows.permute(0, 2, 3, 1).reshape(n * bodies, frames, joints, c).permute(0, 3, 1, 2)
        return rows.contiguous(memory_format=torch.channels_last)

    def features(self, x: Tensor, graphs: Tensor | None = None) -> Tensor:
        """(N, hidden_dim): mean over frames and joints, then over bodies (an empty body counts, as in the release).

        graphs: (10, K, V, V), every block's own adjacency instead of A.
        """
        if self.training and on_triton(x):
            return self._fused(x, graphs)
        n, bodies, where = x.shape[0], x.shape[4], None
        rows = self.normalize_input(x)
        exporting = torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()  # shapes must not depend on values
        if not (self.training or self.data_bn.training or exporting):  # statistics of a batch need every row
            kept, where = distinct_bodies(x)
            rows = rows[kept].contiguous(memory_format=torch.channels_last)
        for number, block in enumerate(self.blocks):
            rows = block(rows, self.A if graphs is None else graphs[number])
        rows = pool_rows(rows, self.pooling, self.segments)
        return (rows if where is None else rows[where]).view(n, bodies, -1).mean(dim=1)

    def features_with_key(self, views: Sequence[Tensor], key: "STGCN", key_view: Tensor) -> tuple[Tensor, Tensor]:
        """`features` of the views, one after another, by this encoder; and those with the key view's behind them, by that
        one and without gradient: in training, in the same launches.

        Views (N, C, T, V, M), each a group of every batch norm (`in_groups`). Where `on_triton(key_view)`.
        """
        both, rule = (self.data_bn.as_kernel(), key.data_bn.as_kernel()), self.data_bn.rule
        rows, every = normalise_views(views, key_view, both, rule=rule, dtype=working_dtype(key_view))
        return self._blocks(rows, every, None, key, key_view)

    def _fused(self, x: Tensor, graphs: Tensor | None) -> Tensor:
        """`features` in training."""
        rows = self._fused_input(x)
        return self._blocks(rows, rows, graphs, None, x)[0]

    def _blocks(
        self, rows: Tensor, every: Tensor, graphs: Tensor | None, key: "STGCN | None", x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Pooled features of rows (R, T, V, C), and of all of which these are the first; x: one of the inputs."""
        seeds, bodies = new_seeds(x, (len(self.blocks),)), x.shape[4]
        for number, block in enumerate(self.blocks):
            adjacency = self.A if graphs is None else graphs[number]
            last = number == len(self.blocks) - 1
            frames = (rows.shape[1] - 1) // block.conv.stride[0] + 1
            follows = after(x, 0.0, block.dropout, seeds[number])
            twin = None if key is None else key.blocks[number]
            pooled = bodies * frames * self.num_joints if last and self.plainly_pooled else 0
            rows, every = block.fused(rows, every, adjacency, follows, pooled, twin)
        if not self.plainly_pooled:
            rows, every = (self._pooled(r, bodies) for r in (rows, every))
        return rows, every

    def _pooled(self, rows: Tensor, bodies: int) -> Tensor:
        """(N, P * C) of rows (N * M, T, V, C)."""
        found = pool_rows(rows.permute(0, 3, 1, 2), self.pooling, self.segments)
        return found.view(-1, bodies, found.shape[1]).mean(dim=1)

    def _fused_input(self, x: Tensor) -> Tensor:
        """`normalize_input` in training: (N * M, T, V, C) contiguous, in the dtype that the blocks work in."""
        n, c, frames, joints, bodies = x.shape
        norm = self.data_bn
        if n % norm.groups:
            raise ValueError(f"{n} samples do not divide into {norm.groups} groups")
        rows = x.permute(0, 4, 2, 3, 1).reshape(norm.groups, -1, joints * c)
        rows = norms.normalise(rows, None, norm.as_kernel(), None, rule=norm.rule, after=After(), dtype=working_dtype(x))
        return rows.view(n * bodies, frames, joints, c)


def init_official(model: nn.Module) -> None:
    """The release's initialisation (official weights_init): convolution and linear weights N(0, 0.02), biases 0,
    batch-norm weights N(1, 0.02)."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(module.weight, 0.0, 0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(module.weight, 1.0, 0.02)
