"""Transfer: pretrained on one dataset, evaluated on another with all its labels: finetuned, and linear on frozen features.

The class head is always new. The joints have to be the same, because an ST-GCN's graph and edge weights belong to them;
a `Candidate` refuses another layout. The official code transfers by pointing finetune and linear at other data; so do we.
"""

from dataclasses import replace

from hiclr_fast.data.packed.dataset import Packed
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.candidate import Candidate
from hiclr_fast.evaluation.protocols.finetune import finetune
from hiclr_fast.evaluation.protocols.linear import LinearConfig, linear_protocol
from hiclr_fast.evaluation.schedule import FinetuneConfig
from hiclr_fast.models.pooling import OWN


def moved(candidate: Candidate, target: Packed) -> Candidate:
    """The candidate on another dataset; its results go to transfer_{target}/."""
    if target.checksum == candidate.data.checksum:
        raise InputError(f"{target.path} is the dataset of the run itself; give another one with --to, or use finetune")
    return replace(candidate, data=target, folder=candidate.folder / folder_of(target))


def folder_of(target: Packed) -> str:
    """Where results on the target go, below those of the run."""
    return f"transfer_{target.path.name}"


def run_transfer(there: Candidate, head: LinearConfig, training: FinetuneConfig, skip_finished: bool = False) -> dict[str, dict]:
    """{linear, finetune}: results of a `moved` candidate; its readout is of the frozen features, so of linear alone."""
    return {
        "linear": there.evaluate("linear", head, linear_protocol, skip_finished=skip_finished),
        "finetune": replace(there, readout=OWN).evaluate("finetune", training, finetune, skip_finished=skip_finished),
    }
