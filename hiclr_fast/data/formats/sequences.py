r"""The interchange format for any dataset: ragged sequences in one .npz -> a packed dataset.

| array | shape, dtype | |
|---|---|---|
| `frames` | (total, V, C) or (total, V, C, M) float | all sequences one after the other; an absent body is zero; \
C = 3: x, y, z in space; C = 2: x, y in an image, pixels, y down |
| `offsets` | (n + 1,) int | sequence i is `frames[offsets[i]:offsets[i + 1]]` |
| `label` | (n,) int or unicode | optional; -1: none |
| `score` | (total, V) or (total, V, M) float | optional, of the detection |
| `image` | (2,) or (n, 2) | optional, width and height of the image |
| `name`, `subject`, `view` | (n,) | optional; names default to the row number; subjects may be names |
| `class_names` | (C,) unicode | optional |
| `layout` | unicode scalar | a known layout; or instead of it: |
| `parents`, `left_joints`, `right_joints`, `center_joint`, `shoulders` | ints | the skeleton itself (root = its own parent) |
| `joint_names`, `layout_name` | unicode | optional, of the skeleton |

If `parents` are those of a known layout, that layout is taken.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hiclr_fast.data.convert import Conversion, Report, convert
from hiclr_fast.data.formats.recording import Recording, check_length
from hiclr_fast.data.labels import LARGEST, name_classes
from hiclr_fast.data.packed.dataset import MOST_ID
from hiclr_fast.data.preprocess import Preprocess
from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import read_whole
from hiclr_fast.skeletons import LAYOUTS, Layout
from hiclr_fast.skeletons.known import own_name


def find_layout(arrays: dict[str, np.ndarray], where: str) -> Layout:
    """The layout named or described in a sequences file."""
    if "layout" in arrays:
        name = str(arrays["layout"])
        if name not in LAYOUTS:  # a file does not choose which other file is read
            raise InputError(f"{where}: unknown joint layout {name[:60]!r}, expected one of {', '.join(LAYOUTS)}, or `parents`")
        return LAYOUTS[name]
    if "parents" not in arrays:
        raise InputError(f"{where}: neither `layout` nor `parents`; add one, or give --layout: bones and the graph come from it")
    parents = arrays["parents"].tolist()
    for layout in LAYOUTS.values():
        if list(layout.parents) == parents:
            return layout
    if "center_joint" not in arrays:
        raise InputError(f"{where}: `parents` match no known layout, so `center_joint` is needed too")
    keys = {"left_joints": "left", "right_joints": "right", "shoulders": "shoulders", "joint_names": "joint_names"}
    described = {field: arrays[key].tolist() for key, field in keys.items() if key in arrays}
    described |= {"parents": parents, "center": arrays["center_joint"].tolist()}
    if "layout_name" in arrays:
        described["name"] = str(arrays["layout_name"])
    return own_name(Layout.from_dict(described, where), where)


def check_sequences(arrays: dict[str, np.ndarray], layout: Layout, where: str) -> None:
    """InputError when arrays are missing or do not fit together."""
    missing = [name for name in ("frames", "offsets") if name not in arrays]
    if missing:
        raise InputError(f"{where}: no array {missing[0]!r}; expected frames and offsets (see data/formats/sequences.py)")
    frames, offsets, joints = arrays["frames"], arrays["offsets"], layout.num_joints
    if frames.ndim not in (3, 4) or frames.shape[1] != joints or frames.shape[2] not in (2, 3) or frames.dtype.kind != "f":
        raise InputError(
            f"{where}: frames {frames.dtype} {frames.shape}, expected float (total, {joints}, 3) or (.., 2) for {layout.name}"
        )
    if offsets.ndim != 1 or len(offsets) < 2 or offsets.dtype.kind not in "iu" or offsets[0] != 0 or offsets[-1] != len(frames):
        raise InputError(f"{where}: offsets must rise from 0 to {len(frames)} frames, without empty sequences")
    if frames.ndim == 4 and frames.shape[3] < 1:
        raise InputError(f"{where}: frames {frames.shape} of no body")
    if (np.diff(offsets.astype(np.int64)) <= 0).any():
        raise InputError(f"{where}: offsets must rise from 0 to {len(frames)} frames, without empty sequences")
    n = len(offsets) - 1
    for name, kinds in (("label", "iuU"), ("name", "U"), ("subject", "iuU"), ("view", "iu")):
        if name in arrays and arrays[name].shape != (n,):
            raise InputError(f"{where}: {name} {arrays[name].shape}, expected ({n},), one a sequence")
        if name in arrays and arrays[name].dtype.kind not in kinds:
            expected = " or ".join(KINDS[k] for k in kinds if k in KINDS)
            raise InputError(f"{where}: {name} is {arrays[name].dtype}, expected {expected}")
        if name in arrays and arrays[name].dtype.kind in "iu":
            least = -MOST_ID if name == "label" else -1  # of negative labels `name_classes` says more
            wrong = [v for v in (arrays[name].min(), arrays[name].max()) if not least <= v <= MOST_ID]
            if wrong:
                raise InputError(f"{where}: {name} {wrong[0]}, expected 0 to {MOST_ID}, or -1 where it is unknown")
    expected = (*frames.shape[:2], *frames.shape[3:])
    if "score" in arrays and (arrays["score"].shape != expected or arrays["score"].dtype.kind != "f"):
        raise InputError(f"{where}: score {arrays['score'].dtype} {arrays['score'].shape}, expected float {expected}")
    if "class_names" in arrays:
        names = arrays["class_names"]
        if names.ndim != 1 or names.dtype.kind != "U" or len(np.unique(names)) < len(names):
            raise InputError(f"{where}: class_names {names.dtype} {names.shape}, expected (C,) text, each name once")
    if "image" in arrays and (arrays["image"].shape not in ((2,), (n, 2)) or arrays["image"].dtype.kind not in "iuf"):
        raise InputError(f"{where}: image {arrays['image'].shape}, expected width and height, (2,) or ({n}, 2)")


KINDS = {"i": "whole numbers", "U": "text"}


class Sequences:
    """read(i) gives sequence i as a recording, by (n,) names, labels, subjects and views that are there or unknown."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays, n = arrays, len(arrays["offsets"]) - 1
        self.columns = {"name": np.array([f"{i:06d}" for i in range(n)])}
        self.columns |= {c: np.full(n, -1) for c in ("label", "subject", "view")}
        self.columns |= {name: arrays[name] for name in self.columns if name in arrays}

    def read(self, i: int) -> list[Recording]:
        check_length(np.diff(self.arrays["offsets"][i : i + 2])[0], f"sequence {i}")
        frames, score = (self._bodies(name, i) for name in ("frames", "score"))
        image = self.arrays.get("image")
        image = None if image is None else tuple(float(v) for v in (image if image.ndim == 1 else image[i]))
        name, label, subject, view = (self.columns[c][i].item() for c in ("name", "label", "subject", "view"))
        return [Recording(name, frames, label, subject, view, score=score, image=image)]

    def _bodies(self, name: str, i: int) -> np.ndarray | None:
        """(F, V, ..., M) float32 of sequence i."""
        x, offsets = self.arrays.get(name), self.arrays["offsets"]
        if x is None:
            return None
        part = x[offsets[i] : offsets[i + 1]].astype(np.float32)
        return part if self.arrays["frames"].ndim == 4 else part[..., None]


