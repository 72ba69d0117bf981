"""Rows of equal shape over one or more .npy files, read by position: nothing is mapped, so a set may be larger than memory
and than the address space, and any number of processes can read it at once."""

import math
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import UNREADABLE, npy_facts, open_regular, reason_of

_SEEK = threading.Lock()


def npy_header(path: Path) -> tuple[tuple[int, ...], np.dtype, int]:
    """(shape, dtype, byte offset of the data) of a C-ordered .npy of rows, whose data fill the file exactly; InputError
    otherwise."""
    try:
        with open_regular(path) as file:
            shape, fortran, dtype = npy_facts(file)
            offset = file.tell()
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"{path}: not a readable .npy of plain numbers ({reason_of(error)}); write it with np.save") from None
    if fortran:
        raise InputError(f"{path}: holds Fortran order; save plain C-ordered numbers")
    if not shape:
        raise InputError(f"{path}: holds a single number, expected rows of numbers")
    size, expected = os.path.getsize(path) - offset, math.prod(shape) * dtype.itemsize
    if size != expected:
        raise InputError(f"{path}: {size} bytes of data, its header says {expected}; the file was cut or changed")
    return shape, dtype, offset


def _read_at(descriptor: int, buffer: memoryview, place: int) -> int:
    """Bytes read into the buffer from that place of the file."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [buffer], place)
    with _SEEK:  # Windows: the place is shared state
        os.lseek(descriptor, place, os.SEEK_SET)
        data = os.read(descriptor, len(buffer))
    buffer[: len(data)] = data
    return len(data)


class Rows:
    """(N, *row) array over .npy shards that all have the same row shape and dtype.

    Indexing by a number, a slice or an int or bool array reads just those rows into a new array; np.asarray reads all.
    order: (N,) int64, which stored row stands where; none: as stored.
    """

    def __init__(self, files: Sequence[Path], order: np.ndarray | None = None):
        headers = [npy_header(Path(file)) for file in files]
        (_, *row), self.dtype, _ = headers[0]
        for file, (shape, dtype, _) in zip(files, headers, strict=True):
            if list(shape[1:]) != row or dtype != self.dtype:
                raise InputError(f"{file}: {dtype} {shape}, the shards before it hold {self.dtype} rows of {tuple(row)}")
        self.files = [str(file) for file in files]
        self.offsets = [offset for *_, offset in headers]
        self.starts = np.cumsum([0, *(shape[0] for shape, *_ in headers)])
        self.order = order
        self.shape = (int(self.starts[-1]) if order is None else len(order), *row)
        self.row_bytes = math.prod(row) * self.dtype.itemsize
        self._open: dict[int, int] = {}

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return len(self) * self.row_bytes

    def take(self, index: np.ndarray) -> "Rows":
        """The same files, other rows in another order; reads nothing."""
        return Rows(self.files, self._stored(index))

    def read(self, index: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Rows `index` (n,) int64 into `out` (n, *row), C-contiguous. Neighbours in a file are read at once."""
        stored = self._stored(index)
        if len(stored) == 0:
            return out
        shard = np.searchsorted(self.starts, stored, side="right") - 1
        breaks = np.flatnonzero((np.diff(stored) != 1) | (np.diff(shard) != 0)) + 1
        flat = out.reshape(len(stored), -1).view(np.uint8)
        for a, b in zip((0, *breaks), (*breaks, len(stored)), strict=True):
            s = int(shard[a])
            place = self.offsets[s] + int(stored[a] - self.starts[s]) * self.row_bytes
            self._fill(s, place, memoryview(flat[a:b].reshape(-1)))
        return out

    def _fill(self, shard: int, place: int, buffer: memoryview) -> None:
        if shard not in self._open:
            self._open[shard] = os.open(self.files[shard], os.O_RDONLY | getattr(os, "O_BINARY", 0))
        while buffer:
            got = _read_at(self._open[shard], buffer, place)
            if got == 0:
                raise InputError(f"{self.files[shard]} ended early while it was read; it was cut after it was opened")
            buffer, place = buffer[got:], place + got

    def _stored(self, index: np.ndarray) -> np.ndarray:
        index = np.asarray(index, dtype=np.int64)
        bad = (index < 0) | (index >= len(self))
        if bad.any():
            raise IndexError(f"row {index[bad][0]} of {len(self)}")
        return index if self.order is None else self.order[index]

    def __getitem__(self, key) -> np.ndarray:
        if isinstance(key, (int, np.integer)):
            return self[[key]][0]
        index = np.arange(len(self))[key] if isinstance(key, slice) else np.asarray(key)
        if index.dtype == bool:
            index = np.flatnonzero(index)
        index = np.where(index < 0, index + len(self), index)
        return self.read(index, np.empty((len(index), *self.shape[1:]), self.dtype))

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_open": {}}  # another process opens the files itself

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_open", {}).values():
            os.close(descriptor)
