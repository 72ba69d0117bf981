"""What the contrast looks like from inside, once an epoch: does the queue give itself away by its age, and do features spread?"""

import torch
from torch import Tensor

STALE = 1.0  # nats of logit by which fresh keys may stand out before it is said


@torch.no_grad()
def queue_health(q: Tensor, key: Tensor, queue: Tensor, pointer: Tensor, temperature: float, batch: int) -> dict[str, float]:
    """Numbers of one batch, or of a part of it, against the queue, into which the batch's keys have just gone.

    q: (B, N, D) and key: (N, D), unit rows; queue: (Q, D); pointer: () int64, the row that is written next.
    batch: how many rows of the queue the step wrote, N or more (other passes, other ranks).
    age_gap: mean cosine of the weakest queries with fresh keys of other samples, minus that with older rows. Both are
        negatives, so a gap can only come from the age of the key encoder that made them: InfoNCE then falls without learning.
    positive: mean cosine of a query with its own key. entropy_b: of p_b over key and older rows, nats.
        It and age_gap are left out where the batch fills the queue; age_gap also where there is a single key.
    rank: effective rank of the queue, exp of the entropy of its singular values (Roy and Vetterli, EUSIPCO 2007).
    """
    n, size = len(key), len(queue)
    q, key, queue = (x.float() for x in (q, key, queue))
    at = (pointer - torch.arange(1, size - batch + 1, device=queue.device) - batch) % size  # every row but the newest
    older = queue[at]
    fresh = q[0] @ key.T
    found = {"positive": fresh.diagonal().mean()}
    if n > 1 and len(older):
        others = (fresh.sum() - fresh.diagonal().sum()) / (n * (n - 1))
        found["age_gap"] = others - (q[0] @ older.T).mean()
    for b, rows in enumerate(q if len(older) else ()):
        logits = torch.cat([(rows * key).sum(1, keepdim=True), rows @ older.T], 1) / temperature
        log_p = logits.log_softmax(1)
        found[f"entropy_{b}"] = -(log_p.exp() * log_p).sum(1).mean()
    values = torch.linalg.eigvalsh(queue.double().T @ queue.double()).clamp_min(0).sqrt()
    share = values / values.sum()
    found["rank"] = (-(share * share.clamp_min(1e-30).log()).sum()).exp()
    return {name: float(value) for name, value in found.items()}


def stale(health: dict[str, float], temperature: float, momentum: float) -> str | None:
    """What to change where the queue is recognised by its age."""
    nats = health.get("age_gap", 0.0) / temperature
    if nats < STALE:
        return None
    return (
        f"warning: keys of the queue are told apart by their age (fresh keys are {nats:.1f} nats nearer), so the loss falls "
        f"without learning. Raise --momentum above {momentum:g} (0.997 on small sets), shorten --queue-size, or lower --lr"
    )
