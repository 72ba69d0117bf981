"""What both encoders have: pooled features, and the projection of them that pretraining compares."""

from torch import Tensor, nn


def projector(hidden_dim: int, feature_dim: int) -> nn.Sequential:
    """(N, hidden_dim) -> (N, feature_dim), official fc: two layers with a ReLU between."""
    return nn.Sequential(nn.Linear(hidden_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, feature_dim))


class PooledEncoder(nn.Module):
    """An encoder has `blocks`, `num_joints`, `projector`, and `features(x, graphs)`: (N, C, T, V, M) -> (N, hidden_dim)."""

    def forward(self, x: Tensor, graphs=None) -> Tensor:
        """(N, feature_dim), not normalised."""
        return self.projector(self.features(x, graphs))
