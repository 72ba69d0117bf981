"""Regular files, .npy and .npz that somebody else may have written or cut.

Limits: an .npz unpacks to at most EXPANSION times its size and SPARE bytes more, its members are stored or deflated (others
unpack without bound), its directory has at most DIRECTORY bytes; an array holds booleans, numbers or text, exactly as many bytes
as its header says, at most MOST items.
"""

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

EXPANSION, SPARE = 32, 8 << 20  # real recordings, compressed, unpack to 2 to 20 times their size; small ones may be all zeros
MOST = 1 << 40  # items of an array, a dimension of length 0 counted as 1
CHUNK = 1 << 20  # bytes unpacked at a time
DIRECTORY = 1 << 21  # bytes; 10000 members take half of it
LAST_CHARACTER, HALVES = 0x10FFFF, (0xD800, 0xDFFF)  # of Unicode; halves of a pair of UTF-16, which are no characters
UNREADABLE = (
    *(ValueError, OSError, EOFError, LookupError, TypeError, AttributeError, SyntaxError, MemoryError, OverflowError),
    *(RuntimeError, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


def open_regular(path: Path, buffering: int = -1) -> BinaryIO:
    """A file for reading; InputError when it is missing, unreadable, or no regular file (opening a pipe would wait for ever)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give the path of a file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({reason}); check its kind, its permissions and the disk") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"{path} is not a regular file; give a file")
    return os.fdopen(descriptor, "rb", buffering)


def read_whole(path: Path, most: int) -> bytes:
    """Every byte of a regular file of at most `most` bytes; InputError when it is larger or cannot be read."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise InputError(f"{path}: {size} bytes, at most {most} are read; it is not what is expected here")
        try:
            return file.read(most)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}); check the disk") from None


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def reason_of(error: BaseException) -> str:
    """What an exception says, as part of a sentence: one line, at most 160 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


class _Zipped(io.BufferedReader):
    """A file whose directory is not read where it claims to be large; nothing else of a zip is read in one piece of that size."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > DIRECTORY:
            raise zipfile.BadZipFile(f"a directory of {size} bytes")
        return super().read(size)


def open_zip(file: BinaryIO) -> zipfile.ZipFile:
    """What `open_regular` gave, as a zip; BadZipFile where it is none, or its directory has more than DIRECTORY bytes."""
    return zipfile.ZipFile(_Zipped(file))


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Every array of an .npz; never unpickles. InputError on anything beyond the limits of this module."""
    try:
        with open_regular(path) as file, open_zip(file) as archive:
            claimed, size = sum(member.file_size for member in archive.infolist()), os.fstat(file.fileno()).st_size
            if claimed > EXPANSION * size + SPARE:
                raise InputError(f"{path}: {size} bytes that claim to unpack to {claimed}; save it with np.savez")
            return {member.filename.removesuffix(".npy"): _array(archive, member) for member in archive.infolist()}
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{path}: not a readable .npz of plain arrays ({reason_of(error)}); write it with np.savez") from None


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytearray:
    """The content of one member, whose CRC is right; ValueError or BadZipFile otherwise."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} is neither stored nor deflated")
    out, got = bytearray(member.file_size), 0
    view = memoryview(out)
    with archive.open(member) as file:
        while got < len(out) and (n := file.readinto(view[got : got + CHUNK])):
            got += n
        if got < len(out) or file.read(1):
            raise ValueError(f"{member.filename} holds another number of bytes than its entry says")
    return out


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One member, read whole and only then looked at, so that its header cannot claim more than there is."""
    content = read_member(archive, member)
    header = io.BytesIO(memoryview(content)[:CHUNK])
    shape, fortran, dtype = npy_facts(header)
    return plain_array(content, dtype, shape, fortran, header.tell())


def npy_facts(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, Fortran order, plain dtype) of a .npy that is read up to its data; one of UNREADABLE where it is none."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"version {version} of the .npy format")
    shape, fortran, dtype = read(file)
    check_plain(dtype, shape)
    return shape, fortran, dtype


def check_plain(dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """ValueError unless it is an array of plain items of at most MOST items."""
    if dtype.kind not in "biufUS" or dtype.itemsize == 0:
        raise ValueError(f"Python objects or records ({str(dtype)[:40]})")
    if not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 32 or math.prod(max(n, 1) for n in shape) > MOST:
        raise ValueError(f"a shape of {len(shape)} dimensions that no array has")


def plain_array(content: bytes | bytearray, dtype: np.dtype, shape: tuple, fortran: bool = False, start: int = 0) -> np.ndarray:
    """The array that the bytes from `start` on spell, without a copy; ValueError where they are more or fewer than it has, or
    characters that do not exist."""
    check_plain(dtype, shape)
    items = math.prod(shape)
    if items * dtype.itemsize != len(content) - start:
        raise ValueError(f"{len(content) - start} bytes of data for {items} items of {dtype.itemsize}")
    if items == 0:
        return np.empty(shape, dtype)
    flat = np.frombuffer(content, dtype, offset=start)
    if dtype.kind == "U" and not _are_characters(np.frombuffer(content, f"{dtype.str[0]}u4", offset=start)):
        raise ValueError("text with characters that do not exist")
    flat = flat if flat.flags.aligned else flat.copy()
    return flat.reshape(shape, order="F" if fortran else "C")


def _are_characters(codes: np.ndarray) -> bool:
    low, high = HALVES
    return codes.max() <= LAST_CHARACTER and (codes.max() < low or not ((codes >= low) & (codes <= high)).any())


def is_text(text: str) -> bool:
    """Whether it can be written as UTF-8. JSON, pickles and file names can spell halves of characters, which cannot."""
    return text.isascii() or not any(HALVES[0] <= ord(character) <= HALVES[1] for character in text)
