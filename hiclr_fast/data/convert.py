"""Raw recordings -> a packed dataset, in chunks that survive an interruption: the same command continues where it stopped.

Chunks lie in a work folder `.OUT.{key}.work` beside OUT; the key covers the inputs (names, sizes, times) and every setting.
At the end the chunks become the packed folder, which is renamed into place whole, and the work folder goes.
"""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from hiclr_fast.data.formats.recording import Recording, check_length, repaired
from hiclr_fast.data.labels import name_classes, numbered, numbers
from hiclr_fast.data.packed.dataset import Split
from hiclr_fast.data.packed.rows_on_disk import Rows
from hiclr_fast.data.packed.writer import check_ids, exclusive, write_packed
from hiclr_fast.data.preprocess import Preprocess, body_size, preprocess_noted
from hiclr_fast.errors import InputError, writing
from hiclr_fast.files.archives import is_text, read_npz
from hiclr_fast.files.atomic import remove_folder, write_npz
from hiclr_fast.files.ranges import Range, check_ranges
from hiclr_fast.skeletons import Layout

CHUNK = 512  # items between two points where an interrupted run continues
LARGE = 1e9  # coordinates of a row beyond it are no measurements; their squares overflow in training
PROBED = 16  # items that are looked at to find out what the coordinates are
COLUMNS = ("label", "subject", "view", "setup")  # the first two are numbers or names
Report = list[tuple[str, str, str]]  # (recording, rejected | repaired | filled | cut, reason)


@dataclass(frozen=True)
class Conversion:
    """How any raw dataset is converted."""

    strict: bool = False
    """Stop at the first recording that would be rejected or repaired."""
    workers: int = 0
    """Reading threads (parsing and reading release the GIL); 0: one a core."""
    min_frames: int = 1
    """Shorter recordings are rejected."""


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


def row_of(recording: Recording, layout: Layout, how: Preprocess) -> tuple[np.ndarray, Report]:
    """(the row (3, T, V, M) float32 that a packed set holds of the recording, what was done to it). InputError where it cannot be
    used."""
    frames, mended = repaired(recording)
    score = None if recording.score is None else np.nan_to_num(recording.score, posinf=0, neginf=0)
    with np.errstate(over="ignore", invalid="ignore"):
        row, note = preprocess_noted(frames, layout, how, recording.name, score, recording.image)
        if not np.abs(row).max() <= LARGE:
            raise InputError(f"{recording.name}: coordinates beyond {LARGE:g}; drop the file, or check its unit")
    report = [(recording.name, "repaired", mended)] * bool(mended)
    return row, report + [(recording.name, "filled" if how.gaps == "keep" else "cut", note)] * bool(note)


def _one(item: Any, read: Callable[[Any], list[Recording]], layout: Layout, how: Preprocess, options: Conversion, flat: bool):
    """([(row, recording)], report) of one item."""
    kept, report = [], []
    try:
        recordings = read(item)
    except InputError as error:
        if options.strict:
            raise
        return kept, [(_spelled(item), "rejected", _spelled(error))]
    for recording in recordings:
        name = recording.name
        try:
            if not is_text(recording.name):
                raise InputError(f"{_spelled(recording.name)}: the name is no text; rename the file")
            check_ids(recording.subject, recording.view, name)
            check_length(len(recording.frames), name)
            if len(recording.frames) < options.min_frames:
                raise InputError(f"{name}: {len(recording.frames)} frames, at least {options.min_frames} are wanted")
            if recording.frames.ndim == 4 and (recording.frames.shape[2] == 2) != flat:
                others = "(x, y)" if flat else "(x, y, z)"
                raise InputError(f"{name}: shape {recording.frames.shape}, the other recordings are {others}; drop it")
            row, done = row_of(recording, layout, how)
            if not row.any():
                raise InputError(f"{name}: all its joints lie in one point, or never move; drop the file")
            if options.strict and (mended := [what for _, word, what in done if word == "repaired"]):
                raise InputError(f"{name}: {mended[0]}; repair the file, or leave out --strict")
            kept.append((row, recording))
            report += done
        except InputError as error:
            if options.strict:
                raise
            report.append((_spelled(recording.name), "rejected", _spelled(error)))
    return kept, report


def probe(items: Sequence[Any], read: Callable[[Any], list[Recording]]) -> tuple[bool, float]:
    """(whether the recordings are (x, y), median size of their bodies) of a few items."""
    sizes, flat = [], []
    for i in np.unique(np.linspace(0, len(items) - 1, min(PROBED, len(items))).astype(int)):
        try:
            for recording in read(items[i]):
                x = recording.frames
                flat.append(x.ndim == 4 and x.shape[2] == 2)
                with np.errstate(over="ignore"):
                    sizes.append(body_size(x if np.isfinite(x).all() else np.nan_to_num(x)))
        except (InputError, ValueError, IndexError):
            continue  # it is reported when its turn comes
    sizes = [size for size in sizes if 0 < size <= LARGE]
    return sum(flat) * 2 > len(flat), float(np.median(sizes)) if sizes else 0.0


