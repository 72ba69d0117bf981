"""NTU RGB+D 60 and 120: `.skeleton` text -> recordings; names, official splits, body selection.

A file: number of frames; for each frame the number of bodies; for each body a line of 10 fields (the first is the body's id), the
number of joints, and a line of 12 fields a joint that starts with x y z in metres.
"""

import re
from pathlib import Path
from typing import Literal

import numpy as np
from hiclr_kernels.jit import compiled

from hiclr_fast.data.formats.bodies import Bodies, denoised, first_two
from hiclr_fast.data.formats.eight_bytes import FLAGS
from hiclr_fast.data.formats.parse_numbers import PAD, end_of_line, read_count, read_int, read_xyz, skip_fields
from hiclr_fast.data.formats.recording import Recording, read_bytes, read_padded
from hiclr_fast.errors import InputError

NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})")  # setup, camera, performer, replication, action
JOINTS = 25
EMPTY = 1 << 14  # frames without a body that a file may have; others take 600 bytes, as in memory
# Training subjects of cross-subject and training cameras of cross-view: Shahroudy et al. 2016; NTU 120: Liu et al. 2019.
XSUB60 = (1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38)
XSUB120 = (
    *XSUB60,
    *(45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89, 91, 92, 93, 94, 95, 97, 98),
    *(100, 103),
)
XVIEW60 = (2, 3)
CLASSES = {"ntu60": 60, "ntu120": 120}
SPLITS = ("ntu60_xsub", "ntu60_xview", "ntu120_xsub", "ntu120_xset")
_FAULTS = (
    "",
    "the text ends before all frames are read",
    "not a number where one is expected",
    "not 25 joints in a body",
    "a line has another number of fields than the format",
    "text after the last frame",
    "the number of frames does not fit the size of the file",
)


@compiled(**FLAGS)
def _parse(data, joints):
    """(fault, line, frames, frame (n,), id (n,), xyz (n, joints, 3)) of every body in every frame."""
    n = len(data) - PAD
    most = n // (2 * joints * 12) + 1  # a joint takes at least 24 bytes: nothing that the text claims decides the memory
    frame, ident = np.empty(most, np.int64), np.empty(most, np.int64)
    xyz = np.empty((most, joints, 3), np.float32)
    count, line = 0, 1
    frames, i, ok = read_count(data, 0)
    i, alone = end_of_line(data, i)
    if not ok or not alone:
        return 2, line, 0, frame[:0], ident[:0], xyz[:0]
    if frames < 0 or frames > EMPTY + most:
        return 6, line, 0, frame[:0], ident[:0], xyz[:0]
    for f in range(frames):
        line += 1
        if i >= n:
            return 1, line, 0, frame[:0], ident[:0], xyz[:0]
        bodies, i, ok = read_count(data, i)
        i, alone = end_of_line(data, i)
        if not ok or not alone or bodies < 0:
            return 2, line, 0, frame[:0], ident[:0], xyz[:0]
        for _ in range(bodies):
            line += 1
            if i >= n or count == most:
                return 1, line, 0, frame[:0], ident[:0], xyz[:0]
            body, i, ok = read_int(data, i)
            i, fields = skip_fields(data, i, 9)
            if not ok or fields != 9:
                return (4 if ok else 2), line, 0, frame[:0], ident[:0], xyz[:0]
            line += 1
            have, i, ok = read_count(data, i)
            i, alone = end_of_line(data, i)
            if not ok or not alone or have != joints:
                return (3 if ok and alone else 2), line, 0, frame[:0], ident[:0], xyz[:0]
            for v in range(joints):
                line += 1
                if i >= n:
                    return 1, line, 0, frame[:0], ident[:0], xyz[:0]
                x, y, z, i, ok = read_xyz(data, i)
                if not ok:
                    return 2, line, 0, frame[:0], ident[:0], xyz[:0]
                xyz[count, v, 0], xyz[count, v, 1], xyz[count, v, 2] = x, y, z
                i, fields = skip_fields(data, i, 9)
                if fields != 9:
                    return 4, line, 0, frame[:0], ident[:0], xyz[:0]
            frame[count], ident[count] = f, body
            count += 1
    while i < n:
        i, alone = end_of_line(data, i)
        if not alone:
            return 5, line + 1, 0, frame[:0], ident[:0], xyz[:0]
    return 0, line, frames, frame[:count], ident[:count], xyz[:count]


def parse_skeleton(text: np.ndarray, where: str) -> Bodies:
    """Every body of every frame of a padded `.skeleton` text; InputError with the line on anything that is not the format."""
    fault, line, frames, frame, ident, xyz = _parse(text, JOINTS)
    if fault:
        raise InputError(f"{where}, line {line}: {_FAULTS[fault]}; expected NTU RGB+D .skeleton text, drop or replace the file")
    return Bodies(frames, frame, ident, xyz)


def read_ntu(path: Path, bodies: Literal["first", "denoised"] = "first", named: bool = True) -> Recording:
    """One file -> (F, 25, 3, 2) float32 metres, absent bodies zero; label, subject and view (the camera) from its name. named: a
    name without them is an InputError, else it is a recording of which they are unknown."""
    found = NAME.search(path.stem)
    if not found and not named:
        select = first_two if bodies == "first" else denoised
        return Recording(path.stem, select(parse_skeleton(read_padded(path, PAD), str(path))))
    if not found:
        raise InputError(f"{path}: the name holds no SsssCcccPpppRrrrAaaa; rename it as NTU RGB+D does")
    setup, camera, performer, _, action = map(int, found.groups())
    if action < 1:
        raise InputError(f"{path}: action A000; NTU RGB+D counts from A001")
    select = first_two if bodies == "first" else denoised
    frames = select(parse_skeleton(read_padded(path, PAD), str(path)))
    return Recording(found.group(), frames, action - 1, performer, camera, setup)


def in_training(split: str, subject: np.ndarray, view: np.ndarray, setup: np.ndarray) -> np.ndarray:
    """(n,) bool of an official split. subject, view (camera), setup: (n,) ints."""
    if split == "ntu60_xview":
        return np.isin(view, XVIEW60)
    if split == "ntu120_xset":
        return setup % 2 == 0
    return np.isin(subject, XSUB60 if split == "ntu60_xsub" else XSUB120)


def find_files(folders: list[Path], skip: Path | None) -> list[Path]:
    """Every .skeleton file below the folders, by name, without those listed in `skip` (one name a line, as the published list
    of samples with missing skeletons)."""
    files = sorted((f for folder in folders for f in Path(folder).rglob("*.skeleton")), key=lambda f: (f.name, str(f)))
    if not files:
        raise InputError(f"{', '.join(map(str, folders))}: no .skeleton file; give the folders that NTU RGB+D unpacks to")
    listed = set(NAME.findall(read_bytes(skip).decode(errors="replace"))) if skip else set()
    return [f for f in files if not (m := NAME.search(f.stem)) or m.groups() not in listed]
