"""Reading other people's pickles without running anything in them, and without memory that the file's size does not justify.

The unpickler is the standard library's Python one: the C one lets a 10-byte file claim gigabytes for its memo.
"""

import os
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import open_regular


class _Refused(Exception):
    """What the pickle asks for is not plain data."""


def _reconstruct(kind: type, shape: tuple, code: bytes) -> np.ndarray:
    """An empty array, as numpy writes it before the state that holds its content."""
    if kind is not np.ndarray or tuple(shape) != (0,):
        raise _Refused("makes an array in an unknown way")
    return np.ndarray.__new__(np.ndarray, (0,), "b")


def _scalar(dtype: np.dtype, content: bytes) -> np.generic:
    return np.frombuffer(content, dtype=_plain(dtype), count=1)[0]


def _frombuffer(content: bytes, dtype: np.dtype, shape: tuple, order: str) -> np.ndarray:
    return np.frombuffer(content, dtype=_plain(dtype)).reshape(shape, order=order)


def _plain(dtype: np.dtype) -> np.dtype:
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise _Refused("holds an array of Python objects")
    return dtype


# What numpy writes for arrays and scalars; the module moved in numpy 2.
_ARRAYS = {
    (f"numpy.{core}.{module}", name): function
    for core in ("core", "_core")
    for module, name, function in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("multiarray", "scalar", _scalar),
        ("numeric", "_frombuffer", _frombuffer),
    )
}


def _encode(text: str, encoding: str) -> bytes:
    """Protocol 2 spells an array's bytes as _codecs.encode(text, "latin1")."""
    if encoding != "latin1":
        raise _Refused(f"encodes to {encoding!r}")
    return text.encode("latin1")


ALLOWED = {
    **_ARRAYS,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


class _Restricted(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise _Refused(f"names the global {module}.{name}")
        return ALLOWED[module, name]


class _Bounded:
    """A file that refuses to read more than it has: lengths in a pickle are claims."""

    def __init__(self, file: BinaryIO):
        self.file, self.left = file, os.fstat(file.fileno()).st_size
        self.peek = file.peek

    def _take(self, n: int) -> int:
        if not 0 <= n <= self.left:
            raise EOFError(f"claims {n} bytes where {self.left} are left")
        self.left -= n
        return n

    def read(self, n: int) -> bytes:
        return self.file.read(self._take(n))

    def readinto(self, buffer: bytearray) -> int:
        return self.file.readinto(memoryview(buffer)[: self._take(len(buffer))])

    def readline(self) -> bytes:
        line = self.file.readline(1 << 16)
        self._take(len(line))
        return line


def load_plain_pickle(path: Path) -> Any:
    """Lists, tuples, dicts, strings, numbers and numpy arrays from a pickle; any other global is an InputError."""
    try:
        with open_regular(path) as file:
            return _Restricted(_Bounded(file), encoding="latin1").load()
    except _Refused as error:
        raise InputError(f"{path}: the pickle {error}; only plain values and numpy arrays are read, nothing is run") from None
    except InputError:
        raise
    except Exception as error:  # a broken pickle can raise nearly anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"{path}: not a readable pickle ({reason})") from None
