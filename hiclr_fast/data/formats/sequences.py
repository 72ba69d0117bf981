"""The interchange format for any dataset: ragged sequences in one .npz -> a packed dataset.

| array | shape, dtype | |
|---|---|---|
| `frames` | (total, V, 3) or (total, V, 3, M) float | metres, all sequences one after the other; an absent body is zero |
| `offsets` | (n + 1,) int | sequence i is `frames[offsets[i]:offsets[i + 1]]` |
| `label` | (n,) int | class 0..C-1 |
| `name`, `subject`, `view` | (n,) | optional; names default to the row number |
| `class_names` | (C,) unicode | optional |
| `layout` | unicode scalar | a known layout; or instead of it: |
| `parents`, `left_joints`, `right_joints`, `center_joint`, `shoulders` | ints | the skeleton itself (root = its own parent) |

If `parents` are those of a known layout, that layout is taken.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hiclr_fast.data.packed.dataset import Split
from hiclr_fast.data.packed.writer import write_packed
from hiclr_fast.data.preprocess import Preprocess, preprocess
from hiclr_fast.errors import InputError
from hiclr_fast.skeletons import LAYOUTS, Layout, get_layout


def find_layout(arrays: dict[str, np.ndarray], where: str) -> Layout:
    """The layout named or described in a sequences file."""
    if "layout" in arrays:
        return get_layout(str(arrays["layout"]))
    if "parents" not in arrays:
        raise InputError(f"{where}: neither `layout` nor `parents`; add one so that bones and the graph are known")
    parents = tuple(int(p) for p in arrays["parents"])
    for layout in LAYOUTS.values():
        if layout.parents == parents:
            return layout
    if "center_joint" not in arrays:
        raise InputError(f"{where}: `parents` match no known layout, so `center_joint` is needed too")
    ints = {k: tuple(int(v) for v in arrays.get(k, ())) for k in ("left_joints", "right_joints", "shoulders")}
    v, center = len(parents), int(arrays["center_joint"])
    if not all(0 <= j < v for j in (*parents, center, *(j for js in ints.values() for j in js))):
        raise InputError(f"{where}: a joint index is outside 0 to {v - 1}")
    names = tuple(str(n) for n in arrays.get("joint_names", [f"joint{i}" for i in range(v)]))
    shoulders = ints["shoulders"] or (center, center)
    return Layout("custom", names, parents, center, shoulders, ints["left_joints"], ints["right_joints"])


def check_sequences(arrays: dict[str, np.ndarray], layout: Layout, where: str) -> None:
    """InputError when arrays are missing or do not fit together."""
    missing = [name for name in ("frames", "offsets", "label") if name not in arrays]
    if missing:
        raise InputError(f"{where}: no array {missing[0]!r}; expected frames, offsets and label (see data/sequences.py)")
    frames, offsets, label = arrays["frames"], arrays["offsets"], arrays["label"]
    if frames.ndim not in (3, 4) or frames.shape[1:3] != (layout.num_joints, 3) or frames.dtype.kind != "f":
        raise InputError(
            f"{where}: frames {frames.dtype} {frames.shape}, expected float (total, {layout.num_joints}, 3) for {layout.name}"
        )
    if offsets.ndim != 1 or offsets[0] != 0 or offsets[-1] != len(frames) or (np.diff(offsets) <= 0).any():
        raise InputError(f"{where}: offsets must rise from 0 to {len(frames)} frames, without empty sequences")
    for name in ("label", "name", "subject", "view"):
        if name in arrays and arrays[name].shape != (len(offsets) - 1,):
            raise InputError(f"{where}: {name} {arrays[name].shape}, expected ({len(offsets) - 1},), one a sequence")
    if label.dtype.kind not in "iu":
        raise InputError(f"{where}: label is {label.dtype}, expected integers 0 to C-1")


def duplicates(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """(n,) bool: an earlier sequence has exactly the same frames."""
    seen, twice = set(), []
    for a, b in zip(arrays["offsets"][:-1], arrays["offsets"][1:], strict=True):
        digest = hashlib.sha256(np.ascontiguousarray(arrays["frames"][a:b]).tobytes()).digest()
        twice.append(digest in seen)
        seen.add(digest)
    return np.array(twice)


def train_rows(arrays: dict[str, np.ndarray], rule: str, where: str) -> np.ndarray:
    """(n,) bool of the training split. rule: `subject=1,3,5`, `view=1,2`, or a file with one training name a line."""
    if "=" in rule:
        column, values = rule.split("=", 1)
        if column not in ("subject", "view") or column not in arrays:
            raise InputError(f"--train-by {rule}: {where} has no {column!r} column; use subject=.., view=.. or a file")
        try:
            wanted = [int(v) for v in values.split(",")]
        except ValueError:
            raise InputError(f"--train-by {rule}: expected whole numbers, as in {column}=1,3,5") from None
        unknown = sorted(set(wanted) - set(arrays[column].tolist()))
        if unknown:
            known = sorted(set(arrays[column].tolist()))
            raise InputError(f"--train-by {rule}: {where} has no {column} {unknown[0]}, only {known}")
        return np.isin(arrays[column], wanted)
    if not Path(rule).is_file():
        raise InputError(f"--train-by {rule}: neither subject=.., view=.. nor a file of training names")
    wanted_names = set(Path(rule).read_text().split())
    unknown_names = wanted_names - set(arrays["name"].tolist())
    if unknown_names:
        raise InputError(f"--train-by {rule}: {min(unknown_names)!r} is no name in {where}")
    return np.isin(arrays["name"], sorted(wanted_names))


def pack_sequences(
    arrays: dict[str, np.ndarray],
    out: Path,
    how: Preprocess,
    *,
    train: Callable[[dict[str, np.ndarray]], np.ndarray],
    drop_duplicates: bool = False,
    source: str = "sequences",
) -> None:
    """Preprocesses every sequence and writes train and val. train: arrays -> (n,) bool."""
    layout = find_layout(arrays, source)
    check_sequences(arrays, layout, source)
    if how.rotate != "none" and layout.shoulders[0] == layout.shoulders[1]:
        raise InputError(f"{source}: no `shoulders` for rotation; add the array (right, left) or use --rotate none")
    n = len(arrays["label"])
    arrays = {"name": np.array([f"{i:06d}" for i in range(n)]), **arrays}
    label, absent = arrays["label"].astype(np.int64), np.full(n, -1)
    classes = [str(c) for c in arrays.get("class_names", range(int(label.max()) + 1))]
    is_train = train(arrays)
    keep = ~duplicates(arrays) if drop_duplicates else np.ones(n, dtype=bool)
    frames = arrays["frames"] if arrays["frames"].ndim == 4 else arrays["frames"][..., None]
    shape = (3, how.frames, layout.num_joints, frames.shape[3])
    offsets, splits = arrays["offsets"], {}
    for split, rows in (("train", np.flatnonzero(is_train & keep)), ("val", np.flatnonzero(~is_train & keep))):
        x = np.empty((len(rows), *shape), dtype=np.float32)
        for j, i in enumerate(tqdm(rows, desc=f"preprocess {split}", unit="seq")):
            x[j] = preprocess(frames[offsets[i] : offsets[i + 1]], layout, how, f"{source}: {arrays['name'][i]}")
        subject, view = (arrays.get(column, absent)[rows] for column in ("subject", "view"))
        splits[split] = Split(x, label[rows], arrays["name"][rows], subject, view)
    write_packed(out, splits, layout, classes, source=source, preprocessing=how.as_dict())
