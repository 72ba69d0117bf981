"""Raw recordings -> a packed dataset, in chunks that survive an interruption: the same command continues where it stopped.

Chunks lie in a work folder `.OUT.{key}.work` beside OUT; the key covers the inputs (names, sizes, times) and every setting.
At the end the chunks become the packed folder, which is renamed into place whole, and the work folder goes.
"""

import hashlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from hiclr_fast.data.formats.recording import Recording, repaired
from hiclr_fast.data.packed.dataset import Split
from hiclr_fast.data.packed.rows_on_disk import Rows
from hiclr_fast.data.packed.writer import exclusive, write_packed
from hiclr_fast.data.preprocess import Preprocess, preprocess
from hiclr_fast.errors import InputError, writing
from hiclr_fast.files.archives import read_npz
from hiclr_fast.files.atomic import write_npz
from hiclr_fast.skeletons import Layout

CHUNK = 512  # items between two points where an interrupted run continues
COLUMNS = ("label", "subject", "view", "setup")


@dataclass(frozen=True)
class Conversion:
    """How any raw dataset is converted.

    strict: stop at the first recording that would be rejected or repaired. workers: reading threads (parsing and reading
    release the GIL); 0: one a core. min_frames: shorter recordings are rejected.
    """

    strict: bool = False
    workers: int = 0
    min_frames: int = 1


def _signature(items: Iterable[Any], settings: str) -> str:
    digest = hashlib.sha256(settings.encode())
    for item in items:
        try:
            facts = item.stat() if isinstance(item, Path) else None
        except OSError:
            facts = None  # a link to nowhere; reading says so
        digest.update(os.fsencode(f"{item} {facts and (facts.st_size, facts.st_mtime_ns)}\n"))
    return digest.hexdigest()[:12]


def _spelled(text: Any) -> str:
    """With escapes for the bytes of a file name that are no text."""
    return str(text).encode(errors="backslashreplace").decode()


def _one(item: Any, read: Callable[[Any], list[Recording]], layout: Layout, how: Preprocess, options: Conversion):
    """([(row, recording)], [(name, what, reason)]) of one item."""
    kept, report = [], []
    try:
        recordings = read(item)
    except InputError as error:
        if options.strict:
            raise
        return kept, [(_spelled(item), "rejected", _spelled(error))]
    for recording in recordings:
        try:
            if _spelled(recording.name) != recording.name:
                raise InputError(f"{_spelled(recording.name)}: the name is no text; rename the file")
            if len(recording.frames) < options.min_frames:
                raise InputError(f"{recording.name}: {len(recording.frames)} frames, at least {options.min_frames} are wanted")
            frames, note = repaired(recording)
            if note and options.strict:
                raise InputError(f"{recording.name}: {note}; repair the file, or leave out --strict")
            kept.append((preprocess(frames, layout, how, recording.name), recording))
            if note:
                report.append((recording.name, "repaired", note))
        except InputError as error:
            if options.strict:
                raise
            report.append((_spelled(recording.name), "rejected", _spelled(error)))
    return kept, report


def _save_chunk(done: Path, results: list) -> None:
    """{chunk}.npy with the rows, then {chunk}.npz with their columns: a chunk counts once the second has its name."""
    kept = [pair for rows, _ in results for pair in rows]
    report = [line for _, lines in results for line in lines]
    columns = {c: np.array([getattr(r, c) for _, r in kept], dtype=np.int64) for c in COLUMNS}
    columns["name"] = np.array([r.name for _, r in kept], dtype=str)
    columns["split"] = np.array([r.split or "" for _, r in kept], dtype=str)
    columns["report"] = np.array(report, dtype=str).reshape(-1, 3)
    if kept:
        with writing(done):
            np.save(done.with_suffix(".npy"), np.stack([x for x, _ in kept]))
    write_npz(done, columns)


def convert(
    items: Sequence[Any],
    read: Callable[[Any], list[Recording]],
    out: Path,
    layout: Layout,
    how: Preprocess,
    options: Conversion,
    *,
    train: Callable[[dict[str, np.ndarray]], np.ndarray],
    classes: Sequence[str] | None,
    source: str,
    depends: Sequence[Path] = (),
) -> list[tuple[str, str, str]]:
    """Writes `out` and returns its report: (recording, rejected | repaired, reason) lines.

    items: paths or numbers; read(item): its recordings; depends: other files that `read` looks at; train: columns (label,
    subject, view, setup, name, split) -> (n,) bool; classes: names, none: 0 to the largest label. Raises InputError where
    nothing is left, and with `options.strict` on the first bad recording.
    """
    key = _signature(itertools.chain(items, depends), f"{source} {layout.name} {how} {options.min_frames} {CHUNK}")
    with exclusive(Path(out)) as out:
        work = out.parent / f".{out.name}.{key}.work"
        work.mkdir(parents=True, exist_ok=True)
        names = [work / f"{i:06d}.npz" for i in range(-(-len(items) // CHUNK))]
        ready = sum(min(CHUNK, len(items) - i * CHUNK) for i, name in enumerate(names) if name.exists())
        workers = options.workers or os.cpu_count() or 1
        with ThreadPoolExecutor(workers) as pool, tqdm(total=len(items), initial=ready, desc="reading", unit="file") as bar:

            def one(item: Any):
                result = _one(item, read, layout, how, options)
                bar.update()
                return result

            for i, name in enumerate(names):
                if not name.exists():
                    _save_chunk(name, list(pool.map(one, items[i * CHUNK : (i + 1) * CHUNK])))
        columns, report, rows = _gather(names, source)
        is_train = train(columns)
        splits = {}
        for split, chosen in (("train", is_train), ("val", ~is_train)):
            index = np.flatnonzero(chosen)
            values = (columns[c][index] for c in ("label", "name", "subject", "view"))
            splits[split] = Split(rows.take(index), *values)
        if len(splits["val"]) == 0:
            del splits["val"]
        classes = classes or [str(c) for c in range(int(columns["label"].max()) + 1)]
        write_packed(out, splits, layout, classes, source=source, preprocessing=how.as_dict(), report=report, locked=True)
        shutil.rmtree(work)
    return report


def _gather(names: list[Path], source: str) -> tuple[dict[str, np.ndarray], list[tuple[str, str, str]], Rows]:
    """Columns of every kept recording, the report and the rows, of all chunks; a name that came before is rejected."""
    chunks = [read_npz(name) for name in names]
    columns = {c: np.concatenate([chunk[c] for chunk in chunks]) for c in (*COLUMNS, "name", "split")}
    report = [tuple(line) for chunk in chunks for line in chunk["report"].tolist()]
    if len(columns["name"]) == 0:
        reason = f"; the first reason: {report[0][2]}" if report else ""
        raise InputError(f"{source}: no recording could be used ({len(report)} rejected){reason}")
    rows = Rows([name.with_suffix(".npy") for name, chunk in zip(names, chunks, strict=True) if len(chunk["name"])])
    _, first = np.unique(columns["name"], return_index=True)
    again = np.setdiff1d(np.arange(len(columns["name"])), first)
    report += [(str(columns["name"][i]), "rejected", "an earlier recording has the same name") for i in again]
    kept = np.sort(first)
    return {c: values[kept] for c, values in columns.items()}, report, rows.take(kept)


def summary(report: Sequence[tuple[str, str, str]]) -> str:
    """One line: how many recordings were rejected and repaired."""
    counts = {what: sum(line[1] == what for line in report) for what in ("rejected", "repaired")}
    return ", ".join(f"{n} {what}" for what, n in counts.items())
