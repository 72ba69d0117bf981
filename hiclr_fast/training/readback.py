"""Numbers from the device while it goes on working, or a sentence where it never finishes."""

import time

import torch
from torch import Tensor

from hiclr_fast.distributed import TIMEOUT
from hiclr_fast.errors import InputError

POLL = 1e-4  # seconds between two looks at an event


class Readback:
    """Numbers from the device without waiting for it: `swap` hands in new ones and returns those handed in before, which
    have arrived by now. On CPU they are the same ones. `now` waits for them.

    Both give up after `patience` seconds, with an InputError: a replayed graph has no timeout of its own, and an exchange in it
    whose other ranks are gone never ends.
    """

    def __init__(self, device: torch.device, patience: float = TIMEOUT.total_seconds()):
        self.device, self.patience, self.waiting = device, patience, None

    def swap(self, numbers: Tensor, step: int) -> tuple[list[float], int] | None:
        """numbers: (n,); step: kept beside them. None at the first call on CUDA."""
        if self.device.type != "cuda":
            return numbers.tolist(), step
        before, self.waiting = self.waiting, (*self._send(numbers), step)
        if before is None:
            return None
        host, arrived, at = before
        self._wait(arrived)  # n steps old: it has passed, unless the device is that far behind
        return host.tolist(), at

    def now(self, numbers: Tensor) -> list[float]:
        """numbers: (n,)."""
        if self.device.type != "cuda":
            return numbers.tolist()
        host, arrived = self._send(numbers)
        self._wait(arrived)
        return host.tolist()

    def _send(self, numbers: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
        host.copy_(numbers, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        return host, arrived

    def _wait(self, arrived: torch.cuda.Event) -> None:
        until = time.monotonic() + self.patience
        while not arrived.query():
            if time.monotonic() > until:
                raise InputError(
                    f"{self.device} has not finished its steps within {self.patience:g} s: another rank is gone, or the device "
                    "hangs; the last checkpoint is whole: start again with --resume"
                )
            time.sleep(POLL)
