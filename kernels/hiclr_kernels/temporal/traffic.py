"""Bytes that every launch of the temporal kernels reads and writes, from shapes alone: each value counted once.

Frames that several programs read are in cache after the first; what a kernel passes on to the next counts as written and as read,
although small buffers stay in cache. Partial moments and sums are written; who joins them is not of this folder.
"""

import torch

from hiclr_kernels.temporal.reference import out_frames
from hiclr_kernels.temporal.tiles import cdiv, forward_config, inputs_config, joint_tile, lane_count, weights_config

Launch = tuple[str, int, int]  # kernel, bytes read, bytes written
WIDE = 4  # bytes of a float32: weights, coefficients, partial results


def traffic(
    *, rows: int, frames: int, joints: int, c_in: int, c_out: int, kernel: int, stride: int, groups: int, sets: int,
    dtype: torch.dtype, slots: int, backward: bool = False, fold: bool = True, marks: bool = False, major: int = 9,
) -> list[Launch]:  # fmt: skip
    """Launches of `temporal`, or with `backward` of `temporal_backward`, in their order.

    rows: of all groups; weights in float32; slots: programs side by side, two a multiprocessor; fold: with a batch norm after it;
    marks: of what passes, a bit a value; major: of the compute capability.
    """
    size, frames_out = dtype.itemsize, out_frames(frames, stride)
    z1, z2 = rows * frames * joints * c_in * size, rows * frames_out * joints * c_out * size
    weight, affine = sets * c_out * c_in * kernel * WIDE, 2 * groups * c_in * WIDE
    shape = (joints, c_in, c_out, kernel, stride, 0.0, dtype)

    def band(constants: dict) -> int:
        return sets * constants["STEPS"] * constants["BI"] * constants["F"] * constants["OB"] * size

    def tiles(tile, length: int) -> int:
        return cdiv(rows // groups * joints, tile.M) * cdiv(length, tile.F)

    if not backward:
        tile, constants = forward_config(*shape)
        parts, width, matrix = tiles(tile, frames_out), 3 * constants["OB"], band(constants)
        convolution = ("forward", z1 + matrix + affine + sets * c_out * WIDE, z2 + groups * parts * width * WIDE)
        return [("band", weight, matrix), convolution]
    upstream = z2 * (1 + fold) + 3 * groups * c_out * WIDE * fold + z2 // size // 8 * marks
    tile, constants = inputs_config(*shape, fold, major)
    parts, width, matrix = tiles(tile, frames), 2 * constants["OB"], band(constants)
    center = groups * c_in * WIDE
    launches = [("band", weight, matrix)]
    if joint_tile(c_in, c_out, kernel, stride, dtype, major) is not None:
        lanes = lane_count(groups, parts, 2, slots)
        held = groups * lanes * constants["STEPS"] * tile.BI * tile.F * constants["OB"] * WIDE
        joint = ("joint", upstream + z1 + matrix + affine + center, z1 + groups * lanes * width * WIDE + held)
        return [*launches, joint, ("taps", held, weight)]
    launches += [("inputs", upstream + z1 + matrix + affine + center, z1 + groups * parts * width * WIDE)]
    tile, constants = weights_config(*shape, fold)
    lanes = lane_count(groups, tiles(tile, frames_out), constants["STEPS"] // constants["HELD"], slots)
    parts = groups * lanes * constants["STEPS"] * tile.BI * tile.F * constants["OB"] * WIDE
    return [*launches, ("weights", upstream + z1 + affine, parts), ("diagonals", parts, weight)]
