"""HiCLR's pair of encoders, the learned mask fill and the queue of keys."""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from hiclr_kernels import projection
from hiclr_kernels.contrast import hierarchical_contrast
from hiclr_kernels.queue import momentum_update, queue_update
from torch import Tensor, nn

from hiclr_fast.models.encoder import PooledEncoder
from hiclr_fast.models.layers import in_groups, on_triton, working_dtype


class HiCLR(nn.Module):
    """Query encoder, momentum (key) encoder, queue.

    encoder: the initialised query encoder; the key encoder starts as its copy (MoCo). queue_size: rows Q.
    State beside the encoders: `fill` (1,) learned value of masked joints, starts at 0; `queue` (Q, D) unit rows, random
    at the start; `pointer` () int64, the row that is written next.
    """

    def __init__(self, encoder: nn.Module, feature_dim: int, queue_size: int, momentum: float, temperature: float):
        super().__init__()
        self.encoder_q = encoder
        self.encoder_k = copy.deepcopy(encoder).requires_grad_(False)
        self.fill = nn.Parameter(torch.zeros(1))
        self.register_buffer("queue", F.normalize(torch.randn(queue_size, feature_dim), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.momentum, self.temperature = momentum, temperature

    def trainable(self) -> list[nn.Parameter]:
        return [self.fill, *self.encoder_q.parameters()]

    def queries(self, views: Sequence[Tensor], graphs: Sequence[Tensor | None] | None = None, together: bool = True) -> Tensor:
        """(B, N, D) unit rows, weakest view first. Every view has its own batch statistics, in order.

        together: all views are one batch, else each is a pass; the numbers are the same. graphs: for every view the graphs
        of the encoder's blocks, or None for its own; then each is a pass, too.
        """
        if together and graphs is None:
            with in_groups(self.encoder_q, len(views)):
                return _unit_rows(self.encoder_q, _joined(views)).unflatten(0, (len(views), -1))
        graphs = graphs or [None] * len(views)
        return torch.stack([_unit_rows(self.encoder_q, view, graph) for view, graph in zip(views, graphs, strict=True)])

    def pair(
        self, views: Sequence[Tensor], key_view: Tensor, graphs: Sequence[Tensor | None] | None = None, together: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """`queries` of the views, and `keys` of the key's, which move nothing: in the same launches where the encoder has them,
        else None in place of the keys."""
        shares = hasattr(self.encoder_q, "features_with_key") and _fuses(self.encoder_q, key_view)
        if not (shares and together and graphs is None):
            return self.queries(views, graphs, together), None
        with in_groups(self.encoder_q, len(views)):
            features, every = self.encoder_q.features_with_key(views, self.encoder_k, key_view)
        heads = self.encoder_q.head(), self.encoder_k.head()
        q, rows = projection.unit_rows(features, every, heads, working_dtype(features))
        return q.unflatten(0, (len(views), -1)), rows[len(q) :]

    def move_keys(self) -> None:
        """One step of the moving average; once a training step, by the query weights from before the optimizer's."""
        momentum_update(self.encoder_k.parameters(), self.encoder_q.parameters(), self.momentum)

    @torch.no_grad()
    def keys(self, view: Tensor, move: bool = True) -> Tensor:
        """(N, D) unit rows. move: first moves the key encoder."""
        if move:
            self.move_keys()
        return _unit_rows(self.encoder_k, view)

    def loss(
        self, q: Tensor, key: Tensor, weights: Sequence[float], topk: int, *, half: bool = False, two_way: bool = False
    ) -> tuple[Tensor, Tensor]:
        """`hierarchical_contrast` against the queue as it stands (before this step's keys enter).

        half: similarities of bfloat16 rows, with float32 sums (on a GPU: a third of the products); the queue stays float32.
        two_way: each consistency term is the mean of both directions, so that the weaker branch learns from the stronger
        too (the paper's ablation; not a setting of the release). The terms that are returned stay those of one way.
        """
        queue, how = self.queue, dict(temperature=self.temperature, half=half)
        if not two_way:
            return hierarchical_contrast(q, key, queue, weights=weights, topk=topk, **how)
        halved = [weights[0], *(w / 2 for w in weights[1:])]
        loss, terms = hierarchical_contrast(q, key, queue, weights=halved, topk=topk, **how)
        for weaker, stronger, w in zip(q[:-1], q[1:], halved[1:], strict=True):
            pair = torch.stack([stronger.detach(), weaker])
            loss = loss + hierarchical_contrast(pair, key, queue, weights=(0.0, w), **how)[0]
        return loss, terms

    def enqueue(self, key: Tensor) -> None:
        """After the backward pass: autograd still reads the old queue."""
        queue_update(self.queue, self.pointer, key)


def _joined(views: Sequence[Tensor]) -> Tensor:
    """(B * N, C, T, V, M), channels last as the views are."""
    return torch.cat([view.permute(0, 4, 2, 3, 1) for view in views]).permute(0, 4, 2, 3, 1)


def _fuses(encoder: nn.Module, x: Tensor) -> bool:
    """Whether the kernels take the encoder's features of x to its projection: in training, and not compiled."""
    plain = not isinstance(encoder, PooledEncoder) or encoder._compiled_call_impl is not None
    return not plain and encoder.training and on_triton(x)


def _unit_rows(encoder: nn.Module, x: Tensor, graph: Tensor | None = None) -> Tensor:
    """(N, D) unit rows, at least float32: they are normalised and compared in full precision."""
    if _fuses(encoder, x):
        features = encoder.features(x, graph).float().contiguous()
        return projection.unit_rows(features, features, (encoder.head(),), working_dtype(x))[0]
    rows = encoder(x) if graph is None else encoder(x, graph)
    return F.normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=-1)
