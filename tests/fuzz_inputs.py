"""Reads COUNT mutations of every kind of input file under a memory limit; prints what came of each kind as a line of JSON.

python fuzz_inputs.py FOLDER COUNT [KIND ...]. Each kind has a process of its own. Each mutation, of bytes or of what they spell,
must end in a result or an InputError within SECONDS; anything else ends that process with a traceback.
"""

import hashlib
import io
import json
import os
import pickle
import random
import resource
import signal
import sys
import traceback
from pathlib import Path

import numpy as np
from data_files import write_ntu, write_pku, write_pyskl, write_ucla
from fuzz_structures import hostile_json, hostile_npz, hostile_pickle, hostile_safetensors, hostile_torch, hostile_yaml
from helpers import packed, tiny

from hiclr_fast.data.formats.ntu import read_ntu
from hiclr_fast.data.formats.official import read_split as read_official
from hiclr_fast.data.formats.pku import read_frames, read_labels, read_split
from hiclr_fast.data.formats.pyskl import Annotations
from hiclr_fast.data.formats.sequences import check_sequences, find_layout
from hiclr_fast.data.formats.ucla import read_ucla
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import read_npz
from hiclr_fast.files.settings import save_yaml
from hiclr_fast.files.tensors import load_checkpoint
from hiclr_fast.models.load import load_encoder, load_official, save_official
from hiclr_fast.pretraining.config import PretrainConfig, load_yaml
from hiclr_fast.pretraining.start import finish, start
from hiclr_fast.pretraining.trainer import Pretrainer
from hiclr_fast.skeletons import LAYOUTS

SECONDS, EXTRA = 10, 1 << 30  # per mutation; bytes of address space above what the process has when it starts
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


def official(folder: Path) -> tuple[Path, Path]:
    x = np.random.default_rng(0).normal(size=(6, 3, 8, 25, 2)).astype(np.float32)
    np.save(folder / "x.npy", x)
    names = [f"S001C001P001R001A{i + 1:03d}.skeleton" for i in range(6)]
    (folder / "x.pkl").write_bytes(pickle.dumps((names, list(range(6)))))
    return folder / "x.npy", folder / "x.pkl"


def sequences(folder: Path) -> Path:
    frames = np.random.default_rng(0).normal(size=(48, 25, 3)).astype(np.float32)
    arrays = {"frames": frames, "offsets": np.arange(7) * 8, "label": np.arange(6)}
    arrays |= {"parents": np.array(NTU.parents), "center_joint": np.array(20), "shoulders": np.array([8, 4])}
    np.savez_compressed(folder / "s.npz", **arrays)
    return folder / "s.npz"


def weights(folder: Path, name: str) -> Path:
    """A checkpoint, an exported encoder or official weights of a tiny run that has done no step."""
    data = open_packed(packed(folder / "set", train=16, val=4))
    trainer = start(tiny(data=data.path), data, folder / "run")
    finish(trainer, folder / "run")
    save_official(trainer.model.encoder_q, 16, folder / "run" / "official.pt")
    trainer.release()
    return folder / "run" / name


def checkpoint(folder: Path):
    """Evaluated, and continued from."""
    file = weights(folder, "checkpoint.pt")
    data = open_packed(folder / "set")
    trainer = Pretrainer(tiny(data=data.path), data)

    def read(path: Path) -> None:
        load_encoder(path)
        trainer.restore(load_checkpoint(path), str(path))

    return file, read, hostile_torch


def yaml_settings(folder: Path):
    save_yaml(PretrainConfig(), folder / "c.yaml")
    return folder / "c.yaml", load_yaml, hostile_yaml


def one_of(folder: Path, name: str):
    whole = packed(folder / "set", train=6, val=4)

    def mutate_and_sign(sound: bytes, rng: random.Random) -> bytes:
        """Of the columns, with the checksum that belongs to them."""
        found = hostile_npz(sound, rng)
        meta = json.loads((whole / "meta.json").read_text())
        facts = {"bytes": len(found), "sha256": hashlib.sha256(found).hexdigest()}
        meta["splits"]["train"]["files"][name] = facts
        (whole / "meta.json").write_text(json.dumps(meta))
        return found

    structures = {"meta.json": hostile_json, "train_samples.npz": mutate_and_sign}
    return whole / name, lambda p: open_packed(whole), structures.get(name)


KINDS = {  # kind -> folder -> (a sound file, what reads it, what makes another of what it spells)
    "ntu": lambda f: (write_ntu(f / "ntu", 1)[0], read_ntu, None),
    "pku": lambda f: (write_pku(f / "pku", 2)[0] / "0002-L.txt", read_frames, None),
    "pku_labels": lambda f: (write_pku(f / "pku", 2)[1] / "0002-L.txt", read_labels, None),
    "pku_split": lambda f: (write_pku(f / "pku", 2)[2], read_split, None),
    "ucla": lambda f: (write_ucla(f / "ucla", 1)[0], read_ucla, hostile_json),
    "pyskl": lambda f: (write_pyskl(f / "p.pkl"), read_pyskl, hostile_pickle),
    "official_npy": lambda f: (official(f)[0], lambda p: np.asarray(read_official(p, f / "x.pkl", NTU).x), None),
    "official_pkl": lambda f: (official(f)[1], lambda p: read_official(f / "x.npy", p, NTU), hostile_pickle),
    "sequences": lambda f: (sequences(f), read_sequences, hostile_npz),
    "packed_meta": lambda f: one_of(f, "meta.json"),
    "packed_rows": lambda f: one_of(f, "train.npy"),
    "packed_samples": lambda f: one_of(f, "train_samples.npz"),
    "yaml": yaml_settings,
    "checkpoint": checkpoint,
    "official_pt": lambda f: (weights(f, "official.pt"), load_official, None),
    "safetensors": lambda f: (weights(f, "encoder.safetensors"), load_encoder, hostile_safetensors),
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


def peak() -> int:
    """Most bytes of memory that this process had so far."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))


def fuzz(kind: str, folder: Path, count: int) -> dict:
    folder.mkdir()
    file, read, structure = KINDS[kind](folder)
    sound, marker, rng = file.read_bytes(), folder / "executed", random.Random(kind)
    read(file)
    with open("/proc/self/statm") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + EXTRA, now + EXTRA))
    before, outcome = peak(), {"kind": kind, "right": 0, "refused": 0}
    for number in range(count):
        file.write_bytes(structure(sound, rng) if structure and number % 2 else mutate(sound, rng, marker))
        signal.alarm(SECONDS)
        try:
            read(file)
            outcome["right"] += 1
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 600, str(error)
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
    return outcome | {"grown_mb": (peak() - before) >> 20, "executed": marker.exists()}


def main() -> None:
    folder, count, kinds = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or list(KINDS)
    for kind in kinds:
        child = os.fork()
        if child == 0:
            try:
                print(json.dumps(fuzz(kind, folder / kind, count)), flush=True)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(f"{kind}: died of signal {status & 127}" if status & 127 else f"{kind} failed")


if __name__ == "__main__":
    main()
