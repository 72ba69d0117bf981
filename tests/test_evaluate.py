"""Every protocol: hand-made cases with known answers, parity with recorded numbers, resuming, and one sentence for bad input."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import packed, split, tiny

from hiclr_fast.data.packed import open_packed
from hiclr_fast.data.write import write_packed
from hiclr_fast.errors import InputError
from hiclr_fast.features import Features
from hiclr_fast.pretrain import Pretrainer, finish, start
from hiclr_fast.protocols import finetune as training
from hiclr_fast.protocols.cluster import ClusterConfig, cluster, matched
from hiclr_fast.protocols.ensemble import WEIGHTS, ensemble, fuse
from hiclr_fast.protocols.finetune import FinetuneConfig, Training, finetune, finetune_rate, official
from hiclr_fast.protocols.knn import KnnConfig, knn, knn_scores
from hiclr_fast.protocols.linear import LinearConfig, linear_protocol
from hiclr_fast.protocols.metrics import mean_spread, topk_accuracy
from hiclr_fast.protocols.results import UNFINISHED, Outcome, read_results, read_scores, write_results
from hiclr_fast.protocols.retrieval import RetrievalConfig, rank, retrieval
from hiclr_fast.protocols.semi import draw_subset, run_semi
from hiclr_fast.protocols.subject import Subject
from hiclr_fast.protocols.transfer import run_transfer
from hiclr_fast.skeletons import LAYOUTS

CPU = torch.device("cpu")
SHORT = FinetuneConfig(epochs=2, batch_size=16, lr=0.02)


def features_of(x, label) -> Features:
    x = np.asarray(x, dtype=np.float32)
    return Features(x, np.asarray(label), np.array([f"n{i}" for i in range(len(x))]))


def at(*degrees):
    angle = np.deg2rad(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder, pretrained for two epochs; its data lie in `set` beside it."""
    root = tmp_path_factory.mktemp("run")
    data = open_packed(packed(root / "set"))
    trainer = start(replace(tiny(), data=root / "set"), data, root / "run")
    assert trainer.run(root / "run")
    finish(trainer, root / "run")
    return root / "run"


@pytest.fixture
def subject(run, tmp_path):
    return Subject(run / "checkpoint.pt", open_packed(run.parent / "set"), tmp_path / "eval", CPU)


def test_weighted_votes_by_hand():
    """A near neighbour of class 0 and two farther ones of class 1: the majority says 1, a small temperature says 0."""
    train, val = features_of(at(1, 40, 41), [0, 1, 1]), features_of(at(0), [0])
    assert knn_scores(train, val, (3,))[3].argmax() == 1
    weighted = knn_scores(train, val, (3,), temperature=0.1)[3]
    cosine = np.cos(np.deg2rad([1, 40, 41]))
    want = np.exp((cosine - 1) / 0.1)
    np.testing.assert_allclose(weighted[0], [want[0], want[1] + want[2]], rtol=1e-5)
    assert weighted.argmax() == 0 and knn_scores(train, val, (3,), temperature=100.0)[3].argmax() == 1
    with pytest.raises(InputError, match="k 0, expected at least 1"):
        knn_scores(train, val, (0,))


def test_subsets_are_balanced_and_stored_seeds_repeat():
    label = np.repeat([0, 1, 2], [10, 3, 100])
    rows = draw_subset(label, 10, seed=0)
    assert np.bincount(label[rows]).tolist() == [1, 1, 10]  # round(0.3) is 0, but no class goes without
    assert np.array_equal(rows, np.sort(rows)) and len(set(rows)) == len(rows)
    np.testing.assert_array_equal(rows, draw_subset(label, 10, seed=0))
    assert not np.array_equal(rows, draw_subset(label, 10, seed=1))
    np.testing.assert_array_equal(draw_subset(label, 100, seed=3), np.arange(113))
    for percent in (0, 101):
        with pytest.raises(InputError, match="expected more than 0 and at most 100"):
            draw_subset(label, percent, seed=0)


