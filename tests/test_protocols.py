"""Protocols on cases with known answers, and features that are never stale."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import at, features_of, packed, tiny

from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation import features
from hiclr_fast.evaluation.candidate import Candidate
from hiclr_fast.evaluation.features import cached_features, raw_features
from hiclr_fast.evaluation.metrics import topk_accuracy
from hiclr_fast.evaluation.protocols.finetune import finetune
from hiclr_fast.evaluation.protocols.knn import knn_scores
from hiclr_fast.evaluation.protocols.linear import LinearConfig, linear
from hiclr_fast.evaluation.results import Outcome, read_results, read_scores, write_results
from hiclr_fast.evaluation.schedule import FinetuneConfig
from hiclr_fast.models.load import checkpoint_of, encoder_from_state, load_encoder, load_weights
from hiclr_fast.pretraining.loop import train
from hiclr_fast.pretraining.start import finish, start

CPU = torch.device("cpu")


def test_knn_by_hand():
    train = features_of(at(0, 10, 20, 90, 180) * 3, [0, 1, 1, 2, 2])
    val = features_of(at(1, 89), [0, 2])
    votes = knn_scores(train, val, (1, 2, 3, 5))
    assert votes[1].argmax(1).tolist() == [0, 2]
    assert votes[2].argmax(1).tolist() == [0, 2]  # first: one vote each for 0 and 1, 0 is nearer
    assert votes[3].argmax(1).tolist() == [1, 1]
    assert votes[5].argmax(1).tolist() == [1, 2]  # two votes each for 1 and 2, the nearer class in sum wins
    with pytest.raises(InputError, match="k 6 is more than the 5 training samples"):
        knn_scores(train, val, (6,))


def test_knn_equals_scikit_learn():
    neighbors = pytest.importorskip("sklearn.neighbors", reason="scikit-learn of the test extra is not installed")
    rng = np.random.default_rng(0)
    train = features_of(rng.normal(size=(300, 8)), rng.integers(0, 4, 300))
    val = features_of(rng.normal(size=(1100, 8)), rng.integers(0, 4, 1100))
    ours = knn_scores(train, val, (1,))[1].argmax(1)
    theirs = neighbors.KNeighborsClassifier(1, metric="cosine").fit(train.feature, train.label).predict(val.feature)
    np.testing.assert_array_equal(ours, theirs)


def test_topk_accuracy_and_ties():
    scores = np.array([[0.1, 0.5, 0.4], [0.9, 0.0, 0.1], [0.3, 0.3, 0.3]])
    assert topk_accuracy(scores, np.array([2, 0, 1]), 1) == pytest.approx(100 / 3)
    assert topk_accuracy(scores, np.array([2, 0, 1]), 2) == pytest.approx(100.0)
    assert topk_accuracy(scores, np.array([2, 0, 2]), 1) == pytest.approx(100 / 3)


def test_recorded_accuracies(golden):
    g = golden("evaluate")
    for stream in ("joint", "bone", "motion"):
        for k in (1, 5):
            want = float(g[f"{stream}/top{k}_percent"])
            assert topk_accuracy(g[stream], g["label"], k) == pytest.approx(want, abs=1e-4)


def test_linear_separates_and_reports_the_last_epoch():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 6, 600)
    x = np.eye(6)[label] + rng.normal(0, 0.1, (600, 6))
    train, val = features_of(x[:400], label[:400]), features_of(x[400:], label[400:])
    result = linear(train, val, LinearConfig(epochs=20, drops=(15,)), CPU)
    assert result.top1 > 99 and result.top5 == 100 and result.scores.shape == (200, 6)
    assert result.top1 == topk_accuracy(result.scores, val.label, 1) <= result.best_on_test_top1
    again = linear(train, val, LinearConfig(epochs=20, drops=(15,)), CPU)
    np.testing.assert_array_equal(result.scores, again.scores)


def test_linear_on_noise_is_chance():
    rng = np.random.default_rng(0)
    train, val = (features_of(rng.normal(size=(n, 8)), rng.integers(0, 10, n)) for n in (400, 400))
    assert linear(train, val, LinearConfig(epochs=5), CPU).top1 < 25


def test_results_by_name(tmp_path):
    outcome = Outcome({"top1": 1.0}, np.array(["x", "y", "z"]), np.arange(3), {"scores": np.eye(3)}, {"more": 2})
    write_results(tmp_path / "deep" / "r", {"protocol": "p", "key": "k"}, outcome)
    found = read_results(tmp_path / "deep" / "r")
    assert set(found.pop("files")) == {"scores.npz"}
    assert found == {"protocol": "p", "key": "k", "percent": {"top1": 1.0}, "more": 2}
    scores = read_scores(tmp_path / "deep" / "r")
    assert scores["name"].tolist() == ["x", "y", "z"] and scores["scores"].shape == (3, 3)
    assert read_results(tmp_path) is None
    (tmp_path / "deep" / "r" / "results.json").write_text("{")
    with pytest.raises(InputError, match="not readable results"):
        read_results(tmp_path / "deep" / "r")


@pytest.fixture
def run(tmp_path):
    data = open_packed(packed(tmp_path / "set"))
    trainer = start(tiny(), data, tmp_path / "run")
    assert train(trainer, tmp_path / "run")
    finish(trainer, tmp_path / "run")
    return tmp_path / "run", data, trainer


def test_features_are_extracted_once(run, monkeypatch):
    folder, data, trainer = run
    weights = load_weights(checkpoint_of(folder))
    first = cached_features(weights, data, "joint", CPU)
    x = torch.from_numpy(np.array(data["val"].x))
    with torch.no_grad():
        want = trainer.model.encoder_q.eval().features(x).numpy()
    np.testing.assert_allclose(first["val"].feature, want, rtol=1e-4, atol=1e-5)
    assert first["train"].name.tolist() == data["train"].name.tolist()

    def never(*_, **__):
        raise AssertionError("extracted again")

    monkeypatch.setattr(features, "extract", never)
    second = cached_features(weights, data, "joint", CPU)
    np.testing.assert_array_equal(first["val"].feature, second["val"].feature)
    other = open_packed(packed(folder.parent / "b", seed=3))
    for changed in (dict(stream="bone"), dict(recalibrated=True), dict(dtype="bf16"), dict(data=other)):
        with pytest.raises(AssertionError, match="extracted again"):
            cached_features(weights, **{"data": data, "stream": "joint", "device": CPU, **changed})
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    state["model"]["fill"] += 1
    torch.save(state, folder / "checkpoint.pt")
    with pytest.raises(AssertionError, match="extracted again"):
        cached_features(load_weights(checkpoint_of(folder)), data, "joint", CPU)


def test_a_damaged_cache_is_made_anew(run):
    folder, data, _ = run
    weights = load_weights(checkpoint_of(folder))
    first = cached_features(weights, data, "joint", CPU)
    (cache,) = (folder / "features").glob("*.npz")
    cache.write_bytes(cache.read_bytes()[:500])
    second = cached_features(weights, data, "joint", CPU)
    np.testing.assert_array_equal(first["val"].feature, second["val"].feature)
    assert len(np.load(cache).files) == 7


def test_features_that_somebody_changed_are_not_used(run):
    """One-hot labels would be a perfect encoder; a cache of before there were checksums is made anew."""
    folder, data, _ = run
    weights = load_weights(checkpoint_of(folder))
    first = cached_features(weights, data, "joint", CPU)
    (cache,) = (folder / "features").glob("*.npz")
    sound = dict(np.load(cache))
    hot = {f"{s}/features": np.eye(8, dtype=np.float32)[data[s].label] for s in data.splits}
    for changed in ({**sound, **hot}, {name: x for name, x in sound.items() if name != "sha256"}):
        np.savez(cache, **changed)
        np.testing.assert_array_equal(cached_features(weights, data, "joint", CPU)["val"].feature, first["val"].feature)
        assert str(np.load(cache)["sha256"]) == str(sound["sha256"])
    np.savez(cache.with_name("other.npz"), **sound)
    with pytest.raises(InputError, match="its checksum is absent or not the one"):
        features._from_cache(cache, "another key", data)


def test_features_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")  # a file where the folder should be
    with pytest.raises(InputError, match=r"cannot write .*f\.npz: .*; check the disk"):
        features.save_features({"val": features_of(np.eye(2), [0, 1])}, tmp_path / "file" / "f.npz")


def test_recalibration_takes_the_statistics_of_clean_data(run):
    """Stored statistics become those of the split: the input norm's mean is the mean over it."""
    _, data, trainer = run
    encoder, x = trainer.model.encoder_q, torch.from_numpy(np.array(data["train"].x))
    before = encoder.features(x[:4]).detach()
    features.recalibrate(encoder, data["train"], data.layout, "joint", CPU)
    want = x.permute(0, 4, 3, 1, 2).flatten(2, 3).flatten(0, 1)  # (R, V * C, T)
    torch.testing.assert_close(encoder.data_bn.running_mean, want.mean((0, 2)), rtol=1e-4, atol=1e-5)
    rows = encoder.blocks[0].graph_conv(encoder.normalize_input(x), encoder.A)
    torch.testing.assert_close(encoder.blocks[0].bn1.running_mean, rows.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert not encoder.training and not torch.allclose(encoder.features(x[:4]), before)


def test_exported_encoder_is_the_checkpoint(run):
    folder, _, trainer = run
    a, config = load_encoder(folder / "checkpoint.pt")
    b, exported = load_encoder(folder / "encoder.safetensors")
    assert config == exported == replace(trainer.config, layout="ntu25").of_encoder()
    for name, value in trainer.model.encoder_q.state_dict().items():
        torch.testing.assert_close(a.state_dict()[name], value, rtol=0, atol=0)
        torch.testing.assert_close(b.state_dict()[name], value, rtol=0, atol=0)


def test_bad_checkpoints(run, tmp_path):
    folder, *_ = run
    with pytest.raises(InputError, match=r"holds no checkpoint\.pt"):
        checkpoint_of(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        load_encoder(tmp_path / "none.pt")
    cut = tmp_path / "cut.pt"
    cut.write_bytes((folder / "checkpoint.pt").read_bytes()[:1000])
    with pytest.raises(InputError, match="not a readable checkpoint"):
        load_encoder(cut)
    with pytest.raises(InputError, match="not a readable checkpoint"):
        load_encoder(cut, "official")
    torch.save({"weights": torch.zeros(3)}, cut)
    with pytest.raises(InputError, match="not a checkpoint of hiclr_fast"):
        load_encoder(cut)
    with pytest.raises(InputError, match="not the weights of an ST-GCN or DSTA-Net encoder"):
        load_encoder(cut, "official")
    torch.save(print, cut)  # a pickle that names code
    for fmt in ("hiclr_fast", "official"):
        with pytest.raises(InputError, match="not a readable checkpoint"):
            load_encoder(cut, fmt)
    (tmp_path / "cut.safetensors").write_bytes(b"123")
    with pytest.raises(InputError, match="not readable safetensors"):
        load_encoder(tmp_path / "cut.safetensors")
    with pytest.raises(InputError, match="not the weights of an ST-GCN or DSTA-Net encoder"):
        encoder_from_state({"A": torch.zeros(3, 25, 25)}, "x")
    other = open_packed(packed(tmp_path / "ucla", layout="kinect20"))
    with pytest.raises(InputError, match=r"is for 25 joints, .* has 20 \(kinect20\)"):
        cached_features(load_weights(checkpoint_of(folder)), other, "joint", CPU)


def test_raw_features_are_the_coordinates(run):
    _, data, _ = run
    raw = raw_features(data["val"], data.layout, "joint")
    np.testing.assert_array_equal(raw.feature, np.asarray(data["val"].x).reshape(12, -1))


def test_features_in_bfloat16_are_near_and_apart(run):
    """Other numbers, a cache and a result folder of their own; results so far keep their names and keys."""
    folder, data, _ = run
    one = Candidate(folder / "checkpoint.pt", data, folder / "eval", CPU)
    half = replace(one, feature_dtype="bf16")
    (full, _), (low, _) = one.features, half.features
    assert low.feature.dtype == np.float32 and not np.array_equal(full.feature, low.feature)
    assert np.linalg.norm(low.feature - full.feature) < 0.02 * np.linalg.norm(full.feature)
    assert (one.name_of("knn"), half.name_of("knn")) == ("knn", "knn_bf16")
    assert "feature_dtype" not in one.facts() and half.facts()["feature_dtype"] == "bf16"
    with pytest.raises(InputError, match="--feature-dtype bf16 is for frozen features; to train in bfloat16 give --amp"):
        half.evaluate("finetune", FinetuneConfig(epochs=1), finetune)
    with pytest.raises(InputError, match="raw coordinates are not computed; leave --feature-dtype bf16 out"):
        replace(half, origin="raw")
