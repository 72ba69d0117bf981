"""Protocols on cases made by hand, with known answers, and against recorded and scikit-learn numbers."""

import itertools

import numpy as np
import pytest
from helpers import at, features_of

from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.metrics import topk_accuracy
from hiclr_fast.evaluation.protocols.cluster import matched
from hiclr_fast.evaluation.protocols.ensemble import WEIGHTS, ensemble, fuse
from hiclr_fast.evaluation.protocols.knn import knn_scores
from hiclr_fast.evaluation.protocols.linear import LinearConfig
from hiclr_fast.evaluation.protocols.retrieval import rank
from hiclr_fast.evaluation.protocols.semi import SemiConfig, draw_subset
from hiclr_fast.evaluation.results import Outcome, read_scores, write_results
from hiclr_fast.evaluation.schedule import FinetuneConfig, finetune_rate, official


def test_weighted_votes_by_hand():
    """A near neighbour of class 0 and two farther ones of class 1: the majority says 1, a small temperature says 0."""
    train, val = features_of(at(1, 40, 41), [0, 1, 1]), features_of(at(0), [0])
    assert knn_scores(train, val, (3,))[3].argmax() == 1
    weighted = knn_scores(train, val, (3,), temperature=0.1)[3]
    cosine = np.cos(np.deg2rad([1, 40, 41]))
    want = np.exp((cosine - cosine[0]) / 0.1)
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
            SemiConfig(percent).check()


def test_learning_rates_are_the_recorded_ones(golden):
    recorded = golden("schedules")
    for kind, name in (("stgcn", "gcn"), ("dsta", "transformer")):
        c = official(FinetuneConfig(), "finetune", kind)
        ours = [finetune_rate(e, c.lr, c.warmup, c.drops) for e in range(1, c.epochs + 1)]
        np.testing.assert_allclose(ours, recorded[f"finetune/{name}"][: c.epochs], rtol=1e-12)
        head = LinearConfig().official(kind)
        from hiclr_fast.training.optimizer import learning_rate

        ours = [learning_rate(e, base=head.lr, epochs=100, drops=head.drops) for e in range(1, 101)]
        np.testing.assert_allclose(ours, recorded[f"linear_eval/{name}"][:100], rtol=1e-12)


def test_shorter_schedules_keep_their_shape():
    c = official(FinetuneConfig(epochs=7), "finetune", "stgcn")
    assert (c.drops, c.warmup, c.batch_size, c.weight_decay, c.dropout, c.augment) == ((4, 6), 0, 64, 1e-4, 0.5, False)
    assert official(FinetuneConfig(epochs=7, drops=(2,), warmup=1), "semi", "dsta").drops == (2,)
    assert LinearConfig(epochs=10).official("dsta").drops == (3, 8)


def test_official_constants():
    """method.md's table, and the released YAML files."""
    common = dict(lr=0.1, warmup=5, seed=0, amp=False)
    gcn, dsta = dict(batch_size=64, weight_decay=1e-4, dropout=0.5), dict(batch_size=128, weight_decay=5e-4, dropout=0.0)
    for protocol, kind, want in (
        ("finetune", "stgcn", dict(epochs=70, drops=(30, 55), augment=False, **gcn)),
        ("finetune", "dsta", dict(epochs=80, drops=(35, 55), augment=True, **dsta)),
        ("semi", "stgcn", dict(epochs=42, drops=(15, 30), augment=False, **gcn)),
        ("semi", "dsta", dict(epochs=50, drops=(15, 25), augment=False, **dsta)),
    ):
        assert vars(official(FinetuneConfig(), protocol, kind)) == common | want
    assert SemiConfig().official("dsta").training.epochs == 50 and FinetuneConfig().official("dsta").epochs == 80
    assert vars(LinearConfig().official("stgcn")) == dict(epochs=100, lr=3.0, drops=(80,), batch_size=128, seed=0)


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
        facts |= {"recalibrated": False, "settings": {"epochs": 100, "seed": number}}
        facts |= {"checkpoint": f"{stream}.pt", "checkpoint_sha256": stream}
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
    assert found["mean_class_top1"] == 25 and [c["top1"] for c in found["per_class"]] == [50, 0]


