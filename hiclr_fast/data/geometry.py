"""The arithmetic of preprocessing: resampling in time, rotation about the vertical axis, mean poses."""

import numpy as np

from hiclr_fast.data.gaps import present


def source_frames(length: int, frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(two source frames, weight of the second), each (T,), of every frame of the result. As cv2.resize INTER_LINEAR does it:
    source (i + 0.5) * F / T - 0.5, clamped, no smoothing."""
    source = np.clip((np.arange(frames) + 0.5) * length / frames - 0.5, 0, length - 1)
    low = np.floor(source).astype(int)
    return low, np.minimum(low + 1, length - 1), source - low


def between_frames(x: np.ndarray, low: np.ndarray, high: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(F, ...) -> (T, ...) float64: between the two source frames."""
    weight = weight.reshape(-1, *[1] * (x.ndim - 1))
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


def mean_pose(x: np.ndarray) -> np.ndarray:
    """(T, V, 3, M): each body's mean over the frames that have it, zero in the others. x: (T, V, 3, M)."""
    there = present(x)[:, None, None]
    return there * (x.sum(0) / np.maximum(1, there.sum(0)))
