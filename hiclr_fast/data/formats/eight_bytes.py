"""Eight and 64 bytes of text at a time: loads without bounds checks, byte search, and digits -> number, for `parse_numbers`."""

import numpy as np
from hiclr_kernels.jit import compiled
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

FLAGS = {"nogil": True, "error_model": "numpy"}
_LOW7, _HIGH = np.uint64(0x7F7F7F7F7F7F7F7F), np.uint64(0x8080808080808080)
_ZEROS = np.uint64(0x3030303030303030)  # "00000000"


@intrinsic
def load8(context, data, i):
    """Bytes i .. i + 8 of a contiguous uint8 array as one little-endian number, without a bounds check."""

    def generate(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        place = builder.gep(array.data, [args[1]])
        word = builder.load(builder.bitcast(place, ir.IntType(64).as_pointer()))
        word.align = 1
        return word

    return types.uint64(data, types.int64), generate


@intrinsic
def trailing_zeros(context, word):
    def generate(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


@intrinsic
def count_ones(context, word):
    def generate(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.int64(types.uint64), generate


@intrinsic
def find(context, data, i, byte):
    """Bit k of the result: byte i + k of a contiguous uint8 array equals `byte`, for 64 bytes, without a bounds check."""

    def generate(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        vector = ir.VectorType(ir.IntType(8), 64)
        place = builder.bitcast(builder.gep(array.data, [args[1]]), vector.as_pointer())
        text = builder.load(place)
        text.align = 1
        one = builder.insert_element(ir.Constant(vector, ir.Undefined), args[2], ir.Constant(ir.IntType(32), 0))
        wanted = builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), 64), [0] * 64))
        return builder.bitcast(builder.icmp_unsigned("==", text, wanted), ir.IntType(64))

    return types.uint64(data, types.int64, types.uint8), generate


@compiled(**FLAGS)
def count_digits(word):
    """How many of the leading bytes are digits."""
    x = word ^ _ZEROS  # digits become 0 .. 9; the sum carries into the high bit from 10 on
    wrong = (((x & _LOW7) + np.uint64(0x7676767676767676)) | x) & _HIGH
    return trailing_zeros(wrong) >> 3


@compiled(**FLAGS)
def digits_value(word, digits):
    """The number that the first `digits` bytes spell: pairs, then fours, then eight in three multiplications."""
    half = np.uint64(32 - 4 * digits)  # in two steps: a shift by 64 is undefined
    x = ((word ^ _ZEROS) << half) << half
    x = (x * np.uint64(10) + (x >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
    x = (x * np.uint64(100) + (x >> np.uint64(16))) & np.uint64(0x0000FFFF0000FFFF)
    return (x * np.uint64(10000) + (x >> np.uint64(32))) & np.uint64(0xFFFFFFFF)
