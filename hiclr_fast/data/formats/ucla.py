"""Northwestern-UCLA Multiview Action3D, the JSON form: one object a file with `skeletons` (F, 20, 3) and `label` from 1 to 10."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from hiclr_fast.data.formats.recording import Recording, read_bytes
from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import reason_of
from hiclr_fast.files.json_files import expect, parse_json

NAME = re.compile(r"a(\d{1,6})_s(\d{1,6})_e(\d{1,6})_v(\d{1,6})")  # action, subject, execution, view
JOINTS = 20
CLASSES = (  # actions a01 to a06, a08, a09, a11, a12
    *("pick up with one hand", "pick up with two hands", "drop trash", "walk around", "sit down", "stand up"),
    *("donning", "doffing", "throw", "carry"),
)


def read_frames(path: Path) -> np.ndarray:
    """(F, 20, 3, 1) float32 metres of one JSON file."""
    return _read(path)[0]


def _read(path: Path) -> tuple[np.ndarray, Any]:
    """Its frames and its label, if it has one."""
    content = expect(parse_json(read_bytes(path), str(path), finite=False), dict, str(path))
    skeletons = expect(content.get("skeletons"), list, str(path), "skeletons")
    try:
        frames = np.array(skeletons, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{path}: skeletons are no numbers of (frames, {JOINTS} joints, 3) ({reason_of(error)})") from None
    if frames.ndim != 3 or frames.shape[1:] != (JOINTS, 3):
        raise InputError(f"{path}: skeletons {frames.shape}, expected (frames, {JOINTS} joints, 3)")
    with np.errstate(over="ignore"):
        return frames.astype(np.float32)[..., None], content.get("label")


def read_ucla(path: Path) -> Recording:
    """One JSON file -> (F, 20, 3, 1) float32 metres; label, subject and view from the file and its name."""
    found = NAME.search(path.stem)
    if not found:
        raise InputError(f"{path}: the name holds no aNN_sNN_eNN_vNN; rename it as the dataset does")
    frames, label = _read(path)
    if not 1 <= expect(label, int, str(path), "label") <= len(CLASSES):
        raise InputError(f"{path}: label {str(label)[:20]}, expected a whole number from 1 to {len(CLASSES)}")
    return Recording(found.group(), frames, label - 1, subject=int(found.group(2)), view=int(found.group(4)))


def find_ucla(folder: Path) -> list[Path]:
    files = sorted(Path(folder).rglob("*.json"))
    if not files:
        raise InputError(f"{folder}: no .json file; give the folder of the JSON form (often called all_sqe)")
    return files
