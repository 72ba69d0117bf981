"""Reading files that somebody else may have written or cut."""

import hashlib
import io
import math
import os
import stat
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hiclr_fast.errors import InputError

EXPANSION = 200  # real recordings, compressed, unpack to 2 to 20 times their size
UNREADABLE = (ValueError, OSError, EOFError, KeyError, TypeError, SyntaxError, tokenize.TokenError, MemoryError, OverflowError)


def open_regular(path: Path, buffering: int = -1) -> BinaryIO:
    """A file for reading; InputError when it is missing, unreadable, or no regular file (opening a pipe would wait for ever)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give the path of a file") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check its kind, its permissions and the disk") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"{path} is not a regular file; give a file")
    return os.fdopen(descriptor, "rb", buffering)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Every array of an .npz; never unpickles, and unpacks no archive that claims to be over EXPANSION times its size."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            claimed, size = sum(member.file_size for member in archive.infolist()), os.fstat(file.fileno()).st_size
            if claimed > EXPANSION * size:
                raise InputError(f"{path}: {size} bytes that claim to unpack to {claimed}; save it with np.savez")
            return {member.filename.removesuffix(".npy"): _array(archive, member) for member in archive.infolist()}
    except InputError:
        raise
    except (*UNREADABLE, zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error) as error:
        raise InputError(f"{path}: not a readable .npz of plain arrays ({error}); write it with np.savez") from None


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One member, read whole and only then looked at, so that its header cannot claim more than there is."""
    content = io.BytesIO(archive.read(member))
    shape, _, dtype = npy_facts(content)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(content.getbuffer()) - content.tell():
        raise ValueError(f"{member.filename} holds Python objects or another number of bytes than its header says")
    content.seek(0)
    return np.lib.format.read_array(content, allow_pickle=False)


def npy_facts(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, Fortran order, dtype) of a .npy that is read up to its data; ValueError and its kin where it is none."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"version {version} of the .npy format")
    return read(file)