def test_learning_rates_are_the_recorded_ones(golden):
    recorded = golden("schedules")
    for kind, name in (("stgcn", "gcn"), ("dsta", "transformer")):
        c = official(FinetuneConfig(), "finetune", kind)
        ours = [finetune_rate(e, c.lr, c.warmup, c.drops) for e in range(1, c.epochs + 1)]
        np.testing.assert_allclose(ours, recorded[f"finetune/{name}"][: c.epochs], rtol=1e-12)
        head = LinearConfig().official(kind)
        from hiclr_fast.optimizer import learning_rate

        ours = [learning_rate(e, base=head.lr, epochs=100, drops=head.drops) for e in range(1, 101)]
        np.testing.assert_allclose(ours, recorded[f"linear_eval/{name}"][:100], rtol=1e-12)


def test_shorter_schedules_keep_their_shape():
    c = official(FinetuneConfig(epochs=7), "finetune", "stgcn")
    assert (c.drops, c.warmup, c.batch_size, c.weight_decay, c.dropout, c.augment) == ((4, 6), 0, 64, 1e-4, 0.5, False)
    assert official(FinetuneConfig(epochs=7, drops=(2,), warmup=1), "semi", "dsta").drops == (2,)
    assert LinearConfig(epochs=10).official("dsta").drops == (3, 8)
    with pytest.raises(InputError, match="epochs 0"):
        official(FinetuneConfig(epochs=0), "finetune", "stgcn")


def test_recorded_ensembles(golden):
    g = golden("evaluate")
    scores = [g[stream] for stream in ("joint", "bone", "motion")]
    for number, name in enumerate(("equal", "less-motion")):
        np.testing.assert_allclose(WEIGHTS[name], g[f"ensemble/{number}/alpha_joint_bone_motion"])
        fused = fuse(scores, WEIGHTS[name])
        np.testing.assert_allclose(fused, g[f"ensemble/{number}/score"], rtol=1e-6, atol=1e-6)
        for k in (1, 5):
            want = float(g[f"ensemble/{number}/top{k}"])
            assert topk_accuracy(fused, g["label"], k) == pytest.approx(100 * want if want <= 1 else want, abs=1e-4)


def streams(folder, **changes):
    """Result folders of three streams whose samples are stored in different orders. changes: {stream: {field: value}}."""
    name, label = np.array(["a", "b", "c"]), np.array([0, 1, 0])
    scores = np.array([[2, 0], [1, 0], [0, 1]], np.float32)
    found = []
    for number, stream in enumerate(("joint", "bone", "motion")):
        order = np.roll(np.arange(3), number)
        facts = {"protocol": "linear", "stream": stream, "origin": "pretrained", "data_checksum": "x", "key": stream}
        arrays = {"name": name[order], "label": label[order], "scores": (number + 1) * scores[order]}
        for field, value in changes.get(stream, {}).items():
            (facts if field in facts else arrays)[field] = value
        found.append(folder / stream / "eval" / "linear")
        write_results(found[-1], facts, Outcome({}, arrays.pop("name"), arrays.pop("label"), arrays))
    return found


