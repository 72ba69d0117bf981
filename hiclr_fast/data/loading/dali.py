"""NVIDIA DALI carries rows to the device: an external source over the packed rows, prefetched, with ids and labels alongside.

Why an external source: DALI's numpy reader wants a file a sample (a set of millions of small files) and gave about a third of the
samples/s; several Python workers copy every batch through shared memory and took seconds to start. `pytest
bench/test_data.py` measures all of them.
"""

import torch
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
from torch import Tensor

from hiclr_fast.data.loading.feed import QUEUED, Gather


class DaliFeed:
    """Iterator of (x (b, 3, T, V, M) float32, ids (b,) int64, label (b,) int64) on the device.

    The pipeline copies the gathered rows once into memory of its own: on CPU that is the batch, valid until the next one is
    asked for; on CUDA it is pinned and goes up on DALI's stream while earlier batches are used. There DALI binds a batch to
    the current stream: that stream waits for the copy, and memory whose last tensor has gone is used again only after what
    the stream had to do until then. (Unbound, it is free as soon as Python drops it, while kernels may still read it.)

    On CPU the static executor runs it: its buffers are made once. The dynamic one, DALI's default, gives host buffers back to the
    system whenever none is waiting, so that about one batch of 30 MB in eight began with 7500 page faults.
    """

    def __init__(self, gather: Gather, device: torch.device):
        self.device, cuda = device, device.type == "cuda"
        index = (torch.cuda.current_device() if device.index is None else device.index) if cuda else None
        size = len(gather.ring[0])
        # on CUDA the executor whose outputs live as long as their users
        queued = dict(prefetch_queue_depth=QUEUED, exec_dynamic=cuda)
        self.pipe = Pipeline(batch_size=size, num_threads=1, device_id=index, **queued)
        with self.pipe:
            kinds = [types.FLOAT, types.INT64, types.INT64]
            outputs = fn.external_source(
                source=gather, num_outputs=3, batch=True, dtype=kinds, ndim=[gather.ring[0].ndim - 1, 0, 0], no_copy=not cuda
            )
            self.pipe.set_outputs(*(out.gpu() if cuda else out for out in outputs))
        self.pipe.build()

    def __iter__(self) -> "DaliFeed":
        return self

    def __next__(self) -> tuple[Tensor, Tensor, Tensor]:
        if self.device.type == "cuda":
            stream = torch.cuda.current_stream(self.device)
            return tuple(torch.from_dlpack(out.as_tensor()) for out in self.pipe.run(stream))
        x, *rest = (torch.from_dlpack(out.as_tensor()) for out in self.pipe.run())
        return x, *(part.clone() for part in rest)  # the static executor takes its buffers back at the next run
