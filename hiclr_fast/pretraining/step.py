"""One training step: gather, augment, encode, contrast, backward, SGD, moving average, enqueue; never waits for the device.

All it changes lies in tensors with fixed addresses, so that the same step can be captured in a CUDA graph (`training/graph.py`).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from hiclr_fast.data.loading.loader import Batch
from hiclr_fast.distributed import ALONE, Ranks
from hiclr_fast.models.hiclr import HiCLR
from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.skeletons import METRES, Layout, Space
from hiclr_fast.training.optimizer import make_sgd
from hiclr_fast.training.precision import autocast
from hiclr_fast.views.augment import make_views
from hiclr_fast.views.strong import draw_graphs

PHASES = ("load", "augment", "query forward", "key forward", "loss", "backward", "exchange", "optimizer", "EMA", "enqueue")


class TrainStep:
    """`step(batch, mining)` after `step.prepare(lr, number)`.

    lr () float32, number () int64: learning rate and global step, which `prepare` fills. sums (B + 3,): what the steps of
    this epoch add up: loss, terms, spread of the queries, and how many ranks were asked to stop (`stopping` () is this one's).
    """

    phase = staticmethod(record_function)  # around each of PHASES; `profile.py` puts a clock here

    def __init__(
        self, config: PretrainConfig, layout: Layout, model: HiCLR, ranks: Ranks = ALONE, space: Space = METRES
    ):
        c = self.config = config
        self.layout, self.model, self.ranks, self.space = layout, model, ranks, space
        self.device = device = model.fill.device
        self.together = device.type == "cuda"  # fewer launches; on CPU separate passes fit the caches better
        self.lr = torch.full((), config.lr, device=device)
        self.number = torch.zeros((), dtype=torch.int64, device=device)
        self.sums = torch.zeros(len(config.branches) + 3, device=device)
        self.stopping = torch.zeros((), device=device)
        self.optimizer = make_sgd(model.trainable(), self.lr, config.weight_decay)
        n = c.batch_size // (c.accumulate * ranks.world)
        self.seen_q = torch.zeros(len(c.branches), n, c.feature_dim, device=device)  # the last pass, for the monitor
        self.seen_key = torch.zeros(n, c.feature_dim, device=device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.amp and config.amp_dtype == "fp16")

    def prepare(self, lr: float, number: int) -> None:
        """What changes from step to step and is not data. Dropout too becomes a function of (seed, step, rank)."""
        self.lr.fill_(lr)
        self.number.fill_(number)
        seed = int(np.random.SeedSequence([self.config.seed, number, self.ranks.rank]).generate_state(1)[0])
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(seed)

    def autocast(self):
        return autocast(self.device, self.config.amp, torch.float16 if self.config.amp_dtype == "fp16" else torch.bfloat16)

    def __call__(self, batch: Batch, mining: bool) -> None:
        c, model = self.config, self.model
        self.optimizer.zero_grad()
        with self.phase("EMA"):
            model.move_keys()  # by the query weights from before the optimizer's step
        parts = [
            self._backward(batch.x, index, ids, c.topk if mining else 0)
            for index, ids in zip(batch.index.chunk(c.accumulate), batch.ids.chunk(c.accumulate), strict=True)
        ]
        with self.phase("exchange"):
            keys, seen = parts[0]
            if len(parts) > 1:
                keys, seen = torch.cat([key for key, _ in parts]), torch.stack([numbers for _, numbers in parts]).mean(0)
            self.ranks.average([*self._gradients(), *self._running_statistics(), seen])
            keys = self.ranks.gather(keys)
        with self.phase("optimizer"):
            self.scaler.step(self.optimizer)
            self.scaler.update()
        with self.phase("enqueue"):
            model.enqueue(keys)  # after the backward passes: autograd reads the old queue
            self.sums += seen

    def _backward(self, x: Tensor, index: Tensor, ids: Tensor, topk: int) -> tuple[Tensor, Tensor]:
        """Adds the gradient of one micro-batch; its keys (n, D) and numbers (B + 3,)."""
        c, model = self.config, self.model
        draw = dict(seed=c.seed, step=self.number)
        kinds, how = (*c.branches, c.key_view), dict(stream=c.stream, fill=model.fill, space=self.space)
        with self.phase("augment"):
            views = make_views(x, index, ids, kinds, c.augment, self.layout, **draw, **how)
            a, rows = c.augment, len(index) * x.shape[-1]
            graphs = draw_graphs(c.branches, a.edge_drop, a.edge_add, model.encoder_q, rows, **draw)
        with self.autocast():
            with self.phase("query forward"):
                q, key = model.pair(views[:-1], views[-1], graphs, self.together)
            with self.phase("key forward"):
                key = model.keys(views[-1], move=False) if key is None else key  # else it came with the queries
        with self.phase("loss"):
            half = c.amp and self.device.type == "cuda"
            loss, terms = model.loss(q, key, c.weights, topk, half=half, two_way=c.consistency == "two-way")
        with self.phase("backward"):
            self.scaler.scale(loss / c.accumulate if c.accumulate > 1 else loss).backward()
        torch._foreach_copy_([self.seen_q, self.seen_key], [q.detach(), key])
        spread = q[0].detach().std(0).norm()  # 1: directions differ as much as they can, 0: all the same
        return key, torch.cat([loss.detach()[None], terms, spread[None], self.stopping[None]]).float()

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.model.trainable() if p.grad is not None]

    def _running_statistics(self) -> list[Tensor]:
        return [b for name, b in self.model.named_buffers() if name.rpartition(".")[2] in ("running_mean", "running_var")]

    def state_tensors(self) -> Sequence[Tensor]:
        """Every tensor that a step changes, except the scaler's."""
        momenta = [state["momentum_buffer"] for state in self.optimizer.state.values()]
        return [*self.model.parameters(), *self.model.buffers(), *momenta, self.sums]

    def health(self) -> Tensor:
        """(B + 4,) float32: `sums`, then the largest magnitude in weights, statistics and queue (NaN when one is no number)."""
        buffers = [b for b in self.model.buffers() if b.is_floating_point()]
        weights = torch.stack(torch._foreach_norm([*self.model.parameters(), *buffers], float("inf")))
        return torch.cat([self.sums, weights.max()[None]])
