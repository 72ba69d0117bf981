"""Is a packed dataset sound, and are its splits clean? A table, warnings, and a picture of what is in it."""

import csv
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hiclr_fast.data.packed.dataset import Packed, Split, chunks, open_packed
from hiclr_fast.drawing import Picture, contact_sheet
from hiclr_fast.errors import InputError

PICTURED = 20  # classes on the picture at most
UNITS = {"m": "metres", "body": "bodies", "image": "half images"}
PEOPLE = (0.3, 4.0)  # metres, sizes of bodies that are no surprise


def about_size(data: Packed) -> str:
    """One line on what the coordinates are, and a warning where no person is so large."""
    space, kind = data.space, {"depth": "x, y, z", "zero": "x, y and a zero", "score": "x, y and the score"}[data.space.third]
    size = "" if space.size is None else f"; bodies are {space.size:.3g} across (median)"
    given = dict(data.facts.get("preprocessing", {})).get("unit", "m")
    found = "" if given == "m" or space.flat else f" (the recordings are in {given})"
    line = f"coordinates: {kind}, in {UNITS[space.unit]}{found}{size}"
    if space.unit == "m" and space.size is not None and not PEOPLE[0] <= space.size <= PEOPLE[1]:
        return f"{line}\nwarning: people are not {space.size:.3g} m across; if these are people, give the right --unit"
    return line


def row_digests(split: Split) -> list[bytes]:
    """16 bytes a sample that are equal where all its values are."""
    out = []
    for part in tqdm(chunks(len(split), split.x.shape[1:]), desc="looking for duplicates", unit="chunk", leave=False):
        out += [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in split.x[part]]
    return out


def duplicates_across(data: Packed) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """{(split, other): [(row, row of the other)]} of samples that are equal in every value; (split, split): inside one."""
    first: dict[bytes, tuple[str, int]] = {}
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for name, split in data.splits.items():
        for row, digest in enumerate(row_digests(split)):
            earlier = first.setdefault(digest, (name, row))
            if earlier != (name, row):
                found.setdefault((name, earlier[0]), []).append((row, earlier[1]))
    return found


def _facts(split: Split, classes: int) -> list[str]:
    """One column of the table."""
    low, high, second = np.inf, -np.inf, 0
    for part in chunks(len(split), split.x.shape[1:]):
        x = split.x[part]
        low, high = min(low, float(x.min())), max(high, float(x.max()))
        second += int(x[..., 1:].any(axis=(1, 2, 3, 4)).sum())
    counts = np.bincount(split.label[split.label >= 0], minlength=classes)
    known = [f"{len(np.unique(c[c >= 0]))}" if (c >= 0).any() else "unknown" for c in (split.subject, split.view)]
    balance = f"{counts[counts > 0].min()} to {counts.max()}" if counts.any() else "no labels"
    labelled = [str(len(split)), str(split.unlabelled), f"{(counts > 0).sum()} of {classes}", balance]
    return [*labelled, *known, f"{low:.2f} to {high:.2f}", str(second)]


def warnings(data: Packed) -> tuple[list[str], list[str]]:
    """(leaks, notes) in plain sentences."""
    leaks, notes = [], []
    for (split, other), pairs in duplicates_across(data).items():
        row, twin = pairs[0]
        example = f"the first: {data[split].name[row]} = {data[other].name[twin]}"
        if split == other:
            notes.append(f"{len(pairs)} of {len(data[split])} {split} samples repeat an earlier one exactly ({example})")
        else:
            leaks.append(f"{len(pairs)} of {len(data[split])} {split} samples are exact copies of {other} samples ({example})")
    names = [set(split.name.tolist()) for split in data.splits.values()]
    shared = set.intersection(*names) if len(names) > 1 else set()
    if shared:
        leaks.append(f"{len(shared)} sample names are in both splits (the first: {min(shared)})")
    if {"train", "val"} <= set(data.splits):
        train, val = data["train"], data["val"]
        both = {}
        for column in ("subject", "view"):
            a, b = (set(getattr(split, column).tolist()) - {-1} for split in (train, val))
            both[column] = a & b if a and b else None
        if any(common is not None and not common for common in both.values()):
            kinds = [column for column, common in both.items() if common is not None and not common]
            notes.append(f"no {' and no '.join(kinds)} is in both splits")
        elif any(both.values()):
            notes.append("subjects and views are shared by the splits: neither cross-subject nor cross-view")
        absent = set(np.unique(val.label).tolist()) - set(np.unique(train.label).tolist()) - {-1}
        if absent:
            leaks.append(f"class {data.classes[min(absent)]} has validation samples but no training samples")
    return leaks, notes


def check_dataset(folder: Path, picture: Path | None = None) -> int:
    """Prints the table; 0 where the set is sound, 1 where its splits leak. InputError where a file is damaged or a value bad."""
    data = open_packed(folder, full=True)
    labels = ["samples", "without label", "classes present", "samples a class", "subjects", "views"]
    labels += [f"values, {UNITS[data.space.unit]}", "second body seen"]
    columns = [_facts(split, len(data.classes)) for split in data.splits.values()]
    print(f"{folder}: layout {data.layout.name}, samples of {data.shape}; every checksum and value is right")
    for cells in zip(["", *labels], *([name, *column] for name, column in zip(data.splits, columns, strict=True)), strict=True):
        print("  ".join(f"{cell:>18}" for cell in cells))
    print(about_size(data))
    report = Path(folder) / "report.csv"
    if report.is_file():
        try:
            with open(report, newline="", encoding="utf-8", errors="replace") as file:
                counts = Counter(line["what"] for line in csv.DictReader(file))
        except (KeyError, csv.Error, OSError) as error:
            raise InputError(f"{report}: not the report of a conversion ({error}); remove it") from None
        print("when it was made: " + ", ".join(f"{n} {what}" for what, n in counts.items()) + f" (reasons in {report})")
    leaks, notes = warnings(data)
    for note in notes:
        print(f"note: {note}")
    for leak in leaks:
        print(f"LEAK: {leak}")
    if picture:
        draw_classes(data, picture)
        print(f"picture: {picture}")
    return 1 if leaks else 0


def draw_classes(data: Packed, path: Path) -> None:
    """PNG: the first training sample of every class (of PICTURED classes, evenly spaced, where there are more)."""
    split = next(iter(data.splits.values()))
    present = np.unique(split.label)
    chosen = present[np.unique(np.linspace(0, len(present) - 1, min(PICTURED, len(present))).round().astype(int))]
    found = []
    for label in chosen:
        row = int(np.argmax(split.label == label))
        x = split.x[row]
        found.append(Picture(data.class_name(label), str(split.name[row]), x, np.zeros(x.shape[1:3], bool), data.space))
    contact_sheet(found, data.layout.bones, path)
