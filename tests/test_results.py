"""Results are one thing: of one evaluation, never overwritten by another, and without a NaN."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import at, features_of, packed, split, tiny

from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.data.packed.writer import write_packed
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation import results
from hiclr_fast.evaluation.candidate import Candidate
from hiclr_fast.evaluation.features import save_features
from hiclr_fast.evaluation.metrics import topk_accuracy, unit_rows
from hiclr_fast.evaluation.protocols.ensemble import ensemble
from hiclr_fast.evaluation.protocols.finetune import finetune
from hiclr_fast.evaluation.protocols.knn import KnnConfig, knn
from hiclr_fast.evaluation.protocols.linear import LinearConfig, linear_protocol
from hiclr_fast.evaluation.protocols.retrieval import RetrievalConfig, retrieval
from hiclr_fast.evaluation.protocols.semi import run_semi
from hiclr_fast.evaluation.results import Outcome, read_results, read_scores, write_results
from hiclr_fast.evaluation.schedule import FinetuneConfig
from hiclr_fast.pretraining.start import start
from hiclr_fast.skeletons import LAYOUTS

CPU = torch.device("cpu")
SHORT = FinetuneConfig(epochs=1, batch_size=16, lr=0.02)
FACTS = {"protocol": "x", "data_checksum": "d", "checkpoint_sha256": "c"}


def outcome(value: float = 1.0, **kw) -> Outcome:
    return Outcome({"top1": value}, np.array(["a", "b"]), np.array([0, 1]), {"scores": np.eye(2, dtype=np.float32) * value}, **kw)


def test_the_key_stands_in_both(tmp_path):
    found = write_results(tmp_path, {**FACTS, "key": "k1"}, outcome(texts={"more.csv": "a,b\n"}))
    with np.load(tmp_path / "scores.npz") as arrays:
        assert arrays["key"] == "k1" == json.loads((tmp_path / "results.json").read_text())["key"]
    assert read_results(tmp_path) == found and set(read_scores(tmp_path)) == {"name", "label", "scores"}
    assert set(found["files"]) == {"scores.npz", "more.csv"} and (tmp_path / "more.csv").read_text() == "a,b\n"


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_what_was_half_exchanged_is_no_result(tmp_path, monkeypatch, stop):
    """A second evaluation ends just before one of its files takes its place."""
    write_results(tmp_path, {**FACTS, "key": "k1"}, outcome(texts={"more.csv": "1"}))
    moves, real = [], os.replace

    def replaced(*names):
        moves.append(names)
        if len(moves) == stop:
            raise KeyboardInterrupt
        real(*names)

    monkeypatch.setattr(os, "replace", replaced)
    with pytest.raises(KeyboardInterrupt):
        write_results(tmp_path, {**FACTS, "key": "k2"}, outcome(0.5, texts={"more.csv": "2"}))
    monkeypatch.undo()
    assert not list(tmp_path.glob(".*"))
    if stop == 1:
        assert read_results(tmp_path)["percent"]["top1"] == 1
    else:
        for read in (read_results, read_scores):
            with pytest.raises(InputError, match=r"is not of the same evaluation as results.json; evaluate again"):
                read(tmp_path)
        assert results.finished(tmp_path, "k1") is None  # so it is evaluated again
    assert write_results(tmp_path, {**FACTS, "key": "k2"}, outcome(0.5))["percent"] == read_results(tmp_path)["percent"]


def test_scores_of_an_older_version_are_read(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({**FACTS, "key": "k", "percent": {"top1": 1.0}}))
    np.savez(tmp_path / "scores.npz", name=np.array(["a"]), label=np.array([0]), scores=np.ones((1, 2)))
    assert read_scores(tmp_path)["scores"].shape == (1, 2)
    np.savez(tmp_path / "scores.npz", name=np.array(["a"]), label=np.array([0]), scores=np.ones((1, 2)), key="another")
    with pytest.raises(InputError, match="is not of the same evaluation"):
        read_scores(tmp_path)


NAN = '{"protocol": "x", "key": "k", "percent": {"a": NaN}}'
CHANGED = [
    *({"percent": {"top1": value}} for value in (10**30, 10**400, 12345.0, "1", None, True)),
    *({"top1_spread": value} for value in ("abc", [1], -1000)),
    *({"mean_class_top1": "x"}, {"space": 5}, {"classes": 5}, {"classes": [5]}, {"percent": [1]}),
]


@pytest.mark.parametrize("changed", CHANGED, ids=str)
def test_fields_that_a_reader_would_stumble_over(tmp_path, changed):
    (tmp_path / "results.json").write_text(json.dumps({**FACTS, "key": "k", "percent": {"top1": 1.0}, **changed}))
    with pytest.raises(InputError, match=r"not readable .* remove it"):
        read_results(tmp_path)


ROW = {"name": np.array(["a"]), "label": np.array([0]), "scores": np.ones((1, 2), np.float32)}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("name", np.array([["a"]])),
        ("label", np.array([[0]])),
        ("label", np.array([2])),
        ("label", np.array([-1])),
        ("scores", np.array([["a", "b"]])),
        ("scores", np.ones((1, 0), np.float32)),
        ("scores", np.ones((1, 4), np.float32)),
    ],
)
def test_scores_of_another_form(tmp_path, name, wrong):
    facts = {**FACTS, "key": "k", "percent": {"top1": 1.0}, "classes": ["a", "b", "c"]}
    (tmp_path / "results.json").write_text(json.dumps(facts))  # of before files were listed
    np.savez(tmp_path / "scores.npz", **ROW)
    assert read_scores(tmp_path)["label"] == 0
    np.savez(tmp_path / "scores.npz", **{**ROW, name: wrong})
    with pytest.raises(InputError, match=rf"{name} is absent, of another length or kind"):
        read_scores(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"key": 1}', "\0\0", NAN, "[" * 9999], ids=lambda text: text[:8])
def test_damaged_results_are_a_sentence(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(InputError, match=r"not readable results .* remove it and evaluate again"):
        read_results(tmp_path)


def test_nan_is_no_result(tmp_path):
    write_results(tmp_path, {**FACTS, "key": "k"}, outcome())
    nan = np.full((2, 2), np.nan, np.float32)
    for bad in (outcome(float("nan")), replace(outcome(), samples={"scores": nan})):
        with pytest.raises(InputError, match="came out as NaN or Inf, so nothing is written"):
            write_results(tmp_path, {**FACTS, "key": "k"}, bad)
    assert read_results(tmp_path)["percent"]["top1"] == 1
    with pytest.raises(InputError, match="NaN or Inf"):
        topk_accuracy(nan, np.array([0, 1]), 1)


def test_unit_rows_of_any_size():
    x = np.array([[3, 4], [3e30, 4e30], [3e-30, 4e-30], [0, 0]], np.float32)
    np.testing.assert_allclose(unit_rows(x).numpy(), [[0.6, 0.8]] * 3 + [[0, 0]], rtol=1e-6)
    bank, huge = features_of(at(0, 90), [0, 1]), features_of(at(10, 80) * np.float32(1e30), [0, 1])
    candidate = type("C", (), {"features": (bank, huge)})
    assert knn(candidate, KnnConfig((1,)), Path(), "").percent["k=1"] == 100


def test_another_dataset_or_other_weights_under_the_same_name(run, candidate, tmp_path):
    """Only contents count, whatever the folders are called."""
    before = candidate.evaluate("knn", KnnConfig((1,)), knn)
    there = replace(candidate, data=open_packed(packed(tmp_path / "other" / "set", seed=4)))
    with pytest.raises(InputError, match="holds results of another dataset"):
        there.evaluate("knn", KnnConfig((1,)), knn)
    later = tmp_path / "checkpoint.pt"
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    state["model"]["encoder_q.blocks.1.conv.weight"].neg_()
    torch.save(state, later)
    with pytest.raises(InputError, match="holds results of another checkpoint"):
        replace(candidate, checkpoint=later).evaluate("knn", KnnConfig((1,)), knn)
    assert read_results(candidate.folder / "knn")["files"] == before["files"]
    assert candidate.evaluate("knn", KnnConfig((5,)), knn)["settings"]["k"] == (5,)  # other settings replace


def test_an_ensemble_replaces_only_its_own(candidate, tmp_path, monkeypatch):
    folders = []
    for stream in ("joint", "bone", "motion"):
        one = replace(candidate, stream=stream, folder=tmp_path / stream)
        one.evaluate("linear", LinearConfig(epochs=1), linear_protocol, quiet=True)
        folders.append(tmp_path / stream / one.name_of("linear"))
    fused = ensemble(folders, "equal", tmp_path / "fused", quiet=True)
    assert ensemble(folders, "equal", tmp_path / "fused", quiet=True) == fused and len(fused["checkpoint_sha256"]) == 3
    with pytest.raises(InputError, match="give another folder with --out"):
        ensemble(folders, "equal", folders[0], quiet=True)
    shutil.copy(folders[1] / "scores.npz", folders[0] / "scores.npz")
    with pytest.raises(InputError, match="is not of the same evaluation"):
        ensemble(folders, "equal", tmp_path / "again", quiet=True)


def test_neighbours_and_repeats_belong_to_their_results(candidate):
    candidate.evaluate("retrieval", RetrievalConfig(2), retrieval)
    (candidate.folder / "retrieval" / "neighbours.csv").write_text("another")
    with pytest.raises(InputError, match=r"neighbours.csv is not of the same evaluation"):
        read_results(candidate.folder / "retrieval")
    run_semi(candidate, (10,), 1, SHORT)
    file = candidate.folder / "semi_10" / "repeat0" / "results.json"
    file.write_text(file.read_text() + "\n")
    with pytest.raises(InputError, match=r"repeat0/results.json is not of the same evaluation"):
        read_results(candidate.folder / "semi_10")


def test_features_never_overwrite_another_file(run, tmp_path):
    before = (run / "checkpoint.pt").read_bytes()
    features = {"train": features_of(at(0, 90), [0, 1])}
    for file in (run / "checkpoint.pt", run / "config.yaml", run / "eval"):
        file.exists() or file.mkdir()
        with pytest.raises(InputError, match="exists already and holds no features"):
            save_features(features, file)
    assert (run / "checkpoint.pt").read_bytes() == before
    save_features(features, tmp_path / "f")  # exactly that name, and again
    save_features(features, tmp_path / "f")
    assert (tmp_path / "f").is_file() and not list(tmp_path.glob(".*"))


def test_an_infinite_variance_is_never_a_number(candidate, tmp_path):
    """With it every feature is finite and the same."""
    state = torch.load(candidate.checkpoint, weights_only=True)
    name = next(name for name in state["model"] if name.startswith("encoder_q") and name.endswith("running_var"))
    state["model"][name].fill_(torch.inf)
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match="NaN or Inf"):
        Candidate(tmp_path / "checkpoint.pt", candidate.data, tmp_path / "eval", CPU).evaluate("knn", KnnConfig((1,)), knn)
    parts = {"train": split(32), "val": split(12, seed=1)}
    parts["train"].x[3] *= np.float32(1e20)
    write_packed(tmp_path / "set", parts, LAYOUTS["ntu25"], ["a", "b", "c"], source="test", preprocessing={})
    data = open_packed(tmp_path / "set")
    with pytest.raises(InputError, match="NaN or Inf"):
        replace(candidate, data=data, folder=tmp_path / "eval").evaluate("finetune", SHORT, finetune)
    trainer = start(tiny(stream="joint"), data, tmp_path / "run")
    with torch.no_grad():
        next(b for name, b in trainer.model.encoder_q.named_buffers() if name.endswith("running_var")).fill_(torch.inf)
    with pytest.raises(InputError, match=r"NaN or Inf in epoch 1 .* last good checkpoint is kept"):
        trainer.check_finite()
