"""Files that are whole or absent: written under a temporary name beside their place, then renamed into it. What the system
refuses meanwhile is an InputError about that place; the temporary file goes, and what stood there stays."""

import glob
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from hiclr_fast.errors import InputError, writing


def temporary_name(path: Path) -> Path:
    """Beside `path`, with the same ending; two processes that write the same file have two of them."""
    return path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")


def _remove_of_the_dead(path: Path) -> None:
    """Removes what killed processes of this machine have left of earlier attempts to write `path`."""
    if os.name != "posix":  # elsewhere a process cannot be asked whether it lives
        return
    for left in path.parent.glob(f".{glob.escape(path.stem)}.*.tmp{glob.escape(path.suffix)}"):
        pid = left.name.removesuffix(f".tmp{path.suffix}").rpartition(".")[2]
        if pid.isdigit():
            try:
                os.kill(int(pid), 0)
            except ProcessLookupError:
                with suppress(OSError):
                    left.unlink()
            except (OSError, OverflowError):
                pass


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file name beside `path` with the same ending. When the block ends well, what it wrote there is flushed to
    disk and takes the place of `path`; when it fails, it is removed and `path` stays as it was."""
    path = Path(path)
    temporary = temporary_name(path)
    _remove_of_the_dead(path)
    try:
        with writing(path):
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, which becomes `path` when the block ends well and goes when it fails. InputError, and
    nothing is lost, where `path` exists already or another process makes it meanwhile."""
    path = Path(path)
    temporary = temporary_name(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            yield temporary
            try:
                os.rename(temporary, path)  # onto a folder that holds something it fails
            except OSError:
                if not path.exists():
                    raise
                raise InputError(f"{path} exists already; another process made it meanwhile, choose another folder") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Uncompressed, under exactly that name."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def remove_left_over(folder: Path) -> None:
    """Removes temporary files of processes that were killed. Only for who holds the lock of `folder`."""
    for left in Path(folder).glob(".*.tmp*"):
        with suppress(OSError):
            left.unlink()


def new_file(path: Path | None, endings: Sequence[str]) -> None:
    """InputError, before any work, when a file to write exists or has another ending."""
    if path is None:
        return
    if path.suffix not in endings:
        raise InputError(f"{path}: unknown kind of file; name it {' or '.join(endings)}")
    if path.exists():
        raise InputError(f"{path} exists already; choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
