"""Launches the Triton contrast kernels: tiles, splits, buffers. Nothing here waits for the device or depends on its data."""

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from hiclr_kernels.contrast.gpu_kernels import PAIR_SCALE, merge_kernel, reduce_kernel, sweep_kernel

if triton.knobs.runtime.interpret:
    from hiclr_kernels.interpreter import correct_bfloat16

    correct_bfloat16()

MAX_D = 256
MAX_TOPK = 4  # running neighbours a row that stay in registers beside the accumulator
LOG2E = math.log2(math.e)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MERGE_BLOCK = 16  # splits read at a time
REDUCE_BLOCK = 1024
INTERPRETER_SLOTS = 8  # programs that the interpreter pretends to run side by side
FULL_WAVE = 0.9
OTHERWISE = "set HICLR_KERNELS=reference to go without them"


class Tile(NamedTuple):
    rows: int
    queue: int
    warps: int
    stages: int


# By (bytes an element, padded D, mining). Chosen so that nothing spills on sm_80, sm_86, sm_89, sm_90, sm_100 and sm_120, and
# so that the consumer ones among them have the shared memory (99 KB): kernels/README.md has the table. Meant for an H200, but
# not timed on one yet: no GPU was at hand. Fixed, not autotuned: a CUDA graph may be capturing.
TILES = {
    (2, 64, False): Tile(128, 64, 8, 3),
    (2, 64, True): Tile(128, 64, 8, 3),
    (2, 128, False): Tile(128, 64, 8, 3),
    (2, 128, True): Tile(128, 32, 8, 3),
    (2, 256, False): Tile(64, 64, 8, 2),
    (2, 256, True): Tile(64, 64, 8, 2),
    (4, 64, False): Tile(128, 64, 8, 2),
    (4, 64, True): Tile(128, 32, 8, 2),
    (4, 128, False): Tile(128, 32, 8, 2),
    (4, 128, True): Tile(128, 16, 8, 2),
    (4, 256, False): Tile(32, 32, 8, 1),
    (4, 256, True): Tile(16, 32, 8, 1),
}


def power_of_2(x: int) -> int:
    return 1 << (x - 1).bit_length()


def slots_for(topk: int) -> int:
    return topk if topk < 2 else MAX_TOPK  # two variants to compile, not four


def sweep_config(dtype: torch.dtype, d: int, topk: int) -> tuple[Tile, dict]:
    """Tile and compile-time arguments of the sweep; tests compile exactly these."""
    block_d = max(64, power_of_2(d))
    tile = TILES[dtype.itemsize, block_d, topk > 0]
    return tile, dict(
        D=d, BLOCK_D=block_d, BLOCK_R=tile.rows, BLOCK_Q=tile.queue, SLOTS=slots_for(topk), PAIR=dtype == torch.float32
    )


def merge_config(branches: int, d: int, topk: int, splits: int) -> dict:
    slots = slots_for(topk)
    return dict(
        B=branches,
        D=d,
        BLOCK_D=max(64, power_of_2(d)),
        BLOCK_S=MERGE_BLOCK,
        TOPK=topk,
        SLOTS=slots,
        CANDIDATES=power_of_2(max(1, splits * slots)),
        UNION=power_of_2(max(1, branches * topk)),
    )


@cache
def split_count(row_blocks: int, tiles: int, slots: int) -> int:
    """Fewest splits of the queue whose programs fill the last wave of multiprocessors to nine tenths, at most one a tile."""
    for splits in range(1, tiles):
        waves = row_blocks * splits / slots
        if waves >= FULL_WAVE * math.ceil(waves):
            return splits
    return tiles


@cache
def slots_of(device: torch.device) -> int:
    if device.type != "cuda":
        return INTERPRETER_SLOTS
    return torch.cuda.get_device_properties(device).multi_processor_count


def rounded(*tensors: Tensor) -> list[Tensor]:
    """To bfloat16, all in one launch."""
    out = [torch.empty_like(t, dtype=torch.bfloat16, memory_format=torch.contiguous_format) for t in tensors]
    torch._foreach_copy_(out, [t.contiguous() for t in tensors])
    return out


def contrast(
    q: Tensor, key: Tensor, queue: Tensor, temperature: float, weights: Sequence[float], topk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """loss (), terms (B,), and the gradient of the loss to q, (B, N, D), all float32.

    Arguments as for `hierarchical_contrast`. Raises ValueError on a dtype, D or topk that the kernels do not cover.
    """
    branches, n, d = q.shape
    if q.dtype not in DTYPES:
        raise ValueError(f"the Triton kernels take bfloat16, float16 or float32, not {q.dtype}: {OTHERWISE}")
    if d > MAX_D or topk > MAX_TOPK:
        raise ValueError(f"D {d}, topk {topk}: the Triton kernels go to D {MAX_D} and topk {MAX_TOPK}: {OTHERWISE}")
    q, key, queue = q.contiguous(), key.contiguous(), queue.contiguous()
    rows, queue_rows = branches * n, queue.shape[0]
    tile, sweep = sweep_config(q.dtype, d, topk)
    row_blocks, tiles = triton.cdiv(rows, tile.rows), triton.cdiv(queue_rows, tile.queue)
    per_split = triton.cdiv(tiles, split_count(row_blocks, tiles, slots_of(q.device)))
    splits = triton.cdiv(tiles, per_split)  # none is empty
    merge = merge_config(branches, d, topk, splits)

    def buffer(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=q.device)

    m, l, acc = buffer(splits, rows), buffer(splits, rows), buffer(splits, rows, d)
    values, index = buffer(rows, splits, merge["SLOTS"]), buffer(rows, splits, merge["SLOTS"], dtype=torch.int32)
    row_terms, grad, terms, loss = buffer(branches, n), buffer(branches, n, d), buffer(branches), buffer()
    hi, lo = _halves(q) if sweep["PAIR"] else (q, q)
    scale = LOG2E / temperature
    with torch.cuda.device_of(q):
        sweep_kernel[row_blocks, splits](
            hi, lo, queue, m, l, acc, values, index, rows, queue_rows, per_split, scale,
            **sweep, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
        grad_scales = tuple(weight / (n * temperature) for weight in weights)
        merge_kernel[n,](
            q, key, queue, m, l, acc, values, index, row_terms, grad, n, queue_rows, splits, scale, grad_scales, **merge
        )
        reduce_kernel[1,](row_terms, terms, loss, n, tuple(map(float, weights)), B=branches, BLOCK=REDUCE_BLOCK)
    return loss, terms, grad


def _halves(q: Tensor) -> tuple[Tensor, Tensor]:
    """float16 pair of q as the sweep multiplies it; outside, so that both halves are operands in shared memory there."""
    scaled = q * PAIR_SCALE.value
    hi = scaled.half()
    return hi, (scaled - hi).half()
