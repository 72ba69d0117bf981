"""What the passes of `normalise` are told, in named tuples."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Norm(NamedTuple):
    """Parameters and running statistics of one batch norm, all (C,) float32, and its count of batches () int64."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    tracked: Tensor


class Rule(NamedTuple):
    """How statistics are taken. mean_of: a tensor's mean over `world` processes, whose statistics are then taken together."""

    eps: float = 1e-5
    momentum: float = 0.1
    mean_of: Callable[[Tensor], Tensor] | None = None
    world: int = 1


class After(NamedTuple):
    """What follows. slope: of the activation below zero, 0 ReLU, 1 none. Dropout of the first operand: of 65536 values `dropped`
    are, by `seed` () int64 on the device and the value's place in memory."""

    slope: float = 1.0
    seed: Tensor | None = None
    dropped: int = 0