def duplicates(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """(n,) bool: an earlier sequence has exactly the same frames."""
    seen, twice = set(), []
    for a, b in zip(arrays["offsets"][:-1], arrays["offsets"][1:], strict=True):
        digest = hashlib.sha256(np.ascontiguousarray(arrays["frames"][a:b]).tobytes()).digest()
        twice.append(digest in seen)
        seen.add(digest)
    return np.array(twice)


ALL = "all"  # a rule: every sequence trains
STRICT = Conversion(strict=True)


def train_rows(columns: dict[str, np.ndarray], rule: str, where: str) -> np.ndarray:
    """(n,) bool of the training split. rule: `subject=1,3,5`, `view=1,2`, a file with one training name a line, or `all`."""
    if rule == ALL:
        return np.ones(len(columns["name"]), dtype=bool)
    if "=" in rule:
        column, values = rule.split("=", 1)
        if column not in ("subject", "view") or column not in columns:
            raise InputError(f"--train-by {rule}: {where} has no {column!r} column; use subject=.., view=.., a file or all")
        wanted, there = [v.strip() for v in values.split(",")], columns[column]
        if there.dtype.kind in "iu":
            try:
                wanted = [int(v) for v in wanted]
            except ValueError:
                raise InputError(f"--train-by {rule}: expected whole numbers, as in {column}=1,3,5") from None
        unknown = sorted(set(wanted) - set(there.tolist()))
        if unknown:
            known = ", ".join(map(str, sorted(set(there.tolist()))))
            raise InputError(f"--train-by {rule}: {where} has no {column} {unknown[0]}, only {known[:200]}")
        return np.isin(there, wanted)
    if not Path(rule).is_file():
        raise InputError(f"--train-by {rule}: neither subject=.., view=.., all, nor a file of training names")
    wanted_names = set(read_whole(Path(rule), LARGEST).decode(errors="replace").split())
    unknown_names = wanted_names - set(columns["name"].tolist())
    if unknown_names:
        raise InputError(f"--train-by {rule}: {min(unknown_names)!r} is no name in {where}")
    return np.isin(columns["name"], sorted(wanted_names))


def pack_sequences(
    arrays: dict[str, np.ndarray],
    out: Path,
    how: Preprocess,
    *,
    train: Callable[[dict[str, np.ndarray]], np.ndarray],
    drop_duplicates: bool = False,
    source: str = "sequences",
    layout: Layout | None = None,
    options: Conversion = STRICT,
) -> Report:
    """Preprocesses every sequence, writes train and val, and returns the report. train: columns -> (n,) bool; layout: instead of
    what the arrays say."""
    layout = layout or find_layout(arrays, source)
    check_sequences(arrays, layout, source)
    sequences = Sequences(arrays)
    names = [str(c) for c in arrays["class_names"]] if "class_names" in arrays else None
    train(sequences.columns)  # a rule or a label that does not fit is told before anything is read
    name_classes(sequences.columns["label"], names, source)
    items = np.flatnonzero(~duplicates(arrays)).tolist() if drop_duplicates else range(len(arrays["offsets"]) - 1)
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data if arrays[name].size else b"")
    facts = dict(classes=names, source=source, content=digest.hexdigest())
    return convert(items, sequences.read, out, layout, how, options, train=train, **facts)
