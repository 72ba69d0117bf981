"""Classifiers that evaluations leave behind: the same scores as theirs, from any file that a recording comes in."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import packed, packed_otherwise, tiny
from safetensors.torch import save_file
from test_scripts import command  # noqa: F401 (a fixture)

import hiclr_fast
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.candidate import Candidate
from hiclr_fast.evaluation.protocols.finetune import finetune
from hiclr_fast.evaluation.protocols.linear import LinearConfig, linear_protocol
from hiclr_fast.evaluation.protocols.semi import run_semi
from hiclr_fast.evaluation.protocols.transfer import moved, run_transfer
from hiclr_fast.evaluation.results import read_scores
from hiclr_fast.evaluation.schedule import FinetuneConfig
from hiclr_fast.files.tensors import load_weights_file
from hiclr_fast.models.pooling import Readout
from hiclr_fast.pretraining.loop import train
from hiclr_fast.pretraining.start import start

SHORT, HEAD = FinetuneConfig(epochs=2, batch_size=16, lr=0.02), LinearConfig(epochs=3)


def check(folder, data, classes=("a", "b", "c")):
    """The classifier in a result folder gives the scores that the evaluation stored."""
    found, scores = hiclr_fast.load_classifier(folder), read_scores(folder)
    assert found.classes == classes
    names, probabilities = found.predict(data["val"].x[:], preprocessed=True)
    want = torch.from_numpy(scores["scores"]).softmax(1).numpy()
    np.testing.assert_allclose(probabilities, want, rtol=1e-4, atol=1e-6)
    assert names.tolist() == [classes[i] for i in scores["scores"].argmax(1)] and probabilities.dtype == np.float32
    return found


def test_every_protocol_that_trains_a_head_keeps_it(candidate, tmp_path):
    data = candidate.data
    for change in ({}, dict(origin="random"), dict(recalibrate=True), dict(origin="random", recalibrate=True)):
        one = replace(candidate, **change)
        one.evaluate("linear", HEAD, linear_protocol)
        found = check(one.folder / one.name_of("linear"), data)
        assert found.encoder.contract.layout == data.layout and found.protocol == one.name_of("linear")
    replace(candidate, origin="raw").evaluate("linear", HEAD, linear_protocol)
    assert not (candidate.folder / "linear_raw" / "classifier.safetensors").exists()
    candidate.evaluate("finetune", SHORT, finetune)
    check(candidate.folder / "finetune", data)
    run_semi(candidate, (50,), 1, SHORT)
    check(candidate.folder / "semi_50" / "repeat0", data)
    other = open_packed(packed_otherwise(tmp_path / "b", 5))
    run_transfer(moved(candidate, other), HEAD, SHORT)
    for name in ("linear", "finetune"):
        check(candidate.folder / "transfer_b" / name, other, tuple(f"c{i}" for i in range(5)))


def test_a_network_that_is_pooled_by_part(tmp_path):
    data = open_packed(packed(tmp_path / "set"))
    assert train(start(tiny(data=data.path, pool="parts", epochs=1, knn_every=0), data, tmp_path / "run"), tmp_path / "run")
    one = Candidate(tmp_path / "run" / "checkpoint.pt", data, tmp_path / "run" / "eval", torch.device("cpu"))
    one.evaluate("linear", HEAD, linear_protocol)
    one.evaluate("finetune", SHORT, finetune)
    for name in ("linear", "finetune"):
        assert check(one.folder / name, data).encoder.dim == 5 * 8
    for readout, width in ((Readout("all", 2), 2), (Readout(None, 2), 10), (Readout("joints"), 25)):
        other = replace(one, readout=readout)
        other.evaluate("linear", HEAD, linear_protocol)
        assert check(other.folder / other.name_of("linear"), data).encoder.dim == width * 8


@pytest.fixture(scope="module")
def evaluated(run):
    """The run, with a linear and a finetuned classifier."""
    one = Candidate(run / "checkpoint.pt", open_packed(run.parent / "set"), run / "eval", torch.device("cpu"))
    one.evaluate("linear", HEAD, linear_protocol)
    one.evaluate("finetune", SHORT, finetune)
    return run


def test_which_classifier_is_meant(evaluated, tmp_path):
    load = hiclr_fast.load_classifier
    assert [load(evaluated).protocol, load(evaluated, head="finetune").protocol] == ["linear", "finetune"]
    file = evaluated / "eval" / "finetune" / "classifier.safetensors"
    assert load(file).protocol == load(file.parent).protocol == "finetune" and "3 classes" in repr(load(file))
    assert load(evaluated).predict([]).probabilities.shape == (0, 3)
    (tmp_path / "eval").mkdir()
    state, facts = load_weights_file(file)
    for name, change, message in (
        ("none", None, "holds no classifier; make one: hiclr evaluate linear --run"),
        ("cut", dict(state={}), "not a classifier"),
        ("two", dict(facts={**facts, "classes": '["a", "b"]'}), "2 class names for 3 scores"),
        ("wide", dict(state={**state, "head.weight": torch.zeros(3, 9)}), "do not fit each other"),
        ("plain", dict(facts={}), "not a classifier"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        if change is not None:
            save_file(change.get("state", state), folder / "classifier.safetensors", change.get("facts", facts))
        with pytest.raises(InputError, match=message):
            load(folder)
    with pytest.raises(InputError, match=r"no classifier of semi_1; choose one with --head: finetune, linear"):
        load(evaluated, head="semi_1")
    with pytest.raises(InputError, match="does not exist"):
        load(tmp_path / "nowhere")


def test_predict_and_embed(command, evaluated, tmp_path):  # noqa: F811
    """Files of arrays, a packed set, a folder; what cannot be used is left out and said."""
    data = open_packed(evaluated.parent / "set")
    scores = read_scores(evaluated / "eval" / "linear")
    clips = tmp_path / "clips"
    clips.mkdir()
    np.save(clips / "b.npy", np.random.default_rng(0).normal(0, 1, (9, 25, 3)))
    np.save(clips / "a.npy", data["val"].x[:])
    np.save(clips / "bad.npy", np.full((9, 25, 3), np.nan))
    np.savez(clips / "y.npz", frames=np.ones((4, 20, 3, 1)))
    np.savez(clips / "z.npz", frames=np.ones((4, 25, 3, 1)))
    code, out, err = command("predict", evaluated.parent / "set", "--run", evaluated, "--out", "p.csv")
    assert code == 0 and out.startswith("linear classifier, 3 classes, joint stream\n"), err
    rows = list(csv.DictReader(Path("p.csv").read_text().splitlines()))
    names = [*data["train"].name.tolist(), *data["val"].name.tolist()]
    assert [row["name"] for row in rows] == names and out.count("\n") == 1 + 40 + 1 + 1 and "... and 4 more" in out
    want = torch.from_numpy(scores["scores"]).softmax(1).numpy()
    got = np.array([[float(row[c]) for c in "abc"] for row in rows[32:]])
    np.testing.assert_allclose(got, want, atol=2e-6)
    assert [row["class"] for row in rows[32:]] == ["abc"[i] for i in want.argmax(1)]
    code, out, err = command("predict", clips, "--run", evaluated, "--head", "finetune", "--out", "p.json")
    assert code == 0, err
    told = json.loads(Path("p.json").read_text())
    assert told["classes"] == ["a", "b", "c"]
    assert [c["name"] for c in told["clips"]] == [*(f"a_{i}" for i in range(12)), "b", "z"]
    assert all(abs(sum(c["probabilities"]) - 1) < 1e-6 and c["probability"] == max(c["probabilities"]) for c in told["clips"])
    assert "left out: bad: NaN or Inf in 9 of 9 frames" in err + out and "left out: y: shape (4, 20, 3, 1)" in err + out
    code, out, _ = command("embed", clips, "--run", evaluated, "--out", "f.npz")
    found = np.load("f.npz")
    assert code == 0 and found["features"].shape == (14, 8) and found["name"][12] == "b"
    encoder = hiclr_fast.load_encoder(evaluated)
    np.testing.assert_allclose(found["features"][12:13], encoder.features([np.load(clips / "b.npy")]), rtol=1e-5)
    for name, args, message in (
        ("predict", (clips, "--run", evaluated, "--strict"), "bad: NaN or Inf in 9 of 9 frames"),
        ("predict", (clips / "bad.npy", "--run", evaluated), "none of 1 recordings could be used"),
        ("predict", (clips, "--run", evaluated, "--out", "p.csv"), "p.csv exists already"),
        ("predict", (clips, "--run", evaluated, "--out", "p.txt"), "name it .csv or .json"),
        ("predict", (clips,), "give either --run RUN or --classifier FILE"),
        ("predict", (tmp_path / "x.mp4", "--run", evaluated), "x.mp4: not a recording"),
        ("predict", (clips, "--run", evaluated, "--layout", "kinect20"), "another skeleton"),
        ("embed", (clips, "--out", "g.npz"), "give either --run RUN or --checkpoint FILE"),
    ):
        code, _, err = command(name, *args)
        assert code == 2 and message in err, err


@pytest.mark.slow
def test_export_of_a_classifier(command, evaluated, tmp_path):  # noqa: F811
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime of the export extra is not installed")
    assert command("export", "--run", evaluated, "--head", "finetune", "--out", "c.safetensors")[0] == 0
    assert command("export", "--run", evaluated, "--head", "finetune", "--out", "c.onnx")[0] == 0
    x = open_packed(evaluated.parent / "set")["val"].x[:]
    want = hiclr_fast.load_classifier(tmp_path / "c.safetensors").predict(x, preprocessed=True)
    session = onnxruntime.InferenceSession(tmp_path / "c.onnx", providers=["CPUExecutionProvider"])
    features, probabilities = session.run(["features", "probabilities"], {"x": x})
    np.testing.assert_allclose(probabilities, want.probabilities, rtol=0, atol=1e-4)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == ["a", "b", "c"] and facts["protocol"] == "finetune" and features.shape == (12, 8)
    for head, out, message in (("linear", "c.pt", "no such classifier"), ("no", "d.onnx", "choose one with --head")):
        code, _, err = command("export", "--run", evaluated, "--head", head, "--out", out)
        assert code == 2 and message in err
