"""Tensors without values that say of themselves that they lie on a GPU, on any machine and with any build of torch.

torch's own fake CUDA tensors need a build for CUDA as soon as there are gradients. So these are fake CPU tensors, whose `device`
and `is_cuda` tell the Python code around them otherwise, and which therefore takes the branches that it takes on a GPU.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

GPU = torch.device("cuda", 127)  # a number that no real device has: what the code caches by device stays apart
MULTIPROCESSORS = 132  # H100 and H200


@functools.cache
def fake_mode() -> FakeTensorMode:
    """One for the process: what was cached for its tensors stays valid."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def without_values(model: nn.Module) -> None:
    """Replaces every parameter and buffer by one that has a shape, but no values."""
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: fake_mode().from_tensor(t) for name, t in tensors.items() if t is not None})


@contextmanager
def pretending(outside: Callable[[], bool], launch: Callable[[Any, tuple, dict[str, Any]], None]) -> Iterator[None]:
    """Inside, fake CPU tensors are CUDA ones to all Python code, except where `outside()` is false: in torch's own operations.

    launch: called with kernel, args and kwargs in place of every launch of a Triton kernel.
    """
    shipped, dropout = FakeTensor.device.fget, torch.nn.functional.dropout
    autocast, casting, cast_to = torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype

    def fused_dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return torch.native_dropout(x, p, True)[0] if training and p else dropout(x, p, training, inplace)

    with ExitStack() as stack:
        for target, name, value in (
            (FakeTensor, "device", property(lambda t: GPU if outside() else shipped(t))),
            (FakeTensor, "is_cuda", property(lambda t: outside())),
            (torch.cuda, "get_device_properties", lambda *_: SimpleNamespace(multi_processor_count=MULTIPROCESSORS, major=9)),
            (torch.nn.functional, "dropout", fused_dropout),  # what torch does on CUDA
            (torch, "autocast", lambda device_type, *rest, **more: autocast("cpu", *rest, **more)),
            (torch, "is_autocast_enabled", lambda *_: casting("cpu")),
            (torch, "get_autocast_dtype", lambda *_: cast_to("cpu")),
        ):
            stack.enter_context(patch.object(target, name, value, create=True))
        try:
            from triton.runtime.jit import KernelInterface
        except ImportError:
            pass  # no kernels of ours on this platform
        else:
            launching = lambda kernel, grid: lambda *args, **kwargs: launch(kernel, args, kwargs)  # noqa: E731
            stack.enter_context(patch.object(KernelInterface, "__getitem__", launching))
        stack.enter_context(fake_mode())
        yield
