"""Eight booleans that lie side by side in memory as the bits of one byte, in Triton: the first is the lowest bit."""

import triton
import triton.language as tl


@triton.jit
def pack(marks, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """(ROWS, COLUMNS) bool -> (ROWS, COLUMNS / 8) uint8."""
    bits = tl.reshape(marks.to(tl.int32), (ROWS, COLUMNS // 8, 8)) << tl.arange(0, 8)[None, None, :]
    return tl.sum(bits, 2).to(tl.uint8)


@triton.jit
def unpack(packed, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """(ROWS, COLUMNS / 8) uint8 -> (ROWS, COLUMNS) bool; who holds a byte holds its eight values."""
    b = packed.to(tl.int32)
    even = tl.join(tl.join(b, b >> 4), tl.join(b >> 2, b >> 6))  # of three joins the last is the fastest axis
    odd = tl.join(tl.join(b >> 1, b >> 5), tl.join(b >> 3, b >> 7))
    return tl.reshape(tl.join(even, odd) & 1, (ROWS, COLUMNS)) != 0
