"""Reading files that somebody else may have written or cut."""

import hashlib
import zipfile
from pathlib import Path

import numpy as np

from hiclr_fast.errors import InputError


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Every array of an .npz; never unpickles."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give the path of an .npz") from None
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, AttributeError) as error:
        raise InputError(f"{path}: not a readable .npz of plain arrays ({error}); write it with np.savez") from None
