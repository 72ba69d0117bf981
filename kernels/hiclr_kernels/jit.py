"""numba's disk cache, made safe: machine code is kept until any source file of its folder changes.

numba alone looks at the file of a function, not at the files of the functions that are inlined into it, and would go on
running old code after an upgrade.
"""

import functools
import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path

import numba
from numba import njit


@functools.cache
def _folder(source: Path) -> str:
    """Where code compiled from that folder is kept: beside it, under a digest of its files and of this package's."""
    digest = hashlib.sha256(numba.__version__.encode())
    for file in (*sorted(source.glob("*.py")), *sorted(Path(__file__).parent.rglob("*.py"))):
        digest.update(file.read_bytes())
    return str(source / "__pycache__" / f"numba_{digest.hexdigest()[:16]}")


def compiled(**options) -> Callable[[Callable], Callable]:
    """`numba.njit` with these options and that cache; a cache folder that the user configured for numba is left as it is."""

    def wrap(function: Callable) -> Callable:
        configured = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = configured or _folder(Path(inspect.getfile(function)).parent)
        try:
            return njit(cache=True, **options)(function)
        finally:
            numba.config.CACHE_DIR = configured

    return wrap
