"""Other people's pickles: lists, tuples, dicts, text, numbers, bytes and numpy arrays; nothing in them is run or believed.

Arrays are put together here, from a dtype that is a word on a list and from exactly as many bytes as it and the shape take;
what else a pickle says about a dtype is not looked at, unless it makes another kind of it, which is refused. `unpickling` has
the limits of everything else.
"""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import UNREADABLE, open_regular, plain_array, reason_of
from hiclr_fast.files.unpickling import Known, Refused, Unfinished, Unpickling

_DTYPE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|[US][1-9]\d{0,5}|O8?)")


@dataclass(frozen=True, eq=False)
class _Dtype(Unfinished):
    text: str
    big: bool = False

    def finish(self, state: Any) -> "_Dtype":
        """With the byte order of (version, order, subarray, names, fields, size, alignment, flags, ...)."""
        if type(state) is not tuple or len(state) < 5 or state[1] not in ("<", ">", "=", "|") or state[2:5] != (None,) * 3:
            raise Refused("holds an array of records")
        return replace(self, big=state[1] == ">")

    @property
    def numpy(self) -> np.dtype:
        if self.text.startswith("O"):
            raise Refused("holds an array of Python objects")
        return np.dtype((">" if self.big else "<") + self.text)


class _Array(Unfinished):
    def finish(self, state: Any) -> Any:
        """(version, shape, dtype, Fortran order, content)."""
        if type(state) is not tuple or len(state) != 5:
            raise Refused("holds an array without its content")
        _, shape, dtype, fortran, content = state
        return _array(content, dtype, shape, fortran)


def _array(content: Any, dtype: Any, shape: Any, fortran: Any) -> np.ndarray | list:
    """Read-only; a row of objects becomes a list."""
    if not isinstance(dtype, _Dtype) or type(shape) is not tuple:
        raise Refused("holds an array of unknown kind")
    if dtype.text.startswith("O") and type(content) is list and shape == (len(content),):
        return list(content)
    return plain_array(_bytes(content), dtype.numpy, shape, fortran is True or fortran == 1)


def _bytes(content: Any) -> bytes:
    if type(content) is str:  # Python 2
        return content.encode("latin1")
    if type(content) is not bytes:
        raise Refused("holds an array whose content is no bytes")
    return content


def _dtype(word: Any, *_: Any) -> _Dtype:
    found = _DTYPE.fullmatch(word) if type(word) is str else None
    if not found:
        raise Refused("holds an array of records, or of numbers of an unknown kind")
    return _Dtype(found[1], word[0] == ">")


def _scalar(dtype: Any, content: Any) -> bool | int | float | str | bytes:
    return _array(content, dtype, (1,), False).item()


def _frombuffer(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray | list:
    return _array(content, dtype, shape, order == "F")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: Any, encoding: Any) -> bytes:
    """Protocol 2 spells an array's bytes as _codecs.encode(text, "latin1")."""
    if type(text) is not str or encoding != "latin1":
        raise Refused("encodes text in a way of its own")
    return text.encode("latin1")


KNOWN: Known = {  # what numpy writes for arrays and scalars; the module moved in numpy 2
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    **{(module, "bytes"): lambda: b"" for module in ("__builtin__", "builtins")},  # of an empty array, protocols 0 to 2
}


def load_plain_pickle(path: Path) -> Any:
    """Lists, tuples, dicts, text, numbers, bytes and numpy arrays from a pickle; anything else is an InputError."""
    try:
        with open_regular(path) as file:
            return Unpickling(file, os.fstat(file.fileno()).st_size, KNOWN).load()
    except Refused as error:
        raise InputError(f"{path}: the pickle {error}; only plain values and numpy arrays are read, nothing is run") from None
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{path}: not a readable pickle ({reason_of(error)})") from None
