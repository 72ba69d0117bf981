"""Decimal text -> numbers, compiled, without the GIL: fast enough that reading the files is the limit.

Text is a uint8 array that ends with PAD zero bytes (`padded`), so that 64 bytes can be loaded anywhere; a zero byte is
no part of any number and ends every loop. Values are rounded correctly (as `float()` does) for up to 19 significant digits
and powers of ten up to 22, so for every number that a sensor writes; beyond that within one unit in the last place.
"""

import math

import numpy as np
from hiclr_kernels.jit import compiled

from hiclr_fast.data.formats.eight_bytes import FLAGS, count_digits, count_ones, digits_value, find, load8, trailing_zeros

PAD = 64
SPACE, TAB, CR, LF, COMMA, DOT, MINUS, PLUS = 32, 9, 13, 10, 44, 46, 45, 43
_EXACT = 10.0 ** np.arange(23)  # powers of ten that float64 holds exactly
_POWERS = np.array([10**k for k in range(9)], dtype=np.uint64)


def padded(data: bytes) -> np.ndarray:
    """(len + PAD,) uint8: the text as the functions of this file want it."""
    out = np.zeros(len(data) + PAD, dtype=np.uint8)
    out[: len(data)] = np.frombuffer(data, dtype=np.uint8)
    return out


@compiled(**FLAGS)
def skip_blank(data, i):
    """First place from i on that is no space, tab or carriage return."""
    while data[i] == SPACE or data[i] == TAB or data[i] == CR:
        i += 1
    return i


@compiled(**FLAGS)
def end_of_line(data, i):
    """(place after the line break, was there nothing but blanks before it). The end of the text ends a line too."""
    i = skip_blank(data, i)
    if i >= len(data) - PAD:
        return i, True
    return i + 1, data[i] == LF


@compiled(**FLAGS)
def skip_fields(data, i, expected):
    """(place after the line break, fields passed over). Counts spaces; only if they are not `expected`, the fields."""
    end, start, spaces = len(data) - PAD, i, 0
    while i < end:
        stop, blank = find(data, i, LF), find(data, i, SPACE)
        spaces += count_ones(blank & (stop - np.uint64(1)) & ~stop)  # those before the line break; all if there is none
        if stop:
            i += trailing_zeros(stop) + 1
            break
        i += 64
    if spaces == expected and i <= end:
        return i, expected
    return _count_fields(data, start)


@compiled(**FLAGS)
def _count_fields(data, i):
    fields, inside = 0, False
    while i < len(data) - PAD and data[i] != LF:
        blank = data[i] == SPACE or data[i] == TAB or data[i] == CR
        if not blank and not inside:
            fields += 1
        inside = not blank
        i += 1
    return i + 1, fields


@compiled(**FLAGS)
def _ends_here(data, i):
    """Nothing but a blank, a comma, a line break or the end follows a number."""
    return data[i] in (SPACE, LF, COMMA, TAB, CR) or (data[i] == 0 and i == len(data) - PAD)


@compiled(**FLAGS)
def read_int(data, i):
    """(value, place after it, ok): digits, after blanks and an optional sign; wraps beyond 64 bits (ids)."""
    i = skip_blank(data, i)
    negative = data[i] == MINUS
    if negative or data[i] == PLUS:
        i += 1
    start, value = i, np.int64(0)
    while 48 <= data[i] <= 57:
        value = value * 10 + (data[i] - 48)
        i += 1
    return -value if negative else value, i, i > start and _ends_here(data, i)


@compiled(**FLAGS)
def read_count(data, i):
    """`read_int` that is not ok beyond 18 digits, where it would wrap."""
    start = skip_blank(data, i)
    value, end, ok = read_int(data, start)
    return value, end, ok and end - start <= 18


@compiled(**FLAGS)
def read_float(data, i):
    """(value, place after it, ok): a decimal number, or nan or inf in any case, after blanks."""
    i = skip_blank(data, i)
    start, negative = i, data[i] == MINUS
    if negative:
        i += 1
    word = load8(data, i)
    digits = count_digits(word)
    mantissa, fraction = digits_value(word, digits), 0
    i += digits
    if data[i] == DOT:
        word = load8(data, i + 1)
        fraction = count_digits(word)
        mantissa = mantissa * _POWERS[fraction] + digits_value(word, fraction)
        i += 1 + fraction
        if fraction == 8:
            word = load8(data, i)
            more = count_digits(word)
            mantissa = mantissa * _POWERS[more] + digits_value(word, more)
            i += more
            fraction += more
    if 0 < digits + fraction <= 15 and (data[i] == SPACE or data[i] == LF):
        value = np.float64(np.int64(mantissa)) / _EXACT[fraction]
        return -value if negative else value, i, True
    return _general(data, start)


