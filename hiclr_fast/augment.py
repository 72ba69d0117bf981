"""Draws every random parameter of the views, from counters, and applies them.

Each draw is a pure function of (seed, step, sample id, view): a resumed run continues exactly, no two steps, samples or
views share numbers, and an epoch never repeats the draws of another. Constants: the released configuration and feeder.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from hiclr_kernels.augment_ref import BLUR_TAPS, Stream, ViewParams, apply_view
from hiclr_kernels.philox_ref import normal, uniform
from torch import Tensor

from hiclr_fast.skeletons import Layout

VIEW_SETS = ("basic", "normal", "strong")  # each holds the ones before it
BATCH_ID = 0xFFFFFFFF  # sample id of draws that the whole batch shares
NOISE_BLOCK, MASK_BLOCK = 1 << 16, 1 << 15  # first Philox block of the noise and of the mask; the rest starts at 0


@dataclass(frozen=True)
class AugmentConfig:
    """Strength of every operation. Defaults: official feeder and released YAML (paper section 4.2)."""

    crop_ratio: int = 6  # reflected frames at both ends: T // crop_ratio
    shear: float = 0.5  # off-diagonals U(-shear, shear)
    flip_p: float = 0.5
    rotate_main: float = 30.0  # degrees, one random axis U(0, main)
    rotate_minor: float = 1.0  # degrees, the other two U(0, minor)
    noise_std: float = 0.01  # metres
    noise_p: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_p: float = 0.5
    blur_normalized: bool = False  # the release does not divide the taps by their sum
    axis_p: float = 0.5
    time_flip_p: float = 0.0  # exists in the feeder, off in the release
    mask_ratio: float = 0.1  # int(ratio * V) joints a frame
    mask_per_sample: bool = False  # the release draws one mask for the whole batch


def rotation(radians: Tensor) -> Tensor:
    """R_z R_y R_x of (..., 3) angles, in the signs of the official feeder: R_x = [[1,0,0],[0,c,s],[0,-s,c]],
    R_y = [[c,0,-s],[0,1,0],[s,0,c]], R_z = [[c,s,0],[-s,c,0],[0,0,1]]."""
    (cx, cy, cz), (sx, sy, sz) = radians.cos().unbind(-1), radians.sin().unbind(-1)
    one, zero = torch.ones_like(cx), torch.zeros_like(cx)

    def matrix(*entries: Tensor) -> Tensor:
        return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))

    rx = matrix(one, zero, zero, zero, cx, sx, zero, -sx, cx)
    ry = matrix(cy, zero, -sy, zero, one, zero, sy, zero, cy)
    rz = matrix(cz, sz, zero, -sz, cz, zero, zero, zero, one)
    return rz @ ry @ rx


def blur_taps(sigma: Tensor, on: Tensor, normalized: bool) -> Tensor:
    """(N, 15) taps exp(-k^2 / (2 sigma^2)); the identity where `on` is false. sigma, on: (N,)."""
    k = torch.arange(BLUR_TAPS, device=sigma.device) - BLUR_TAPS // 2
    taps = torch.exp(-(k**2) / (2 * sigma[:, None] ** 2))
    if normalized:
        taps = taps / taps.sum(1, keepdim=True)
    return torch.where(on[:, None], taps, (k == 0).to(taps.dtype))


def draw_view(
    kind: str, config: AugmentConfig, *, seed: int, step: int, view: int, sample: Tensor, shape: Sequence[int]
) -> ViewParams:
    """Parameters of one view for the samples of a batch.

    kind: basic, normal or strong. sample: (N,) int64 ids in the dataset. shape: (C, T, V, M) of one sample.
    """
    if kind not in VIEW_SETS:
        raise ValueError(f"unknown view set {kind!r}: expected one of {VIEW_SETS}")
    channels, frames, joints, bodies = shape
    c1, c3 = torch.full_like(sample, view), torch.full_like(sample, step)
    u = uniform(seed, c1, sample, c3, 20)  # (N, 20)
    padding = frames // config.crop_ratio
    crop_start = (u[:, 0] * (2 * padding + 1)).long()
    off = (u[:, 1:7] * 2 - 1) * config.shear
    shear = torch.eye(3, device=sample.device).repeat(len(sample), 1, 1)
    shear[:, [0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]] = off
    params = ViewParams(crop_start=crop_start, matrix=shear)
    if kind == "basic":
        return params
    main = (u[:, 8] * 3).long()
    axis = torch.arange(3, device=sample.device)
    largest = torch.where(axis == main[:, None], config.rotate_main, config.rotate_minor)  # (N, 3) degrees
    params.matrix = rotation(u[:, 9:12] * largest * (math.pi / 180)) @ shear
    params.flip = u[:, 7] < config.flip_p
    count = channels * frames * joints * bodies
    noise = normal(seed, c1, sample, c3, count, first_block=NOISE_BLOCK).view(-1, *shape)
    params.noise = noise * ((u[:, 12] < config.noise_p) * config.noise_std)[:, None, None, None, None]
    low, high = config.blur_sigma
    params.blur = blur_taps(low + u[:, 13] * (high - low), u[:, 14] < config.blur_p, config.blur_normalized)
    hidden_axis = (u[:, 16] * 3).long()[:, None] == axis
    params.axis_keep = 1 - (hidden_axis & (u[:, 15] < config.axis_p)[:, None]).float()
    if config.time_flip_p:
        params.time_flip = u[:, 17] < config.time_flip_p
    if kind == "strong":
        ids = sample if config.mask_per_sample else torch.full_like(sample[:1], BATCH_ID)
        order = uniform(seed, c1[: len(ids)], ids, c3[: len(ids)], frames * joints, first_block=MASK_BLOCK)
        rank = order.view(-1, frames, joints).argsort(-1).argsort(-1)
        params.joint_keep = (rank >= int(config.mask_ratio * joints)).float()
    return params


def make_views(
    x: Tensor,
    sample: Tensor,
    kinds: Sequence[str],
    config: AugmentConfig,
    layout: Layout,
    *,
    seed: int,
    step: int,
    stream: Stream = "joint",
    fill: Tensor | None = None,
) -> list[Tensor]:
    """One view of the batch for every entry of `kinds`. x: (N, C, T, V, M); sample: (N,) int64 ids."""
    views = []
    for number, kind in enumerate(kinds):
        params = draw_view(kind, config, seed=seed, step=step, view=number, sample=sample, shape=x.shape[1:])
        views.append(
            apply_view(
                x,
                params,
                mirror=layout.mirror,
                parents=layout.parents,
                stream=stream,
                fill=fill,
                crop_ratio=config.crop_ratio,
            )
        )
    return views
