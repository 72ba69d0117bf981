"""Ranks of one training job: `torchrun` starts them, torch.distributed (NCCL, gloo on CPU) carries what they exchange.

After every step all ranks hold the same state, so that the checkpoint of rank 0 is the checkpoint of all.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from hiclr_fast.errors import InputError

TIMEOUT = timedelta(minutes=10)  # of one exchange: longer than compiling; a rank that dies is noticed at once, not by this


@dataclass(frozen=True)
class Ranks:
    """This process among those of the job. rank: 0 writes; local: number on this machine, which GPU is its own."""

    rank: int = 0
    world: int = 1
    local: int = 0

    def gather(self, rows: Tensor) -> Tensor:
        """(N, D) of every rank -> (world * N, D), in rank order, the same on all. No gradient."""
        if self.world == 1:
            return rows
        out = rows.new_empty(self.world * len(rows), *rows.shape[1:])
        with self._peers():
            dist.all_gather_into_tensor(out, rows.contiguous())
        return out

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Every tensor becomes its mean over the ranks, bit for bit the same on all. One exchange.

        The tensors are dense, in any order of dimensions, the same on all ranks (parameters' gradients are): no copy changes
        the order, so that torch joins all copies in a few launches.
        """
        if self.world == 1:
            return
        flat = self.mean(torch.cat([t.detach().as_strided((t.numel(),), (1,)) for t in tensors]))  # as they lie in memory
        parts = zip(flat.split([t.numel() for t in tensors]), tensors, strict=True)
        torch._foreach_copy_(list(tensors), [part.as_strided(t.shape, t.stride()) for part, t in parts])

    def mean(self, x: Tensor) -> Tensor:
        """The mean over the ranks, in place where there is more than one."""
        if self.world > 1:
            with self._peers():
                dist.all_reduce(x)
            x /= self.world
        return x

    def wait(self) -> None:
        """Until every rank is here."""
        if self.world > 1:
            with self._peers():
                dist.barrier()

    @contextmanager
    def _peers(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise InputError(
                f"rank {self.rank}: another rank of the {self.world} is gone ({str(error).splitlines()[0][:120]}); "
                "the last checkpoint is whole: start again with --resume"
            ) from error


ALONE = Ranks()


def join(device: torch.device) -> Ranks:
    """The ranks that torchrun started, or this process alone. Call once, before anything is exchanged."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    ranks = Ranks(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    cuda = device.type == "cuda"
    if cuda:
        if ranks.local >= (gpus := torch.cuda.device_count()):
            raise InputError(
                f"rank {ranks.rank} is number {ranks.local} of this machine, counted from 0, which has {gpus} GPUs; start "
                "at most as many ranks as GPUs (torchrun --nproc-per-node)"
            )
        torch.cuda.set_device(ranks.local)
    if not dist.is_initialized():
        where = dict(device_id=torch.device("cuda", ranks.local)) if cuda else {}  # connects now, not inside the first step
        dist.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT, **where)
    return ranks


def leave(failed: bool = False) -> None:
    """failed: gives up what is under way, as the other ranks may never finish it."""
    if not dist.is_initialized():
        return
    if failed and dist.get_backend() == "nccl":
        dist.group.WORLD.abort()
    else:
        dist.destroy_process_group()


@contextmanager
def leaving() -> Iterator[None]:
    """`leave` on every way out."""
    try:
        yield
    except BaseException:
        leave(failed=True)
        raise
    leave()
