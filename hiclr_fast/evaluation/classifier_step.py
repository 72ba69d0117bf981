"""One training step of a classifier: input, forward, cross entropy, backward, SGD; never waits for the device.

All it changes lies in tensors with fixed addresses, so that the same step can be captured in a CUDA graph.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from hiclr_kernels.augment.reference import Stream, to_stream
from torch import Tensor, nn

from hiclr_fast.distributed import ALONE, Ranks
from hiclr_fast.evaluation.schedule import FinetuneConfig
from hiclr_fast.skeletons import METRES, Layout, Space
from hiclr_fast.training.optimizer import MOMENTUM, make_sgd
from hiclr_fast.training.precision import autocast
from hiclr_fast.views.augment import AugmentConfig, make_views


class ClassifierStep:
    """`step((ids,))` after `step.prepare(lr, number)`.

    x (n, 3, T, V, M), y (n,): the labelled samples, on the device. ids: (B,) int64; sample i is row i mod n. total () float32:
    what the losses of this epoch add up to.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        layout: Layout,
        stream: Stream,
        config: FinetuneConfig,
        ranks: Ranks = ALONE,
        space: Space = METRES,
    ):
        self.model, self.x, self.y, self.layout, self.stream, self.config, self.ranks = model, x, y, layout, stream, config, ranks
        self.space = space
        device = x.device
        self.lr = torch.full((), config.lr, device=device)
        self.number = torch.zeros((), dtype=torch.int64, device=device)
        self.total = torch.zeros((), device=device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=False)
        if device.type == "cuda":
            self.optimizer = make_sgd(list(model.parameters()), self.lr, config.weight_decay, nesterov=True)
        else:  # other rounding than the fused kernel's; every result on CPU so far is from this one
            rules = dict(momentum=MOMENTUM, nesterov=True, weight_decay=config.weight_decay, foreach=True)
            self.optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, **rules)

    def prepare(self, lr: float, number: int) -> None:
        """lr of this step, number of the step in the whole training: what changes from step to step beside the ids."""
        self.number.fill_(number)
        self.lr.fill_(lr)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr if group["fused"] else lr

    def __call__(self, inputs: tuple[Tensor], variant: None = None) -> None:
        (ids,) = inputs
        rows = ids % len(self.y)
        x = self._input(rows, ids)
        with autocast(x.device, self.config.amp):
            scores = self.model(x)
        loss = F.cross_entropy(scores.float(), self.y[rows])
        self.optimizer.zero_grad()
        loss.backward()
        self.ranks.average([p.grad for p in self.model.parameters() if p.grad is not None])
        self.optimizer.step()
        self.total += loss.detach()

    def _input(self, rows: Tensor, ids: Tensor) -> Tensor:
        """The batch. ids: keys of the draws, so that a sample that is in a batch twice is seen in two ways."""
        if not self.config.augment:
            return to_stream(self.x[rows], self.stream, self.layout.parents)
        draw = dict(seed=self.config.seed, step=self.number, stream=self.stream, space=self.space)
        return make_views(self.x, rows, ids, ("basic",), AugmentConfig(), self.layout, **draw)[0]

    def state_tensors(self) -> Sequence[Tensor]:
        """Every tensor that a step changes."""
        momenta = [state["momentum_buffer"] for state in self.optimizer.state.values()]
        return [*self.model.parameters(), *self.model.buffers(), *momenta, self.total]