def test_an_ensemble_by_hand(tmp_path):
    found = ensemble(streams(tmp_path), "less-motion", tmp_path / "out")
    fused = read_scores(tmp_path / "out")
    assert fused["name"].tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(fused["scores"], (0.6 + 0.6 * 2 + 0.4 * 3) * np.array([[2, 0], [1, 0], [0, 1]]), rtol=1e-6)
    assert found["percent"]["top1"] == pytest.approx(100 / 3) and found["percent"]["top5"] == 100
    assert found["weights"] == {"joint": 0.6, "bone": 0.6, "motion": 0.4}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bone": {"name": np.array(["a", "b", "d"])}}, "different test samples: c is in .*joint.*, not in .*bone"),
        ({"motion": {"label": np.array([1, 1, 1])}}, "classes do not match: [abc] has another label in .*motion"),
        ({"bone": {"scores": np.zeros((3, 4))}}, "classes do not match: .*joint.* has 2, .*bone.* has 4"),
        ({"bone": {"stream": "motion"}}, "is of the motion stream, expected bone; the order is joint, bone, motion"),
        ({"motion": {"data_checksum": "y"}}, "another data checksum"),
        ({"motion": {"origin": "random"}}, "another origin"),
        ({"joint": {"name": np.array(["a", "a", "c"])}}, "sample names repeat"),
    ],
)
def test_runs_that_cannot_be_fused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        ensemble(streams(tmp_path, **changes), "equal", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_ensemble_of_runs_that_were_not_evaluated(tmp_path):
    with pytest.raises(InputError, match=r"holds no results; make them first: scripts/evaluate.py linear --run"):
        ensemble([tmp_path / s / "eval" / "linear" for s in ("j", "b", "m")], "equal", tmp_path / "out")


def test_average_precision_by_hand():
    """Ranking of the query: class 0, 1, 0: precision 1 at place 1 and 2/3 at place 3."""
    train, val = features_of(at(5, 10, 20), [0, 1, 0]), features_of(at(0), [0])
    precision, order, cosine = rank(train, val, 2)
    assert precision[0] == pytest.approx((1 + 2 / 3) / 2) and order.tolist() == [[0, 1]]
    np.testing.assert_allclose(cosine, np.cos(np.deg2rad([[5, 10]])), rtol=1e-6)
    with pytest.raises(InputError, match="expected 1 to the 3 training samples"):
        rank(train, val, 4)


def test_average_precision_equals_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn of the test extra is not installed")
    rng = np.random.default_rng(0)
    train = features_of(rng.normal(size=(200, 8)), rng.integers(0, 4, 200))
    val = features_of(rng.normal(size=(300, 8)), rng.integers(0, 4, 300))
    precision, _, _ = rank(train, val, 1)
    unit = [f.feature / np.linalg.norm(f.feature, axis=1, keepdims=True) for f in (train, val)]
    want = [metrics.average_precision_score(train.label == c, unit[0] @ q) for q, c in zip(unit[1], val.label, strict=True)]
    np.testing.assert_allclose(precision, want, rtol=1e-5)


def test_clusters_are_matched_to_classes():
    label = np.array([0, 0, 1, 1, 2, 2])
    assert (matched(label, np.array([2, 2, 0, 0, 1, 1])) == label).all()
    rng = np.random.default_rng(0)
    label, guess = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    best = max((np.array(p)[guess] == label).mean() for p in itertools.permutations(range(4)))
    assert (matched(label, guess) == label).mean() == best


def test_frozen_protocols_on_a_run(subject):
    """Results, names and keys of everything that needs features only, for all three origins."""
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn of the test extra is not installed")
    for origin in ("pretrained", "random", "raw"):
        one = replace(subject, origin=origin)
        suffix = "" if origin == "pretrained" else f"_{origin}"
        assert set(one.evaluate("knn", KnnConfig((1, 5)), knn)["percent"]) == {"k=1", "k=5", "weighted k=5"}
        assert one.evaluate("linear", LinearConfig(epochs=2), linear_protocol)["schedule"]["epochs"] == 2
        one.evaluate("retrieval", RetrievalConfig(3), retrieval)
        lines = (subject.folder / f"retrieval{suffix}" / "neighbours.csv").read_text().splitlines()
        assert len(lines) == 1 + 12 * 3 and lines[1].startswith("s1_0000,a,1,s0_")
        found = one.evaluate("cluster", ClusterConfig(), cluster)
        stored = read_scores(subject.folder / f"cluster{suffix}")
        nmi = metrics.normalized_mutual_info_score(stored["label"], stored["cluster"])
        assert (
            found["percent"]["NMI"] == pytest.approx(100 * nmi) and stored["name"].tolist() == subject.data["val"].name.tolist()
        )
    results = json.loads((subject.folder / "linear_random" / "results.json").read_text())
    assert results["data_checksum"] == subject.data.checksum and len(results["checkpoint_sha256"]) == 64
    assert results["environment"]["torch"] == torch.__version__


def test_finished_results_are_kept_only_for_the_same_question(subject):
    calls = []

    def compute(subject, settings, folder, key):
        calls.append(settings.k)
        return Outcome({"x": 1.0}, np.array(["a"]), np.array([0]), {})

    for settings in (KnnConfig((1,)), KnnConfig((1,)), KnnConfig((5,))):
        subject.evaluate("knn", settings, compute, skip_finished=True)
    assert calls == [(1,), (5,)]
    subject.evaluate("knn", KnnConfig((5,)), compute)
    replace(subject, data=open_packed(packed(subject.folder.parent / "b", seed=4))).evaluate(
        "knn", KnnConfig((5,)), compute, skip_finished=True
    )
    assert calls == [(1,), (5,), (5,), (5,)]


def test_random_origin_is_the_encoder_as_the_run_began(subject):
    began = Pretrainer(subject.loaded[1], subject.data).model.encoder_q.state_dict()
    for name, value in replace(subject, origin="random").encoder().state_dict().items():
        torch.testing.assert_close(value, began[name], rtol=0, atol=0)
    trained = subject.encoder(dropout=0.3)
    assert not torch.equal(trained.state_dict()["blocks.1.conv.weight"], began["blocks.1.conv.weight"])
    assert trained.blocks[1].dropout.p == 0.3 and trained.blocks[0].dropout.p == 0


@pytest.mark.parametrize("augment", [False, True])
def test_a_stopped_training_continues_bit_for_bit(subject, tmp_path, monkeypatch, augment):
    config = replace(SHORT, epochs=3, augment=augment)
    want = subject.evaluate("finetune", config, finetune)
    straight = read_scores(subject.folder / "finetune")["scores"]
    epoch = Training.train_epoch

    def stopped(self):
        if self.epoch == 2:
            raise KeyboardInterrupt
        epoch(self)

    again = replace(subject, folder=tmp_path / "again")
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


def test_another_question_does_not_continue_a_stopped_training(subject, monkeypatch):
    subject.evaluate("finetune", SHORT, finetune)
    folder = subject.folder / "finetune"
    monkeypatch.setattr(training, "save_atomic", lambda *_: None)
    torch.save({"model": {}, "config": {"key": "other"}}, folder / UNFINISHED)
    assert subject.evaluate("finetune", SHORT, finetune)["loss"] == json.loads((folder / "results.json").read_text())["loss"]


def test_finetuning_learns_all_weights(run, tmp_path):
    """On separable data the whole network reaches what it is shown; supervised starts elsewhere."""
    data = open_packed(run.parent / "set")
    trainer = start(tiny(hidden_channels=8, hidden_dim=32, epochs=1, knn_every=0), data, tmp_path / "run")
    assert trainer.run(tmp_path / "run")
    subject = Subject(tmp_path / "run" / "checkpoint.pt", data, tmp_path, CPU)
    config = FinetuneConfig(epochs=20, lr=0.05, batch_size=8, dropout=0.0, warmup=0, drops=(16,))
    found = subject.evaluate("finetune", config, finetune)
    assert found["percent"]["top1"] > 90 and found["loss"][-1] < 0.5 < found["loss"][0]
    assert found["percent"]["top1"] <= found["percent"]["best_on_test_top1"] and found["best_on_test_epoch"] in (5, 10, 15, 20)
    scratch = replace(subject, origin="random").evaluate("supervised", config, finetune)
    assert (tmp_path / "supervised" / "scores.npz").is_file() and scratch["loss"] != found["loss"]


def test_the_transformer_has_its_own_schedule(tmp_path):
    """DSTA-Net through pretraining, its official drops and augmentation, and transfer to another number of frames."""
    data = open_packed(packed(tmp_path / "set"))
    trainer = start(tiny(encoder="dsta", hidden_channels=4, epochs=1, knn_every=0), data, tmp_path / "run")
    assert trainer.run(tmp_path / "run")
    one = Subject(tmp_path / "run" / "checkpoint.pt", data, tmp_path / "eval", CPU)
    assert one.evaluate("linear", LinearConfig(epochs=10), linear_protocol)["schedule"]["drops"] == (3, 8)
    schedule = one.evaluate("finetune", FinetuneConfig(epochs=2), finetune)["schedule"]
    assert (schedule["augment"], schedule["weight_decay"], schedule["dropout"], schedule["batch_size"]) == (True, 5e-4, 0, 128)
    found = run_transfer(one, open_packed(other(tmp_path / "b", 5)), LinearConfig(epochs=1), FinetuneConfig(epochs=1))
    assert found["finetune"]["schedule"]["epochs"] == 1
    random = replace(one, origin="random").evaluate("supervised", FinetuneConfig(epochs=1), finetune)
    assert np.isfinite(random["loss"]).all()


def test_an_epoch_of_a_subset_has_the_full_length(subject):
    rows = np.array([3, 17])
    config = official(SHORT, "semi", "stgcn")
    train, val = subject.splits()
    one = Training(subject.encoder(), train, val, rows, 3, subject.data.layout, "joint", config, CPU)
    order = one.order(1)
    assert sorted(order.tolist()) == list(range(32)) and torch.bincount(order % 2).tolist() == [16, 16]
    assert not torch.equal(order, one.order(2)) and one.batch == 16
    torch.testing.assert_close(one.x, torch.from_numpy(train.x[rows]))
    twice = torch.zeros(2, dtype=torch.int64)
    one.config = replace(config, augment=True)
    a, b = one._input(twice, torch.tensor([4, 6]), 0)
    assert not torch.equal(a, b)


def test_semi_repeats_and_stores_its_subsets(subject):
    (one, all_) = run_semi(subject, (10, 100), 2, SHORT)
    assert (one["labelled_samples"], all_["labelled_samples"]) == (3, 32)
    repeats = [read_results(subject.folder / "semi_10" / f"repeat{r}") for r in range(2)]
    for r, repeat in enumerate(repeats):
        rows = draw_subset(subject.data["train"].label, 10, r)
        assert repeat["subset"] == subject.data["train"].name[rows].tolist() and repeat["schedule"]["seed"] == r
    tops = [repeat["percent"]["top1"] for repeat in repeats]
    assert one["top1_of_repeats"] == tops and (one["percent"]["top1"], one["top1_spread"]) == mean_spread(tops)
    assert mean_spread([1.0]) == (1.0, None) and mean_spread([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))


def other(path: Path, classes: int, layout: str = "ntu25", frames: int = 20) -> Path:
    kw = dict(joints=LAYOUTS[layout].num_joints, classes=classes, frames=frames)
    splits = {"train": split(30, **kw, seed=5), "val": split(15, **kw, seed=6)}
    write_packed(path, splits, LAYOUTS[layout], [f"c{i}" for i in range(classes)], source="test", preprocessing={})
    return path


def test_transfer_has_a_new_head(subject, tmp_path):
    """Five classes and 20 frames instead of three and 16."""
    found = run_transfer(subject, open_packed(other(tmp_path / "b", 5)), LinearConfig(epochs=2), SHORT)
    assert set(found) == {"linear", "finetune"}
    for protocol in found:
        assert read_scores(subject.folder / "transfer_b" / protocol)["scores"].shape == (15, 5)
    with pytest.raises(InputError, match="is the dataset of the run itself"):
        run_transfer(subject, subject.data, LinearConfig(), SHORT)


def test_other_joints_are_refused(subject, tmp_path):
    with pytest.raises(InputError, match=r"was pretrained on layout ntu25, .* has kinect20"):
        run_transfer(subject, open_packed(other(tmp_path / "k", 3, "kinect20")), LinearConfig(), SHORT)


def test_classes_that_were_never_trained_are_refused(run, tmp_path):
    data = open_packed(run.parent / "set")
    train = data["train"]
    keep = np.flatnonzero(train.label != 1)
    columns = {name: getattr(train, name)[keep] for name in ("x", "label", "name", "subject", "view")}
    splits = {"train": type(train)(**columns), "val": data["val"]}
    write_packed(tmp_path / "less", splits, data.layout, data.classes, source="test", preprocessing={})
    one = Subject(run / "checkpoint.pt", open_packed(tmp_path / "less"), tmp_path / "eval", CPU)
    for protocol, settings, compute in (("knn", KnnConfig(), knn), ("finetune", SHORT, finetune)):
        with pytest.raises(InputError, match="class 'b' has validation samples but no training sample"):
            one.evaluate(protocol, settings, compute)
    write_packed(tmp_path / "none", {"train": train}, data.layout, data.classes, source="test", preprocessing={})
    with pytest.raises(InputError, match="has no val split"):
        replace(one, data=open_packed(tmp_path / "none")).evaluate("knn", KnnConfig(), knn)


def test_raw_features_have_no_weights(subject):
    with pytest.raises(InputError, match="raw features have no weights to train"):
        replace(subject, origin="raw").evaluate("finetune", SHORT, finetune)


def test_a_loss_that_is_no_number(subject):
    with pytest.raises(InputError, match="the loss became NaN or Inf in epoch"):
        subject.evaluate("finetune", replace(SHORT, lr=1e30, warmup=0, epochs=5), finetune)
    assert read_results(subject.folder / "finetune") is None
