"""Pictures of what the encoder sees: a raw skeleton and its views, as a contact sheet and as an animation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from hiclr_kernels.augment import apply_views, draw_views
from hiclr_kernels.augment.draw import BLUR, FLIP, MATRIX, NOISE, REVERSE, SHIFT, TAPS
from hiclr_kernels.augment.reference import Stream, to_stream

from hiclr_fast.data.packed.dataset import Packed
from hiclr_fast.errors import InputError
from hiclr_fast.views.augment import AugmentConfig, view_strength

KINDS = ("basic", "normal", "strong", "basic")
TITLES = ("basic", "normal", "strong", "key (basic)")
COLOURS, MASKED = ("#1f5fa8", "#3a8f3a", "#8a5fb0"), "#d62728"
DEPTH = np.array([0.45, 0.25])  # how far z moves a point right and up: a hidden axis then still leaves a picture


@dataclass(frozen=True)
class Picture:
    """One row of the sheet. x: (3, T, V, M), masked joints 0; masked: (T, V) bool; drawn: the view's draws in words."""

    title: str
    drawn: str
    x: np.ndarray
    masked: np.ndarray


def describe(row: np.ndarray) -> str:
    """The draws of one view in a few words. row: (32,) of `Draws.rows`."""
    words = [f"crop {int(row[SHIFT]):+d} frames"]
    hidden = [name for axis, name in enumerate("xyz") if not row[MATRIX + 3 * axis : MATRIX + 3 * axis + 3].any()]
    words += ["flipped"] * bool(row[FLIP]) + ["time reversed"] * bool(row[REVERSE])
    if row[NOISE : NOISE + 3].any():
        words.append(f"noise {1000 * row[NOISE : NOISE + 3].max():.0f} mm")
    if row[BLUR]:
        words.append(f"blur, gain {row[TAPS:SHIFT].sum():.1f}")
    return "\n".join(words + [f"{name} hidden" for name in hidden])


def pictures(data: Packed, split: str, index: int, stream: Stream, config: AugmentConfig, seed: int) -> list[Picture]:
    """The raw sample and its four views, as the first step of a run with that seed makes them."""
    samples = data[split]
    if not 0 <= index < len(samples):
        raise InputError(f"index {index}: {data.path} has {len(samples)} {split} samples, 0 to {len(samples) - 1}")
    x = torch.from_numpy(np.array(samples.x[index : index + 1]))
    _, frames, joints, _ = data.shape
    strengths = [view_strength(kind, config, frames, joints) for kind in KINDS]
    sizes = dict(seed=seed, frames=frames, joints=joints, mask_per_sample=config.mask_per_sample)
    draws = draw_views(strengths, torch.tensor([index]), torch.tensor(0), **sizes)
    tables = dict(mirror=data.layout.mirror, parents=data.layout.parents, stream=stream)
    views = apply_views(x, torch.zeros(1, dtype=torch.int64), draws, **tables)
    raw = to_stream(x, stream, data.layout.parents)[0].numpy()
    nothing = np.zeros((frames, joints), bool)
    found = [Picture("raw", f"{data.classes[samples.label[index]]}\n{samples.name[index]}", raw, nothing)]
    for w, view in enumerate(views):
        masked = draws.keep[w, 0].numpy() == 0 if draws.masked[w] else nothing
        words = describe(draws.rows[0, w].numpy()) + "\nmasked joints in red" * bool(masked.any())
        found.append(Picture(TITLES[w], words, view[0].numpy(), masked))
    return found


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


def _figure(rows: int, columns: int, width: float, height: float):
    from matplotlib.figure import Figure  # of the report extra; no pyplot, so no display and no global state

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def contact_sheet(found: Sequence[Picture], bones: Sequence[tuple[int, int]], path: Path, columns: int = 8) -> None:
    """One row a picture, evenly spaced frames from left to right, as PNG."""
    frames = found[0].x.shape[1]
    shown = np.unique(np.linspace(0, frames - 1, columns).round().astype(int))
    figure, axes = _figure(len(found), len(shown), 1.5 * len(shown) + 1.5, 1.62 * len(found))
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

    figure, axes = _figure(1, len(found), 2.1 * len(found), 2.9)

    def update(frame: int):
        for ax, picture in zip(axes[0], found, strict=True):
            ax.clear()
            draw_frame(ax, picture, frame, bones)
            ax.set_title(picture.title, fontsize=9)
            ax.set_xlabel(picture.drawn, fontsize=7)
        return []

    FuncAnimation(figure, update, frames=found[0].x.shape[1]).save(path, writer=PillowWriter(fps=fps), dpi=80)
