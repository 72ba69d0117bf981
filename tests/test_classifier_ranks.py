"""Finetuning on several ranks: what one process does, up to the order of sums; and evaluation under torchrun."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from helpers import packed, pretrained, tiny
from test_distributed import free_port

from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.distributed import Ranks, join, leave
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.candidate import Candidate
from hiclr_fast.evaluation.classifier import Training
from hiclr_fast.evaluation.protocols.finetune import finetune
from hiclr_fast.evaluation.protocols.knn import KnnConfig, knn
from hiclr_fast.evaluation.schedule import FinetuneConfig
from hiclr_fast.models.build import initial_encoder

CPU = torch.device("cpu")
SHORT = FinetuneConfig(epochs=2, lr=0.01, warmup=0, drops=(2,), batch_size=8, dropout=0.0, weight_decay=1e-4, augment=True)


def evaluated(folder: Path, ranks: Ranks | None = None) -> None:
    """Both kinds of protocol: computed by all ranks together, and by the first alone."""
    how = {} if ranks is None else {"ranks": ranks}
    name = "alone" if ranks is None else "ranks"
    one = Candidate(folder / "run" / "checkpoint.pt", open_packed(folder / "set"), folder / name, CPU, **how)
    found = one.evaluate("finetune", SHORT, finetune), one.evaluate("knn", KnnConfig((1,), 0.1), knn)
    (folder / f"{name}{0 if ranks is None else ranks.rank}.json").write_text(json.dumps([f["percent"] for f in found]))


def rank_main(rank: int, world: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= dict(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    evaluated(folder, join(CPU))
    leave()


def test_two_ranks_give_the_result_of_one(tmp_path):
    pretrained(tmp_path)
    mp.spawn(rank_main, (2, free_port(), tmp_path), nprocs=2)
    evaluated(tmp_path)
    same = [json.loads((tmp_path / name).read_text()) for name in ("ranks0.json", "ranks1.json", "alone0.json")]
    assert same[0] == same[1] == same[2]
    results = [json.loads((tmp_path / name / "finetune" / "results.json").read_text()) for name in ("ranks", "alone")]
    assert results[0]["key"] == results[1]["key"]
    np.testing.assert_allclose(results[0]["loss"], results[1]["loss"], rtol=1e-5)
    scores = [np.load(tmp_path / name / "finetune" / "scores.npz")["scores"] for name in ("ranks", "alone")]
    np.testing.assert_allclose(*scores, rtol=1e-3, atol=1e-4)


def test_a_batch_that_does_not_divide(tmp_path):
    data = open_packed(packed(tmp_path / "set"))
    place = data.layout, "joint", SHORT, CPU
    with pytest.raises(InputError, match="batch size 8 does not divide by 3 ranks"):
        Training(initial_encoder(tiny(), data.layout), data["train"], data["val"], np.arange(32), 3, *place, ranks=Ranks(0, 3, 0))
