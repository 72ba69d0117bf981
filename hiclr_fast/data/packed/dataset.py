"""The packed dataset: a folder of row files that is checked on opening and says how it was made.

DIR/meta.json            format, layout (whole), space (what the coordinates are), classes, subjects (names, where they are not
                         numbers), shape, preprocessing, and per split: samples, files, sizes, SHA-256
DIR/{split}.npy          float32 (N, 3, T, V, M); a split larger than a shard: {split}_00000.npy, {split}_00001.npy, ...
DIR/{split}_samples.npz  label (N,) int64, name (N,) unicode, subject (N,) int32, view (N,) int32 (-1 none or unknown)
DIR/report.csv           optional: recordings that were rejected, repaired, filled or cut, with the reason
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from hiclr_fast.data.packed.rows_on_disk import Rows
from hiclr_fast.data.preprocess import Preprocess
from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import read_npz, read_whole, sha256
from hiclr_fast.files.json_files import expect, parse_json
from hiclr_fast.skeletons import LAYOUTS, METRES, Layout, Space

FORMAT, VERSION, READ = "hiclr_fast packed", 2, (1, 2)  # 1 knew metres in space and whole sets of labels
CHUNK = 1 << 24  # bytes of rows read at a time
LARGEST_META = 1 << 26  # bytes
MOST_NUMBERS = 1 << 24  # of one sample
MOST_ID = 2**31 - 1  # subjects and views
SPLIT, FILE = re.compile(r"[\w-]+"), re.compile(r"[\w-]+\.np[yz]")
VERIFY = 4 << 30  # bytes; a larger set is not hashed on every opening, `scripts/prepare.py check` does it


@dataclass(frozen=True)
class Split:
    """x: (N, 3, T, V, M) float32 array or Rows on disk; label, subject, view: (N,) ints, -1 unknown; name: (N,) unicode."""

    x: np.ndarray | Rows
    label: np.ndarray
    name: np.ndarray
    subject: np.ndarray
    view: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    @property
    def unlabelled(self) -> int:
        """How many samples have no label."""
        return int((self.label < 0).sum())


@dataclass(frozen=True)
class Packed:
    path: Path
    layout: Layout
    classes: tuple[str, ...]
    shape: tuple[int, int, int, int]  # (3, T, V, M)
    splits: dict[str, Split]
    checksum: str  # SHA-256 of meta.json, which holds the checksum of every file
    facts: Mapping[str, Any] = field(default_factory=dict)  # what meta.json says beside its files: preprocessing, classes, ...
    space: Space = METRES  # what the coordinates are

    @property
    def labelled(self) -> bool:
        """Whether every sample has a label."""
        return not any(split.unlabelled for split in self.splits.values())

    def class_name(self, label: int) -> str:
        return self.classes[label] if label >= 0 else "no label"

    def __getitem__(self, split: str) -> Split:
        if split not in self.splits:
            raise InputError(f"{self.path}: no {split!r} split, only {sorted(self.splits)}; prepare the set with one")
        return self.splits[split]


def check_values(x: np.ndarray, name: np.ndarray, where: str, first: int = 0) -> None:
    """InputError naming the first row that holds NaN or Inf or is zero everywhere. x: (n, ...), rows first .. first + n."""
    flat = x.reshape(len(x), -1)
    for bad, what in ((~np.isfinite(flat).all(axis=1), "NaN or Inf"), (~flat.any(axis=1), "only zeros")):
        if bad.any():
            i = first + int(np.argmax(bad))
            raise InputError(f"{where}: sample {i} ({name[i]}) holds {what}; drop or repair it and prepare again")


def chunks(rows: int, row: tuple[int, ...]) -> list[slice]:
    """Slices of about CHUNK bytes that cover `rows` float32 rows of shape `row`."""
    step = max(1, CHUNK // max(1, int(np.prod(row)) * 4))
    return [slice(a, min(a + step, rows)) for a in range(0, rows, step)]


def check_labels(label: np.ndarray, classes: int, where: str) -> None:
    bad = np.flatnonzero((label < -1) | (label >= classes))
    if len(bad):
        expected = f"0 to {classes - 1}" if classes else "no label: there are no classes"
        raise InputError(f"{where}: sample {bad[0]} has label {label[bad[0]]}, expected {expected}, or -1 for none")


def _read_meta(path: Path) -> tuple[dict, str]:
    file = path / "meta.json"
    if not file.is_file():
        raise InputError(f"{path} is not a packed dataset (no meta.json); make one with scripts/prepare.py")
    text = read_whole(file, LARGEST_META)
    try:
        meta = expect(parse_json(text, str(file)), dict, str(file))
        if meta["format"] != FORMAT or meta["version"] not in READ:
            raise ValueError(f"format {meta['format']!r} version {meta['version']}")
        layout = meta["layout"]
        meta["layout"] = LAYOUTS[layout] if isinstance(layout, str) else Layout.from_dict(layout, "layout")
        meta["shape"] = tuple(expect(s, int, "shape", "a length") for s in meta["shape"])
        shape, said = meta["shape"], meta.get("preprocessing", {})
        Preprocess.from_dict(said, "preprocessing")
        if len(shape) != 4 or math.prod(shape) > MOST_NUMBERS or said.get("frames", shape[1]) != shape[1]:
            raise ValueError(f"a shape of {len(shape)} lengths, too large, or with other frames than the preprocessing")
        meta["classes"] = tuple(expect(c, str, "classes", "a name") for c in meta["classes"])
        if not meta["splits"]:
            raise ValueError("no split")
        for split, described in meta["splits"].items():
            if expect(described["samples"], int, split, "samples") < 1:
                raise ValueError(f"split {split[:60]!r} has no samples")
            for name, facts in described["files"].items():
                if not FILE.fullmatch(name) or not name.startswith(split) or not SPLIT.fullmatch(split):
                    raise ValueError(f"file name {name[:60]!r} of split {split[:60]!r}")
                expect(facts["bytes"], int, name, "bytes")
                expect(facts["sha256"], str, name, "sha256")
            if not _shards(split, described) or set(described["files"]) != {*_shards(split, described), f"{split}_samples.npz"}:
                raise ValueError(f"the files of split {split[:60]!r} are not its rows and its samples")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{file}: not a {FORMAT} version {VERSION} description ({reason}); prepare the set again") from None
    return meta, hashlib.sha256(text).hexdigest()


def _shards(split: str, described: dict) -> list[str]:
    """The files of rows in their order; empty where they are not those that belong together."""
    found = sorted(name for name in described["files"] if name.endswith(".npy"))
    return found if found in ([f"{split}.npy"], [f"{split}_{i:05d}.npy" for i in range(len(found))]) else []


def _open_split(path: Path, split: str, meta: dict) -> Split:
    described = meta["splits"][split]
    for file, facts in described["files"].items():
        if not (path / file).is_file():
            raise InputError(f"{path / file} is missing; prepare the set again")
        size = (path / file).stat().st_size
        if size != facts["bytes"]:
            raise InputError(f"{path / file}: {size} bytes, expected {facts['bytes']}; the file was cut, prepare again")
    return Split(*_columns(path, split, described, meta))


def _columns(path: Path, split: str, described: dict, meta: dict) -> tuple:
    x = Rows([path / file for file in _shards(split, described)])
    expected = (described["samples"], *meta["shape"])
    if x.shape != expected or x.dtype != np.float32:
        raise InputError(f"{path / split}.npy: {x.dtype} {x.shape}, expected float32 {expected}; prepare again")
    samples, file = read_npz(path / f"{split}_samples.npz"), f"{path / split}_samples.npz"
    for column, kinds in (("label", "iu"), ("name", "U"), ("subject", "iu"), ("view", "iu")):
        if column not in samples:
            raise InputError(f"{file}: no {column!r} column; prepare again")
        if samples[column].shape != (len(x),) or samples[column].dtype.kind not in kinds:
            found = f"{samples[column].dtype} {samples[column].shape}"
            raise InputError(f"{file}: {column} is {found}, expected one of kind {kinds} for each of {len(x)} samples")
    check_labels(samples["label"], len(meta["classes"]), f"{path} {split}")
    for column in ("subject", "view"):
        if len(x) and not -1 <= samples[column].min() <= samples[column].max() <= MOST_ID:
            raise InputError(f"{file}: a {column} is below -1 or above {MOST_ID}; prepare again")
    return x, samples["label"].astype(np.int64), samples["name"], *(samples[c].astype(np.int32) for c in ("subject", "view"))


def verify(path: Path, split: str, data: Split, files: dict[str, dict], progress: bool = False) -> None:
    """InputError when a file's SHA-256 is not the one in meta.json or a sample is not finite or zero everywhere."""
    for file in tqdm(files, desc=f"checksums of {split}", unit="file", disable=not progress):
        if sha256(path / file) != files[file]["sha256"]:
            raise InputError(f"{path / file}: its checksum is not the one in meta.json; the file was changed, prepare again")
    for part in tqdm(chunks(len(data), data.x.shape[1:]), desc=f"values of {split}", unit="chunk", disable=not progress):
        check_values(data.x[part], data.name, f"{path} {split}", part.start)


