"""From all bodies that a sensor reported to the two of a sample."""

from dataclasses import dataclass

import numpy as np
from hiclr_kernels.jit import compiled

from hiclr_fast.data.formats.eight_bytes import FLAGS

# CTR-GCN, data/ntu/get_raw_denoised_data.py
SHORT = 11  # a body seen in at most so many frames is noise
SPREAD = 0.8  # a frame is sound where the width of the body is at most so many times its height
UNSOUND = 0.69754  # a body with at least this share of unsound frames is noise


@dataclass(frozen=True)
class Bodies:
    """frames: F; frame, ident: (n,) frame number and sensor id of every body seen, in file order; xyz: (n, V, 3) float32."""

    frames: int
    frame: np.ndarray
    ident: np.ndarray
    xyz: np.ndarray

    def slot(self) -> np.ndarray:
        """(n,) the how-manieth body of its frame each is."""
        first = np.searchsorted(self.frame, self.frame)
        return np.arange(len(self.frame)) - first


def first_two(bodies: Bodies) -> np.ndarray:
    """(F, V, 3, 2): the first two bodies of each frame in file order, whatever their ids (official HiCLR and ST-GCN chain)."""
    return _place(bodies.frames, bodies.frame, bodies.xyz)


@compiled(**FLAGS)
def _place(frames, frame, xyz):
    out = np.zeros((frames, xyz.shape[1], 3, 2), np.float32)
    for row in range(len(frame)):
        slot = 0
        while slot < 2 and row > slot and frame[row - slot - 1] == frame[row]:
            slot += 1
        if slot < 2:
            out[frame[row], :, :, slot] = xyz[row]
    return out


def _motion(xyz: np.ndarray) -> float:
    """Sum over x, y, z of the variance of all joints in all frames."""
    return float(xyz.reshape(-1, 3).var(axis=0).sum())


def _tracks(bodies: Bodies) -> list[np.ndarray]:
    """Rows of each body id, in time order; a second body with the same id in a frame is a track of its own."""
    slot, ident = bodies.slot(), bodies.ident.copy()
    again = np.zeros(len(ident), dtype=np.int64)
    for row in np.flatnonzero(slot > 0):
        earlier = slice(row - slot[row], row)
        again[row] = (ident[earlier] == ident[row]).sum()
    rows: dict[tuple[int, int], list[int]] = {}
    for row, key in enumerate(zip(ident.tolist(), again.tolist(), strict=True)):
        rows.setdefault(key, []).append(row)
    return [np.array(track) for track in rows.values()]


def denoised(bodies: Bodies) -> np.ndarray:
    """(F', V, 3, 2): bodies chosen as CTR-GCN-style chains do; frames without any chosen body are cut out.

    Short tracks go, then tracks that are mostly wider than high; the rest, by falling motion, fill the first body wherever
    their span is free there, else the second. The last track that is left always stays.
    """
    tracks = _tracks(bodies)
    if not tracks:
        return first_two(bodies)
    long = [t for t in tracks if len(t) > SHORT]
    tracks = long or [max(tracks, key=len)]
    found, left = [], len(tracks)
    for track in tracks:
        xyz = bodies.xyz[track]
        extent = xyz.max(axis=1) - xyz.min(axis=1)
        sound = extent[:, 0] <= SPREAD * extent[:, 1]
        if left > 1 and (~sound).mean() >= UNSOUND:
            left -= 1
            continue
        motion = _motion(xyz)
        if sound.any() and not sound.all():
            motion = min(motion, _motion(xyz[sound]))
        found.append((motion, track))
    found.sort(key=lambda pair: -pair[0])
    out = np.zeros((bodies.frames, *bodies.xyz.shape[1:], 2), np.float32)
    spans: list[tuple[int, int] | None] = [None, None]
    for _, track in found:
        start, end = int(bodies.frame[track[0]]), int(bodies.frame[track[-1]])
        for body in (0, 1):
            span = spans[body]
            if span is None or min(span[1], end) - max(span[0], start) <= 0:
                out[bodies.frame[track], ..., body] = bodies.xyz[track]
                spans[body] = (start, end) if span is None else (min(span[0], start), max(span[1], end))
                break
    return out[out.any(axis=(1, 2, 3))]
