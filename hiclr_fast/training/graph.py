"""A whole training step as one CUDA graph."""

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

WARM_UP = 3  # steps on a side stream before a capture: kernels compile, libraries pick algorithms, communicators connect


class Step(Protocol):
    """`step(inputs, variant)`: launches kernels and waits for none; what it changes lies in tensors with fixed addresses."""

    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def __call__(self, inputs: Any, variant: Any = None) -> None: ...

    def state_tensors(self) -> Sequence[Tensor]:
        """Every tensor that a step changes, except the scaler's."""


class GraphedStep:
    """Called like the step that it replays, with equal results. inputs: a (named) tuple of tensors, each a row a sample.

    One capture for every variant, as it comes. The warm-up runs on the first inputs and is undone, the generator included, so
    that a replay starts its draws where an eager step would. Inputs lie in buffers of their own; one with more rows than the
    last is a resident dataset, is read where it is, and has to stay there. `close` before the ranks part: a communicator is not
    given up while a graph holds it, and the traceback of an exception keeps the graph alive.
    """

    def __init__(self, step: Step):
        self.step, self.variant, self.graph = step, None, None

    def __call__(self, inputs: Any, variant: Hashable = None) -> None:
        if self.graph is None or variant != self.variant:
            self._capture(inputs, variant)
        for held, given, resident in zip(self.inputs, inputs, self.resident, strict=True):
            if not resident:
                held.copy_(given, non_blocking=True)
            elif given is not held:
                raise ValueError("the captured step reads another dataset tensor than this batch; keep one resident tensor")
        self.graph.replay()

    def close(self) -> None:
        """Deletes the graph; the next call captures anew."""
        graph, self.graph = self.graph, None
        if graph is not None:
            graph.reset()

    def _capture(self, inputs: Any, variant: Hashable) -> None:
        step = self.step
        self.close()  # gives its memory back first
        self.resident = [len(t) > len(inputs[-1]) for t in inputs]
        held = [t if resident else t.clone() for t, resident in zip(inputs, self.resident, strict=True)]
        self.inputs = type(inputs)(*held) if hasattr(inputs, "_fields") else tuple(held)
        scaler, kept = step.scaler.state_dict(), [t.detach().clone() for t in step.state_tensors()]
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        drawn, side = generator.get_state(), torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                step(self.inputs, variant)
        torch.cuda.current_stream().wait_stream(side)
        step.optimizer.zero_grad()  # so that gradients get their place in the graph's memory
        self.graph = torch.cuda.CUDAGraph()  # before the capture, so that a failed one is closed, too
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):  # NCCL's watchdog thread may query events
            step(self.inputs, variant)
        with torch.no_grad():
            torch._foreach_copy_(list(step.state_tensors()), kept)
        step.scaler.load_state_dict(scaler)
        generator.set_state(drawn)
        self.variant = variant
