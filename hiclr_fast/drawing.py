"""Skeletons drawn with matplotlib: rows of frames as a contact sheet, side by side as an animation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hiclr_fast.errors import InputError
from hiclr_fast.skeletons import METRES, Layout, Space

COLOURS, MASKED = ("#1f5fa8", "#3a8f3a", "#8a5fb0"), "#d62728"
HEAD, LEGS = ("head", "nose"), ("hip", "knee", "ankle", "foot")  # in joint names: which way is up
MOST_DRAWN = 200  # joints of a layout
DEPTH = np.array([0.45, 0.25])  # how far z moves a point right and up: a hidden axis then still leaves a picture


@dataclass(frozen=True)
class Picture:
    """One row of the sheet. x: (3, T, V, M), masked joints 0; masked: (T, V) bool; drawn: the view's draws in words; space: what
    the coordinates are, in a plane the third is not drawn."""

    title: str
    drawn: str
    x: np.ndarray
    masked: np.ndarray
    space: Space = METRES

    @property
    def points(self) -> np.ndarray:
        """(T, V, M, 2) oblique front view."""
        points = np.moveaxis(self.x[:2], 0, -1)
        return points if self.space.flat else points + self.x[2][..., None] * DEPTH

    def wide(self, size: float) -> str:
        return f"{size:.2f} {({'m': 'm', 'body': 'bodies', 'image': 'half images'})[self.space.unit]} wide"


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


def _limits(picture: Picture) -> tuple[np.ndarray, float]:
    """(centre, half width) of a square that holds every frame."""
    points = picture.points.reshape(-1, 2)
    low, high = points.min(0), points.max(0)
    return (low + high) / 2, max(0.55 * float((high - low).max()), 1e-3)


def draw_frame(axes, picture: Picture, frame: int, bones: Sequence[tuple[int, int]]) -> None:
    """One frame into a matplotlib axes: bodies in colours, masked joints (at 0, where the encoder sees them) in red."""
    points, hidden = picture.points[frame], picture.masked[frame]  # (V, M, 2)
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
        label = f"{picture.title}\n{picture.drawn}\n{picture.wide(2 * _limits(picture)[1])}"
        axes[row, 0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8, parse_math=False)
    figure.savefig(path, dpi=110)


def animation(found: Sequence[Picture], bones: Sequence[tuple[int, int]], path: Path, fps: int = 10) -> None:
    """All pictures side by side, frame by frame, as GIF."""
    from matplotlib.animation import FuncAnimation, PillowWriter

    figure, axes = _grid(1, len(found), 2.1 * len(found), 2.9)

    def update(frame: int):
        for ax, picture in zip(axes[0], found, strict=True):
            ax.clear()
            draw_frame(ax, picture, frame, bones)
            ax.set_title(picture.title, fontsize=9, parse_math=False)
            ax.set_xlabel(picture.drawn, fontsize=7, parse_math=False)
        return []

    FuncAnimation(figure, update, frames=found[0].x.shape[1]).save(path, writer=PillowWriter(fps=fps), dpi=80)


def spread(layout: Layout) -> np.ndarray:
    """(V, 2) places that show the tree: the centre in the middle, each bone one unit long, right joints on the left side of the
    picture as of a person who faces us, left joints as their mirror image."""
    near = {v: [] for v in range(layout.num_joints)}
    for a, b in layout.bones:
        near[a].append(b)
        near[b].append(a)
    left, right = set(layout.left), set(layout.right)
    place = np.zeros((layout.num_joints, 2))

    def leaves(v: int, before: int) -> int:
        return sum(leaves(w, v) for w in near[v] if w != before and w not in left) or 1

    def names(v: int, before: int, words: tuple[str, ...]) -> bool:
        """Whether a joint from v on is called so."""
        here = any(word in layout.joint_names[v].lower() for word in words)
        return here or any(names(w, v, words) for w in near[v] if w != before)

    def fan(joints: list[int], v: int, middle: float, width: float) -> None:
        """Places the joints around v, in a fan of directions (radians), each with a share that its leaves need."""
        shares = np.array([leaves(w, v) for w in joints], dtype=float)
        edges = middle - width / 2 + width * np.cumsum([0, *shares]) / max(shares.sum(), 1)
        for w, low, high in zip(joints, edges[:-1], edges[1:], strict=True):
            angle = (low + high) / 2
            place[w] = place[v] + (np.cos(angle), np.sin(angle))
            grow(w, v, angle, min(high - low, 1.5))

    def grow(v: int, before: int, angle: float, width: float) -> None:
        ahead = [w for w in near[v] if w != before and w not in left]
        sides = [w for w in ahead if w in right and v not in right]
        middle = [w for w in ahead if w not in sides]
        if before < 0 and sides:
            up = [w for w in middle if names(w, v, HEAD) and not names(w, v, LEGS)] or middle[1:]
            fan(up, v, np.pi / 2, 0.9)
            middle = [w for w in middle if w not in up]
        fan(middle, v, angle, width if v in right or sides or before >= 0 else 2 * np.pi)
        fan(sides, v, np.pi + 0.3 if before < 0 else angle + 0.9 * np.sign(np.sin(angle)), 1.9 if before < 0 else 1.2)

    grow(layout.center, -1, -np.pi / 2, 0.9)
    for l, r in zip(layout.left, layout.right, strict=True):
        place[l] = place[r] * (-1, 1)
    return place


def draw_layout(layout: Layout, path: Path) -> None:
    """PNG: every joint with its number and name, bones, parts in colours, mirror partners, the centre as a star."""
    if layout.num_joints > MOST_DRAWN:
        raise InputError(f"layout {layout.name}: a picture of {layout.num_joints} joints shows nothing; at most {MOST_DRAWN}")
    figure, axes = _grid(1, 1, 11, 9)
    ax, place = axes[0, 0], spread(layout)
    for a, b in layout.bones:
        ax.annotate("", place[a], place[b], arrowprops=dict(arrowstyle="-|>", color="#888888", lw=1.4, shrinkA=4, shrinkB=4))
    for number, (part, joints) in enumerate(layout.parts):
        ax.plot(*place[list(joints)].T, "o", color=f"C{number % 10}", ms=9, label=part)
    ax.plot(*place[layout.center], "*", color="black", ms=8, label="centre")
    for v, name in enumerate(layout.joint_names):
        partner = f" ~{layout.mirror[v]}" if layout.mirror[v] != v else ""
        look = dict(textcoords="offset points", fontsize=7.5, rotation=25, parse_math=False)
        ax.annotate(f"{v} {name}{partner}", place[v], xytext=(7, 5), **look)
    title = f"{layout.name}: {layout.num_joints} joints; arrows from the parent, ~k: joint k is the mirror partner"
    ax.set_title(title, fontsize=10, parse_math=False)
    ax.set(aspect="equal", xticks=[], yticks=[])
    ax.margins(0.14)
    ax.legend(fontsize=8, loc="best")
    figure.savefig(path, dpi=110)
