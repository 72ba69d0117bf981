"""From activations of every frame and joint to one vector a row: over all joints, over body parts, or joint by joint.

The released encoder averages over all joints. A graph is symmetric, so what the left arm does and what the right arm does
become the same there; an average for each body part keeps them apart.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hiclr_fast.errors import InputError
from hiclr_fast.models.encoder import PooledEncoder
from hiclr_fast.skeletons import Layout

MOST_SEGMENTS = 1024
Pool = Literal["all", "parts", "joints"]


def pooling_matrix(layout: Layout, pool: Pool) -> Tensor:
    """(P, V) float32, every row a mean: over all joints (P = 1), the joints of a part, or one joint (P = V)."""
    joints = layout.num_joints
    if pool == "joints":
        return torch.eye(joints)
    if pool == "all":
        return torch.full((1, joints), 1 / joints)
    matrix = torch.zeros(len(layout.parts), joints)
    for row, (_, members) in zip(matrix, layout.parts, strict=True):
        row[list(members)] = 1 / len(members)
    return matrix


def pool_rows(x: Tensor, matrix: Tensor | None = None, segments: int = 1) -> Tensor:
    """(R, C, T, V) -> (R, segments * P * C): means over each of `segments` equal spans of time and each row of matrix.

    matrix: (P, V); None: the mean over all joints, P = 1.
    """
    if matrix is None and segments == 1:
        return x.mean(dim=(2, 3))
    x = x.float()
    joints = x.mean(3, keepdim=True) if matrix is None else x @ matrix.T.to(x)
    spans = F.adaptive_avg_pool2d(joints, (segments, joints.shape[3]))  # (R, C, segments, P)
    return spans.permute(0, 2, 3, 1).flatten(1)


@dataclass(frozen=True)
class Readout:
    """How a frozen encoder is read out: any checkpoint can be, in any of these ways.

    pool: none is the encoder's own. segments: equal spans of time, each with its own means.
    """

    pool: Pool | None = None
    segments: int = 1

    def check(self) -> None:
        if self.pool not in (None, "all", "parts", "joints"):
            raise InputError(f"readout {self.pool!r}: expected all, parts or joints")
        if not 1 <= self.segments <= MOST_SEGMENTS:
            raise InputError(f"segments {self.segments}: expected 1 to {MOST_SEGMENTS}")

    @property
    def name(self) -> str:
        """Part of a result folder's name; empty for the encoder's own way."""
        return (self.pool or "") + (f"{'' if self.pool else 'segments'}{self.segments}" if self.segments > 1 else "")

    def set(self, encoder: PooledEncoder, layout: Layout) -> None:
        """The encoder's features are read out in this way from now on."""
        if self.pool is not None:
            device = next(encoder.parameters()).device
            encoder.set_pooling(None if self.pool == "all" else pooling_matrix(layout, self.pool).to(device))
        encoder.segments = self.segments


OWN = Readout()
