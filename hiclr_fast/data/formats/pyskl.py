"""The annotation pickle of pyskl: a dict of `split` (name -> list of sample names) and `annotations` (list of dicts with
`frame_dir`, `label`, `total_frames`, `keypoint` (M, T, V, 3) in space or (M, T, V, 2) in pixels, and for the latter
`keypoint_score` (M, T, V) and `img_shape` (height, width))."""

from pathlib import Path
from typing import Any

import numpy as np

from hiclr_fast.data.formats.ntu import NAME
from hiclr_fast.data.formats.official import MOST_CLASSES
from hiclr_fast.data.formats.recording import Recording, check_length
from hiclr_fast.errors import InputError
from hiclr_fast.files.pickles import load_plain_pickle

BODIES = 2
BY_SHAPE = {(25, 3): "ntu25", (20, 3): "kinect20", (17, 3): "h36m17"}
BY_SHAPE |= {(17, 2): "coco17", (18, 2): "openpose18", (25, 2): "openpose25"}
LONGEST_NAME = 255  # characters, as of a file


class Annotations:
    """The content of one pickle. read(i) gives the recordings of annotation i: none where it is in neither split.

    train, val: names of splits in the pickle; val none: no validation; train none: every annotation trains.
    """

    def __init__(self, path: Path, train: str | None, val: str | None):
        self.path = Path(path)
        content = load_plain_pickle(self.path)
        if not isinstance(content, dict) or "annotations" not in content:
            raise InputError(f"{path}: expected a dict of `split` and `annotations`, as pyskl writes it")
        lists, self.annotations = content.get("split", {}), content["annotations"]
        if not isinstance(lists, dict) or not isinstance(self.annotations, (list, tuple)):
            raise InputError(f"{path}: `split` is not a dict or `annotations` not a list; expected what pyskl writes")
        self.split: dict[Any, str] | None = None if train is None else {}
        for split, key in (("train", train), ("val", val)):
            if key is None:
                continue
            if key not in lists:
                known = sorted(map(str, lists))[:20]
                raise InputError(f"{path}: no split {key!r}, only {known}; give one with --{split}, or --{split} None")
            if not isinstance(lists[key], (list, tuple)) or not all(isinstance(name, str) for name in lists[key]):
                raise InputError(f"{path}: split {key!r} is not a list of sample names")
            for name in lists[key]:
                if self.split is not None and self.split.setdefault(name, split) != split:
                    raise InputError(f"{path}: {name[:80]} is in both {train!r} and {val!r}; choose splits that do not overlap")
        points = [one.get("keypoint") if isinstance(one, dict) else None for one in self.annotations]
        places = [p.ctypes.data for p in points if isinstance(p, np.ndarray)]  # of their bytes, which other arrays may share
        for what, values in (("annotation", [id(one) for one in self.annotations]), ("keypoint", places)):
            if len(set(values)) < len(values):
                raise InputError(f"{path}: the same {what} stands for several samples; each has its own in pyskl's files")

    def __len__(self) -> int:
        return len(self.annotations)

    def layout_name(self) -> str:
        """The layout that has as many joints in as many dimensions as the first annotation; InputError where none has."""
        for one in self.annotations:
            points = one.get("keypoint") if isinstance(one, dict) else None
            if isinstance(points, np.ndarray) and points.ndim == 4:
                if points.shape[2:] in BY_SHAPE:
                    return BY_SHAPE[points.shape[2:]]
                raise InputError(f"{self.path}: {points.shape[2]} joints in {points.shape[3]} dimensions; give their --layout")
        raise InputError(f"{self.path}: no annotation holds keypoint, an array (bodies, frames, joints, 2 or 3)")

    def read(self, i: int) -> list[Recording]:
        where, one = f"{self.path} annotation {i}", self.annotations[i]
        if not isinstance(one, dict) or not {"frame_dir", "keypoint"} <= set(one):
            raise InputError(f"{where}: expected a dict with frame_dir and keypoint")
        name, label, points = one["frame_dir"], one.get("label", -1), one["keypoint"]
        if type(name) is not str or not 0 < len(name) <= LONGEST_NAME:
            raise InputError(f"{where}: frame_dir is no text of 1 to {LONGEST_NAME} characters")
        if type(label) is not int or not -1 <= label < MOST_CLASSES:
            raise InputError(f"{where} ({name}): its label is no whole number from 0 to at most {MOST_CLASSES - 1}")
        if self.split is not None and name not in self.split:
            return []
        where = f"{where} ({name})"
        if not isinstance(points, np.ndarray) or points.dtype.kind != "f" or points.ndim != 4 or points.shape[3] not in (2, 3):
            raise InputError(f"{where}: keypoint is no float array (bodies, frames, joints, 2 or 3)")
        if min(points.shape) < 1:
            raise InputError(f"{where}: keypoint {points.shape} is empty")
        check_length(points.shape[1], where)
        score, image = self._score(one, points, where), self._image(one, where)
        kept = np.arange(min(len(points), BODIES))
        if score is not None and len(points) > BODIES:
            kept = np.sort(np.argsort(-score.sum(axis=(1, 2), dtype=np.float64), kind="stable")[:BODIES])  # the surest
        frames = np.zeros((*points.shape[1:], BODIES), np.float32)
        with np.errstate(over="ignore"):  # Inf is seen to later
            frames[..., : len(kept)] = points[kept].transpose(1, 2, 3, 0)
        scores = None
        if score is not None:
            scores = np.zeros((*points.shape[1:3], BODIES), np.float32)
            scores[..., : len(kept)] = score[kept].transpose(1, 2, 0)
        found = NAME.search(name)
        _, camera, performer, *_ = map(int, found.groups()) if found else (-1, -1, -1)
        split = "train" if self.split is None else self.split[name]
        return [Recording(name, frames, label, performer, camera, split=split, score=scores, image=image)]

    @staticmethod
    def _score(one: dict, points: np.ndarray, where: str) -> np.ndarray | None:
        score = one.get("keypoint_score")
        if score is None or points.shape[3] == 3:
            return None
        if not isinstance(score, np.ndarray) or score.dtype.kind != "f" or score.shape != points.shape[:3]:
            raise InputError(f"{where}: keypoint_score is no float array {points.shape[:3]}, one for each joint of keypoint")
        return score

    @staticmethod
    def _image(one: dict, where: str) -> tuple[float, float] | None:
        """(width, height)."""
        shape = one.get("img_shape", one.get("original_shape"))
        if shape is None:
            return None
        try:
            height, width = (float(v) for v in shape)
        except (TypeError, ValueError):
            raise InputError(f"{where}: img_shape {str(shape)[:40]}, expected (height, width)") from None
        return width, height
