"""Writes a packed dataset: rows stream through, the folder is whole or absent."""

import csv
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hiclr_fast.data.files import sha256
from hiclr_fast.data.packed import FORMAT, VERSION, Split, check_labels, check_values, chunks
from hiclr_fast.errors import InputError
from hiclr_fast.skeletons import LAYOUTS, Layout

SHARD = 1 << 30  # bytes of one row file
MAX_SHARDS = 256  # all stay open while a set is read


def refuse_existing(out: Path) -> None:
    if Path(out).exists():
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
    shard_bytes: int = SHARD,
) -> None:
    """Writes under a temporary name beside `out` and renames at the end; memory use does not grow with the set.

    report: (recording, rejected | repaired, reason) lines for report.csv. Raises InputError when `out` exists already, a split is
    empty, or on values that `open_packed` would refuse.
    """
    out = Path(out)
    refuse_existing(out)
    for split, data in splits.items():
        if len(data) == 0:
            raise InputError(f"{source}: the {split} split would be empty; check the split option")
        check_labels(data.label, len(classes), f"{source} {split}")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        described = {}
        with tqdm(total=sum(map(len, splits.values())), desc=f"writing {out}", unit="sample") as bar:
            for split, data in splits.items():
                files = _write_rows(temporary, split, data, f"{source} {split}", shard_bytes, bar)
                samples = temporary / f"{split}_samples.npz"
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
            with open(temporary / "report.csv", "w", newline="") as file:
                csv.writer(file).writerows([("recording", "what", "reason"), *report])
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
