"""Number formats of a training step and of an evaluation."""

from contextlib import AbstractContextManager, nullcontext

import torch


def autocast(device: torch.device, amp: bool, half: torch.dtype = torch.bfloat16) -> AbstractContextManager:
    """Mixed precision where `amp`, in that half type; else nothing."""
    return torch.autocast(device.type, half) if amp else nullcontext()


def exact() -> AbstractContextManager:
    """float32 means float32: without this, cuDNN's convolutions round their inputs to TF32 (10 bits). No effect on CPU."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
