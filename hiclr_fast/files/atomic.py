"""Files that are whole or absent: written under a temporary name beside their place, then renamed into it. What the system
refuses meanwhile is an InputError about that place; the temporary file goes, and what stood there stays."""

import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from hiclr_fast.errors import InputError, writing


def temporary_name(path: Path) -> Path:
    """Beside `path`, with the same ending; two processes that write the same file have two of them."""
    return path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")


def left_over(path: Path) -> list[Path]:
    """Temporary files and folders of `path` that processes of this machine left when they were killed; nobody else's files. One
    with this process's number is of an earlier process that had it (in a container most have the same)."""
    own = temporary_name(path)
    return [own] * os.path.lexists(own) + _left_over(path.parent, re.escape(path.stem), re.escape(path.suffix))


def _left_over(folder: Path, stem: str, suffix: str) -> list[Path]:
    """Temporary files of the dead, for stems and suffixes that fit the patterns."""
    name = re.compile(rf"\.{stem}\.(\d+)\.tmp{suffix}", re.DOTALL)
    with suppress(OSError):  # the folder is not there, or cannot be read
        return [left for left in folder.iterdir() if (named := name.fullmatch(left.name)) and _is_dead(int(named[1]))]
    return []


def _is_dead(pid: int) -> bool:
    if os.name == "posix" and pid > 0:  # elsewhere a process cannot be asked whether it lives
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            pass
    return False


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file name beside `path` with the same ending. When the block ends well, what it wrote there is flushed to
    disk and takes the place of `path`; when it fails, it is removed and `path` stays as it was."""
    path = Path(path)
    temporary = temporary_name(path)
    _remove(left_over(path))
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
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Uncompressed, under exactly that name."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def remove_left_over(folder: Path) -> None:
    """Removes what killed processes left half written of any file in it. Only for who holds the lock of `folder`."""
    _remove(_left_over(Path(folder), ".+", r"(\.[^.]*)?"))


def _remove(files: list[Path]) -> None:
    for file in files:
        with suppress(OSError):
            file.unlink()


def new_file(path: Path | None, endings: Sequence[str]) -> None:
    """InputError, before any work, when a file to write exists or has another ending; makes its folder."""
    if path is None:
        return
    if path.suffix not in endings:
        raise InputError(f"{path}: unknown kind of file; name it {' or '.join(endings)}")
    if path.exists():
        raise InputError(f"{path} exists already; choose another place")
    path.parent.mkdir(parents=True, exist_ok=True)


def remove_folder(folder: Path) -> None:
    """With all that is in it; a note where that cannot be, since whatever it was for is done."""
    for _ in range(2):  # on a full copy-on-write disk the first deletions make room for the others
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        print(f"note: {folder} could not be removed; remove it", file=sys.stderr)