@compiled(**FLAGS)
def _fixed(data, start, dot, end):
    """(value, ok) of the decimal [-]digits.digits in data[start:end]; not ok: it is anything else, or has over 15 digits."""
    negative = np.int64(load8(data, start) & np.uint64(0xFF)) == MINUS
    start += np.int64(negative)
    whole, fraction = dot - start, end - dot - 1
    first, second, third = load8(data, start), load8(data, dot + 1), load8(data, dot + 9)
    near, far = min(fraction, 8), max(min(fraction, 16) - 8, 0)
    ok = (whole > 0) & (whole <= 8) & (fraction > 0) & (whole + fraction <= 15)
    ok &= (count_digits(first) >= whole) & (count_digits(second) >= near) & (count_digits(third) >= far)
    if not ok:
        return 0.0, False
    mantissa = (digits_value(first, whole) * _POWERS[near] + digits_value(second, near)) * _POWERS[far] + digits_value(third, far)
    value = np.float64(np.int64(mantissa)) / _EXACT[fraction]
    return -value if negative else value, True


@compiled(**FLAGS)
def read_xyz(data, i):
    """(x, y, z, place after them, ok). Where the three are plain decimals with one space after each, as sensors write them, all
    ends and points are found at once and the three are read independently of each other."""
    blanks, dots = find(data, i, SPACE), find(data, i, DOT)
    end1, dot1 = trailing_zeros(blanks), trailing_zeros(dots)
    blanks, dots = blanks & (blanks - np.uint64(1)), dots & (dots - np.uint64(1))
    end2, dot2 = trailing_zeros(blanks), trailing_zeros(dots)
    blanks, dots = blanks & (blanks - np.uint64(1)), dots & (dots - np.uint64(1))
    end3, dot3 = trailing_zeros(blanks), trailing_zeros(dots)
    if (dot1 < end1) & (end1 < dot2) & (dot2 < end2) & (end2 < dot3) & (dot3 < end3) & (end3 < 64):
        x, ok1 = _fixed(data, i, i + dot1, i + end1)
        y, ok2 = _fixed(data, i + end1 + 1, i + dot2, i + end2)
        z, ok3 = _fixed(data, i + end2 + 1, i + dot3, i + end3)
        if ok1 & ok2 & ok3:
            return x, y, z, i + end3, True
    x, i, ok1 = read_float(data, i)
    y, i, ok2 = read_float(data, i)
    z, i, ok3 = read_float(data, i)
    return x, y, z, i, ok1 and ok2 and ok3


@compiled(**FLAGS)
def _general(data, i):
    """Any length, sign and exponent, and words."""
    negative = data[i] == MINUS
    if negative or data[i] == PLUS:
        i += 1
    mantissa, kept, seen, power, point = np.uint64(0), 0, 0, 0, False
    while 48 <= data[i] <= 57 or (data[i] == DOT and not point):
        if data[i] == DOT:
            point = True
        elif kept < 19:
            mantissa = mantissa * np.uint64(10) + np.uint64(data[i] - 48)
            kept += 1 if mantissa > 0 else 0
            power -= 1 if point else 0
            seen += 1
        else:
            power += 0 if point else 1
            seen += 1
        i += 1
    if seen == 0:
        return _word(data, i, negative)
    if data[i] == 101 or data[i] == 69:
        i += 1
        minus = data[i] == MINUS
        if minus or data[i] == PLUS:
            i += 1
        exponent, start = 0, i
        while 48 <= data[i] <= 57:
            exponent = min(exponent * 10 + (data[i] - 48), 99999)
            i += 1
        if i == start:
            return 0.0, i, False
        power += -exponent if minus else exponent
    value = _scaled(mantissa, power)
    return -value if negative else value, i, _ends_here(data, i)


@compiled(**FLAGS)
def _scaled(mantissa, power):
    """mantissa * 10**power, correctly rounded for |power| <= 22: the remainder of the one inexact operation is added back."""
    if mantissa == 0:
        return 0.0
    hi = float(mantissa >> np.uint64(11)) * 2048.0
    lo = float(mantissa & np.uint64(2047))
    if abs(power) > 22:
        return (hi + lo) * math.pow(10.0, max(power, -300)) * math.pow(10.0, min(0, power + 300))
    p = _EXACT[abs(power)]
    if mantissa < np.uint64(1 << 53):
        return (hi + lo) * p if power > 0 else (hi + lo) / p
    q = hi if power > 0 else hi / p
    a, b = q * 134217729.0, p * 134217729.0  # Dekker's split gives q * p exactly, as product + error
    qh, ph = a - (a - q), b - (b - p)
    ql, pl = q - qh, p - ph
    product = q * p
    error = ((qh * ph - product) + qh * pl + ql * ph) + ql * pl
    if power > 0:
        return product + (error + lo * p)
    return q + ((hi - product) - error + lo) / p


@compiled(**FLAGS)
def _word(data, i, negative):
    """nan, inf or infinity, in any case."""
    start = i
    while 65 <= data[i] <= 90 or 97 <= data[i] <= 122:
        i += 1
    a, b, c, length = data[start] | 32, data[start + 1] | 32, data[start + 2] | 32, i - start
    if length == 3 and a == 110 and b == 97 and c == 110:
        return math.nan, i, True
    if (length == 3 or length == 8) and a == 105 and b == 110 and c == 102:
        return -math.inf if negative else math.inf, i, True
    return 0.0, i, False
