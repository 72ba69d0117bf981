"""What a recording lacks: frames without a body, joints that were not seen. Found by zeros and scores, filled in time."""

import numpy as np

from hiclr_fast.skeletons import Layout
from hiclr_fast.skeletons.layout import depths


def present(x: np.ndarray) -> np.ndarray:
    """(F, M) bool: some coordinate of the body is not exactly 0. x: (F, V, C, M)."""
    return (x != 0).any(axis=(1, 2))


def missing_joints(x: np.ndarray, score: np.ndarray | None, least: float) -> np.ndarray:
    """(F, V, M) bool, of bodies that are present: joints at exactly 0 that are elsewhere in other frames (a joint that always is
    at 0 is the centre of centred coordinates), and joints with a score below `least`. score: (F, V, M)."""
    there = present(x)[:, None]  # (F, 1, M)
    at_zero = there & ~(x != 0).any(axis=2)
    missing = at_zero & (at_zero.sum(axis=0) < there.sum(axis=0))
    return missing if score is None else missing | (there & (score < np.float64(least)))


class Leading:
    """A recording cut to as many leading frames as those in which joint 0 of the first body is not exactly at the origin,
    wherever the gaps are (official chain). As `Filled`."""

    def __init__(self, x: np.ndarray, score: np.ndarray | None = None):
        self.x, self.score, self.length = x, score, int((x[:, 0, :, 0] != 0).any(axis=1).sum())
        kept = f"{len(x) - self.length} of {len(x)} frames have no first body: the first {self.length} frames are kept"
        self.note = kept if self.length < len(x) else ""

    def rows(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        return self.x[index].astype(np.float64), None if self.score is None else self.score[index].astype(np.float64)


class Filled:
    """A recording from the first body's first frame to its last, whose gaps are filled in the frames that are asked for.

    Frames between those of a body, and joints that `missing_joints` finds, are interpolated linearly in time (before the first
    and after the last time a joint was seen it stays where it was). A joint whose score is always too low lies where its parent
    does. x: (F, V, C, M); score: (F, V, M). length: frames; 0 where the first body never appears. note: what is done, empty:
    nothing.
    """

    def __init__(self, x: np.ndarray, layout: Layout, score: np.ndarray | None = None, least: float = 0.0):
        self.x, self.score, self.parents = x, score, layout.parents
        there, missing = present(x), missing_joints(x, score, least)
        first = np.flatnonzero(there[:, 0])
        self.start, self.length = (int(first[0]), int(first[-1] - first[0]) + 1) if len(first) else (0, 0)
        self.gaps: list[tuple[int, np.ndarray, np.ndarray]] = []  # body, frames that have it, joints missing in these
        notes = []
        for body in range(x.shape[3]):
            frames = np.flatnonzero(there[:, body])
            lost = missing[frames, :, body]
            span = frames[-1] - frames[0] + 1 if len(frames) else 0
            if span > len(frames) or lost.any():
                self.gaps.append((body, frames, lost))
                unseen = lost.all(axis=0)
                some = int(lost[:, ~unseen].any(axis=0).sum())
                notes.append(_words(body, span - len(frames), span, some, int(unseen.sum())))
        self.note = "; ".join(notes)

    def rows(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """(x, score) of frames `index` (n,) from the first one on, float64."""
        at = self.start + index
        x = self.x[at].astype(np.float64)
        score = None if self.score is None else self.score[at].astype(np.float64)
        for body, frames, lost in self.gaps:
            inside = np.flatnonzero((at >= frames[0]) & (at <= frames[-1]))
            self._interpolate(x, inside, at[inside], body, frames, lost)
            if score is not None and frames[-1] - frames[0] >= len(frames):
                for v in range(x.shape[1]):
                    score[inside, v, body] = np.interp(at[inside], frames, self.score[frames, v, body])
        return x, score

    def _interpolate(self, x: np.ndarray, inside: np.ndarray, at: np.ndarray, body: int, frames: np.ndarray, lost: np.ndarray):
        """One body in rows `inside` of x, which are frames `at`."""
        unseen = lost.all(axis=0)
        for v in np.flatnonzero(~unseen):
            seen = frames[~lost[:, v]]
            for c in range(x.shape[2]):
                x[inside, v, c, body] = np.interp(at, seen, self.x[seen, v, c, body])
        for v in np.argsort(depths(self.parents), kind="stable"):
            if unseen[v]:
                here, parent = x[inside][..., body], self.parents[v]  # (S, V, C)
                alone = parent == v and not unseen.all()
                x[inside, v, :, body] = here[:, ~unseen].mean(axis=1) if alone else here[:, parent]


def _words(body: int, absent: int, frames: int, some: int, unseen: int) -> str:
    parts = [f"{absent} of {frames} frames without it"] * bool(absent) + [f"{some} joints missing at times"] * bool(some)
    words = [f"{' and '.join(parts)}, interpolated"] * bool(parts)
    words += [f"{unseen} joints never seen, put where their parents are"] * bool(unseen)
    return f"body {body + 1}: {'; '.join(words)}"
