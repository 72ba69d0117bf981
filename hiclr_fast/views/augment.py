"""The views of a training step: how strong each is, and the kernels that draw and make them.

Every random number is a pure function of (seed, step, sample id, view): a resumed run continues exactly, no two steps,
samples or views share numbers, and an epoch never repeats the draws of another. Constants: released configuration and feeder.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from hiclr_kernels.augment import apply_views, draw_views
from hiclr_kernels.augment.draw import Draws, ViewStrength
from hiclr_kernels.augment.reference import Stream
from torch import Tensor

from hiclr_fast.errors import InputError
from hiclr_fast.files.ranges import SHARE, SOME, Range, check_ranges
from hiclr_fast.skeletons import METRES, Layout, Space
from hiclr_fast.views.plane import in_plane
from hiclr_fast.views.pose import draw_exchange, exchange_poses
from hiclr_fast.views.strong import adain, draw_roll

VIEW_SETS = ("basic", "normal", "strong")  # each holds the ones before it


@dataclass(frozen=True)
class AugmentConfig:
    """Strength of every operation. Defaults: official feeder and released YAML (paper section 4.2)."""

    crop_ratio: int = 6  # reflected frames at both ends: T // crop_ratio
    shear: float = 0.5  # off-diagonals U(-shear, shear)
    flip_p: float = 0.5
    """probability that left and right change places"""
    rotate_main: float = 30.0  # degrees, one random axis U(0, main)
    rotate_minor: float = 1.0  # degrees, the other two U(0, minor)
    noise_std: float = 0.01  # metres of a person, whatever the unit of the data
    noise_p: float = 0.5
    """probability of noise"""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """frames, U(low, high)"""
    blur_p: float = 0.5
    """probability of a Gaussian blur in time"""
    blur_normalized: bool = False  # the release does not divide the taps by their sum
    axis_p: float = 0.5
    """probability that one axis is hidden"""
    time_flip_p: float = 0.0  # exists in the feeder, off in the release
    mask_ratio: float = 0.1  # strong: int(ratio * V) joints a frame
    mask_per_sample: bool = False  # the release draws one mask for the whole batch
    pose_swap: tuple[float, float, float] = (0.0, 0.0, 0.0)  # basic, normal, strong: share U(0, s) of another's mean pose
    adain: Literal["off", "sequence", "frame"] = "off"  # strong: SkeleAdaIN, statistics over the sequence or each frame
    edge_drop: float = 0.0  # strong: every layer drops edges at a rate U(0, edge_drop); paper 0.1, off in the release
    edge_add: float = 0.0  # strong: every layer adds absent edges at a rate U(0, edge_add); paper 0.05, off in the release

    def check(self) -> None:
        """InputError on values that make no sense."""
        check_ranges(self, RANGES, "augment {}")
        if self.blur_sigma[0] > self.blur_sigma[1]:
            raise InputError(f"augment blur_sigma {self.blur_sigma}: expected the smaller first")


RANGES = {
    "crop_ratio": SOME,
    "shear": Range(0, 100),
    "rotate_main": Range(0, 360),
    "rotate_minor": Range(0, 360),
    "noise_std": Range(0, 100),
    "blur_sigma": Range(0, 1000, above=True),
    "pose_swap": SHARE,
    **dict.fromkeys(("flip_p", "noise_p", "blur_p", "axis_p", "time_flip_p", "mask_ratio", "edge_drop", "edge_add"), SHARE),
}


def view_strength(kind: str, config: AugmentConfig, frames: int, joints: int, space: Space = METRES) -> ViewStrength:
    """What the kernels draw for one view. kind: basic, normal or strong. space: what the coordinates are."""
    if kind not in VIEW_SETS:
        raise ValueError(f"unknown view set {kind!r}: expected one of {VIEW_SETS}")
    basic = ViewStrength(padding=frames // config.crop_ratio, shear=config.shear)
    if kind == "basic":
        return basic
    normal = replace(
        basic,
        flip_p=config.flip_p,
        rotate_main=config.rotate_main,
        rotate_minor=config.rotate_minor,
        noise_std=config.noise_std * space.metre,
        noise_p=config.noise_p,
        blur_sigma=config.blur_sigma,
        blur_p=config.blur_p,
        blur_normalized=config.blur_normalized or space.third == "score",  # a score of 5 means nothing
        axis_p=config.axis_p,
        time_flip_p=config.time_flip_p,
    )
    return normal if kind == "normal" else replace(normal, masked_joints=int(config.mask_ratio * joints))


def draw(
    kinds: Sequence[str],
    config: AugmentConfig,
    space: Space,
    sample: Tensor,
    step: Tensor,
    *,
    seed: int,
    frames: int,
    joints: int,
) -> Draws:
    """The draws of one view for every entry of `kinds`, for coordinates of that kind."""
    strengths = [view_strength(kind, config, frames, joints, space) for kind in kinds]
    sizes = dict(frames=frames, joints=joints, mask_per_sample=config.mask_per_sample)
    draws = draw_views(strengths, sample, step, seed=seed, **sizes)
    return in_plane(draws, strengths, sample, step, seed=seed) if space.flat else draws


def make_views(
    x: Tensor,
    index: Tensor,
    sample: Tensor,
    kinds: Sequence[str],
    config: AugmentConfig,
    layout: Layout,
    *,
    seed: int,
    step: Tensor,
    stream: Stream = "joint",
    fill: Tensor | None = None,
    space: Space = METRES,
) -> list[Tensor]:
    """One view (N, 3, T, V, M) of the batch for every entry of `kinds`.

    x: (S, 3, T, V, M) float32; index: (N,) int64 rows of it that make the batch; sample: (N,) int64 their sample ids, keys
    of the draws; step: () int64; all on one device. space: what the coordinates are; in a plane views stay in it.
    With `pose_swap` each view begins with another's share of the mean pose (`pose.py`).
    Strong views: AdaIN (if on) after the stream is taken, then the mask, whose joints become `fill` (1,), with its gradient.
    """
    frames, joints = x.shape[2:4]
    draws = draw(kinds, config, space, sample, step, seed=seed, frames=frames, joints=joints)
    exchanged = [w for w, kind in enumerate(kinds) if kind == "strong" and config.adain != "off"]
    in_kernel = replace(draws, masked=tuple(masked and w not in exchanged for w, masked in enumerate(draws.masked)))
    tables = dict(mirror=layout.mirror, parents=layout.parents)
    if any(config.pose_swap):
        how = dict(seed=seed, step=step, **tables, stream=stream, fill=fill)
        views = _with_exchanged_poses(x[index], sample, kinds, config, in_kernel, space.dimensions, **how)
    else:
        views = apply_views(x, index, in_kernel, **tables, stream=stream, fill=fill)
    for w in exchanged:
        style = views[w][draw_roll(len(sample), seed=seed, step=step, view=w)]
        styled = adain(views[w], style, config.adain)
        views[w] = torch.cat([styled[:, :2], views[w][:, 2:]], dim=1) if space.flat else styled
        if draws.masked[w]:
            hidden = (draws.keep[w] == 0)[:, None, :, :, None]
            views[w] = torch.where(hidden, 0 if fill is None else fill, views[w])
    return views


def _with_exchanged_poses(
    x: Tensor,
    sample: Tensor,
    kinds: Sequence[str],
    config: AugmentConfig,
    draws: Draws,
    dimensions: int,
    *,
    seed: int,
    step: Tensor,
    **how,
) -> list[Tensor]:
    """Views whose samples x (N, 3, T, V, M) differ from view to view: the kernels make all views of each, one is kept."""
    rows, views = torch.arange(len(x), device=x.device), []
    for w, kind in enumerate(kinds):
        strength = config.pose_swap[VIEW_SETS.index(kind)]
        drawn = draw_exchange(sample, strength, seed=seed, step=step, view=w)
        views.append(apply_views(exchange_poses(x, *drawn, dimensions).contiguous(), rows, draws, **how)[w])
    return views
