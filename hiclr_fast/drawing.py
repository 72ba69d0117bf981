"""Skeletons drawn with matplotlib: rows of frames as a contact sheet, side by side as an animation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hiclr_fast.errors import InputError

COLOURS, MASKED = ("#1f5fa8", "#3a8f3a", "#8a5fb0"), "#d62728"
DEPTH = np.array([0.45, 0.25])  # how far z moves a point right and up: a hidden axis then still leaves a picture


@dataclass(frozen=True)
class Picture:
    """One row of the sheet. x: (3, T, V, M), masked joints 0; masked: (T, V) bool; drawn: the view's draws in words."""

    title: str
    drawn: str
    x: np.ndarray
    masked: np.ndarray


def new_figure(width: float, height: float):
    """A matplotlib figure of that many inches, without pyplot: no display, no global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(f"pictures need matplotlib ({error}): pip install 'hiclr_fast[report]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def _grid(rows: int, columns: int, width: float, height: float):
    figure = new_figure(width, height)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _project(x: np.ndarray) -> np.ndarray:
    """(..., 2) oblique front view of x (3, ...)."""
    return np.moveaxis(x[:2], 0, -1) + x[2][..., None] * DEPTH


def _limits(picture: Picture) -> tuple[np.ndarray, float]:
    """(centre, half width) of a square that holds every frame."""
    points = _project(picture.x).reshape(-1, 2)
    low, high = points.min(0), points.max(0)
    return (low + high) / 2, max(0.55 * float((high - low).max()), 1e-3)


def draw_frame(axes, picture: Picture, frame: int, bones: Sequence[tuple[int, int]]) -> None:
    """One frame into a matplotlib axes: bodies in colours, masked joints (at 0, where the encoder sees them) in red."""
    points, hidden = _project(picture.x[:, frame]), picture.masked[frame]  # (V, M, 2)
    for body in range(points.shape[1]):
        if not picture.x[..., body].any():
            continue
        p, colour = points[:, body], COLOURS[body % len(COLOURS)]
        for a, b in bones:
            broken = hidden[a] or hidden[b]
            axes.plot(*p[[a, b]].T, color=MASKED if broken else colour, lw=0.5 if broken else 1.3, alpha=0.5 if broken else 1)
        axes.plot(*p[~hidden].T, ".", color=colour, ms=3)
        axes.plot(*p[hidden].T, ".", color=MASKED, ms=5)
    (cx, cy), half = _limits(picture)
    axes.set(xlim=(cx - half, cx + half), ylim=(cy - half, cy + half), xticks=[], yticks=[], aspect="equal")


def contact_sheet(found: Sequence[Picture], bones: Sequence[tuple[int, int]], path: Path, columns: int = 8) -> None:
    """One row a picture, evenly spaced frames from left to right, as PNG."""
    frames = found[0].x.shape[1]
    shown = np.unique(np.linspace(0, frames - 1, columns).round().astype(int))
    figure, axes = _grid(len(found), len(shown), 1.5 * len(shown) + 1.5, 1.62 * len(found))
    for row, picture in enumerate(found):
        for column, frame in enumerate(shown):
            draw_frame(axes[row, column], picture, frame, bones)
            if row == 0:
                axes[row, column].set_title(f"frame {frame}", fontsize=8)
        label = f"{picture.title}\n{picture.drawn}\n{2 * _limits(picture)[1]:.2f} m wide"
        axes[row, 0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    figure.savefig(path, dpi=110)


def animation(found: Sequence[Picture], bones: Sequence[tuple[int, int]], path: Path, fps: int = 10) -> None:
    """All pictures side by side, frame by frame, as GIF."""
    from matplotlib.animation import FuncAnimation, PillowWriter

    figure, axes = _grid(1, len(found), 2.1 * len(found), 2.9)

    def update(frame: int):
        for ax, picture in zip(axes[0], found, strict=True):
            ax.clear()
            draw_frame(ax, picture, frame, bones)
            ax.set_title(picture.title, fontsize=9)
            ax.set_xlabel(picture.drawn, fontsize=7)
        return []

    FuncAnimation(figure, update, frames=found[0].x.shape[1]).save(path, writer=PillowWriter(fps=fps), dpi=80)
