"""Reads COUNT mutations of one kind of input file under a memory limit; prints what came of them as JSON.

python fuzz_inputs.py KIND FOLDER COUNT. Each mutation must end in a result or an InputError within SECONDS; anything else
ends the process with a traceback.
"""

import io
import json
import os
import pickle
import random
import resource
import signal
import sys
from pathlib import Path

import numpy as np
from data_files import write_ntu, write_pku, write_pyskl, write_ucla
from helpers import packed

from hiclr_fast.data.formats.ntu import read_ntu
from hiclr_fast.data.formats.official import read_split as read_official
from hiclr_fast.data.formats.pku import read_frames, read_labels
from hiclr_fast.data.formats.pyskl import Annotations
from hiclr_fast.data.formats.sequences import check_sequences, find_layout
from hiclr_fast.data.formats.ucla import read_ucla
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import read_npz
from hiclr_fast.skeletons import LAYOUTS

SECONDS, EXTRA = 20, 1 << 30  # per mutation; bytes of address space above what the process has when it starts
NTU = LAYOUTS["ntu25"]


class Shell:
    """A pickle of this runs a command when it is trusted."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def read_sequences(path: Path) -> None:
    arrays = read_npz(path)
    check_sequences(arrays, find_layout(arrays, "f"), "f")


def read_pyskl(path: Path) -> None:
    annotations = Annotations(path, "xsub_train", "xsub_val")
    for i in range(len(annotations)):
        annotations.read(i)


def read_pku(path: Path) -> None:
    read_frames(path)


def kinds(folder: Path):
    """{kind: (a sound file, what reads it)}."""
    skeletons, labels, _ = write_pku(folder / "pku", 2)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 3, 8, 25, 2)).astype(np.float32)
    np.save(folder / "x.npy", x)
    names = [f"S001C001P001R001A{i + 1:03d}.skeleton" for i in range(6)]
    (folder / "x.pkl").write_bytes(pickle.dumps((names, list(range(6)))))
    frames = x[:, :, :, :, 0].transpose(0, 2, 3, 1).reshape(48, 25, 3)
    arrays = {"frames": frames, "offsets": np.arange(7) * 8, "label": np.arange(6)}
    np.savez_compressed(folder / "s.npz", **arrays, layout="ntu25")
    whole = packed(folder / "set", train=6, val=4)
    return {
        "ntu": (write_ntu(folder / "ntu", 1)[0], read_ntu),
        "pku": (skeletons / "0002-L.txt", read_pku),
        "pku_labels": (labels / "0002-L.txt", read_labels),
        "ucla": (write_ucla(folder / "ucla", 1)[0], read_ucla),
        "pyskl": (write_pyskl(folder / "p.pkl"), read_pyskl),
        "official_npy": (folder / "x.npy", lambda p: np.asarray(read_official(p, folder / "x.pkl", NTU).x)),
        "official_pkl": (folder / "x.pkl", lambda p: read_official(folder / "x.npy", p, NTU)),
        "sequences": (folder / "s.npz", read_sequences),
        "packed_meta": (whole / "meta.json", lambda p: open_packed(whole)),
        "packed_rows": (whole / "train.npy", lambda p: open_packed(whole)),
        "packed_samples": (whole / "train_samples.npz", lambda p: open_packed(whole)),
    }


def mutate(sound: bytes, rng: random.Random, marker: Path) -> bytes:
    """One hostile or damaged version of a file."""
    data = bytearray(sound)
    choice = rng.randrange(11)
    if choice == 0:
        return bytes(data[: rng.randrange(len(data))])
    if choice in (1, 2):
        for _ in range(rng.choice((1, 1, 3, 30))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif choice == 3:  # another number where a number stands
        digits = [i for i, c in enumerate(data) if 48 <= c <= 57]
        at = rng.choice(digits or [0])
        data[at : at + 1] = rng.choice((b"99999999999", b"-1", b"nan", b"1e999", b"0", b"abc", b""))
    elif choice == 4:  # a length or count in binary
        at = rng.randrange(max(1, len(data) - 8))
        data[at : at + 8] = rng.choice((2**64 - 1, 0, 1 << 40, 1 << 30)).to_bytes(8, "little")
    elif choice == 5:
        return bytes(data).replace(b"\n", b"\r\n")
    elif choice == 6:
        at, size = rng.randrange(len(data)), rng.randrange(1, 200)
        del data[at : at + size]
    elif choice == 7:
        at = rng.randrange(len(data))
        data[at:at] = data[rng.randrange(len(data)) :][: rng.randrange(1, 500)]
    elif choice == 8:
        memo = b"\x80\x04Nr\xff\xff\xff\x7f."  # claims the 2 147 483 647th place of a pickle's memo
        return rng.choice((b"", b"\n\n\n", os.urandom(300), memo, b"(" * 100000, b"[" * 100000, b"PK\x03\x04"))
    elif choice == 9:
        return pickle.dumps(Shell(marker), protocol=rng.randrange(6))
    else:
        file = io.BytesIO()
        np.save(file, np.array([Shell(marker)], dtype=object), allow_pickle=True)
        return file.getvalue()
    return bytes(data)


def main() -> None:
    kind, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    file, read = kinds(folder)[kind]
    sound, marker, rng = file.read_bytes(), folder / "executed", random.Random(kind)
    read(file)
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + EXTRA, now + EXTRA))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = {"right": 0, "refused": 0}
    for _ in range(count):
        file.write_bytes(mutate(sound, rng, marker))
        signal.alarm(SECONDS)
        try:
            read(file)
            outcome["right"] += 1
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 1500, str(error)
            outcome["refused"] += 1
        signal.alarm(0)
    file.unlink()
    for make in (lambda: None, file.mkdir, lambda: os.mkfifo(file)):  # absent, a folder, a pipe that nobody writes to
        make()
        signal.alarm(SECONDS)
        try:
            read(file)
        except InputError:
            outcome["refused"] += 1
        signal.alarm(0)
        if file.is_dir():
            file.rmdir()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps(outcome | {"grown_mb": grown >> 10, "executed": marker.exists()}))


if __name__ == "__main__":
    main()
