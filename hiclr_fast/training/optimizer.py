"""SGD and the learning rate of every step."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

MOMENTUM = 0.9  # official, fixed


def make_sgd(params: Sequence[nn.Parameter], lr: float | Tensor, weight_decay: float, nesterov: bool = False) -> torch.optim.SGD:
    """SGD with momentum 0.9; weight decay acts on everything trainable: batch norm, biases and the mask fill too.

    lr: a () tensor on the device of the parameters is read at every step, without synchronisation. Fused: one kernel,
    which also skips the step when a gradient scaler found an Inf. The momentum buffers exist, zero, from the start (the
    same first step), so that a skipped first step leaves no garbage in them and a graph finds them in place.
    """
    optimizer = torch.optim.SGD(params, momentum=MOMENTUM, nesterov=nesterov, weight_decay=weight_decay, fused=True)
    for group in optimizer.param_groups:
        group["lr"] = lr  # not through the constructor, which reads its value
        for p in group["params"]:
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer


def scaled_rate(lr: float, batch_size: int, lr_batch: int) -> float:
    """The linear rule (Goyal et al. 2017, arXiv 1706.02677): lr is meant for batches of lr_batch; 0: lr as it stands."""
    return lr * batch_size / lr_batch if lr_batch else lr


def learning_rate(
    epoch: float,
    *,
    base: float,
    epochs: int,
    drops: Sequence[int] = (),
    warmup: int = 0,
    schedule: str = "step",
) -> float:
    """Learning rate at `epoch`, 1-based; a fraction is the progress inside the epoch (used by warm-up and cosine).

    step: x0.1 from the epoch after each of `drops` (official adjust_lr: epoch > drop). cosine: half a cosine from the
    end of the warm-up to 0 at the end of the last epoch. warmup: linear from 0 over that many epochs.
    """
    done = epoch - 1
    if done < warmup:
        return base * done / warmup
    if schedule == "cosine":
        progress = (done - warmup) / max(1, epochs - warmup)
        return base * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    if schedule != "step":
        raise ValueError(f"unknown schedule {schedule!r}: expected step or cosine")
    return base * 0.1 ** sum(int(epoch) > drop for drop in drops)
