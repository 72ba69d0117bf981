"""A folder of clips, one .npy or .npz a clip, and a table of what is known about them: the simplest form of one's own data.

Clip: (F, V, C) or (F, V, C, M) numbers; C = 3: x, y, z in space; C = 2: x, y in an image (pixels, y down); C = 3 with
`channels` xys: x, y and the score of the detection. An .npz holds it as `frames`, `keypoint` or its only array, and may hold
`score` (F, V) or (F, V, M) and `image` (width, height) beside it. Its name is its path below the folder, without the ending.

Table: CSV with a header; `name`, and any of `label`, `subject`, `view` (a number), `split` (train or val). Empty: not known.
"""

import csv
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from hiclr_fast.data.formats.recording import Recording, check_length
from hiclr_fast.data.packed.dataset import MOST_ID
from hiclr_fast.data.packed.rows_on_disk import npy_header
from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import read_npz, read_whole
from hiclr_fast.skeletons import Layout

Channels = Literal["auto", "xyz", "xy", "xys"]
NUMBER = re.compile(r"-?[0-9]+")
COLUMNS = ("name", "label", "subject", "view", "split")
LARGEST_TABLE = 1 << 26  # bytes
PIXELS = 20  # coordinates beyond it are no metres: with a third channel within 0 and 1 that is a score


def find_clips(folder: Path) -> list[Path]:
    """Every .npy and .npz below the folder, by name; InputError where there are none."""
    found = sorted(f for f in Path(folder).rglob("*") if f.suffix in (".npy", ".npz"))
    if not found:
        raise InputError(f"{folder}: no .npy or .npz below it; give a folder of clips, each an array (frames, joints, 2 or 3)")
    return found


