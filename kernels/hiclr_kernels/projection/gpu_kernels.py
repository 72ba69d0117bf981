"""Triton kernels of the projector: x (N, H), hidden (N, M), unit rows q (N, F). Formulas: `projection/__init__.py`.

A program of rows holds BR of them; weights are float32 and rounded to the dtype of `hidden` where they are read.
"""

import triton
import triton.language as tl

LEAST = tl.constexpr(1e-12)  # of a length, as torch.nn.functional.normalize has it


@triton.jit
def _tile(t, row, column, rows, columns, to_row):
    """t[row, column], zero beyond rows and columns."""
    ok = (row < rows)[:, None] & (column < columns)[None, :]
    return tl.load(t + row[:, None] * to_row + column[None, :], ok, other=0.0)


@triton.jit
def forward_kernel(
    x, weight1, bias1, weight2, bias2, other1, bias1_other, other2, bias2_other, q, hidden, inverse, N, split, blocks,
    H: tl.constexpr, M: tl.constexpr, F: tl.constexpr, BR: tl.constexpr, BH: tl.constexpr, BM: tl.constexpr, FP: tl.constexpr,
):  # fmt: skip
    """The first `blocks` programs: rows before `split`; the others: those behind, by the other weights."""
    pid = tl.program_id(0)
    dtype = hidden.dtype.element_ty
    own = pid < blocks
    first, end = pid * BR, split
    if pid >= blocks:
        first, end = split + (pid - blocks) * BR, N
        weight1, bias1, weight2, bias2 = other1, bias1_other, other2, bias2_other
    row, f = first + tl.arange(0, BR), tl.arange(0, FP)
    y = tl.zeros((BR, FP), tl.float32)
    for start in range(0, M, BM):
        m = start + tl.arange(0, BM)
        acc = tl.zeros((BR, BM), tl.float32)
        for from_h in range(0, H, BH):
            h = from_h + tl.arange(0, BH)
            a, w = _tile(x, row, h, end, H, H).to(dtype), _tile(weight1, m, h, M, H, H).to(dtype)
            acc = tl.dot(a, tl.trans(w), acc, input_precision="ieee")
        u = tl.maximum(acc + tl.load(bias1 + m, m < M, other=0.0)[None, :], 0.0).to(dtype)
        tl.store(hidden + row[:, None] * M + m[None, :], u, (own & (row < split))[:, None] & (m < M)[None, :])
        y = tl.dot(u, tl.trans(_tile(weight2, f, m, F, M, M).to(dtype)), y, input_precision="ieee")
    y = tl.where((f < F)[None, :], y + tl.load(bias2 + f, f < F, other=0.0)[None, :], 0.0)
    short = 1.0 / tl.maximum(tl.sqrt(tl.sum(y * y, 1)), LEAST)
    tl.store(q + row[:, None] * F + f[None, :], y * short[:, None], (row < end)[:, None] & (f < F)[None, :])
    tl.store(inverse + row, short, own & (row < split))


@triton.jit
def rows_kernel(
    grad, q, inverse, hidden, weight1, weight2, dy, dh, dx, N, H: tl.constexpr, M: tl.constexpr, F: tl.constexpr,
    BR: tl.constexpr, BH: tl.constexpr, BM: tl.constexpr, FP: tl.constexpr,
):  # fmt: skip
    """dx (N, H), BH of its columns a program; those of the first columns also leave dy (N, F) and dh (N, M)."""
    leaves = tl.program_id(1) == 0
    dtype = hidden.dtype.element_ty
    row, h = tl.program_id(0) * BR + tl.arange(0, BR), tl.program_id(1) * BH + tl.arange(0, BH)
    f, inside = tl.arange(0, FP), row < N
    d, u = _tile(grad, row, f, N, F, F), _tile(q, row, f, N, F, F)
    short = tl.load(inverse + row, inside, other=0.0)
    along = tl.where(short * LEAST < 1.0, tl.sum(d * u, 1), 0.0)  # a row shorter than LEAST is divided by a constant
    d = ((d - u * along[:, None]) * short[:, None]).to(dtype)
    tl.store(dy + row[:, None] * F + f[None, :], d, (leaves & inside)[:, None] & (f < F)[None, :])
    acc = tl.zeros((BR, BH), tl.float32)
    for start in range(0, M, BM):
        m = start + tl.arange(0, BM)
        g = tl.dot(d, _tile(weight2, f, m, F, M, M).to(dtype), input_precision="ieee")
        g = tl.where(_tile(hidden, row, m, N, M, M).to(tl.float32) > 0, g, 0.0).to(dtype)
        tl.store(dh + row[:, None] * M + m[None, :], g, (leaves & inside)[:, None] & (m < M)[None, :])
        acc = tl.dot(g, _tile(weight1, m, h, M, H, H).to(dtype), acc, input_precision="ieee")
    tl.store(dx + row[:, None] * H + h[None, :], acc.to(dx.dtype.element_ty), inside[:, None] & (h < H)[None, :])


@triton.jit
def _weight(d, x, to, to_bias, tile, N, A: tl.constexpr, B: tl.constexpr, BR: tl.constexpr, BLOCK: tl.constexpr):
    """One tile of to (A, B) = d^T x, d: (N, A), x: (N, B); the tiles of the first columns also sum d."""
    columns = tl.cdiv(B, BLOCK)
    a, b = tile // columns * BLOCK + tl.arange(0, BLOCK), tile % columns * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK, BLOCK), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, N, BR):
        row = first + tl.arange(0, BR)
        left = _tile(d, row, a, N, A, A)
        acc = tl.dot(tl.trans(left), _tile(x, row, b, N, B, B).to(left.dtype), acc, input_precision="ieee")
        total += tl.sum(left.to(tl.float32), 0)
    tl.store(to + a[:, None] * B + b[None, :], acc, (a < A)[:, None] & (b < B)[None, :])
    tl.store(to_bias + a, total, (tile % columns == 0) & (a < A))


@triton.jit
def weights_kernel(
    dh, x, dy, hidden, d_weight1, d_bias1, d_weight2, d_bias2, N, H: tl.constexpr, M: tl.constexpr, F: tl.constexpr,
    BR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A tile of either weight's gradient a program, those of the first weight first."""
    tiles: tl.constexpr = ((M + BLOCK - 1) // BLOCK) * ((H + BLOCK - 1) // BLOCK)
    if tl.program_id(0) < tiles:
        _weight(dh, x, d_weight1, d_bias1, tl.program_id(0), N, M, H, BR, BLOCK)
    else:
        _weight(dy, hidden, d_weight2, d_bias2, tl.program_id(0) - tiles, N, F, M, BR, BLOCK)
