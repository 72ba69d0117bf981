"""Views of skeletons in plain torch: what every augmentation kernel has to reproduce.

One view is a per-sample linear operator plus noise,

    view = mask . stream( time_flip . axis . blur( A . x[:, source(t), joint(v)] + noise ) )

with crop = `source` frames, flip = `joint` permutation, A = rotation x shear, blur = a 15-tap filter along time.
Every random draw is an explicit number in `ViewParams`; nothing here is random.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Stream = Literal["joint", "bone", "motion"]
BLUR_TAPS = 15  # official GaussianBlur kernel length


@dataclass
class ViewParams:
    """One view of N samples. Parts left at None do nothing.

    shift: (N,) int64 in [-T, T], first frame of the window; frames outside the sequence are its symmetric reflection.
    matrix: (N, 3, 3) applied to every joint.
    flip: (N,) bool, swap left and right joints.
    noise: (N, 3, T, V, M) metres, added.
    blur: (N, 15) taps along time, correlation with zero padding.
    axis_keep: (N, 3), multiplies the coordinates.
    time_flip: (N,) bool, reverse the frames.
    joint_keep: (T, V) for the whole batch or (N, T, V) per sample: 1 keeps, 0 is replaced by the fill.
    """

    shift: Tensor | None = None
    matrix: Tensor | None = None
    flip: Tensor | None = None
    noise: Tensor | None = None
    blur: Tensor | None = None
    axis_keep: Tensor | None = None
    time_flip: Tensor | None = None
    joint_keep: Tensor | None = None


def source_frames(shift: Tensor, frames: int) -> Tensor:
    """(N, T) frame index of every output frame: a window of T from `shift` on, in the sequence continued at both ends by
    symmetric reflection (edge frame included). shift: (N,) in [-T, T]."""
    index = shift[:, None] + torch.arange(frames, device=shift.device)
    index = torch.where(index < 0, -index - 1, index)
    return torch.where(index >= frames, 2 * frames - 1 - index, index)


def blur_matrix(taps: Tensor, frames: int) -> Tensor:
    """(N, T, T) banded matrix of the filter: row t holds the taps around frame t. taps: (N, 15)."""
    t = torch.arange(frames, device=taps.device)
    offset = t[None, :] - t[:, None] + BLUR_TAPS // 2
    inside = (offset >= 0) & (offset < BLUR_TAPS)
    return taps[:, offset.clamp(0, BLUR_TAPS - 1)] * inside


def to_stream(x: Tensor, stream: Stream, parents: Sequence[int]) -> Tensor:
    """joint: x; bone: joint minus parent; motion: next frame minus this one, last frame 0. x: (N, C, T, V, M)."""
    if stream == "bone":
        return x - x[:, :, :, list(parents)]
    if stream == "motion":
        return torch.cat([x[:, :, 1:] - x[:, :, :-1], torch.zeros_like(x[:, :, :1])], dim=2)
    if stream != "joint":
        raise ValueError(f"unknown stream {stream!r}: expected joint, bone or motion")
    return x


def apply_view(
    x: Tensor,
    params: ViewParams,
    *,
    mirror: Sequence[int],
    parents: Sequence[int],
    stream: Stream = "joint",
    fill: Tensor | None = None,
) -> Tensor:
    """One view of x (N, 3, T, V, M), same shape and dtype.

    mirror, parents: (V,) joint index of the mirror partner and of the parent. fill: (1,) value of masked joints; its
    gradient is the sum of the output's gradient over them.
    """
    n, _, frames, joints, _ = x.shape
    if params.shift is not None or params.flip is not None:
        source = torch.arange(frames, device=x.device).expand(n, -1)
        if params.shift is not None:
            source = source_frames(params.shift, frames)
        joint = torch.arange(joints, device=x.device).expand(n, -1)
        if params.flip is not None:
            joint = torch.where(params.flip[:, None], torch.tensor(mirror, device=x.device), joint)
        rows = torch.arange(n, device=x.device)[:, None, None]
        x = x[rows, :, source[:, :, None], joint[:, None, :]]  # (N, T, V, C, M)
        x = x.permute(0, 3, 1, 2, 4)
    if params.matrix is not None:
        x = torch.einsum("nij,njtvm->nitvm", params.matrix.to(x.dtype), x)
    if params.noise is not None:
        x = x + params.noise.to(x.dtype)
    if params.blur is not None:
        x = torch.einsum("nts,ncsvm->nctvm", blur_matrix(params.blur.to(x.dtype), frames), x)
    if params.axis_keep is not None:
        x = x * params.axis_keep.to(x.dtype)[:, :, None, None, None]
    if params.time_flip is not None:
        x = torch.where(params.time_flip[:, None, None, None, None], x.flip(2), x)
    x = to_stream(x, stream, parents)
    if params.joint_keep is not None:
        keep = params.joint_keep.to(x.dtype).reshape(-1, 1, frames, joints, 1)
        x = x * keep + (1 - keep) * (0 if fill is None else fill.to(x.dtype))
    return x.contiguous()