def read_table(path: Path) -> dict[str, dict[str, str]]:
    """{name: the other columns that are not empty}."""
    text = io.TextIOWrapper(io.BytesIO(read_whole(path, LARGEST_TABLE)), encoding="utf-8-sig", newline="")
    try:
        return _table(csv.DictReader(text), path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV ({error}); expected the columns {', '.join(COLUMNS)}") from None


def _table(lines: csv.DictReader, path: Path) -> dict[str, dict[str, str]]:
    header = lines.fieldnames or []
    unknown = [column for column in header if column not in COLUMNS]
    if "name" not in header or unknown:
        found = ", ".join(map(str, header))[:200]
        raise InputError(f"{path}: columns {found}; expected name and any of {', '.join(COLUMNS[1:])}")
    table: dict[str, dict[str, str]] = {}
    for number, line in enumerate(lines, 2):
        name, where = (line["name"] or "").strip(), f"{path}, line {number}"
        if not name or name in table or None in line:
            what = "too many fields" if None in line else f"name {name!r} is empty or there twice"
            raise InputError(f"{where}: {what}; correct it")
        table[name] = {c: line[c].strip() for c in header if c != "name" and (line[c] or "").strip()}
        view, split, subject = (table[name].get(c, usual) for c, usual in (("view", "0"), ("split", "train"), ("subject", "")))
        if not NUMBER.fullmatch(view) or split not in ("train", "val"):
            raise InputError(f"{where}: view {view[:40]!r}, split {split[:40]!r}; expected a whole number, and train or val")
        for column, value in (("view", view), ("subject", subject)):
            if NUMBER.fullmatch(value) and (len(value) > len(str(MOST_ID)) or not -1 <= int(value) <= MOST_ID):
                expected = f"0 to {MOST_ID}, or -1 or nothing where it is unknown" + ", or a name" * (column == "subject")
                raise InputError(f"{where}: {column} {value[:40]}; expected {expected}")
    return table


@dataclass(frozen=True)
class Clips:
    """read(path) gives the clip there as a recording of `bodies` bodies; absent ones are zero."""

    folder: Path
    layout: Layout
    channels: Channels = "auto"
    bodies: int = 1
    table: dict[str, dict[str, str]] = field(default_factory=dict)

    def name(self, path: Path) -> str:
        return path.relative_to(self.folder).with_suffix("").as_posix()

    def read(self, path: Path) -> list[Recording]:
        arrays = load_clip(path)
        x, score, image = arrays["frames"], arrays.get("score"), arrays.get("image")
        joints, sizes = self.layout.num_joints, (2,) if self.channels == "xy" else (3,) if self.channels != "auto" else (2, 3)
        if x.ndim != 4 or x.shape[1] != joints or x.shape[2] not in sizes or not len(x):
            wanted = f"(frames, {joints} joints of {self.layout.name}, {' or '.join(map(str, sizes))}) or with bodies at the end"
            raise InputError(f"{path}: shape {x.shape}, expected {wanted}")
        check_length(len(x), str(path))
        if x.shape[2] == 3 and self.channels == "auto" and _is_score(x):
            raise InputError(
                f"{path}: the third channel lies within 0 and 1, the others do not: give --channels xys if it is the score of a "
                "detection, xyz if it is a coordinate"
            )
        if self.channels == "xys":
            x, score = x[:, :, :2], x[:, :, 2]
        if score is not None and score.shape != (len(x), joints, x.shape[3]):
            raise InputError(f"{path}: score {score.shape}, expected {(len(x), joints, x.shape[3])}, one for each joint")
        if image is not None and image.shape != (2,):
            raise InputError(f"{path}: image {image.shape}, expected width and height")
        said = self.table.get(self.name(path), {})
        return [
            Recording(
                self.name(path),
                self._bodies(x, path),
                said.get("label", -1),
                said.get("subject", -1),
                int(said.get("view", -1)),
                split=said.get("split"),
                score=None if score is None else self._bodies(score, path),
                image=None if image is None else (float(image[0]), float(image[1])),
            )
        ]

    def _bodies(self, x: np.ndarray, path: Path) -> np.ndarray:
        """x (..., M') with `bodies` bodies."""
        if x[..., self.bodies :].any():
            raise InputError(f"{path}: {x.shape[-1]} bodies, {self.bodies} are kept; give more --bodies, or choose some")
        if x.dtype == np.float32 and x.shape[-1] == self.bodies:
            return x
        out = np.zeros((*x.shape[:-1], self.bodies), np.float32)
        out[..., : x.shape[-1]] = x[..., : self.bodies]
        return out


def load_clip(path: Path) -> dict[str, np.ndarray]:
    """`frames` (F, V, C, M) and, where they are there, `score` (F, V, M) and `image` (2,) of one file."""
    if path.suffix == ".npy":
        npy_header(path)  # says what is wrong with it
        arrays = {"frames": np.load(path, allow_pickle=False)}
    else:
        arrays = read_npz(path)
        key = next((k for k in ("frames", "keypoint") if k in arrays), next(iter(arrays)) if len(arrays) == 1 else None)
        if key is None:
            raise InputError(f"{path}: arrays {', '.join(arrays)[:200]}; expected the clip as `frames`")
        arrays = {"frames": arrays[key]} | {k: arrays[k] for k in ("score", "image") if k in arrays and k != key}
    for name, x in arrays.items():
        if x.dtype.kind not in "fiu":
            raise InputError(f"{path}: {name} is {x.dtype}, expected numbers")
    for name, axes in (("frames", 3), ("score", 2)):
        if name in arrays and arrays[name].ndim == axes:
            arrays[name] = arrays[name][..., None]
    return arrays


def most_bodies(paths: list[Path]) -> int:
    """The largest number of bodies in any clip; clips that cannot be read count as one, they are reported when they are read."""
    most = 1
    for path in paths:
        try:
            shape = npy_header(path)[0] if path.suffix == ".npy" else load_clip(path)["frames"].shape
        except InputError:
            continue
        most = max(most, shape[3] if len(shape) == 4 else 1)
    return most


def _is_score(x: np.ndarray) -> bool:
    with np.errstate(invalid="ignore"):
        within = (x[:, :, 2] >= 0) & (x[:, :, 2] <= 1) | ~np.isfinite(x[:, :, 2])
        return bool(within.all() and np.nanmax(np.abs(x[:, :, :2]), initial=0) > PIXELS)
