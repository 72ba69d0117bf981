"""One raw recording -> one network input: relative coordinates, a fixed number of frames, shoulders turned to the x axis.

Order and constants: official preprocess_ntu (relative, resize, rotate), checked against its recorded outputs. Poses in an image
(x, y[, score]) go the same way; instead of being turned they are scaled by the image or by the body.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np

from hiclr_fast.data.gaps import Filled, Leading, present
from hiclr_fast.data.geometry import between_frames, mean_pose, rotation_angles, source_frames, turn
from hiclr_fast.errors import InputError
from hiclr_fast.files.ranges import Range, check_ranges
from hiclr_fast.files.settings import update
from hiclr_fast.flags import default
from hiclr_fast.skeletons import Layout, Space

PART = 4096  # frames that are looked at at a time
PER_METRE = {"m": 1.0, "cm": 0.01, "mm": 0.001}


@dataclass(frozen=True)
class Preprocess:
    """How a recording becomes an input."""

    frames: int = 50
    """T of the result."""
    center: Literal["frame", "first", "pose", "none"] = "frame"
    """frame: relative to the centre joint of the same frame and body (official: where the body goes is lost); first: to the first
    body's centre joint in the first frame (the path, and the distance between two people, stay); pose: as frame, then each body's
    mean pose is taken off, for actions that are movement alone (posture says nothing); none: as they are."""
    rotate: Literal["frame", "first", "none", "auto"] = "frame"
    """frame: every frame is turned so that the shoulder line lies along x (official); first: the whole sequence by the first
    frame's angle; none: as the camera saw it; auto: frame, or none in a plane and for layouts without shoulders."""
    gaps: Literal["cut", "keep", "auto"] = "cut"
    """cut: as many leading frames as the first body has frames (official: a gap cuts the tail); keep: what is missing is
    interpolated and listed in report.csv; auto: cut for the official splits of NTU RGB+D and PKU-MMD, else keep."""
    unit: Literal["m", "cm", "mm", "auto"] = "m"
    """Of the recordings' coordinates in space; auto: found by the size of the bodies."""
    scale: Literal["metres", "body", "image", "auto"] = "metres"
    """metres: coordinates in space as they are; body: the body's size becomes 1; image: half of the image's longer side
    becomes 1, its middle 0; auto: metres in space, body in a plane."""
    third: Literal["zero", "score"] = "zero"
    """In a plane, what the third channel holds."""
    min_score: float = 0.3
    """Joints with a lower score are taken as missing (gaps: keep)."""
    image: Annotated[tuple[float, float] | None, default("what the recordings say")] = None
    """Width and height of the image in pixels, for recordings that do not say (scale: image)."""

    def as_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, said: Mapping[str, Any], where: str) -> "Preprocess":
        """What a packed set says of its preprocessing; what it does not say is as in the official chain. InputError where it says
        something else, or leaves a choice open."""
        chosen = {name: value for name, value in said.items() if name != "chain"} if isinstance(said, Mapping) else said
        found = update(cls(), chosen, where)
        if found.open:
            raise InputError(f"{where}: something is auto, expected what was done")
        return found

    @property
    def open(self) -> bool:
        """Whether a choice is left to the recordings."""
        return "auto" in (self.rotate, self.gaps, self.unit, self.scale)

    def space(self, flat: bool, size: float | None = None) -> Space:
        """What the coordinates of the results are."""
        return Space("m" if self.scale == "metres" else self.scale, self.third if flat else "depth", size)

    def settled(self, flat: bool, layout: Layout, size: float) -> "Preprocess":
        """The same with every `auto` decided. flat: the recordings are (x, y); size: of their bodies, see `body_size`."""
        rotate = "none" if flat or not layout.has_shoulders else "frame"
        found = dict(rotate=rotate, gaps="keep", unit="m" if flat else unit_of(size), scale="body" if flat else "metres")
        return replace(self, **{name: value for name, value in found.items() if getattr(self, name) == "auto"})

    def check(self, flat: bool, layout: Layout) -> None:
        """InputError where the settings do not go with such recordings. flat: they are (x, y)."""
        if self.open:
            raise ValueError(f"{self}: nothing may be left at auto here; see `settled`")
        check_ranges(self, {"frames": Range(1, 10**5)}, "--{}")
        if not math.isfinite(self.min_score):
            raise InputError(f"--min-score {self.min_score}: expected a finite number")
        if self.image is not None and not _is_size(self.image):
            raise InputError(f"--image {self.image[0]} {self.image[1]}: expected a width and a height above 0, finite")
        if flat and (self.rotate != "none" or self.scale == "metres"):
            bad, instead = ("rotate", "none") if self.rotate != "none" else ("scale", "body or image")
            raise InputError(f"--{bad} {getattr(self, bad)}: the recordings are (x, y) in a plane; use --{bad} {instead}")
        if not flat and self.scale == "image":
            raise InputError("--scale image: the recordings are (x, y, z) in space; use --scale metres or body")
        if self.rotate != "none" and not layout.has_shoulders:
            raise InputError(f"layout {layout.name} has no `shoulders` for rotation; add them (right, left) or use --rotate none")
        if self.scale == "body" and self.center == "none":
            raise InputError("--scale body needs a point that coordinates are relative to; use --center frame or first")
        if not flat and self.third == "score":
            raise InputError("--third score: the recordings are (x, y, z) in space, their third channel is z; leave it out")


def _is_size(image: tuple[float, float]) -> bool:
    return all(0 < length < math.inf for length in image)


def body_size(x: np.ndarray) -> float:
    """The size of the first body: the longest side of the box around its joints, median over the frames that have it; 0 where
    there are none. x: (F, V, C, M)."""
    return _size(x[part] for part in _parts(len(x)))