def test_an_ensemble_of_any_two_or_more(tmp_path):
    """The order does not matter, a stream may be there twice, one run is none."""
    joint, bone, motion = streams(tmp_path, bone={"stream": "joint"})
    ensemble([motion, joint], "less-motion", tmp_path / "two")
    fused = read_scores(tmp_path / "two")
    assert fused["name"].tolist() == ["b", "c", "a"]
    np.testing.assert_allclose(fused["scores"], (0.4 * 3 + 0.6) * np.array([[1, 0], [0, 1], [2, 0]]), rtol=1e-6)
    assert ensemble([joint, bone], "equal", tmp_path / "seeds")["weights"] == {"joint": 0.5}
    with pytest.raises(InputError, match="an ensemble of 1 runs: give two or more"):
        ensemble([joint], "equal", tmp_path / "one")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bone": {"name": np.array(["a", "b", "d"])}}, "different test samples: c is in .*joint.*, not in .*bone"),
        ({"motion": {"label": np.array([1, 1, 1])}}, "classes do not match: [abc] has another label in .*motion"),
        ({"bone": {"scores": np.zeros((3, 4))}}, "classes do not match: .*joint.* has 2, .*bone.* has 4"),
        ({"bone": {"key": "joint"}}, "bone.* holds the same result as .*joint.*; give each run once"),
        ({"motion": {"data_checksum": "y"}}, "another data checksum"),
        ({"motion": {"origin": "random"}}, "another origin"),
        ({"motion": {"recalibrated": True}}, "another recalibrated"),
        ({"bone": {"settings": {"epochs": 5, "seed": 1}}}, "another settings"),
        ({"joint": {"name": np.array(["a", "a", "c"])}}, "sample names repeat"),
    ],
)
def test_runs_that_cannot_be_fused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        ensemble(streams(tmp_path, **changes), "equal", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_ensemble_of_runs_that_were_not_evaluated(tmp_path):
    with pytest.raises(InputError, match=r"holds no results; evaluate that protocol of that run first"):
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


def test_accuracies_equal_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn of the test extra is not installed")
    rng = np.random.default_rng(0)
    scores, label = rng.normal(size=(500, 12)), rng.integers(0, 12, 500)
    for k in (1, 3, 5):
        want = metrics.top_k_accuracy_score(label, scores, k=k, labels=range(12))
        assert topk_accuracy(scores, label, k) == pytest.approx(100 * want)


def test_a_majority_of_five_equals_scikit_learn():
    """Where one class has most of the votes; ties are broken differently."""
    neighbors = pytest.importorskip("sklearn.neighbors", reason="scikit-learn of the test extra is not installed")
    rng = np.random.default_rng(0)
    train = features_of(rng.normal(size=(300, 8)), rng.integers(0, 3, 300))
    val = features_of(rng.normal(size=(400, 8)), rng.integers(0, 3, 400))
    theirs = neighbors.KNeighborsClassifier(5, metric="cosine").fit(train.feature, train.label)
    counts = np.sort(theirs.predict_proba(val.feature), axis=1)
    clear = counts[:, -1] > counts[:, -2]
    ours = knn_scores(train, val, (5,))[5].argmax(1)
    np.testing.assert_array_equal(ours[clear], theirs.predict(val.feature)[clear])
    assert 200 < clear.sum() < 400


def test_clusters_are_matched_to_classes():
    label = np.array([0, 0, 1, 1, 2, 2])
    assert (matched(label, np.array([2, 2, 0, 0, 1, 1])) == label).all()
    rng = np.random.default_rng(0)
    label, guess = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    best = max((np.array(p)[guess] == label).mean() for p in itertools.permutations(range(4)))
    assert (matched(label, guess) == label).mean() == best
