"""Exchange of the mean pose: a view gets part of another sample's body shape and stance, so that neither tells who it is.

    x + u (pose of a sample rolled in from the batch - own pose),  pose = mean over frames of every joint,  u ~ U(0, s)

Not in the paper. No other operation changes the mean pose, so telling samples apart can rest on it (static posture as a
shortcut); where posture carries the class the exchange hurts. Drawn from the augmentation's counters, so that all backends and
a resumed run draw the same. Off by default.
"""

import torch
from hiclr_kernels.augment.draw import BATCH_ID
from hiclr_kernels.philox.reference import uniform
from torch import Tensor

POSE_BLOCK = 1 << 14  # first Philox block of these draws: beyond the view's parameters, before its mask
BATCH_POSE_ID = BATCH_ID - (1 << 16)  # sample id of the roll; below it lie the ids of dropped and added edges


def draw_exchange(sample: Tensor, strength: float, *, seed: int, step: Tensor, view: int) -> tuple[Tensor, Tensor]:
    """(partner (N,) int64 rows of the batch, never the sample itself; share (N,) float32 in [0, strength)).

    sample: (N,) int64 ids; step: () int64, on one device. A batch of one has itself as its partner.
    """
    n, number = len(sample), torch.full_like(sample, view)
    share = uniform(seed, number, sample, step.expand_as(sample), 1, first_block=POSE_BLOCK)[:, 0] * strength
    one = torch.ones_like(step)
    roll = 1 + (uniform(seed, one * view, one * BATCH_POSE_ID, step, 1) * (n - 1)).long()
    return (torch.arange(n, device=sample.device) + roll) % n, share


def exchange_poses(x: Tensor, partner: Tensor, share: Tensor, dimensions: int = 3) -> Tensor:
    """x (N, 3, T, V, M) with the mean poses exchanged as drawn, in its first `dimensions` coordinates. A body that is absent
    (zero) in either stays as it is, and so do frames without it; means are over the frames that have it."""
    there = x.abs().amax((1, 3), keepdim=True) > 0  # (N, 1, T, 1, M)
    frames = there.sum(2, keepdim=True)
    pose = x.sum(2, keepdim=True) / frames.clamp_min(1)
    move = share[:, None, None, None, None] * (pose[partner] - pose)
    move[:, dimensions:] = 0  # a score is no place
    return x + torch.where(there & (frames[partner] > 0), move, 0)
