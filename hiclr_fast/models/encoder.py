"""What both encoders have: pooled features, and the projection of them that pretraining compares."""

from hiclr_kernels.projection import Head
from torch import Tensor, nn


def projector(hidden_dim: int, feature_dim: int, parts: int = 1) -> nn.Sequential:
    """(N, parts * hidden_dim) -> (N, feature_dim), official fc: two layers with a ReLU between."""
    return nn.Sequential(nn.Linear(parts * hidden_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, feature_dim))


class PooledEncoder(nn.Module):
    """An encoder has `blocks`, `num_joints`, `projector`, and `features(x, graphs)`: (N, C, T, V, M) -> (N, P * hidden_dim).

    `pooling` (P, V): what features are means over, see `pooling_matrix`; None: all joints, P = 1. `segments`: equal spans
    of time, each with its means. Both may be set on a frozen encoder, to read it out in another way.
    """

    segments = 1

    @property
    def plainly_pooled(self) -> bool:
        """Whether features are means over all frames and joints, which the last block can take itself."""
        return self.pooling is None and self.segments == 1

    def head(self) -> Head:
        """The projector, as the kernels take it."""
        first, _, second = self.projector
        return Head(first.weight, first.bias, second.weight, second.bias)

    def set_pooling(self, matrix: Tensor | None) -> None:
        """Part of the state where it is not None."""
        self.register_buffer("pooling", matrix)

    def forward(self, x: Tensor, graphs=None) -> Tensor:
        """(N, feature_dim), not normalised."""
        return self.projector(self.features(x, graphs))
