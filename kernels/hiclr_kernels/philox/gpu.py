"""Dropout masks from Philox in Triton: a function of (seed, position), so that nothing is stored for the backward pass.

One call of Philox4x32-10 with key = seed and counter = (position / 8, 0, 0) makes the sixteen-bit draws of eight neighbours in
memory; `philox.reference.keep` is the same in torch.
"""

import triton
import triton.language as tl


@triton.jit
def _words(seed, block):
    low, high = (block & 0xFFFFFFFF).to(tl.uint32), (block >> 32).to(tl.uint32)
    none = low * 0
    return tl.philox(seed, low, high, none, none)


@triton.jit
def keep(seed, at, threshold, ROWS: tl.constexpr, COLUMNS: tl.constexpr, ALIGNED: tl.constexpr):
    """(ROWS, COLUMNS) bool, each false with probability threshold / 65536.

    at: int64 positions, (ROWS, COLUMNS / 8) of every eighth column where eight neighbours start at a multiple of 8 (ALIGNED),
    else (ROWS, COLUMNS).
    """
    if ALIGNED:
        a, b, c, d = _words(seed, at >> 3)
        words = tl.join(tl.join(a, b), tl.join(c, d))  # (ROWS, COLUMNS / 8, 2, 2): a, c, b, d
        draws = tl.reshape(tl.join(words & 0xFFFF, words >> 16), (ROWS, COLUMNS))
    else:
        a, b, c, d = _words(seed, at >> 3)
        pair = (at >> 1) & 3
        word = tl.where(pair == 0, a, tl.where(pair == 1, c, tl.where(pair == 2, b, d)))
        draws = tl.where((at & 1) == 0, word & 0xFFFF, word >> 16)
    return draws.to(tl.int32) >= threshold
