"""What happens to a program just before the n-th change of its files: a full disk, a sudden death."""

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

CHANGES = {"open": 0, "os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0}  # audited; which argument is the path


def at_change(n: int, folder: Path, do: Callable[[], None]) -> Callable[[], None]:
    """A fault: `do` just before the n-th change of files below `folder`."""

    def install() -> None:
        seen = [0]

        def hook(event: str, args: tuple) -> None:
            if event not in CHANGES or (event == "open" and not _writes(*args[1:3])):
                return
            path = args[CHANGES[event]]
            if isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith(str(folder)):
                seen[0] += 1
                if seen[0] == n:
                    do()

        sys.addaudithook(hook)

    return install


def _writes(mode: str | None, flags: int) -> bool:
    return any(c in mode for c in "wax+") if mode else bool(flags & (os.O_WRONLY | os.O_RDWR))


def no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
