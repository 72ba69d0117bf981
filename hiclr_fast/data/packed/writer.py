"""Writes a packed dataset: rows stream through, the folder is whole or absent."""

import csv
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from hiclr_fast.data.packed.dataset import FORMAT, MOST_ID, MOST_NUMBERS, VERSION, Split, check_labels, check_values, chunks
from hiclr_fast.errors import InputError, os_sentence, writing
from hiclr_fast.files.archives import is_text, sha256
from hiclr_fast.files.atomic import left_over, new_folder
from hiclr_fast.skeletons import METRES, Layout, Space

SHARD = 1 << 30  # bytes of one row file
MAX_SHARDS = 256  # all stay open while a set is read


@contextmanager
def exclusive(out: Path) -> Iterator[Path]:
    """Only one process makes `out` at a time (a lock that the system drops when its holder dies). InputError when another does,
    or when `out` exists already."""
    out = Path(out)
    _must_be_new(out)
    lock = FileLock(out.parent / f".{out.name}.lock")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{out} is being written by another process; wait for it, or choose another folder") from None
    except OSError as error:
        raise InputError(f"cannot write {os_sentence(error, out)}") from None
    try:
        _must_be_new(out)  # another process may have finished it meanwhile
        for left in left_over(out):
            shutil.rmtree(left, ignore_errors=True)
        with writing(out):
            yield out
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _must_be_new(out: Path) -> None:
    if os.path.lexists(out):
        raise InputError(f"{out} exists already; choose another folder or remove it first")


def write_packed(
    out: Path,
    splits: dict[str, Split],
    layout: Layout,
    classes: Sequence[str],
    *,
    source: str,
    preprocessing: dict,
    report: Sequence[tuple[str, str, str]] = (),
    subjects: Sequence[str] = (),
    space: Space = METRES,
    shard_bytes: int = SHARD,
    locked: bool = False,
) -> None:
    """Writes under a temporary name beside `out` and renames at the end; memory use does not grow with the set.

    report: (recording, what was done, reason) lines for report.csv. subjects: names that the subject numbers stand for, where
    they are not numbers themselves. space: what the coordinates are. locked: the caller is inside `exclusive(out)`.
    Raises InputError when `out` exists already, a split is empty, or on values that `open_packed` would refuse.
    """
    for split, data in splits.items():
        if len(data) == 0:
            raise InputError(f"{source}: the {split} split would be empty; check the split option")
        if math.prod(data.x.shape[1:]) > MOST_NUMBERS:
            raise InputError(f"{source}: samples of {data.x.shape[1:]} are too large; prepare fewer frames or bodies")
        check_labels(data.label, len(classes), f"{source} {split}")
        for name, subject, view in zip(data.name.tolist(), data.subject.tolist(), data.view.tolist(), strict=True):
            check_ids(subject, view, f"{source} {split}: sample {name}")
            _check_text(name, "sample", source)
    for what, names in (("class", classes), ("subject", subjects)):
        for name in names:
            _check_text(name, what, source)
    with nullcontext(Path(out)) if locked else exclusive(out) as out, new_folder(out) as temporary:
        meta = _write_files(temporary, splits, source, shard_bytes, report)
        meta |= {
            "source": source,
            "layout": layout.as_dict(),
            "space": space.as_dict(),
            "classes": list(classes),
            "subjects": list(subjects),
            "preprocessing": preprocessing,
        }
        (temporary / "meta.json").write_text(json.dumps(meta, indent=1))


def check_ids(subject: Any, view: Any, where: str) -> None:
    """InputError where a number is none that a packed set holds; subjects may be names."""
    for what, value in (("subject", subject), ("view", view)):
        if not isinstance(value, str) and not -1 <= value <= MOST_ID:
            raise InputError(f"{where} has {what} {value}, expected 0 to {MOST_ID}, or -1 where it is unknown")


def _check_text(name: str, what: str, source: str) -> None:
    if not is_text(name):
        raise InputError(f"{source}: the name {name[:80]!r} of a {what} holds halves of characters; rename it")


def _write_files(folder: Path, splits: dict[str, Split], source: str, shard_bytes: int, report: Sequence) -> dict:
    """Every file but meta.json; what meta.json says about them."""
    described = {}
    with tqdm(total=sum(map(len, splits.values())), desc=f"writing {source}", unit="sample") as bar:
        for split, data in splits.items():
            files = _write_rows(folder, split, data, f"{source} {split}", shard_bytes, bar)
            samples = folder / f"{split}_samples.npz"
            np.savez(
                samples,
                label=data.label.astype(np.int64),
                name=data.name.astype(str),
                subject=data.subject.astype(np.int32),
                view=data.view.astype(np.int32),
            )
            files[samples.name] = {"bytes": samples.stat().st_size, "sha256": sha256(samples)}
            described[split] = {"samples": len(data), "files": files}
    if report:
        with open(folder / "report.csv", "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            csv.writer(file).writerows([("recording", "what", "reason"), *report])
    shape = list(next(iter(splits.values())).x.shape[1:])
    return {"format": FORMAT, "version": VERSION, "shape": shape, "splits": described}


def _write_rows(folder: Path, split: str, data: Split, where: str, shard_bytes: int, bar: tqdm) -> dict[str, dict]:
    """The row files of a split; {file name: size and SHA-256}. Every byte is hashed on its way."""
    row = data.x.shape[1:]
    rows = max(1, shard_bytes // (int(np.prod(row)) * 4), -(-len(data) // MAX_SHARDS))
    single, files = len(data) <= rows, {}
    for shard, start in enumerate(range(0, len(data), rows)):
        stop = min(start + rows, len(data))
        name = f"{split}.npy" if single else f"{split}_{shard:05d}.npy"
        with open(folder / name, "wb+") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (stop - start, *row)}
            np.lib.format.write_array_header_1_0(file, header)
            file.seek(0)
            digest = hashlib.sha256(file.read())
            for part in chunks(stop - start, row):
                block = np.ascontiguousarray(data.x[start + part.start : start + part.stop], dtype="<f4")
                check_values(block, data.name, where, start + part.start)
                digest.update(block)
                file.write(block)
                bar.update(len(block))
            files[name] = {"bytes": file.tell(), "sha256": digest.hexdigest()}
    return files
