"""Philox4x32-10 and Box-Muller in numba: the bits of `philox.reference`, loops that LLVM vectorises, about 0.7 ns a normal.

Polynomials: Cephes logf, sinf and cosf (Moshier). Both ranges are reduced exactly, on the integer bits, so that a normal
is within 2e-6 of the one computed in float64.
"""

import math

import numpy as np

from hiclr_kernels.jit import compiled
from hiclr_kernels.philox.reference import MULTIPLIER, ROUNDS, WEYL

FLAGS = {"fastmath": {"contract"}, "error_model": "numpy"}
_A, _B = np.uint64(MULTIPLIER[0]), np.uint64(MULTIPLIER[1])
_WEYL_A, _WEYL_B, _LOW = np.uint64(WEYL[0]), np.uint64(WEYL[1]), np.uint64(0xFFFFFFFF)
_U32, _DROP = np.uint64(32), np.uint32(8)
F = np.float32
I = np.int32
UNIT = F(2.0**-24)
_SQRT_HALF_BITS, _MANTISSA = I(0x3F3504F3), I(0x7FFFFF)
_LN2_HIGH, _LN2_LOW = F(0.693359375), F(-2.12194440e-4)
_TO_ANGLE = F(2 * math.pi * 2.0**-24)


@compiled(inline="always", **FLAGS)
def philox(k0, k1, c0, c1, c2, c3):
    """Four words of 32 random bits; every argument and result is a uint32. Words stay in 64-bit lanes: a product then needs
    no widening, which was more than half of the time."""
    a, b, c, d, u, v = np.uint64(c0), np.uint64(c1), np.uint64(c2), np.uint64(c3), np.uint64(k0), np.uint64(k1)
    for _ in range(ROUNDS):
        p, q = _A * (a & _LOW), _B * (c & _LOW)
        a, b, c, d = (q >> _U32) ^ b ^ u, q & _LOW, (p >> _U32) ^ d ^ v, p & _LOW
        u, v = (u + _WEYL_A) & _LOW, (v + _WEYL_B) & _LOW
    return np.uint32(a), np.uint32(b), np.uint32(c), np.uint32(d)


@compiled(**FLAGS)
def uniforms(k0, k1, first, c1, c2, c3, out):
    """Fills out (n,) float32 with `philox.reference.uniform`."""
    for block in range(-(-len(out) // 4)):
        words = philox(k0, k1, np.uint32(first + block), c1, c2, c3)
        for lane in range(min(4, len(out) - 4 * block)):
            out[4 * block + lane] = F(words[lane] >> _DROP) * UNIT


@compiled(**FLAGS)
def _bits(k0, k1, first, c1, c2, c3, words):
    """words (4, n) uint32: 24 bits of each word of n blocks from `first` on."""
    w0, w1, w2, w3 = words[0], words[1], words[2], words[3]
    for i in range(words.shape[1]):
        a, b, c, d = philox(k0, k1, np.uint32(first + i), c1, c2, c3)
        w0[i], w1[i], w2[i], w3[i] = a >> _DROP, b >> _DROP, c >> _DROP, d >> _DROP


@compiled(**FLAGS)
def _box_muller(wa, wb, value, bits, za, zb):
    """za, zb (n,) from the words wa, wb. value: (n,) float32 scratch; bits: the same memory as int32."""
    for i in range(len(wa)):
        value[i] = F(I(1 << 24) - I(wa[i])) * UNIT  # 1 - u, exact, in (0, 1]
    for i in range(len(wa)):  # 1 - u = m * 2^e, m in [sqrt(1/2), sqrt(2))
        shifted = bits[i] - _SQRT_HALF_BITS
        bits[i] = (shifted & _MANTISSA) + _SQRT_HALF_BITS
        za[i] = F(shifted >> I(23))
    for i in range(len(wa)):
        m, e = value[i] - F(1), za[i]
        p = F(7.0376836292e-2)
        p = p * m + F(-1.1514610310e-1)
        p = p * m + F(1.1676998740e-1)
        p = p * m + F(-1.2420140846e-1)
        p = p * m + F(1.4249322787e-1)
        p = p * m + F(-1.6668057665e-1)
        p = p * m + F(2.0000714765e-1)
        p = p * m + F(-2.4999993993e-1)
        p = p * m + F(3.3333331174e-1)
        log = (m + (p * m * (m * m) + _LN2_LOW * e - F(0.5) * (m * m))) + _LN2_HIGH * e
        radius = np.sqrt(F(-2) * log)
        k = I(wb[i])
        quarter = (k + I(1 << 21)) >> I(22)  # the angle is quarter * pi/2 + t, |t| <= pi/4
        t = F(k - (quarter << I(22))) * _TO_ANGLE
        t2 = t * t
        s = ((F(-1.9515295891e-4) * t2 + F(8.3321608736e-3)) * t2 + F(-1.6666654611e-1)) * t2 * t + t
        c = ((F(2.443315711809948e-5) * t2 + F(-1.388731625493765e-3)) * t2 + F(4.166664568298827e-2)) * t2 * t2
        c = c - F(0.5) * t2 + F(1)
        odd = (quarter & I(1)) != 0
        cos, sin = (s, c) if odd else (c, s)
        za[i] = radius * (-cos if ((quarter + I(1)) & I(2)) != 0 else cos)
        zb[i] = radius * (-sin if (quarter & I(2)) != 0 else sin)


@compiled(**FLAGS)
def normals(k0, k1, first, c1, c2, c3, words, value, bits, out):
    """out (4 * Q,) float32: one row of `philox.reference.normal`. words: (4, Q) uint32; value, bits: (Q,), one memory."""
    _bits(k0, k1, first, c1, c2, c3, words)
    q = words.shape[1]
    _box_muller(words[0], words[1], value, bits, out[:q], out[q : 2 * q])
    _box_muller(words[2], words[3], value, bits, out[2 * q : 3 * q], out[3 * q :])
