"""What a file says a training was in, checked against the training itself before anything of it is taken."""

from typing import Any

import torch
from torch import Tensor


def check_like(found: Any, wanted: dict[str, Tensor], what: str = "model") -> None:
    """ValueError unless `found` holds the same names, and for each a finite tensor of the same shape and type."""
    if not isinstance(found, dict) or set(found) != set(wanted):
        raise ValueError(f"the {what} has other tensors")
    for name, like in wanted.items():
        check_tensor(found[name], like, f"{what} {name}")


def check_tensor(x: Any, like: Tensor, what: str) -> None:
    """ValueError unless x is a finite tensor like that one."""
    if not isinstance(x, Tensor) or x.layout != torch.strided or x.shape != like.shape or x.dtype != like.dtype:
        have = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{what} is {have}, expected {tuple(like.shape)} {like.dtype}")
    if x.is_floating_point() and not torch.isfinite(x).all():
        raise ValueError(f"{what} holds NaN or Inf")


def load_momenta(optimizer: torch.optim.Optimizer, found: Any) -> None:
    """The momentum buffers of an SGD's saved state, nothing else: rates and the like come from the settings. ValueError where
    they are not those of this optimizer's parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = found["state"]
    if not isinstance(state, dict) or not set(state) <= set(range(len(parameters))):
        raise ValueError("the optimizer has the momenta of other parameters")
    buffers = {}
    for number, entry in state.items():
        buffer = entry["momentum_buffer"]
        if buffer is not None:
            check_tensor(buffer, parameters[number], f"momentum {number}")
            buffers[number] = buffer
    for number, p in enumerate(parameters):
        if number not in buffers:
            optimizer.state.pop(p, None)  # as before the first step
        elif "momentum_buffer" in optimizer.state.get(p, {}):
            optimizer.state[p]["momentum_buffer"].copy_(buffers[number])  # where a captured step finds it
        else:
            optimizer.state[p]["momentum_buffer"] = torch.empty_like(p).copy_(buffers[number])
