"""The annotation pickle of pyskl: a dict of `split` (name -> list of sample names) and `annotations` (list of dicts with
`frame_dir`, `label`, `total_frames` and `keypoint` (M, T, V, 3))."""

from pathlib import Path
from typing import Any

import numpy as np

from hiclr_fast.data.formats.ntu import NAME
from hiclr_fast.data.formats.official import MOST_CLASSES
from hiclr_fast.data.formats.recording import Recording
from hiclr_fast.errors import InputError
from hiclr_fast.files.pickles import load_plain_pickle

BODIES = 2
LONGEST_NAME = 255  # characters, as of a file


class Annotations:
    """The content of one pickle. read(i) gives the recordings of annotation i: none where it is in neither split."""

    def __init__(self, path: Path, train: str, val: str, joints: int):
        self.path, self.joints = Path(path), joints
        content = load_plain_pickle(self.path)
        if not isinstance(content, dict) or not {"split", "annotations"} <= set(content):
            raise InputError(f"{path}: expected a dict of `split` and `annotations`, as pyskl writes it")
        lists, self.annotations = content["split"], content["annotations"]
        if not isinstance(lists, dict) or not isinstance(self.annotations, (list, tuple)):
            raise InputError(f"{path}: `split` is not a dict or `annotations` not a list; expected what pyskl writes")
        self.split: dict[Any, str] = {}
        for split, key in (("train", train), ("val", val)):
            if key not in lists:
                raise InputError(f"{path}: no split {key!r}, only {sorted(map(str, lists))[:20]}; give one with --{split}")
            if not isinstance(lists[key], (list, tuple)) or not all(isinstance(name, str) for name in lists[key]):
                raise InputError(f"{path}: split {key!r} is not a list of sample names")
            for name in lists[key]:
                if self.split.setdefault(name, split) != split:
                    raise InputError(f"{path}: {name[:80]} is in both {train!r} and {val!r}; choose splits that do not overlap")
        points = [one.get("keypoint") if isinstance(one, dict) else None for one in self.annotations]
        for what, values in (("annotation", self.annotations), ("keypoint", [p for p in points if isinstance(p, np.ndarray)])):
            if len({id(value) for value in values}) < len(values):
                raise InputError(f"{path}: the same {what} stands for several samples; each has its own in pyskl's files")

    def __len__(self) -> int:
        return len(self.annotations)

    def read(self, i: int) -> list[Recording]:
        where, one = f"{self.path} annotation {i}", self.annotations[i]
        if not isinstance(one, dict) or not {"frame_dir", "label", "keypoint"} <= set(one):
            raise InputError(f"{where}: expected a dict with frame_dir, label and keypoint")
        name, label, points = one["frame_dir"], one["label"], one["keypoint"]
        if type(name) is not str or not 0 < len(name) <= LONGEST_NAME:
            raise InputError(f"{where}: frame_dir is no text of 1 to {LONGEST_NAME} characters")
        if type(label) is not int or not 0 <= label < MOST_CLASSES:
            raise InputError(f"{where} ({name}): its label is no whole number from 0 to at most {MOST_CLASSES - 1}")
        if name not in self.split:
            return []
        if not isinstance(points, np.ndarray) or points.dtype.kind != "f" or points.ndim != 4:
            raise InputError(f"{where} ({name}): keypoint is no float array (bodies, frames, joints, 3)")
        if min(points.shape) < 1:
            raise InputError(f"{where} ({name}): keypoint {points.shape} is empty")
        if points.shape[2:] != (self.joints, 3):
            what = "2D poses" if points.shape[3] == 2 else f"shape {points.shape}"
            raise InputError(f"{where} ({name}): {what}, expected 3D skeletons of {self.joints} joints (choose --layout)")
        frames = np.zeros((points.shape[1], self.joints, 3, BODIES), np.float32)
        with np.errstate(over="ignore"):  # Inf is seen to later
            frames[..., : len(points)] = points[:BODIES].transpose(1, 2, 3, 0)
        found = NAME.search(name)
        _, camera, performer, *_ = map(int, found.groups()) if found else (-1, -1, -1)
        return [Recording(name, frames, label, performer, camera, split=self.split[name])]
