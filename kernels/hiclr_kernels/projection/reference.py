"""Projector and unit rows in plain torch, one encoder: what `unit_rows` has to reproduce."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Head(NamedTuple):
    """weight1 (M, H), bias1 (M,), weight2 (F, M), bias2 (F,), float32 contiguous."""

    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor


def unit_rows(x: Tensor, head: Head, dtype: torch.dtype) -> Tensor:
    """q (N, F), at least float32, of x (N, H); the layers are computed in `dtype`."""
    weight1, bias1, weight2, bias2 = (t.to(dtype) for t in head)
    with torch.autocast(x.device.type, enabled=False):
        y = F.linear(F.relu(F.linear(x.to(dtype), weight1, bias1)), weight2, bias2)
        return F.normalize(y.to(torch.promote_types(dtype, torch.float32)), dim=-1)
