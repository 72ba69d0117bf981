"""One raw recording -> one network input: relative coordinates, a fixed number of frames, shoulders turned to the x axis.

Order and constants: official preprocess_ntu (relative, resize, rotate), checked against its recorded outputs.
"""

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from hiclr_fast.errors import InputError
from hiclr_fast.skeletons import Layout


@dataclass(frozen=True)
class Preprocess:
    """How a recording becomes an input. The defaults are the official chain.

    frames: T of the result.
    center: `frame` subtracts the centre joint of the same frame and body (official: where the body goes is lost);
        `first` subtracts the first body's centre joint of the first frame (the path, and the distance between two
        people, stay).
    rotate: `frame` turns every frame so that the shoulder line lies along x (official); `first` turns the whole
        sequence by the first frame's angle; `none` leaves the camera's orientation.
    gaps: `cut` keeps as many leading frames as the first body has non-zero frames (official: a gap cuts the tail);
        `keep` interpolates gaps between a body's first and last non-zero frame.
    """

    frames: int = 50
    center: Literal["frame", "first"] = "frame"
    rotate: Literal["frame", "first", "none"] = "frame"
    gaps: Literal["cut", "keep"] = "cut"

    def as_dict(self) -> dict:
        return asdict(self)


def present(x: np.ndarray) -> np.ndarray:
    """(F, M) bool: joint 0 of the body is not exactly (0, 0, 0). x: (F, V, 3, M)."""
    return (x[:, 0] != 0).any(axis=1)


def fill_gaps(x: np.ndarray) -> np.ndarray:
    """Linear interpolation of missing frames inside each body's span; cut to the first body's span. x: (F, V, 3, M)."""
    x, there = x.copy(), present(x)
    for body in range(x.shape[3]):
        at = np.flatnonzero(there[:, body])
        if len(at) > 1:
            missing = np.setdiff1d(np.arange(at[0], at[-1] + 1), at)
            after = np.searchsorted(at, missing)
            a, b = at[after - 1], at[after]
            w = ((missing - a) / (b - a))[:, None, None]
            x[missing, ..., body] = (1 - w) * x[a, ..., body] + w * x[b, ..., body]
    at = np.flatnonzero(there[:, 0])
    return x[at[0] : at[-1] + 1] if len(at) else x[:0]


def resize_frames(x: np.ndarray, frames: int) -> np.ndarray:
    """Linear interpolation along frames as cv2.resize INTER_LINEAR does it: source (i + 0.5) * F / T - 0.5, clamped,
    no smoothing. x: (F, V, 3, M) -> (T, V, 3, M) float64."""
    source = np.clip((np.arange(frames) + 0.5) * len(x) / frames - 0.5, 0, len(x) - 1)
    low = np.floor(source).astype(int)
    high = np.minimum(low + 1, len(x) - 1)
    weight = (source - low)[:, None, None, None]
    return x[low] * (1 - weight) + x[high] * weight


def rotation_angles(x: np.ndarray, shoulders: tuple[int, int], rotate: str) -> np.ndarray:
    """(T, M) radians. arccos(vx / (|v| + 0.0001)) of the horizontal shoulder vector v, one sign a body: negative where
    the sum of vz over the frames is not negative. x: (T, V, 3, M)."""
    v = x[:, shoulders[0]] - x[:, shoulders[1]]  # (T, 3, M)
    if rotate == "first":
        v = np.broadcast_to(v[:1], v.shape)
    theta = np.arccos(v[:, 0] / (np.hypot(v[:, 0], v[:, 2]) + 0.0001))
    return np.where(v[:, 2].sum(axis=0) >= 0, -theta, theta)


def turn(x: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Rotation about the vertical (y) axis. x: (T, V, 3, M), theta: (T, M)."""
    c, s = np.cos(theta)[:, None], np.sin(theta)[:, None]
    return np.stack([c * x[:, :, 0] - s * x[:, :, 2], x[:, :, 1], s * x[:, :, 0] + c * x[:, :, 2]], axis=2)


def preprocess(x: np.ndarray, layout: Layout, how: Preprocess, where: str = "sequence") -> np.ndarray:
    """(F, V, 3, M) metres, absent bodies zero -> (3, T, V, M) float32.

    Raises InputError, naming `where`, on a wrong shape, NaN or Inf, or when the first body never appears.
    """
    if x.ndim != 4 or x.shape[1] != layout.num_joints or x.shape[2] != 3:
        raise InputError(f"{where}: shape {x.shape}, expected (frames, {layout.num_joints} joints, 3, bodies)")
    if not np.isfinite(x).all():
        frame = int(np.argwhere(~np.isfinite(x))[0][0])
        raise InputError(f"{where}: NaN or Inf at frame {frame}; repair or drop this sequence")
    x = x.astype(np.float64)
    x = fill_gaps(x) if how.gaps == "keep" else x[: int(present(x)[:, 0].sum())]
    if len(x) == 0:
        raise InputError(f"{where}: the first body is zero in every frame; drop this sequence")
    if how.center == "frame":
        x = x - x[:, layout.center : layout.center + 1]
    else:
        x = np.where(present(x)[:, None, None], x - x[:1, layout.center : layout.center + 1, :, :1], 0)
    x = resize_frames(x, how.frames).astype(np.float32).astype(np.float64)
    if how.rotate != "none":
        x = turn(x, rotation_angles(x, layout.shoulders, how.rotate))
    return np.ascontiguousarray(x.transpose(2, 0, 1, 3), dtype=np.float32)
