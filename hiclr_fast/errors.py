"""What may go wrong outside the code, each in one sentence: bad input, disks, permissions, memory, signals, closed pipes."""

import _thread
import atexit
import errno
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """Something the user gave is wrong. The message is the whole story; scripts print it without a traceback."""


class Diverged(InputError):
    """Numbers became NaN or Inf while they were computed: most often a setting was too bold."""


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


LONGEST = 1000  # characters of a line: names from files may be of any length


def _sentence(error: BaseException) -> str | None:
    """The line for an error that needs no traceback; None for any other, which is a fault of the code."""
    text = " ".join(str(error)[: 2 * LONGEST].split())
    if isinstance(error, InputError):
        return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
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


def _open_output() -> None:
    """Closed streams swallow what is said; names that are no text are shown with backslashes."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 (to the end)
            setattr(sys, name, nowhere)
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")


def _close_output() -> None:
    """What is still in stdout's buffer goes nowhere, so that the interpreter does not complain at its end."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Stop:
    """Turns SIGTERM and SIGINT into a KeyboardInterrupt (number) in the main thread: one, so that what cleans up then is not
    interrupted again, unless Python loses it (in a `__del__`, say) or it is not over after `PATIENCE` seconds."""

    NUMBERS, PATIENCE = (signal.SIGTERM, signal.SIGINT), 10

    def __init__(self):
        self.number, self.raised = 0, -math.inf  # the last one that came, and when it was raised

    def _on_signal(self, number: int, _: Any) -> None:
        if time.monotonic() - self.raised > self.PATIENCE:
            self.number, self.raised = number, time.monotonic()
            raise KeyboardInterrupt(number)

    def _lost(self, what: Any) -> None:
        if what.exc_type is not KeyboardInterrupt:
            return self.hook(what)
        self.raised = -math.inf
        again = threading.Timer(0.02, _thread.interrupt_main, (self.number,))  # as if it came when this is over
        again.daemon = True
        again.start()

    def __enter__(self) -> None:
        self.here = threading.current_thread() is threading.main_thread()
        if self.here:
            self.hook, sys.unraisablehook = sys.unraisablehook, self._lost
            self.previous = {number: signal.signal(number, self._on_signal) for number in self.NUMBERS}

    def __exit__(self, *_: Any) -> None:
        if self.here:
            self.raised = math.inf  # what comes now changes nothing any more
            sys.unraisablehook = self.hook
            for number, handler in self.previous.items():
                signal.signal(number, handler)


def _stopped(number: int) -> tuple[int, str]:
    name = signal.Signals(number).name
    return 128 + number, f"stopped by {name}; what was saved before is whole, and the next start goes on from it"


def run_script(main: Callable[[], int | None]) -> None:
    """Runs a program's main and exits with its code.

    An `InputError`, and what the system refuses (a full disk, no permission, no memory, a closed pipe), becomes one line on
    stderr and exit code 2; SIGTERM and SIGINT one line and 128 + the number of the signal. Anything else is a traceback.
    """
    code, line, stops = 2, None, _Stop()
    try:
        with stops:
            _open_output()
            code = main() or 0
            sys.stdout.flush()
    except KeyboardInterrupt as stop:
        code, line = _stopped(stop.args[0] if stop.args else signal.SIGINT)
    except Exception as error:
        line = _sentence(error)
        if line is not None:
            line = f"error: {line}"
        elif stops.number:  # a library that was interrupted stumbled over what it left half done
            code, line = _stopped(stops.number)
        else:
            raise
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
