"""One process at a time in a folder: a lock that the system drops when its holder ends, however it ends."""

import os
import socket
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from hiclr_fast.errors import InputError, os_sentence
from hiclr_fast.files.atomic import remove_left_over

NAME = "in_use.lock"


class Lock:
    """Held from its making until `release`, the end of the process, or the end of the `with` that it opens.

    folder: made where it is not there, and then removed again if nothing came into it; the lock is the file `in_use.lock` in it,
    which moves along when the folder is renamed.
    InputError that names the holder when another process has it. What killed processes left half written in it is removed.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        file = self.folder / NAME
        self._lock = FileLock(file, thread_local=False)
        try:
            self._made = not self.folder.is_dir()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(f"{folder} is in use by {_holder(file)}; wait for it, or choose another folder") from None
        except OSError as error:
            raise InputError(f"cannot write {os_sentence(error, file)}") from None
        with suppress(OSError):  # a full disk: the lock holds without its words
            file.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        remove_left_over(self.folder)

    def release(self) -> None:
        """Takes the file away too, and the folder that was made for it where nothing else is in it."""
        if not self._lock.is_locked:
            return
        with suppress(OSError):  # where it cannot be removed, the next one takes it over
            (self.folder / NAME).unlink()
        self._lock.release()
        if self._made:
            with suppress(OSError):
                self.folder.rmdir()

    def moved(self, folder: Path) -> None:
        """The folder has another name now."""
        self.folder = Path(folder)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_) -> None:
        self.release()


def _holder(file: Path) -> str:
    try:
        return file.read_text(errors="replace")[:100] or "another process"
    except OSError:
        return "another process"
