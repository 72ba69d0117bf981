"""What may go wrong outside the code, each in one sentence: bad input, disks, permissions, memory, signals, closed pipes."""

import atexit
import errno
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """Something the user gave is wrong. The message is the whole story; scripts print it without a traceback."""


FIXES = {
    errno.ENOSPC: "free some space, or choose a folder on another disk",
    errno.EDQUOT: "free some of your quota, or choose a folder on another disk",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another disk",
    errno.EACCES: "check its permissions, or choose another place",
    errno.EPERM: "check its permissions, or choose another place",
    errno.EROFS: "choose a place that can be written",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path: a part of it is a file",
    errno.EISDIR: "give a file",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOMEM: "free some memory, or make the batch or the model smaller",
    errno.EAGAIN: "raise the limits on processes and memory (ulimit -u, -v)",
}
WRITERS = ("inline_container", "PytorchStreamWriter", "serializing: I/O error")  # of torch and safetensors: no errno is kept
MEMORY = (
    *("can't start new thread", "can't allocate memory", "cannot allocate memory"),
    *("std::bad_alloc", "failed to map segment", "could not create a primitive"),
)


def os_sentence(error: OSError, path: Path | str | None = None) -> str:
    """What an error of the system says, about `path` or the file that it names itself."""
    place = path or error.filename or "a file or the output"
    place = os.fsdecode(place).encode(errors="backslashreplace").decode() if not isinstance(place, int) else f"file {place}"
    reason = (error.strerror or " ".join(str(error).split()) or type(error).__name__)[:200]
    return f"{place}: {reason}; {FIXES.get(error.errno, 'check the disk')}"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system refuses while `path` is written becomes an InputError about it."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"cannot write {os_sentence(error, path)}") from error
    except Exception as error:
        if not any(known in str(error) for known in WRITERS):
            raise
        number = re.search(r"os error (\d+)", str(error))
        if number:
            raise InputError(f"cannot write {os_sentence(OSError(int(number[1]), os.strerror(int(number[1]))), path)}") from error
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"cannot write {path}: the disk is full or takes no file of that size ({reason}); free some") from error


def _sentence(error: BaseException) -> str | None:
    """The line for an error that needs no traceback; None for any other, which is a fault of the code."""
    text = " ".join(str(error).split())
    if isinstance(error, InputError):
        return text
    if isinstance(error, BrokenPipeError):
        return "the reader of the output has closed it; files that were finished before are whole"
    if isinstance(error, OSError):
        return os_sentence(error)
    of_torch = type(error).__name__ == "OutOfMemoryError"
    if isinstance(error, MemoryError) or of_torch or any(known in text.lower() for known in MEMORY):
        return f"out of memory or threads ({text[:200] or type(error).__name__}); make the batch or the model smaller"
    return None


def _say(line: str) -> None:
    with suppress(OSError, ValueError):  # nobody reads
        print(line, file=sys.stderr, flush=True)


def _close_output() -> None:
    """What is still in stdout's buffer goes nowhere, so that the interpreter does not complain at its end."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGINT raise KeyboardInterrupt (number, name), once: what cleans up then is not interrupted again."""
    numbers = (signal.SIGTERM, signal.SIGINT)

    def stop(number: int, _: Any) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def run_script(main: Callable[[], int | None]) -> None:
    """Runs a program's main and exits with its code.

    An `InputError`, and what the system refuses (a full disk, no permission, no memory, a closed pipe), becomes one line on
    stderr and exit code 2; SIGTERM and SIGINT one line and 128 + the number of the signal. Anything else is a traceback.
    """
    code, line = 2, None
    try:
        with _signals():
            code = main() or 0
            sys.stdout.flush()
    except KeyboardInterrupt as stop:
        number = signal.Signals(stop.args[0] if stop.args else signal.SIGINT)
        code, line = 128 + number, f"stopped by {number.name}; what was saved before is whole, and the next start goes on from it"
    except Exception as error:
        line = _sentence(error)
        if line is None:
            raise
        line = f"error: {line}"
        if isinstance(error, OSError):
            _close_output()
    if line:
        _say(line)
    atexit.register(_deaf)
    sys.exit(code)


def _deaf() -> None:
    """All is saved and said: a signal while the interpreter ends would only add a traceback."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
