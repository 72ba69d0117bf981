"""numba's disk cache, made safe: machine code is kept until any source file of its folder changes.

numba alone looks at the file of a function, not at the files of the functions that are inlined into it, and would go on
running old code after an upgrade.
"""

import functools
import hashlib
import inspect
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numba
from numba import njit
from numba.core.caching import FunctionCache


@functools.cache
def _folder(source: Path) -> str | None:
    """Where code compiled from that folder is kept, under a digest of its files and of this package's: beside it, else in the
    user's cache; None where neither can be written."""
    digest = hashlib.sha256(numba.__version__.encode())
    for file in (*sorted(source.glob("*.py")), *sorted(Path(__file__).parent.rglob("*.py"))):
        digest.update(file.read_bytes())
    name = f"numba_{digest.hexdigest()[:16]}"
    user = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    for place in (source / "__pycache__" / name, user / "hiclr_kernels" / name):
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                return str(place)
        except OSError:
            continue
    return None


@functools.cache
def _say_once() -> None:
    """For whoever sits before it: a first progress bar would else tell of an hour."""
    if sys.stderr.isatty():
        print("note: numba compiles the CPU kernels, once; this takes up to a minute", file=sys.stderr)


class _Cache(FunctionCache):
    """A disk that is full or refuses costs the compilation, not the run."""

    def load_overload(self, *args):
        try:
            found = super().load_overload(*args)
        except (OSError, EOFError, pickle.UnpicklingError):
            found = None
        if found is None:
            _say_once()
        return found

    def save_overload(self, *args):
        with suppress(OSError):
            super().save_overload(*args)


def compiled(**options) -> Callable[[Callable], Callable]:
    """`numba.njit` with these options and that cache; a cache folder that the user configured for numba is left as it is."""

    def wrap(function: Callable) -> Callable:
        configured, found = numba.config.CACHE_DIR, njit(**options)(function)
        numba.config.CACHE_DIR = configured or _folder(Path(inspect.getfile(function)).parent)
        try:
            if numba.config.CACHE_DIR:
                found._cache = _Cache(function)  # what enable_caching() does, with that class
        except RuntimeError:  # no place that can be written
            pass
        finally:
            numba.config.CACHE_DIR = configured
        return found

    return wrap