def _size(parts: Iterable[np.ndarray]) -> float:
    """`body_size` of the frames in all parts."""
    sides = []
    for x in parts:
        first = x[present(x[..., :1])[:, 0], ..., 0]
        sides.append((first.max(axis=1) - first.min(axis=1)).max(axis=1))
    found = np.concatenate(sides) if sides else np.empty(0)
    return float(np.median(found)) if len(found) else 0.0


def _parts(length: int) -> list[np.ndarray]:
    """Numbers of PART frames at a time."""
    return np.split(np.arange(length), range(PART, length, PART))


def unit_of(size: float) -> Literal["m", "cm", "mm"]:
    """The unit in which a person is so large: people measure 0.4 to 3 m."""
    return "m" if size < 11 else "cm" if size < 350 else "mm"


def scaled(x: np.ndarray, how: Preprocess, image: tuple[float, float] | None, size: float, where: str) -> np.ndarray:
    """Coordinates in the unit of the result, y up. x: (F, V, C, M) float64; absent bodies stay zero. size: of the body."""
    there = present(x)[:, None, None]
    if how.unit != "m" and x.shape[2] == 3:
        x = x * PER_METRE[how.unit]
    if how.scale == "image":
        shape = image or how.image
        if shape is None or not _is_size(shape):
            raise InputError(f"{where}: the size of its image is not known; give --image WIDTH HEIGHT, or use --scale body")
        x = (x - np.array(shape).reshape(2, 1) / 2) / (max(shape) / 2)
    elif how.scale == "body":
        if not size > 0:
            raise InputError(f"{where}: all joints lie in one point, so the body has no size; drop this sequence")
        x = x / size
    if x.shape[2] == 2:
        x = x * np.array([[1.0], [-1.0]])  # images count rows from above
    return np.where(there, x, 0)


def checked(x: np.ndarray, layout: Layout, score: np.ndarray | None, where: str) -> None:
    if x.ndim != 4 or x.shape[1] != layout.num_joints or x.shape[2] not in (2, 3):
        raise InputError(f"{where}: shape {x.shape}, expected (frames, {layout.num_joints} joints, 2 or 3, bodies)")
    if score is not None and score.shape != (len(x), x.shape[1], x.shape[3]):
        raise InputError(f"{where}: scores {score.shape}, expected (frames, {layout.num_joints} joints, bodies) as of {x.shape}")
    for values in (x, score):
        if values is not None and not np.isfinite(values).all():
            frame = int(np.argwhere(~np.isfinite(values))[0][0])
            raise InputError(f"{where}: NaN or Inf at frame {frame}; repair or drop this sequence")


def preprocess(
    x: np.ndarray,
    layout: Layout,
    how: Preprocess,
    where: str = "sequence",
    score: np.ndarray | None = None,
    image: tuple[float, float] | None = None,
) -> np.ndarray:
    """`preprocess_noted` without what was done about gaps."""
    return preprocess_noted(x, layout, how, where, score, image)[0]


def preprocess_noted(
    x: np.ndarray,
    layout: Layout,
    how: Preprocess,
    where: str = "sequence",
    score: np.ndarray | None = None,
    image: tuple[float, float] | None = None,
) -> tuple[np.ndarray, str]:
    """((3, T, V, M) float32, what was done about gaps; empty: nothing).

    x: (F, V, 3, M) in `how.unit`, or (F, V, 2, M) pixels, y down; absent bodies zero. score: (F, V, M) of the detection. image:
    its width and height. Raises InputError, naming `where`, on a wrong shape, NaN or Inf, settings that do not go with such
    coordinates, or when the first body never appears.
    """
    checked(x, layout, score, where)
    flat = x.shape[2] == 2
    how.check(flat, layout)
    source = Filled(x, layout, score, how.min_score) if how.gaps == "keep" else Leading(x, score)
    if source.length == 0:
        raise InputError(f"{where}: the first body is zero in every frame; drop this sequence")
    size = 0.0
    if how.scale == "body":
        unit = 1.0 if flat else PER_METRE[how.unit]
        size = _size(source.rows(part)[0] * unit for part in _parts(source.length))
    low, high, weight = source_frames(source.length, how.frames)
    used, place = np.unique(np.concatenate([[0], low, high]), return_inverse=True)
    x, score = source.rows(used)  # float64; no other frames are looked at
    between = place[1 : how.frames + 1], place[how.frames + 1 :], weight
    if flat or how.scale != "metres" or how.unit != "m":
        x = scaled(x, how, image, size, where)
    there = present(x)
    if how.center in ("frame", "pose"):
        x = x - x[:, layout.center : layout.center + 1]
    elif how.center == "first":
        x = np.where(there[:, None, None], x - x[:1, layout.center : layout.center + 1, :, :1], 0)
    x = between_frames(x, *between).astype(np.float32).astype(np.float64)
    if flat:
        seen = there[:, None] * (1.0 if score is None else score) if how.third == "score" else np.zeros((len(there), 1, 1))
        third = np.broadcast_to(between_frames(seen, *between), (how.frames, x.shape[1], x.shape[3]))
        x = np.concatenate([x, third[:, :, None]], axis=2)
    elif how.rotate != "none":
        x = turn(x, rotation_angles(x, layout.shoulders, how.rotate))
    if how.center == "pose":
        x[:, :, : 2 if flat else 3] -= mean_pose(x)[:, :, : 2 if flat else 3]
    return np.ascontiguousarray(x.transpose(2, 0, 1, 3), dtype=np.float32), source.note
