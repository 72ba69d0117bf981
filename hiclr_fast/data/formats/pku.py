"""PKU-MMD, parts I and II: long untrimmed recordings -> one recording an action instance.

Skeleton file: one line a frame, 150 numbers, x y z of 25 joints of the first body, then of the second (zeros if absent).
Label file: one line an instance, class (from 1), first frame, last frame, confidence.
Split file (cross-subject.txt, cross-view.txt): the training and the validation recordings, separated by commas, each list under
a line that ends with a colon.
"""

import re
from pathlib import Path

import numpy as np
from hiclr_kernels.jit import compiled

from hiclr_fast.data.formats.eight_bytes import FLAGS
from hiclr_fast.data.formats.parse_numbers import LF, PAD, end_of_line, read_float, skip_blank
from hiclr_fast.data.formats.recording import Recording, read_bytes, read_padded
from hiclr_fast.errors import InputError

JOINTS, BODIES, CLASSES = 25, 2, 51
OVERLAP = 10  # instances that a frame may belong to, on the average
VIEWS = {"L": 1, "M": 2, "R": 3}


@compiled(**FLAGS)
def _table(text, columns):
    """(line of the first fault or 0, values (rows, columns))."""
    n = len(text) - PAD
    out = np.empty((n // (2 * columns) + 1, columns), np.float32)  # a number and its separator take two bytes
    rows, i = 0, 0
    while i < n:
        i = skip_blank(text, i)
        if text[i] == LF or i >= n:
            i += 1
            continue
        for c in range(columns):
            value, i, ok = read_float(text, i)
            if not ok or rows == len(out):
                return rows + 1, out[:0]
            out[rows, c] = value
        i, alone = end_of_line(text, i)
        if not alone:
            return rows + 1, out[:0]
        rows += 1
    return 0, out[:rows]


def read_frames(path: Path) -> np.ndarray:
    """(F, 25, 3, 2) float32 metres of a skeleton file."""
    fault, values = _table(read_padded(path, PAD), BODIES * JOINTS * 3)
    if fault:
        raise InputError(f"{path}, frame {fault}: not {BODIES * JOINTS * 3} numbers; expected 2 bodies of 25 joints in a line")
    return values.reshape(-1, BODIES, JOINTS, 3).transpose(0, 2, 3, 1)


def read_labels(path: Path) -> list[tuple[int, int, int]]:
    """(class from 0, start, stop) of every instance, as a Python slice; a reversed pair of frames is put in order."""
    out = []
    for number, line in enumerate(read_bytes(path).decode(errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            action, first, last = (int(field[:20]) for field in line.split(",", 3)[:3])
        except ValueError:
            raise InputError(f"{path}, line {number}: {line[:60]!r}, expected class,start,end,confidence") from None
        if not 1 <= action <= CLASSES or min(first, last) < 0:
            raise InputError(f"{path}, line {number}: class {action}, frames {first} to {last}; expected class 1 to {CLASSES}")
        out.append((action - 1, min(first, last), max(first, last)))
    return out


def read_split(path: Path) -> dict[str, str]:
    """{recording: train | val} of a split file."""
    out: dict[str, str] = {}
    split = None
    for line in read_bytes(path).decode(errors="replace").splitlines():
        head, colon, names = line.rpartition(":")
        if colon:
            split = next((kind for kind in ("train", "val") if kind in head.lower()), None)
        for name in re.findall(r"[\w-]+", names) if split else ():
            if out.setdefault(name, split) != split:
                raise InputError(f"{path}: {name[:80]} is both a training and a validation recording; correct the list")
    if set(out.values()) != {"train", "val"}:
        raise InputError(f"{path}: no training and validation lists; give the dataset's cross-subject.txt or cross-view.txt")
    return out


def read_pku(path: Path, labels: Path, splits: dict[str, str]) -> list[Recording]:
    """Every instance of one skeleton file; its name is the file's and the number of the instance, from 0."""
    frames, split, out = read_frames(path), splits[path.stem], []
    view, used = VIEWS.get(path.stem[-1], -1), 0
    for k, (action, start, stop) in enumerate(read_labels(labels / path.name)):
        if start >= len(frames) or stop > len(frames) or start == stop:
            raise InputError(f"{labels / path.name}: instance {k} has frames {start} to {stop}, {path.name} has {len(frames)}")
        used += stop - start
        if used > OVERLAP * len(frames):
            raise InputError(f"{labels / path.name}: its instances take each frame of {path.name} over {OVERLAP} times")
        out.append(Recording(f"{path.stem}_{k}", frames[start:stop], action, view=view, split=split))
    return out


def find_pku(skeletons: Path, labels: Path, splits: dict[str, str]) -> list[Path]:
    """The skeleton files that the split names, by name; InputError when one of them or its labels are not there."""
    files = [Path(skeletons) / f"{name}.txt" for name in sorted(splits)]
    for file in files:
        for wanted in (file, Path(labels) / file.name):
            if not wanted.is_file():
                raise InputError(f"{wanted} does not exist, but the split file names it; complete the folder or the list")
    return files
