"""The arrays that users of HiCLR, AimCLR and CrosSCLR already have: {train,val}_position.npy and *_label.pkl."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hiclr_fast.data.packed.dataset import Split
from hiclr_fast.data.packed.rows_on_disk import Rows
from hiclr_fast.data.packed.writer import write_packed
from hiclr_fast.errors import InputError
from hiclr_fast.files.pickles import load_plain_pickle
from hiclr_fast.skeletons import Layout

NTU_NAME = re.compile(r"S\d{3}C(\d{3})P(\d{3})R\d{3}A\d{3}")  # setup, camera, performer, replication, action


def load_array(path: Path, layout: Layout) -> Rows:
    """(N, 3, T, V, M) floats on disk; never unpickles."""
    x = Rows([path])
    if x.ndim != 5 or x.shape[1] != 3 or x.shape[3] != layout.num_joints or x.dtype.kind != "f":
        raise InputError(f"{path}: {x.dtype} {x.shape}, expected float (N, 3, T, {layout.num_joints} joints of {layout.name}, M)")
    return x


def load_labels(path: Path, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """(names, labels) of a label pickle: (sample names, labels)."""
    content = load_plain_pickle(path)
    if not isinstance(content, (tuple, list)) or len(content) != 2 or not all(hasattr(c, "__len__") for c in content):
        raise InputError(f"{path}: expected a pair (sample names, labels)")
    try:
        names, labels = np.asarray(content[0], dtype=str), np.asarray(content[1])
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: names or labels are not plain lists ({error})") from None
    if labels.dtype.kind not in "iu" or names.shape != (samples,) or labels.shape != (samples,):
        raise InputError(
            f"{path}: {names.shape} names and {labels.dtype} {labels.shape} labels, expected {samples} of each, integers"
        )
    return names, labels.astype(np.int64)


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
