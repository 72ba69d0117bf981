"""The whole training step as one CUDA graph."""

import torch

from hiclr_fast.data.loading.loader import Batch
from hiclr_fast.pretraining.step import TrainStep

WARM_UP = 3  # steps on a side stream before a capture: kernels compile, libraries pick algorithms, communicators connect


class GraphedStep:
    """Called like the `TrainStep` it replays, with equal results.

    One capture before the mining epoch, another after it. The warm-up runs on the first batch and is undone, the generator
    included, so that a replay starts its draws where an eager step would. Inputs lie in buffers of their own; a resident
    dataset (more rows than the batch) is read where it is, so it has to stay there. `close` before the ranks part: a
    communicator is not given up while a graph holds it, and the traceback of an exception keeps the graph alive.
    """

    def __init__(self, step: TrainStep):
        self.step, self.mining, self.graph = step, None, None

    def __call__(self, batch: Batch, mining: bool) -> None:
        if mining is not self.mining:
            self._capture(batch, mining)
        if self.inputs.x is not self.resident:
            self.inputs.x.copy_(batch.x, non_blocking=True)
        elif batch.x is not self.resident:
            raise ValueError("the captured step reads another dataset tensor than this batch; keep one resident tensor")
        self.inputs.index.copy_(batch.index, non_blocking=True)
        self.inputs.ids.copy_(batch.ids, non_blocking=True)
        self.graph.replay()

    def close(self) -> None:
        """Deletes the graph; the next call captures anew."""
        graph, self.graph, self.mining = self.graph, None, None
        if graph is not None:
            graph.reset()

    def _capture(self, batch: Batch, mining: bool) -> None:
        step = self.step
        self.close()  # gives its memory back first
        self.resident = batch.x if len(batch.x) > len(batch.index) else None
        x = batch.x.clone() if self.resident is None else batch.x
        self.inputs = Batch(x, batch.index.clone(), batch.ids.clone(), batch.label)
        scaler, kept = step.scaler.state_dict(), [t.detach().clone() for t in step.state_tensors()]
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        drawn, side = generator.get_state(), torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                step(self.inputs, mining)
        torch.cuda.current_stream().wait_stream(side)
        step.optimizer.zero_grad()  # so that gradients get their place in the graph's memory
        self.graph = torch.cuda.CUDAGraph()  # before the capture, so that a failed one is closed, too
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):  # NCCL's watchdog thread may query events
            step(self.inputs, mining)
        with torch.no_grad():
            torch._foreach_copy_(list(step.state_tensors()), kept)
        step.scaler.load_state_dict(scaler)
        generator.set_state(drawn)
        self.mining = mining
