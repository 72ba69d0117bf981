"""The state that a training continues from, checked against the one that it would begin with before anything is loaded."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hiclr_fast.errors import InputError


def check_like(found: Any, like: Any, where: str) -> None:
    """InputError unless `found` has the keys, lengths, kinds, shapes and dtypes of `like`, and only finite numbers."""
    if isinstance(like, Mapping):
        same = isinstance(found, Mapping) and set(found) == set(like)
        for name in like if same else ():
            check_like(found[name], like[name], f"{where} {name}")
    elif isinstance(like, (list, tuple)):
        same = isinstance(found, (list, tuple)) and len(found) == len(like)
        for number, (a, b) in enumerate(zip(found, like, strict=True) if same else ()):
            check_like(a, b, f"{where} {number}")
    elif isinstance(like, Tensor):
        same = isinstance(found, Tensor) and found.shape == like.shape and found.dtype == like.dtype and _finite(found)
    elif isinstance(like, float):
        same = type(found) in (int, float) and math.isfinite(found)
    else:
        same = type(found) is type(like)
    if not same:
        raise InputError(f"{where} is {_said(found)}, expected {_said(like)} with finite numbers; take another checkpoint")


def check_count(value: Any, low: int, high: int, where: str) -> int:
    """`value`, if it is a whole number from low to high; else InputError."""
    if type(value) is not int or not low <= value <= high:
        shown = value if type(value) is int else _said(value)
        raise InputError(f"{where} is {shown}, expected a whole number from {low} to {high}; take another checkpoint")
    return value


def load_momenta(optimizer: torch.optim.SGD, found: Any, where: str, every: bool = False) -> None:
    """The momentum buffers of a saved optimizer, of any device, into this one; its settings and buffers stay this one's own.

    InputError, and nothing is changed, unless each is of the right kind, and there is one for every parameter where `every`.
    """
    params = [p for group in optimizer.param_groups for p in group["params"]]
    state = found.get("state") if isinstance(found, dict) else None
    if not isinstance(state, dict) or not set(state) <= set(range(len(params))):
        raise InputError(f"{where} optimizer is not that of this model; take another checkpoint")
    momenta = {}
    for number, p in enumerate(params):
        entry = state.get(number, {})
        momentum = entry.get("momentum_buffer") if isinstance(entry, dict) else None
        if momentum is not None or every:
            check_like(momentum, p, f"{where} momentum of parameter {number}")
            momenta[p] = momentum
    for p, momentum in momenta.items():
        own = optimizer.state[p].setdefault("momentum_buffer", torch.empty_like(p, requires_grad=False))
        own.copy_(momentum)


def load_scaler(scaler: torch.amp.GradScaler, found: Any, where: str) -> None:
    """Scale and tracker of a saved scaler into this one; its factors stay those of this one."""
    own = scaler.state_dict()
    check_like(found, own, f"{where} scaler")
    if own:
        check_count(found["_growth_tracker"], 0, own["growth_interval"], f"{where} scaler tracker")
        if found["scale"] <= 0:
            raise InputError(f"{where} scaler scale is {found['scale']}, expected a number above 0; take another checkpoint")
        scaler.load_state_dict({**own, "scale": found["scale"], "_growth_tracker": found["_growth_tracker"]})


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _said(value: Any) -> str:
    """What a value is, in a sentence."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"{len(value)} entries by name"
    return f"{len(value)} entries" if isinstance(value, (list, tuple)) else f"a {type(value).__name__}"
