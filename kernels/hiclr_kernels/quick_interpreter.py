"""Triton's interpreter, several times as quick, with the same results (written against triton 3.7).

As shipped, most of its time is not arithmetic. Every launch and every call of a device function, `tl.sum` among them, looks
through all of `triton.language` for functions to replace by interpreted ones; every sum or product of integers is made again in
64 bits for a check whose outcome is dropped; every value gets a type of its own, built anew; memory is read and written value by
value. Here functions are replaced once, types are built once, and a whole tile is read by one call of numpy.
"""

from functools import cache
from types import SimpleNamespace

import numpy as np
import triton.language as tl
from triton.language import core
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, InterpreterOptions, TensorHandle

FEW = 256  # values that are read and written one by one in less time than by numpy
START = 4096  # no process may use addresses below
END = 1 << 47  # nor, on 64-bit processors of today, from here on


@cache
def memory(itemsize: int) -> np.ndarray:
    """All of the process's memory as one array of unsigned integers; touching an address that is not the process's ends it."""
    kind = np.dtype(f"u{itemsize}")
    return np.asarray(
        SimpleNamespace(
            __array_interface__=dict(data=(START, False), shape=((END - START) // itemsize,), typestr=kind.str, version=3)
        )
    )


def _places(addresses: np.ndarray, itemsize: int) -> np.ndarray:
    """Of addresses, in `memory`."""
    return ((addresses - np.uint64(START)) >> np.uint64(itemsize.bit_length() - 1)).view(np.int64)


def load(addresses: np.ndarray, mask: np.ndarray, other: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if mask.all():
        return memory(dtype.itemsize).take(_places(addresses, dtype.itemsize)).view(dtype)
    out = np.array(np.broadcast_to(other, addresses.shape), dtype)
    out[mask] = memory(dtype.itemsize).take(_places(addresses[mask], dtype.itemsize)).view(dtype)
    return out


def store(addresses: np.ndarray, values: np.ndarray, mask: np.ndarray) -> None:
    values = values[mask]
    memory(values.itemsize)[_places(addresses[mask], values.itemsize)] = values.view(f"u{values.itemsize}")


def _types_once() -> None:
    """Types of one element type and shape are one, and so is what tensors take from them."""
    new_block, new_tensor, blocks = core.block_type.__init__, core.tensor.__init__, {}

    def block_type(self, element_ty, shape):
        values = shape.values if isinstance(shape, core.tuple) else shape
        key = element_ty.name, *(v.value if isinstance(v, core.constexpr) else v for v in values)
        if key not in blocks:
            new_block(self, element_ty, shape)
            blocks[key] = self.__dict__
        self.__dict__ = blocks[key]

    def tensor(self, handle, type):
        shared = type.__dict__.get("of_tensors")
        if shared is None:
            new_tensor(self, handle, type)
            type.__dict__["of_tensors"] = {name: value for name, value in self.__dict__.items() if name != "handle"}
        else:
            self.__dict__.update(shared)
            self.handle = handle

    core.block_type.__init__, core.tensor.__init__ = block_type, tensor
    dtype_of, dtypes = interpreter._get_np_dtype, {}

    def np_dtype(kind):
        name = kind.scalar.name
        if name not in dtypes:
            dtypes[name] = dtype_of(kind)
        return dtypes[name]

    interpreter._get_np_dtype = np_dtype


def _functions_once() -> None:
    shipped = interpreter._patch_lang

    @cache
    def patch_all() -> None:
        shipped(SimpleNamespace(__globals__={"tl": tl, "core": core}))

    def patch_lang(function):
        patch_all()
        return SimpleNamespace(restore=lambda: None)

    def patch_attr(place, name, member, *_):
        def interpreted(*args, _semantic=None, **kwargs):
            return member(*args, **kwargs, _semantic=interpreter.interpreter_semantic)

        setattr(place, name, interpreted)

    interpreter._patch_lang, interpreter._patch_attr = patch_lang, patch_attr


def _tiles_at_once() -> None:
    shipped_load, shipped_store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def create_masked_load(self, pointers, mask, other, *rest):
        if pointers.data.size < FEW:
            return shipped_load(self, pointers, mask, other, *rest)
        kind = pointers.get_element_ty()
        other = np.zeros(1) if other is None else other.data
        return TensorHandle(load(pointers.data, mask.data, other, interpreter._get_np_dtype(kind)), kind)

    def create_masked_store(self, pointers, value, mask, *rest):
        if pointers.data.size < FEW:
            return shipped_store(self, pointers, value, mask, *rest)
        return store(pointers.data, value.data, mask.data)

    def create_splat(self, kind, value):
        return TensorHandle(np.broadcast_to(value.data.reshape(-1)[:1], kind.shape.values), value.dtype.scalar)

    InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store = create_masked_load, create_masked_store
    InterpreterBuilder.create_splat = create_splat


@cache
def hasten() -> None:
    _functions_once()
    _types_once()
    _tiles_at_once()
    interpreter.interpreter_builder.options = InterpreterOptions(sanitize_overflow=False)
