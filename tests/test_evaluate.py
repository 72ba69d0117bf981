"""Every protocol: hand-made cases with known answers, parity with recorded numbers, resuming, and one sentence for bad input."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import packed, packed_otherwise, tiny

from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation import classifier
from hiclr_fast.evaluation.candidate import Candidate
from hiclr_fast.evaluation.classifier import Training
from hiclr_fast.evaluation.metrics import mean_spread
from hiclr_fast.evaluation.protocols.cluster import ClusterConfig, cluster
from hiclr_fast.evaluation.protocols.finetune import finetune
from hiclr_fast.evaluation.protocols.knn import KnnConfig, knn
from hiclr_fast.evaluation.protocols.linear import LinearConfig, linear_protocol
from hiclr_fast.evaluation.protocols.retrieval import RetrievalConfig, retrieval
from hiclr_fast.evaluation.protocols.semi import draw_subset, run_semi
from hiclr_fast.evaluation.protocols.transfer import moved, run_transfer
from hiclr_fast.evaluation.results import UNFINISHED, Outcome, read_results, read_scores
from hiclr_fast.evaluation.schedule import FinetuneConfig, official
from hiclr_fast.pretraining.loop import train
from hiclr_fast.pretraining.run_folder import load_run_config
from hiclr_fast.pretraining.start import start
from hiclr_fast.pretraining.trainer import Pretrainer

CPU = torch.device("cpu")
SHORT = FinetuneConfig(epochs=2, batch_size=16, lr=0.02)


def test_frozen_protocols_on_a_run(candidate):
    """Results, names and keys of everything that needs features only, for all three origins."""
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn of the test extra is not installed")
    for origin in ("pretrained", "random", "raw"):
        one = replace(candidate, origin=origin)
        suffix = "" if origin == "pretrained" else f"_{origin}"
        assert set(one.evaluate("knn", KnnConfig((1, 5)), knn)["percent"]) == {"k=1", "k=5", "weighted k=5"}
        assert one.evaluate("linear", LinearConfig(epochs=2), linear_protocol)["schedule"]["epochs"] == 2
        one.evaluate("retrieval", RetrievalConfig(3), retrieval)
        lines = (candidate.folder / f"retrieval{suffix}" / "neighbours.csv").read_text().splitlines()
        assert len(lines) == 1 + 12 * 3 and lines[1].startswith("s1_0000,a,1,s0_")
        found = one.evaluate("cluster", ClusterConfig(), cluster)
        stored = read_scores(candidate.folder / f"cluster{suffix}")
        nmi = metrics.normalized_mutual_info_score(stored["label"], stored["cluster"])
        assert (
            found["percent"]["NMI"] == pytest.approx(100 * nmi) and stored["name"].tolist() == candidate.data["val"].name.tolist()
        )
    results = json.loads((candidate.folder / "linear_random" / "results.json").read_text())
    assert results["data_checksum"] == candidate.data.checksum and len(results["checkpoint_sha256"]) == 64
    assert results["environment"]["torch"] == torch.__version__


def test_finished_results_are_kept_only_for_the_same_question(candidate):
    calls = []

    def compute(candidate, settings, folder, key):
        calls.append(settings.k)
        return Outcome({"x": 1.0}, np.array(["a"]), np.array([0]), {})

    for settings in (KnnConfig((1,)), KnnConfig((1,)), KnnConfig((5,))):
        candidate.evaluate("knn", settings, compute, skip_finished=True)
    assert calls == [(1,), (5,)]
    candidate.evaluate("knn", KnnConfig((5,)), compute)
    assert calls == [(1,), (5,), (5,)] and candidate.finished("knn") and not candidate.finished("linear")


def test_random_origin_is_the_encoder_as_the_run_began(candidate):
    began = Pretrainer(load_run_config(candidate.checkpoint.parent), candidate.data).model.encoder_q.state_dict()
    for name, value in replace(candidate, origin="random").encoder().state_dict().items():
        torch.testing.assert_close(value, began[name], rtol=0, atol=0)
    trained = candidate.encoder(dropout=0.3)
    assert not torch.equal(trained.state_dict()["blocks.1.conv.weight"], began["blocks.1.conv.weight"])
    assert trained.blocks[1].dropout.p == 0.3 and trained.blocks[0].dropout.p == 0


@pytest.mark.parametrize("augment", [False, True])
def test_a_stopped_training_continues_bit_for_bit(candidate, tmp_path, monkeypatch, augment):
    config = replace(SHORT, epochs=3, augment=augment)
    want = candidate.evaluate("finetune", config, finetune)
    straight = read_scores(candidate.folder / "finetune")["scores"]
    epoch = Training.train_epoch

    def stopped(self):
        if self.epoch == 2:
            raise KeyboardInterrupt
        epoch(self)

    again = replace(candidate, folder=tmp_path / "again")
    monkeypatch.setattr(Training, "train_epoch", stopped)
    with pytest.raises(KeyboardInterrupt):
        again.evaluate("finetune", config, finetune)
    assert (again.folder / "finetune" / UNFINISHED).is_file() and read_results(again.folder / "finetune") is None
    monkeypatch.setattr(Training, "train_epoch", epoch)
    torch.manual_seed(123)
    found = again.evaluate("finetune", config, finetune)
    np.testing.assert_array_equal(read_scores(again.folder / "finetune")["scores"], straight)
    assert found["loss"] == want["loss"] and len(found["loss"]) == 3
    assert not (again.folder / "finetune" / UNFINISHED).exists()


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"best": [12345.0, 1]}, "best is 12345, expected a percentage"),
        ({"best": [50.0, 777]}, "epoch of the best is 777, expected a whole number from 0 to 2"),
        ({"rng": [torch.zeros(5056, dtype=torch.uint8)]}, "rng is no state of a generator"),
    ],
)
def test_a_state_that_somebody_changed_is_not_continued(candidate, monkeypatch, changed, what):
    config, epoch = replace(SHORT, epochs=3), Training.train_epoch
    monkeypatch.setattr(Training, "train_epoch", lambda self: epoch(self) if self.epoch < 2 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        candidate.evaluate("finetune", config, finetune)
    state = candidate.folder / "finetune" / UNFINISHED
    torch.save({**torch.load(state, weights_only=True), **changed}, state)
    with pytest.raises(InputError, match=rf"{what}.*; or remove .*training.pt to train anew"):
        candidate.evaluate("finetune", config, finetune)


def test_another_question_does_not_continue_a_stopped_training(candidate, monkeypatch):
    straight = candidate.evaluate("finetune", SHORT, finetune)["loss"]
    folder = candidate.folder / "finetune"
    monkeypatch.setattr(classifier, "save_tensors", lambda *_: None)
    torch.save({"model": {}, "config": {"key": "other"}}, folder / UNFINISHED)
    assert candidate.evaluate("finetune", SHORT, finetune)["loss"] == straight


def test_finetuning_learns_all_weights(run, tmp_path):
    """On separable data the whole network reaches what it is shown; supervised starts elsewhere."""
    data = open_packed(run.parent / "set")
    trainer = start(tiny(hidden_channels=8, hidden_dim=32, epochs=1, knn_every=0), data, tmp_path / "run")
    assert train(trainer, tmp_path / "run")
    candidate = Candidate(tmp_path / "run" / "checkpoint.pt", data, tmp_path, CPU)
    config = FinetuneConfig(epochs=20, lr=0.05, batch_size=8, dropout=0.0, warmup=0, drops=(16,))
    found = candidate.evaluate("finetune", config, finetune)
    assert found["percent"]["top1"] > 90 and found["loss"][-1] < 0.5 < found["loss"][0]
    assert found["percent"]["top1"] <= found["percent"]["best_on_test_top1"] and found["best_on_test_epoch"] in (5, 10, 15, 20)
    scratch = replace(candidate, origin="random").evaluate("supervised", config, finetune)
    assert (tmp_path / "supervised" / "scores.npz").is_file() and scratch["loss"] != found["loss"]


def test_the_transformer_has_its_own_schedule(tmp_path):
    """DSTA-Net through pretraining, its official drops and augmentation, and transfer to another number of frames."""
    data = open_packed(packed(tmp_path / "set"))
    trainer = start(tiny(encoder="dsta", hidden_channels=4, epochs=1, knn_every=0), data, tmp_path / "run")
    assert train(trainer, tmp_path / "run")
    one = Candidate(tmp_path / "run" / "checkpoint.pt", data, tmp_path / "eval", CPU)
    assert one.evaluate("linear", LinearConfig(epochs=10), linear_protocol)["schedule"]["drops"] == (3, 8)
    schedule = one.evaluate("finetune", FinetuneConfig(epochs=2), finetune)["schedule"]
    assert (schedule["augment"], schedule["weight_decay"], schedule["dropout"], schedule["batch_size"]) == (True, 5e-4, 0, 128)
    found = run_transfer(
        moved(one, open_packed(packed_otherwise(tmp_path / "b", 5))), LinearConfig(epochs=1), FinetuneConfig(epochs=1)
    )
    assert found["finetune"]["schedule"]["epochs"] == 1
    random = replace(one, origin="random").evaluate("supervised", FinetuneConfig(epochs=1), finetune)
    assert np.isfinite(random["loss"]).all()


def test_an_epoch_of_a_subset_has_the_full_length(candidate):
    rows = np.array([3, 17])
    config = official(SHORT, "semi", "stgcn")
    train, val = candidate.splits()
    one = Training(candidate.encoder(), train, val, rows, 3, candidate.data.layout, "joint", config, CPU)
    order = one.order(1)
    assert sorted(order.tolist()) == list(range(32)) and torch.bincount(order % 2).tolist() == [16, 16]
    assert not torch.equal(order, one.order(2)) and one.batch == 16
    torch.testing.assert_close(one.step.x, torch.from_numpy(train.x[rows]))
    twice = torch.zeros(2, dtype=torch.int64)
    one.step.config = replace(config, augment=True)
    a, b = one.step._input(twice, torch.tensor([4, 6]))
    assert not torch.equal(a, b)


def test_semi_repeats_and_stores_its_subsets(candidate):
    (one, all_) = run_semi(candidate, (10, 100), 2, SHORT)
    assert (one["labelled_samples"], all_["labelled_samples"]) == (3, 32)
    repeats = [read_results(candidate.folder / "semi_10" / f"repeat{r}") for r in range(2)]
    for r, repeat in enumerate(repeats):
        rows = draw_subset(candidate.data["train"].label, 10, r)
        assert repeat["subset"] == candidate.data["train"].name[rows].tolist() and repeat["schedule"]["seed"] == r
    tops = [repeat["percent"]["top1"] for repeat in repeats]
    assert one["top1_of_repeats"] == tops and (one["percent"]["top1"], one["top1_spread"]) == mean_spread(tops)
    assert mean_spread([1.0]) == (1.0, None) and mean_spread([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))


def test_transfer_has_a_new_head(candidate, tmp_path):
    """Five classes and 20 frames instead of three and 16."""
    found = run_transfer(moved(candidate, open_packed(packed_otherwise(tmp_path / "b", 5))), LinearConfig(epochs=2), SHORT)
    assert set(found) == {"linear", "finetune"}
    for protocol in found:
        assert read_scores(candidate.folder / "transfer_b" / protocol)["scores"].shape == (15, 5)
    with pytest.raises(InputError, match="is the dataset of the run itself"):
        moved(candidate, candidate.data)


def test_mixed_precision_trains(candidate):
    found = candidate.evaluate("finetune", replace(SHORT, amp=True), finetune)
    exact = candidate.evaluate("finetune", SHORT, finetune)
    assert found["schedule"]["amp"] and found["loss"] != exact["loss"]
    np.testing.assert_allclose(found["loss"], exact["loss"], rtol=0.1)


def test_a_loss_that_is_no_number(candidate):
    with pytest.raises(InputError, match="the loss became NaN or Inf in epoch"):
        candidate.evaluate("finetune", replace(SHORT, lr=1e30, warmup=0, epochs=5), finetune)
    assert read_results(candidate.folder / "finetune") is None
