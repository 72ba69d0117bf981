"""Random parameters of views, drawn in plain torch: what every backend draws, from the same counters, to the same bits.

Each draw is a function of (seed, step, sample id, view): Philox key = seed, counter = (block, view, sample, step). The first
20 uniforms of a (sample, view) are its parameters; noise and joint mask have block ranges of their own. So a resumed run
continues exactly, no two steps, samples or views share numbers, and with the step in a device tensor a captured CUDA
graph draws afresh at every replay. Constants: official feeder and released YAML (paper section 4.2).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hiclr_kernels.augment.reference import BLUR_TAPS, ViewParams
from hiclr_kernels.philox.reference import normal, uniform

UNIFORMS = 20  # drawn for every (sample, view)
BATCH_ID = 0xFFFFFFFF  # sample id of draws that the whole batch shares
NOISE_BLOCK, MASK_BLOCK = 1 << 16, 1 << 15  # first Philox block of noise and mask; the parameters start at 0

ROW = 32  # float32 values of one (sample, view): one 128-byte cache line
MATRIX, NOISE, TAPS, SHIFT, FLIP, BLUR, REVERSE = 0, 9, 12, 27, 28, 29, 30  # where they lie; 31 is unused


@dataclass(frozen=True)
class ViewStrength:
    """How strong each operation of one view is; 0 switches it off."""

    padding: int = 0  # reflected frames at both ends; the window starts at U{0..2 * padding}
    shear: float = 0.0  # off-diagonals U(-shear, shear)
    flip_p: float = 0.0
    rotate_main: float = 0.0  # degrees, one random axis U(0, main)
    rotate_minor: float = 0.0  # degrees, the other two U(0, minor)
    noise_std: float = 0.0  # metres
    noise_p: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # frames
    blur_p: float = 0.0
    blur_normalized: bool = False
    axis_p: float = 0.0  # one coordinate becomes 0
    time_flip_p: float = 0.0
    masked_joints: int = 0  # a frame


@dataclass
class Draws:
    """Parameters of W views of N samples, as the kernels read them.

    rows: (N, W, 32) float32: matrix of axis mask x rotation x shear (9), noise std of each coordinate in metres (3),
        blur taps (15, the identity when off), first frame (1), then 0 or 1: flip, blur, time flip.
    masked, noisy: which views have masked joints, and which may have noise.
    keep: (W, K, T, V) uint8, K = N, or 1 for one mask a batch; 0 is masked.
    noise: (N, W, 3, T, V, M) standard normal, or None: drawn by the kernel from (seed, step, sample). seed: 64-bit.
    step: () int64 on the device. sample: (N,) int64 ids.
    """

    rows: Tensor
    masked: tuple[bool, ...]
    noisy: tuple[bool, ...]
    keep: Tensor | None = None
    noise: Tensor | None = None
    seed: int = 0
    step: Tensor | None = None
    sample: Tensor | None = None

    def view(self, number: int, shape: Sequence[int]) -> ViewParams:
        """One view with its noise made explicit. shape: (3, T, V, M)."""
        row, noise = self.rows[:, number], None
        if self.noise is not None:
            noise = self.noise[:, number]
        elif self.noisy[number]:
            c, t, v, m = shape
            view = torch.full_like(self.sample, number)
            noise = normal(self.seed, view, self.sample, self.step.expand_as(view), c, m * t * v, first_block=NOISE_BLOCK)
            noise = noise.view(-1, c, m, t, v).permute(0, 1, 3, 4, 2)  # counters walk in the views' memory order
        return ViewParams(
            shift=row[:, SHIFT].long(),
            matrix=row[:, MATRIX:NOISE].unflatten(1, (3, 3)),
            flip=row[:, FLIP] > 0,
            noise=None if noise is None else noise * row[:, NOISE:TAPS, None, None, None],
            blur=row[:, TAPS:SHIFT],
            time_flip=row[:, REVERSE] > 0,
            joint_keep=self.keep[number] if self.masked[number] else None,
        )


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


def blur_taps(sigma: Tensor, on: Tensor, normalized: Tensor | bool) -> Tensor:
    """(*, 15) taps exp(-k^2 / (2 sigma^2)); the identity where `on` is false. sigma, on, normalized: (*,)."""
    k = torch.arange(BLUR_TAPS, device=sigma.device) - BLUR_TAPS // 2
    taps = torch.exp(-(k**2) / (2 * sigma[..., None] ** 2))
    normalized = torch.as_tensor(normalized, device=sigma.device)[..., None]
    taps = torch.where(normalized, taps / taps.sum(-1, keepdim=True), taps)
    return torch.where(on[..., None], taps, (k == 0).to(taps.dtype))


def switches(strengths: Sequence[ViewStrength]) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """`masked` and `noisy` of `Draws`."""
    return tuple(s.masked_joints > 0 for s in strengths), tuple(s.noise_p > 0 for s in strengths)


def strength_table(strengths: Sequence[ViewStrength]) -> list[list[float]]:
    """One row a view, in the order in which `draw_rows` reads it: what the kernels get as a (W, 14) float32 array."""
    return [
        [
            2 * s.padding + 1, s.shear, s.flip_p, math.radians(s.rotate_main), math.radians(s.rotate_minor), s.noise_std,
            s.noise_p, s.blur_sigma[0], s.blur_sigma[1] - s.blur_sigma[0], s.blur_p, s.axis_p, s.time_flip_p,
            s.blur_normalized, s.masked_joints,
        ]
        for s in strengths
    ]  # fmt: skip


def draw_rows(strengths: Sequence[ViewStrength], sample: Tensor, step: Tensor, seed: int) -> Tensor:
    """(N, W, 32) float32 rows of `Draws`. sample: (N,) int64 ids; step: () int64; both on the device."""
    device = sample.device
    table = torch.tensor(strength_table(strengths), dtype=torch.float32, device=device)  # (W, 14)
    starts, shear, flip_p, main, minor, std, noise_p, sigma, sigma_span, blur_p, axis_p, time_flip_p, normalized, _ = table.T
    view = torch.arange(len(strengths), device=device)
    u = uniform(seed, view, sample[:, None], step, UNIFORMS)  # (N, W, 20)
    matrix = torch.eye(3, device=device).repeat(*u.shape[:2], 1, 1)
    matrix[..., [0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]] = (u[..., 1:7] * 2 - 1) * shear[:, None]
    axis = torch.arange(3, device=device)
    largest = torch.where(axis == (u[..., 8:9] * 3).long(), main[:, None], minor[:, None])  # (N, W, 3)
    matrix = rotation(u[..., 9:12] * largest) @ matrix
    hidden = (axis == (u[..., 16:17] * 3).long()) & (u[..., 15] < axis_p)[..., None]
    keep = (~hidden).float()  # (N, W, 3)
    noise = keep * ((u[..., 12] < noise_p) * std)[..., None]
    blurred = u[..., 14] < blur_p
    flags = torch.stack([u[..., 7] < flip_p, blurred, u[..., 17] < time_flip_p, torch.zeros_like(blurred)], dim=-1)
    shift = (u[..., 0] * starts).floor() - (starts - 1) / 2
    taps = blur_taps(sigma + u[..., 13] * sigma_span, blurred, (normalized > 0).expand_as(blurred))
    return torch.cat([(matrix * keep[..., None]).flatten(-2), noise, taps, shift[..., None], flags.float()], dim=-1)


def draw_keep(
    strengths: Sequence[ViewStrength], sample: Tensor, step: Tensor, seed: int, frames: int, joints: int, per_sample: bool
) -> Tensor:
    """(W, N or 1, T, V) uint8, 0 at masked joints: in each frame those with the smallest of V uniforms, ties by index."""
    ids = sample if per_sample else torch.full_like(sample[:1], BATCH_ID)
    masked = torch.tensor([s.masked_joints for s in strengths], device=sample.device)
    view = torch.arange(len(strengths), device=sample.device)
    u = uniform(seed, view[:, None], ids, step, frames * joints, first_block=MASK_BLOCK)  # (W, K, T * V)
    rank = u.unflatten(-1, (frames, joints)).argsort(dim=-1, stable=True).argsort(-1)
    return (rank >= masked[:, None, None, None]).to(torch.uint8)


def pack(views: Sequence[ViewParams], n: int, shape: Sequence[int]) -> Draws:
    """Explicit parameters of every view as `Draws`. n: batch size; shape: (3, T, V, M)."""
    frames, joints = shape[1:3]
    device = next(t.device for p in views for t in vars(p).values() if t is not None)
    rows = torch.zeros(n, len(views), ROW, device=device)
    noise = torch.zeros(n, len(views), *shape, device=device)
    per_sample = max([p.joint_keep.numel() // (frames * joints) for p in views if p.joint_keep is not None], default=1)
    keep = torch.ones(len(views), per_sample, frames, joints, dtype=torch.uint8, device=device)
    for w, p in enumerate(views):
        row = rows[:, w]
        axis_keep = torch.ones(n, 3, device=device) if p.axis_keep is None else p.axis_keep.float()
        matrix = torch.eye(3, device=device) if p.matrix is None else p.matrix.float()
        row[:, MATRIX:NOISE] = (matrix * axis_keep[:, :, None]).flatten(1)
        if p.noise is not None:
            noise[:, w], row[:, NOISE:TAPS] = p.noise, axis_keep
        row[:, TAPS + BLUR_TAPS // 2] = 1
        if p.blur is not None:
            row[:, TAPS:SHIFT], row[:, BLUR] = p.blur, 1
        for column, value in ((SHIFT, p.shift), (FLIP, p.flip), (REVERSE, p.time_flip)):
            if value is not None:
                row[:, column] = value.float()
        if p.joint_keep is not None:
            keep[w] = p.joint_keep
    masked, noisy = (tuple(getattr(p, name) is not None for p in views) for name in ("joint_keep", "noise"))
    return Draws(rows, masked, noisy, keep, noise)
