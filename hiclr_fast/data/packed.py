"""The packed dataset: a folder that is memory-mapped, checked on opening, and says how it was made.

DIR/meta.json          format, layout, classes, shape, preprocessing, and per split: samples, files, sizes, SHA-256
DIR/{split}.npy        float32 (N, 3, T, V, M), metres
DIR/{split}_samples.npz  label (N,) int64, name (N,) unicode, subject (N,) int32, view (N,) int32 (-1 unknown)
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hiclr_fast.data.files import read_npz, sha256
from hiclr_fast.errors import InputError
from hiclr_fast.skeletons import LAYOUTS, Layout, get_layout

FORMAT, VERSION = "hiclr_fast packed", 1
CHUNK = 1 << 24  # bytes read at a time


@dataclass(frozen=True)
class Split:
    """x: (N, 3, T, V, M) float32, memory-mapped; label, subject, view: (N,); name: (N,) unicode."""

    x: np.ndarray
    label: np.ndarray
    name: np.ndarray
    subject: np.ndarray
    view: np.ndarray

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class Packed:
    path: Path
    layout: Layout
    classes: tuple[str, ...]
    shape: tuple[int, int, int, int]  # (3, T, V, M)
    splits: dict[str, Split]
    checksum: str  # SHA-256 of meta.json, which holds the checksum of every file

    def __getitem__(self, split: str) -> Split:
        if split not in self.splits:
            raise InputError(f"{self.path}: no {split!r} split, only {sorted(self.splits)}; prepare the set with one")
        return self.splits[split]


def check_values(x: np.ndarray, name: np.ndarray, where: str) -> None:
    """InputError naming the first sample that holds NaN or Inf or is zero everywhere. x: (N, ...), read in chunks."""
    step = max(1, CHUNK // max(1, x[:1].nbytes))
    for start in range(0, len(x), step):
        flat = np.asarray(x[start : start + step]).reshape(len(x[start : start + step]), -1)
        for bad, what in ((~np.isfinite(flat).all(axis=1), "NaN or Inf"), (~flat.any(axis=1), "only zeros")):
            if bad.any():
                i = start + int(np.argmax(bad))
                raise InputError(f"{where}: sample {i} ({name[i]}) holds {what}; drop or repair it and prepare again")


def write_packed(
    out: Path,
    splits: dict[str, Split],
    layout: Layout,
    classes: Sequence[str],
    *,
    source: str,
    preprocessing: dict,
) -> None:
    """Writes the folder under a temporary name and renames it at the end: it is whole or absent.

    Raises InputError when `out` exists already, or on values that `open_packed` would refuse.
    """
    out = Path(out)
    if out.exists():
        raise InputError(f"{out} exists already; choose another folder or remove it first")
    for split, data in splits.items():
        if len(data) == 0:
            raise InputError(f"{source}: the {split} split would be empty; check the split option")
        check_labels(data.label, len(classes), f"{source} {split}")
        check_values(data.x, data.name, f"{source} {split}")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        described = {}
        for split, data in tqdm(splits.items(), desc=f"writing {out}", unit="split"):
            np.save(temporary / f"{split}.npy", np.ascontiguousarray(data.x, dtype=np.float32))
            np.savez(
                temporary / f"{split}_samples.npz",
                label=data.label.astype(np.int64),
                name=data.name.astype(str),
                subject=data.subject.astype(np.int32),
                view=data.view.astype(np.int32),
            )
            files = {}
            for file in (f"{split}.npy", f"{split}_samples.npz"):
                files[file] = {"bytes": (temporary / file).stat().st_size, "sha256": sha256(temporary / file)}
            described[split] = {"samples": len(data), "files": files}
        meta = {
            "format": FORMAT,
            "version": VERSION,
            "source": source,
            "layout": layout.name if LAYOUTS.get(layout.name) == layout else asdict(layout),
            "classes": list(classes),
            "shape": list(next(iter(splits.values())).x.shape[1:]),
            "preprocessing": preprocessing,
            "splits": described,
        }
        (temporary / "meta.json").write_text(json.dumps(meta, indent=1))
        os.chmod(temporary, 0o755)
        os.rename(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def check_labels(label: np.ndarray, classes: int, where: str) -> None:
    bad = np.flatnonzero((label < 0) | (label >= classes))
    if len(bad):
        raise InputError(f"{where}: sample {bad[0]} has label {label[bad[0]]}, expected 0 to {classes - 1}")


def _read_meta(path: Path) -> tuple[dict, str]:
    file = path / "meta.json"
    if not file.is_file():
        raise InputError(f"{path} is not a packed dataset (no meta.json); make one with scripts/prepare.py")
    text = file.read_bytes()
    try:
        meta = json.loads(text)
        if meta["format"] != FORMAT or meta["version"] != VERSION:
            raise ValueError(f"format {meta['format']!r} version {meta['version']}")
        layout = meta["layout"]
        if isinstance(layout, str):
            meta["layout"] = get_layout(layout)
        else:
            meta["layout"] = Layout(**{k: tuple(v) if isinstance(v, list) else v for k, v in layout.items()})
        meta["shape"] = tuple(int(s) for s in meta["shape"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not a {FORMAT} version {VERSION} description ({error}); prepare the set again") from None
    return meta, hashlib.sha256(text).hexdigest()


def _open_split(path: Path, split: str, meta: dict) -> Split:
    described = meta["splits"][split]
    for file, facts in described["files"].items():
        full = path / file
        if not full.is_file():
            raise InputError(f"{full} is missing; prepare the set again")
        if full.stat().st_size != facts["bytes"]:
            raise InputError(f"{full}: {full.stat().st_size} bytes, expected {facts['bytes']}; the file was cut, prepare again")
        if sha256(full) != facts["sha256"]:
            raise InputError(f"{full}: its checksum is not the one in meta.json; the file was changed, prepare again")
    try:
        x = np.load(path / f"{split}.npy", mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path / split}.npy: not a readable .npy of plain numbers ({error}); prepare again") from None
    samples = read_npz(path / f"{split}_samples.npz")
    missing = [column for column in ("label", "name", "subject", "view") if column not in samples]
    if missing:
        raise InputError(f"{path / split}_samples.npz: no {missing[0]!r} column; prepare again")
    data = Split(x, samples["label"], samples["name"], samples["subject"], samples["view"])
    expected = (described["samples"], *meta["shape"])
    if x.shape != expected or x.dtype != np.float32:
        raise InputError(f"{path / split}.npy: {x.dtype} {x.shape}, expected float32 {expected}; prepare again")
    if any(len(column) != len(x) for column in (data.label, data.name, data.subject, data.view)):
        raise InputError(f"{path / split}_samples.npz: columns of another length than {len(x)} samples; prepare again")
    check_labels(data.label, len(meta["classes"]), f"{path} {split}")
    check_values(x, data.name, f"{path} {split}")
    return data


def open_packed(path: Path) -> Packed:
    """Opens and checks a packed dataset: sizes, checksums, shapes, dtypes, labels, finite and non-zero values.

    Raises InputError with what is wrong, where, and what to do.
    """
    path = Path(path)
    meta, checksum = _read_meta(path)
    shape, layout = meta["shape"], meta["layout"]
    if len(shape) != 4 or shape[0] != 3 or shape[2] != layout.num_joints:
        raise InputError(f"{path}: sample shape {shape}, expected (3, T, {layout.num_joints} joints of {layout.name}, M)")
    splits = {split: _open_split(path, split, meta) for split in meta["splits"]}
    return Packed(path, layout, tuple(meta["classes"]), shape, splits, checksum)
