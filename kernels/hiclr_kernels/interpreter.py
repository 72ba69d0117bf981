"""Corrects Triton's interpreter for bfloat16, which it keeps as bit patterns in uint16 (seen in triton 3.7), and hastens it.

As shipped, `tl.dot` multiplies the bit patterns as integers, and rounding to bfloat16 truncates where devices round to
nearest even.
"""

from functools import cache

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from hiclr_kernels.quick_interpreter import hasten


def to_float32(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """Bits of x rounded to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), 0x7FC0, rounded).astype(np.uint16)


@cache
def correct_bfloat16() -> None:
    """Replaces the interpreter's dot and casts, once, and hastens it."""
    hasten()
    shipped_dot, shipped_cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def create_dot(self, a, b, *rest):
        a, b = (TensorHandle(to_float32(x.data), tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
        return shipped_dot(self, a, b, *rest)

    def cast_impl(self, source, dtype):
        if (source.dtype.scalar, dtype.scalar) == (tl.float32, tl.bfloat16):
            return TensorHandle(to_bfloat16(source.data), tl.bfloat16)
        if (source.dtype.scalar, dtype.scalar) == (tl.bfloat16, tl.float32):
            return TensorHandle(to_float32(source.data), tl.float32)
        return shipped_cast(self, source, dtype)

    InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl = create_dot, cast_impl
