"""Reading other people's pickles without running anything in them."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from hiclr_fast.errors import InputError

# What numpy writes for arrays, dtypes and scalars; the module moved in numpy 2.
_ARRAYS = {
    (f"numpy.{core}.{module}", name): getattr(getattr(np._core, module), name)
    for core in ("core", "_core")
    for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
}


def _encode(text: str, encoding: str) -> bytes:
    """Protocol 2 spells an array's bytes as _codecs.encode(text, "latin1")."""
    if encoding != "latin1":
        raise InputError(f"encodes to {encoding!r}")
    return text.encode("latin1")


ALLOWED = {
    **_ARRAYS,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise InputError(f"names the global {module}.{name}")
        return ALLOWED[module, name]


def load_plain_pickle(path: Path) -> Any:
    """Lists, tuples, dicts, strings, numbers and numpy arrays from a pickle; any other global is an InputError."""
    try:
        with open(path, "rb") as file:
            return _Restricted(file, encoding="latin1").load()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give the path of a pickle of names and labels") from None
    except InputError as error:
        raise InputError(f"{path}: the pickle {error}; only plain values and numpy arrays are read, nothing is run") from None
    except Exception as error:  # a broken pickle can raise nearly anything
        raise InputError(f"{path}: not a readable pickle ({type(error).__name__}: {error})") from None
