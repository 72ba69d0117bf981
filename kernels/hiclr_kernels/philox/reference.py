"""Philox4x32-10 in plain torch: counter-based random numbers (Salmon et al., SC 2011, "Parallel random numbers: as easy
as 1, 2, 3"; constants of its table 2 and section 3.3).

Same key and counter, same numbers: on any device, in any order, at any time. Nothing has to be saved to resume.
"""

import math

import torch
from torch import Tensor

MULTIPLIER = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
_MASK = 0xFFFFFFFF


def _mulhilo(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low word of the product. In 16-bit halves of b, because a product beyond 2^63 is undefined in the C++ that
    torch.compile writes: gcc made other numbers of it."""
    low, high = a * (b & 0xFFFF), a * (b >> 16)  # below 2^48
    return (high + (low >> 16)) >> 16, (low + ((high & 0xFFFF) << 16)) & _MASK


def philox(key: int | Tensor, c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four words of 32 random bits for every counter.

    key: 64-bit seed, or () int64. c0..c3: int64 tensors of values in [0, 2^32), shapes that broadcast together.
    Returns four int64 tensors of the broadcast shape, values in [0, 2^32).
    """
    k0, k1 = key & _MASK, (key >> 32) & _MASK
    c0, c1, c2, c3 = torch.broadcast_tensors(c0, c1, c2, c3)
    for _ in range(ROUNDS):
        hi0, lo0 = _mulhilo(MULTIPLIER[0], c0)
        hi1, lo1 = _mulhilo(MULTIPLIER[1], c2)
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0, k1 = (k0 + WEYL[0]) & _MASK, (k1 + WEYL[1]) & _MASK
    return c0, c1, c2, c3


def uniform(key: int, c1: Tensor, c2: Tensor, c3: Tensor, count: int, *, first_block: int = 0) -> Tensor:
    """`count` float32 values in [0, 1) for every counter (c1, c2, c3): shape (*broadcast, count).

    The last counter word walks over blocks of four values, from `first_block`. 24 bits a value.
    """
    block = torch.arange(first_block, first_block + -(-count // 4), device=c1.device)
    words = philox(key, block, c1[..., None], c2[..., None], c3[..., None])
    bits = torch.stack(words, dim=-1).flatten(-2)[..., :count]
    return (bits >> 8).to(torch.float32) * 2.0**-24


def normal(key: int, c1: Tensor, c2: Tensor, c3: Tensor, rows: int, count: int, *, first_block: int) -> Tensor:
    """Standard normal float32 values (Box and Muller 1958) for every counter: shape (*broadcast, rows, count).

    With Q = ceil(count / 4), block `first_block + row * Q + i` makes the values i, i + Q, i + 2Q and i + 3Q of its row, the
    first two from its words 0 and 1, the others from 2 and 3: neighbours in memory come from neighbouring blocks, so
    that kernels vectorise over blocks and never shuffle.
    """
    quarter = -(-count // 4)
    u = uniform(key, c1, c2, c3, 4 * rows * quarter, first_block=first_block).unflatten(-1, (rows, quarter, 2, 2))
    radius = torch.sqrt(-2 * torch.log1p(-u[..., 0]))  # 1 - u is in (0, 1]
    angle = 2 * math.pi * u[..., 1]
    z = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)  # (*, rows, Q, pair, 2)
    return z.flatten(-2).transpose(-2, -1).flatten(-2)[..., :count]


def keep(seed: int | Tensor, count: int, dropped: int, device: torch.device | str = "cpu") -> Tensor:
    """(count,) bool: which values dropout keeps, each but with probability dropped / 65536.

    Sixteen bits a value: block i of four words makes the values 8 i to 8 i + 7, two of each, in the order of words 0, 2, 1, 3.
    """
    block = torch.arange(-(-count // 8), device=device)
    a, b, c, d = philox(seed, block & _MASK, block >> 32, *torch.zeros(2, 1, dtype=torch.int64, device=device))
    words = torch.stack([a, c, b, d], dim=1)
    return torch.stack([words & 0xFFFF, words >> 16], dim=2).flatten()[:count] >= dropped