def open_packed(path: Path, full: bool = False) -> Packed:
    """Opens and checks a packed dataset: sizes, shapes, dtypes, labels; and every checksum and value (finite, not all zero)
    when the set is at most VERIFY bytes or `full` is true (then with progress bars).

    Raises InputError with what is wrong, where, and what to do.
    """
    path = Path(path)
    meta, checksum = _read_meta(path)
    shape, layout = meta["shape"], meta["layout"]
    if len(shape) != 4 or min(shape) < 1 or shape[0] != 3 or shape[2] != layout.num_joints:
        raise InputError(f"{path}: sample shape {shape}, expected (3, T, {layout.num_joints} joints of {layout.name}, M)")
    splits = {split: _open_split(path, split, meta) for split in meta["splits"]}
    size = sum(split.x.nbytes for split in splits.values())
    if full or size <= VERIFY:
        for split, data in splits.items():
            verify(path, split, data, meta["splits"][split]["files"], progress=full)
    else:
        tqdm.write(f"{path}: {size >> 30} GiB, checksums not verified now; `scripts/prepare.py check {path}` does")
    facts = {name: value for name, value in meta.items() if name not in ("format", "version", "splits", "layout", "shape")}
    space = Space.from_dict(meta.get("space"), f"{path / 'meta.json'} space")
    return Packed(path, layout, meta["classes"], shape, splits, checksum, facts, space)
