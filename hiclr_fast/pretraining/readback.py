"""Numbers from the device while it goes on working."""

import torch
from torch import Tensor


class Readback:
    """Numbers from the device without waiting for it: `swap` hands in new ones and returns those handed in before, which
    have arrived by now. On CPU they are the same ones."""

    def __init__(self, device: torch.device):
        self.device, self.waiting = device, None

    def swap(self, numbers: Tensor, step: int) -> tuple[list[float], int] | None:
        """numbers: (n,); step: kept beside them. None at the first call on CUDA."""
        if self.device.type != "cuda":
            return numbers.tolist(), step
        host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
        host.copy_(numbers, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        before, self.waiting = self.waiting, (host, arrived, step)
        if before is None:
            return None
        before[1].synchronize()  # n steps old: it has passed, unless the device is that far behind
        return before[0].tolist(), before[2]