def _save_chunk(done: Path, results: list) -> None:
    """{chunk}.npy with the rows, then {chunk}.npz with their columns: a chunk counts once the second has its name."""
    kept = [pair for rows, _ in results for pair in rows]
    report = [line for _, lines in results for line in lines]
    columns = {c: np.array([getattr(r, c) for _, r in kept], dtype=np.int64) for c in COLUMNS[2:]}
    columns |= {c: np.array([str(getattr(r, c)) for _, r in kept], dtype=str) for c in COLUMNS[:2]}
    columns["name"] = np.array([r.name for _, r in kept], dtype=str)
    columns["split"] = np.array([r.split or "" for _, r in kept], dtype=str)
    columns["size"] = np.array([body_size(x.transpose(1, 2, 0, 3)[:, :, : r.frames.shape[2]]) for x, r in kept], dtype=float)
    columns["report"] = np.array(report, dtype=str).reshape(-1, 3)
    if kept:
        with writing(done):
            np.save(done.with_suffix(".npy"), np.stack([x for x, _ in kept]))
    write_npz(done, columns)


@contextmanager
def _work_folder(out: Path, key: str) -> Iterator[Path]:
    """The folder of the chunks. It goes when the block ends well, and when it fails before a chunk is there; else the message
    says that it stays."""
    work = out.parent / f".{out.name}.{key}.work"
    work.mkdir(parents=True, exist_ok=True)
    try:
        yield work
    except BaseException as error:
        if not any(work.glob("[0-9]*[0-9].npz")):
            remove_folder(work)
            raise
        stays = f"what was read stays in {work}, and the same command goes on from there; remove it when it is not wanted"
        if isinstance(error, InputError):
            raise InputError(f"{error} ({stays})") from None
        tqdm.write(f"stopped: {stays}")
        raise
    remove_folder(work)


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
    content: str = "",
) -> Report:
    """Writes `out` and returns its report.

    items: paths or numbers; read(item): its recordings; depends, content: other files, and other facts, that the recordings
    depend on; train: columns (label, subject, view, setup, name, split) -> (n,) bool; classes: names of labels 0, 1, ...;
    none: the labels that occur, in order. Raises InputError where nothing is left, and with `options.strict` on the first bad
    recording.
    """
    check_ranges(options, {"workers": Range(0, 1024)}, "--{}")
    flat, size = probe(items, read)
    how = how.settled(flat, layout, size)
    how.check(flat, layout)
    settings = f"{content} {layout.as_dict()} {how} {options.min_frames} {CHUNK}"
    with exclusive(Path(out)) as out, _work_folder(out, _signature(itertools.chain(items, depends), settings)) as work:
        names = [work / f"{i:06d}.npz" for i in range(-(-len(items) // CHUNK))]
        ready = sum(min(CHUNK, len(items) - i * CHUNK) for i, name in enumerate(names) if name.exists())
        workers = options.workers or os.cpu_count() or 1
        with ThreadPoolExecutor(workers) as pool, tqdm(total=len(items), initial=ready, desc="reading", unit="file") as bar:

            def one(item: Any):
                result = _one(item, read, layout, how, options, flat)
                bar.update()
                return result

            for i, name in enumerate(names):
                if not name.exists():
                    _save_chunk(name, list(pool.map(one, items[i * CHUNK : (i + 1) * CHUNK])))
        columns, report, rows = _gather(names, source)
        is_train = train(columns)
        label, classes = name_classes(columns["label"], classes, source)
        subject, subjects = numbered(columns["subject"])
        splits = {}
        for split, chosen in (("train", is_train), ("val", ~is_train)):
            index = np.flatnonzero(chosen)
            splits[split] = Split(rows.take(index), label[index], columns["name"][index], subject[index], columns["view"][index])
        if len(splits["val"]) == 0:
            del splits["val"]
        facts = dict(source=source, preprocessing=how.as_dict(), report=report, subjects=subjects)
        size = _median(columns["size"])
        if how.center == "pose":  # the rows hold movements, which are no bodies
            size = 1.0 if how.scale == "body" else None
        write_packed(out, splits, layout, classes, **facts, space=how.space(flat, size), locked=True)
    return report


def _median(sizes: np.ndarray) -> float | None:
    return float(np.median(sizes[sizes > 0])) if (sizes > 0).any() else None


def _gather(names: list[Path], source: str) -> tuple[dict[str, np.ndarray], Report, Rows]:
    """Columns of every kept recording, the report and the rows, of all chunks; a name that came before is rejected."""
    chunks = [read_npz(name) for name in names]
    columns = {c: np.concatenate([chunk[c] for chunk in chunks]) for c in (*COLUMNS, "name", "split", "size")}
    columns |= {c: numbers(columns[c]) for c in COLUMNS[:2]}
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


def summary(report: Report) -> str:
    """One line: how many recordings were rejected, repaired, filled and cut."""
    counts = {what: sum(line[1] == what for line in report) for what in ("rejected", "repaired", "filled", "cut")}
    return ", ".join(f"{n} {what}" for what, n in counts.items() if n)
