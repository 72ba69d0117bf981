"""The arrays that users of HiCLR, AimCLR and CrosSCLR already have: {train,val}_position.npy and *_label.pkl."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hiclr_fast.data.packed.dataset import Split
from hiclr_fast.data.packed.rows_on_disk import Rows
from hiclr_fast.data.packed.writer import write_packed
from hiclr_fast.errors import InputError
from hiclr_fast.files.pickles import load_plain_pickle
from hiclr_fast.skeletons import Layout

NTU_NAME = re.compile(r"S\d{3}C(\d{3})P(\d{3})R\d{3}A\d{3}")  # setup, camera, performer, replication, action
MOST_CLASSES = 1 << 16  # a larger label is a mistake, and would make as many classes
SPARE, UNEVEN = 64 << 20, 8  # bytes of a column of names, and how many times the average name its longest may be beyond that


def load_array(path: Path, layout: Layout) -> Rows:
    """(N, 3, T, V, M) floats on disk; never unpickles."""
    x = Rows([path])
    if x.ndim != 5 or x.shape[1] != 3 or x.shape[3] != layout.num_joints or x.dtype.kind != "f" or min(x.shape) < 1:
        raise InputError(f"{path}: {x.dtype} {x.shape}, expected float (N, 3, T, {layout.num_joints} joints of {layout.name}, M)")
    return x


def load_labels(path: Path, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """(names, labels) of a label pickle: (sample names, labels)."""
    content = load_plain_pickle(path)
    if not isinstance(content, (tuple, list)) or len(content) != 2:
        raise InputError(f"{path}: expected a pair (sample names, labels)")
    names, labels = (_column(values, what, path) for values, what in zip(content, ("names", "labels"), strict=True))
    if len(names) != samples or len(labels) != samples:
        raise InputError(f"{path}: {len(names)} names and {len(labels)} labels, expected {samples} of each")
    names = [name.decode("latin1") if type(name) is bytes else name for name in names]
    for values, kind, what in ((names, str, "names"), (labels, int, "labels")):
        wrong = {type(value) for value in values} - {kind}
        if wrong:
            expected = "text" if kind is str else "whole numbers"
            raise InputError(f"{path}: a {wrong.pop().__name__} among the {what}, expected {expected}")
    wide = 4 * max(map(len, names), default=0) * len(names)
    if wide > SPARE and wide > 4 * UNEVEN * sum(map(len, names)):
        raise InputError(f"{path}: a name is {max(map(len, names))} characters long, far more than the others; correct it")
    bad = next((label for label in labels if not 0 <= label < MOST_CLASSES), None)
    if bad is not None:
        raise InputError(f"{path}: label {bad}, expected 0 to at most {MOST_CLASSES - 1}")
    return np.array(names, dtype=str), np.array(labels, dtype=np.int64)


def _column(values: Any, what: str, path: Path) -> list:
    """A list or a (n,) array as a list."""
    if isinstance(values, np.ndarray) and values.ndim == 1:
        return values.tolist()
    if not isinstance(values, (list, tuple)):
        raise InputError(f"{path}: the {what} are no list, expected a pair (sample names, labels)")
    return list(values)


def read_split(data: Path, labels: Path | None, layout: Layout, split: str = "") -> Split:
    """labels none: no sample has one, and names are numbers."""
    x = load_array(data, layout)
    if labels is None:
        name, label = np.array([f"{split}{i:06d}" for i in range(len(x))]), np.full(len(x), -1)
    else:
        name, label = load_labels(labels, len(x))
    found = [NTU_NAME.search(n) for n in name]
    view, subject = (np.array([int(m[g]) if m else -1 for m in found]) for g in (1, 2))
    return Split(x, label, name, subject, view)


def pack_official(out: Path, files: dict[str, tuple[Path, Path | None]], layout: Layout, names: Sequence[str] = ()) -> None:
    """files: split -> (position .npy, label .pkl or none). Coordinates are taken as they are (the official chain made them).
    names: of the classes; none: their numbers."""
    splits = {split: read_split(data, labels, layout, split) for split, (data, labels) in files.items()}
    shapes = {split: data.x.shape[1:] for split, data in splits.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(f"the splits have different sample shapes {shapes}; expected the same (3, T, V, M)")
    classes = max(int(data.label.max()) for data in splits.values()) + 1
    source = ", ".join(str(Path(data).name) for data, _ in files.values())
    names = names or [str(c) for c in range(classes)]
    write_packed(out, splits, layout, names, source=source, preprocessing={"chain": "official"})
