"""Labels and subjects: numbers or names on the way in, numbers with a list of names inside; -1 where there is none."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import read_whole

UNKNOWN = -1
LARGEST = 1 << 24  # bytes of a list of names


def numbers(names: np.ndarray) -> np.ndarray:
    """int64 where every name is a whole number."""
    try:
        return names.astype(np.int64)
    except (ValueError, OverflowError):
        return names


def numbered(names: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(numbers (n,) int64, what they stand for): numbers stand for themselves, names for their place in the sorted list; -1 and
    "-1": unknown."""
    if names.dtype.kind in "iu":
        return names.astype(np.int64), []
    known = sorted(set(names.tolist()) - {"-1"})
    index = {name: i for i, name in enumerate(known)} | {"-1": -1}
    return np.array([index[name] for name in names.tolist()], dtype=np.int64), known


def name_classes(label: np.ndarray, names: Sequence[str] | None, where: str) -> tuple[np.ndarray, list[str]]:
    """(labels 0..C-1, or -1 where there is none, (n,) int64; names of the C classes).

    label: whole numbers or names. names: of labels 0, 1, ..., all that may occur; none: the labels that occur, in order, are the
    classes. InputError on a label that is not among the names, and on numbers below -1.
    """
    unknown = -1 if label.dtype.kind in "iu" else "-1"
    found = np.unique(label[label != unknown]).tolist()
    if names is None:
        if label.dtype.kind in "iu" and found and found[0] < 0:
            raise InputError(f"{where}: label {found[0]}; expected numbers from 0, names, or -1 where there is none")
        index, names = {value: i for i, value in enumerate(found)}, [str(value) for value in found]
    else:
        if len(set(names)) < len(names):
            twice = next(name for name, times in Counter(names).items() if times > 1)
            raise InputError(f"{where}: the class name {twice!r} is there twice; give every class a name of its own")
        index = dict(enumerate(names)) if label.dtype.kind in "iu" else {name: name for name in names}
        wrong = [value for value in found if value not in index]
        if wrong:
            expected = f"0 to {len(names) - 1}" if label.dtype.kind in "iu" else f"one of {', '.join(names)[:200]}"
            raise InputError(f"{where}: label {wrong[0]}, expected {expected}: {len(names)} classes have names")
        index = {value: i for i, value in enumerate(index)}
    index[unknown] = -1
    return np.array([index[value] for value in label.tolist()], dtype=np.int64), list(names)


def read_names(path: Path) -> list[str]:
    """The names in a text file, one a line; InputError where there are none or one is there twice."""
    try:
        names = [line.strip() for line in read_whole(path, LARGEST).decode().splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: no readable text ({error}); give a file with one class name a line") from None
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice or not names:
        what = f"{twice[0]!r} is there twice" if twice else "no name in it"
        raise InputError(f"{path}: {what}; give a file with one class name a line, of label 0 first")
    return names
