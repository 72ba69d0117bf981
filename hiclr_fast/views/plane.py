"""Views of poses in a plane: the draws of `augment.draw`, kept inside it. The kernels stay as they are: they read a matrix.

The third channel (a zero or a score) is neither turned, sheared, noised nor hidden. Everything is drawn from the same counters:

    A = keep . [[c, s, 0], [-s, c, 0], [0, 0, 1]] . [[1, a, 0], [b, 1, 0], [0, 0, 1]]

angle U(-main, main), as a camera is tilted either way; a, b the first shears; the axis mask hides x or y where the draw in space
hides x or y, and nothing where it hides z.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from hiclr_kernels.augment.draw import MATRIX, NOISE, TAPS, UNIFORMS, Draws, ViewStrength
from hiclr_kernels.philox.reference import uniform
from torch import Tensor


def in_plane(draws: Draws, strengths: Sequence[ViewStrength], sample: Tensor, step: Tensor, *, seed: int) -> Draws:
    """The same draws with the matrix and the noise of the plane. Waits for nothing, so that a CUDA graph can hold it."""
    view = torch.arange(len(strengths), device=sample.device)
    u = uniform(seed, view, sample[:, None], step, UNIFORMS)  # (N, W, 20), as in `draw_rows`
    rows = draws.rows.clone()
    for w, strength in enumerate(strengths):
        v = u[:, w]
        a, b = ((v[:, i] * 2 - 1) * strength.shear for i in (1, 3))
        angle = (v[:, 11] * 2 - 1) * math.radians(strength.rotate_main)
        c, s = angle.cos(), angle.sin()
        zero, hidden = torch.zeros_like(c), (v[:, 16] * 3).long()
        masks = v[:, 15] < strength.axis_p
        x, y = ((~(masks & (hidden == axis))).float() for axis in (0, 1))
        matrix = [(c + s * b) * x, (c * a + s) * x, zero, (c * b - s) * y, (c - s * a) * y, zero, zero, zero, zero + 1]
        rows[:, w, MATRIX:NOISE] = torch.stack(matrix, dim=1)
        rows[:, w, TAPS - 1] = 0  # of the noise, the third coordinate's
    return replace(draws, rows=rows)
