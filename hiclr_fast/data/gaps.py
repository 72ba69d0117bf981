"""What a recording lacks: frames without a body, joints that were not seen. Found by zeros and scores, filled in time."""

import numpy as np

from hiclr_fast.skeletons import Layout
from hiclr_fast.skeletons.layout import depths


def present(x: np.ndarray) -> np.ndarray:
    """(F, M) bool: some coordinate of the body is not exactly 0. x: (F, V, C, M)."""
    return (x != 0).any(axis=(1, 2))


def leading_frames(x: np.ndarray) -> int:
    """As many frames as those in which joint 0 of the first body is not exactly at the origin (official chain: it cuts the
    sequence to so many leading frames, wherever the gaps are)."""
    return int((x[:, 0, :, 0] != 0).any(axis=1).sum())


def missing_joints(x: np.ndarray, score: np.ndarray | None, least: float) -> np.ndarray:
    """(F, V, M) bool, of bodies that are present: joints at exactly 0 that are elsewhere in other frames (a joint that always is
    at 0 is the centre of centred coordinates), and joints with a score below `least`. score: (F, V, M)."""
    there = present(x)[:, None]  # (F, 1, M)
    at_zero = there & ~(x != 0).any(axis=2)
    missing = at_zero & (at_zero.sum(axis=0) < there.sum(axis=0))
    return missing if score is None else missing | (there & (score < least))


def fill_gaps(
    x: np.ndarray, layout: Layout, score: np.ndarray | None = None, least: float = 0.0
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """(x, score, what was done, empty: nothing), cut to the frames from the first body's first to its last.

    Frames between those of a body, and joints that `missing_joints` finds, are interpolated linearly in time (before the first
    and after the last time a joint was seen it stays where it was). A joint whose score is always too low lies where its parent
    does. x: (F, V, C, M) float64; score: (F, V, M).
    """
    there, missing = present(x), missing_joints(x, score, least)
    x, notes = x.copy(), []
    order = [int(v) for v in np.argsort(depths(layout.parents), kind="stable")]
    for body in range(x.shape[3]):
        frames = np.flatnonzero(there[:, body])
        if len(frames) == 0:
            continue
        span = np.arange(frames[0], frames[-1] + 1)
        absent, lost = len(span) - len(frames), missing[frames, :, body]
        if not absent and not lost.any():
            continue
        unseen = lost.all(axis=0)
        for v in np.flatnonzero(~unseen):
            at = frames[~lost[:, v]]
            for c in range(x.shape[2]):
                x[span, v, c, body] = np.interp(span, at, x[at, v, c, body])
        for v in order:
            if unseen[v]:
                here, parent = x[span, :, :, body], layout.parents[v]  # (S, V, C)
                x[span, v, :, body] = here[:, ~unseen].mean(axis=1) if parent == v and not unseen.all() else here[:, parent]
        if score is not None and absent:
            score = score.copy()
            for v in range(x.shape[1]):
                score[span, v, body] = np.interp(span, frames, score[frames, v, body])
        some = int(lost[:, ~unseen].any(axis=0).sum())
        notes.append(_words(body, absent, len(span), some, int(unseen.sum())))
    frames = np.flatnonzero(there[:, 0])
    kept = slice(frames[0], frames[-1] + 1) if len(frames) else slice(0)
    return x[kept], None if score is None else score[kept], "; ".join(notes)


def _words(body: int, absent: int, frames: int, some: int, unseen: int) -> str:
    parts = [f"{absent} of {frames} frames without it"] * bool(absent) + [f"{some} joints missing at times"] * bool(some)
    words = [f"{' and '.join(parts)}, interpolated"] * bool(parts)
    words += [f"{unseen} joints never seen, put where their parents are"] * bool(unseen)
    return f"body {body + 1}: {'; '.join(words)}"
