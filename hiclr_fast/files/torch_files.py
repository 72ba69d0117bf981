"""What torch.save wrote, read without torch.load: tensors and plain values, on the CPU.

The zip form of torch 1.6 and later, and the older one of pickles in a row (official weights of that time). Limits: in a zip every
CRC is right and nothing is compressed; a tensor is dense and lies inside its storage, all tensors take at most twice the file;
its dtype is one of STORAGES. `unpickling` has the limits of everything else.
"""

import io
import math
import os
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import UNREADABLE, open_regular, open_zip, read_member, reason_of
from hiclr_fast.files.pickles import KNOWN
from hiclr_fast.files.unpickling import Known, Name, Refused, Unpickling

STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
}
OLD_MAGIC, OLD_VERSION = 0x1950A86A20F9469CFC6C, 1001  # torch/serialization.py, legacy save


class _File:
    """One file, the storages that were asked for so far, and how much its tensors take."""

    def __init__(self, file: BinaryIO):
        self.file, self.size = file, os.fstat(file.fileno()).st_size
        self.storages: dict[str, Tensor] = {}
        self.taken, self.held = 0, 0  # bytes of tensors, of storages
        self.known: Known = {
            **KNOWN,
            **{("torch", name): None for name in STORAGES},
            ("collections", "OrderedDict"): lambda: {},
            ("torch._utils", "_rebuild_tensor_v2"): self.tensor,
            ("torch._utils", "_rebuild_parameter"): self.parameter,
        }

    def tensor(self, storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Tensor:
        """A view of its storage; Refused unless it is dense (in any order of its dimensions) and inside."""
        counts = (offset, *shape, *stride) if type(shape) is tuple and type(stride) is tuple else (None,)
        if not isinstance(storage, Tensor) or not all(type(n) is int and 0 <= n < 1 << 48 for n in counts):
            raise Refused("holds a tensor of unknown kind")
        if len(shape) != len(stride) or len(shape) > 8:
            raise Refused(f"holds a tensor of {len(shape)} dimensions and {len(stride)} strides")
        items, expected = math.prod(shape), 1
        for step, length in sorted((s, n) for s, n in zip(stride, shape, strict=True) if n > 1 and items):
            if step != expected:
                raise Refused("holds a tensor whose items overlap or have gaps")
            expected *= length
        if offset + items > len(storage):
            raise Refused(f"holds a tensor of {items} items at {offset} of a storage of {len(storage)}")
        self.taken += items * storage.element_size()
        if self.taken > 2 * self.size:
            raise Refused("holds tensors of more than twice its size")
        if items == 0:
            return torch.empty(shape, dtype=storage.dtype)
        return storage.as_strided(shape, [s if n > 1 else 1 for s, n in zip(stride, shape, strict=True)], offset)

    @staticmethod
    def parameter(tensor: Any, *_: Any) -> Tensor:
        if not isinstance(tensor, Tensor):
            raise Refused("holds a parameter that is no tensor")
        return tensor

    def facts(self, what: Any, length: int) -> tuple[torch.dtype, str, int]:
        """(dtype, key, items) of a reference to a storage."""
        if type(what) is not tuple or len(what) != length or what[0] != "storage" or not isinstance(what[1], Name):
            raise Refused("refers to what is no storage")
        _, kind, key, _, items = what[:5]
        if kind.name not in STORAGES or type(key) is not str or type(items) is not int or not 0 <= items <= self.size:
            raise Refused("refers to a storage of unknown kind")
        return STORAGES[kind.name], key, items


def _tensor(content: bytearray, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)


class _Zip(_File):
    def load(self) -> Any:
        with open_zip(self.file) as archive:
            members = archive.infolist()
            if any(m.compress_type != zipfile.ZIP_STORED or m.file_size != m.compress_size for m in members):
                raise ValueError("compressed members")
            if sum(m.file_size for m in members) > self.size or len({m.filename for m in members}) < len(members):
                raise ValueError("members that overlap")
            roots = [m.filename.removesuffix("data.pkl") for m in members if m.filename.endswith("/data.pkl")]
            if len(roots) != 1:
                raise ValueError("no data.pkl")
            self.archive, self.root = archive, roots[0]
            self.members = {m.filename: m for m in members}
            if self.content("byteorder", b"little").strip() != b"little":
                raise ValueError("numbers of another byte order")
            pickled = self.content("data.pkl")
            return Unpickling(io.BytesIO(pickled), len(pickled), self.known, self.storage).load()

    def content(self, name: str, default: bytes | None = None) -> bytes | bytearray:
        member = self.members.get(self.root + name)
        if member is None and default is not None:
            return default
        if member is None:
            raise ValueError(f"no {name[:40]}")
        return read_member(self.archive, member)

    def storage(self, what: Any) -> Tensor:
        dtype, key, items = self.facts(what, 5)
        if key not in self.storages:
            self.storages[key] = _tensor(self.content(f"data/{key}"), dtype)
        found = self.storages[key]
        if found.dtype != dtype or len(found) != items:
            raise Refused(f"refers to {items} items of storage {key[:40]}, which has {len(found)}")
        return found


class _Row(_File):
    """Pickles in a row, the last of them the keys of the storages, whose bytes follow it."""

    def load(self) -> Any:
        magic, version, system = (self.unpickle() for _ in range(3))
        if (magic, version) != (OLD_MAGIC, OLD_VERSION) or not (isinstance(system, dict) and system.get("little_endian") is True):
            raise ValueError("neither a zip nor an old file of torch")
        content = self.unpickle(self.storage)
        keys = self.unpickle()
        if type(keys) is not list or not all(type(k) is str for k in keys) or sorted(keys) != sorted(self.storages):
            raise ValueError("its list of storages is not that of its tensors")
        for key in keys:
            storage = self.storages[key]
            (items,) = struct.unpack("<q", self.file.read(8))
            bytes_of = storage.view(torch.uint8).numpy() if len(storage) else bytearray()
            if items != len(storage) or self.file.readinto(bytes_of) != len(bytes_of):
                raise ValueError(f"storage {key[:40]} was cut")
        if self.file.read(1):
            raise ValueError("bytes after its end")
        return content

    def unpickle(self, persistent: Any = None) -> Any:
        return Unpickling(self.file, self.size - self.file.tell(), self.known, persistent).load()

    def storage(self, what: Any) -> Tensor:
        dtype, key, items = self.facts(what, 6)
        if what[5] is not None:
            raise Refused("refers to a part of a storage")
        if key not in self.storages:
            self.held += items * dtype.itemsize
            if self.held > self.size:
                raise Refused("refers to larger storages than it has bytes")
            self.storages[key] = torch.zeros(items, dtype=dtype)
        if self.storages[key].dtype != dtype or len(self.storages[key]) != items:
            raise Refused("refers to one storage in two ways")
        return self.storages[key]


def read_torch(path: Path) -> Any:
    """Tensors and plain values of a file of torch.save. InputError on anything beyond the limits of this module."""
    try:
        with open_regular(path) as file:
            kind = _Zip if file.read(4) == b"PK\x03\x04" else _Row
            file.seek(0)
            return kind(file).load()
    except Refused as error:
        raise InputError(f"{path}: not a readable checkpoint of plain tensors (it {error}); nothing in it was run") from None
    except InputError:
        raise
    except (*UNREADABLE, struct.error) as error:
        raise InputError(f"{path}: not a readable checkpoint of plain tensors ({reason_of(error)}); take another copy") from None
