"""What is evaluated, and what is refused: weights, data, settings and result folders that do not go together."""

import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import packed, packed_otherwise

from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.data.packed.writer import write_packed
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.candidate import Candidate
from hiclr_fast.evaluation.protocols.cluster import ClusterConfig, cluster
from hiclr_fast.evaluation.protocols.finetune import finetune
from hiclr_fast.evaluation.protocols.knn import KnnConfig, knn
from hiclr_fast.evaluation.protocols.linear import LinearConfig, linear_protocol
from hiclr_fast.evaluation.protocols.semi import run_semi
from hiclr_fast.evaluation.protocols.transfer import moved
from hiclr_fast.evaluation.results import read_scores
from hiclr_fast.evaluation.schedule import FinetuneConfig
from hiclr_fast.files.archives import sha256
from hiclr_fast.models.load import save_official

CPU = torch.device("cpu")
SHORT = FinetuneConfig(epochs=2, batch_size=16, lr=0.02)


def test_results_of_other_data_or_another_checkpoint_are_not_overwritten(run, candidate, tmp_path):
    candidate.evaluate("knn", KnnConfig((1,)), knn)
    there = replace(candidate, data=open_packed(packed(tmp_path / "b", seed=4)))
    with pytest.raises(InputError, match=r"holds results of another dataset, .*set; give another folder with --out"):
        there.evaluate("knn", KnnConfig((1,)), knn)
    shutil.copy(run / "encoder.safetensors", tmp_path)
    beside = Candidate(tmp_path / "encoder.safetensors", candidate.data, candidate.folder, CPU)
    with pytest.raises(InputError, match="holds results of another checkpoint"):
        beside.evaluate("knn", KnnConfig((1,)), knn)
    assert not beside.finished("knn") and not there.finished("knn")


def test_a_checkpoint_that_is_replaced_meanwhile(run, candidate, tmp_path):
    """Results carry the hash of the weights that made them, also when the file is newer by then."""
    shutil.copy(run / "checkpoint.pt", tmp_path)
    one = replace(candidate, checkpoint=tmp_path / "checkpoint.pt")
    before = one.evaluate("knn", KnnConfig((1,)), knn)
    state = torch.load(one.checkpoint, weights_only=True)
    state["model"]["encoder_q.blocks.1.conv.weight"].neg_()
    torch.save(state, one.checkpoint)
    later = replace(one, folder=tmp_path / "later").evaluate("knn", KnnConfig((1,)), knn)
    assert one.evaluate("knn", KnnConfig((1,)), knn)["key"] == before["key"] != later["key"]
    assert before["checkpoint_sha256"] == sha256(run / "checkpoint.pt")


def test_weights_that_are_no_numbers(run, candidate, tmp_path):
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    state["model"]["encoder_q.blocks.1.conv.weight"][0] = torch.nan
    torch.save(state, tmp_path / "checkpoint.pt")
    for protocol, settings, compute in (("knn", KnnConfig(), knn), ("linear", LinearConfig(), linear_protocol)):
        with pytest.raises(InputError, match=r"blocks\.1\.conv\.weight holds NaN or Inf"):
            replace(candidate, checkpoint=tmp_path / "checkpoint.pt").evaluate(protocol, settings, compute)


@pytest.mark.parametrize(
    ("protocol", "settings", "compute", "message"),
    [
        ("knn", KnnConfig((0, 1)), knn, r"k \(0, 1\): expected at least 1"),
        ("knn", KnnConfig(temperature=0.0), knn, "temperature 0.0: expected a finite number above 0"),
        ("linear", LinearConfig(epochs=0), linear_protocol, "epochs 0: expected more than 0"),
        ("linear", LinearConfig(batch_size=-5), linear_protocol, "batch-size -5: expected more than 0"),
        ("finetune", FinetuneConfig(epochs=0), finetune, "epochs 0: expected more than 0"),
        ("finetune", FinetuneConfig(dropout=1.0), finetune, "dropout 1.0: expected at least 0 and less than 1"),
        ("finetune", FinetuneConfig(warmup=-1), finetune, "warmup -1: expected at least 0"),
        ("cluster", ClusterConfig(starts=0), cluster, "starts 0: expected at least 1"),
    ],
)
def test_settings_that_make_no_sense(candidate, protocol, settings, compute, message):
    with pytest.raises(InputError, match=message):
        candidate.evaluate(protocol, settings, compute)
    assert not candidate.folder.exists()


@pytest.mark.parametrize(("percents", "repeats", "message"), [((10, 0), 1, "percent 0: expected"), ((10,), 0, "repeats 0")])
def test_semi_settings_are_checked_before_anything_is_trained(candidate, percents, repeats, message):
    with pytest.raises(InputError, match=message):
        run_semi(candidate, percents, repeats, SHORT)
    assert not candidate.folder.exists()


def test_official_weights(candidate, tmp_path, monkeypatch, capsys):
    """They do not tell their stream, so three of them can be fused; transfer needs nothing but the target."""
    save_official(candidate.weights.encoder, 16, tmp_path / "w.pt")
    one = Candidate(tmp_path / "w.pt", candidate.data, tmp_path / "eval", CPU, format="official", stream="bone")
    assert one.evaluate("knn", KnnConfig((1,)), knn)["stream"] == "bone" and (tmp_path / "eval" / "knn").is_dir()
    source = ["--checkpoint", tmp_path / "w.pt", "--format", "official", "--to", packed_otherwise(tmp_path / "b", 5)]
    monkeypatch.setattr(
        "sys.argv", ["evaluate.py", "transfer", *map(str, source), "--head.epochs", "1", "--finetune.epochs", "1"]
    )
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(Path(__file__).parent.parent / "scripts" / "evaluate.py"), run_name="__main__")
    assert stop.value.code == 0
    assert read_scores(tmp_path / "eval" / "transfer_b" / "finetune")["scores"].shape == (15, 5)


def test_other_joints_are_refused(candidate, tmp_path):
    with pytest.raises(InputError, match=r"was trained on layout ntu25, .* has kinect20"):
        moved(candidate, open_packed(packed_otherwise(tmp_path / "k", 3, "kinect20")))


def test_classes_that_were_never_trained_are_refused(run, tmp_path):
    data = open_packed(run.parent / "set")
    train = data["train"]
    keep = np.flatnonzero(train.label != 1)
    columns = {name: getattr(train, name)[keep] for name in ("x", "label", "name", "subject", "view")}
    splits = {"train": type(train)(**columns), "val": data["val"]}
    write_packed(tmp_path / "less", splits, data.layout, data.classes, source="test", preprocessing={})
    one = Candidate(run / "checkpoint.pt", open_packed(tmp_path / "less"), tmp_path / "eval", CPU)
    for protocol, settings, compute in (("knn", KnnConfig(), knn), ("finetune", SHORT, finetune)):
        with pytest.raises(InputError, match="class 'b' has validation samples but no training sample"):
            one.evaluate(protocol, settings, compute)
    write_packed(tmp_path / "none", {"train": train}, data.layout, data.classes, source="test", preprocessing={})
    with pytest.raises(InputError, match="has no val split"):
        replace(one, data=open_packed(tmp_path / "none")).evaluate("knn", KnnConfig(), knn)


def test_recalibrated_features_have_their_own_cache_and_folder(candidate):
    one = replace(candidate, recalibrate=True)
    assert not np.array_equal(one.features[0].feature, candidate.features[0].feature)
    assert np.array_equal(one.features[0].feature, replace(one).features[0].feature)
    assert one.evaluate("knn", KnnConfig((1,)), knn)["recalibrated"] and (candidate.folder / "knn_recalibrated").is_dir()
    with pytest.raises(InputError, match="leave --recalibrate out, it is for frozen features"):
        one.evaluate("finetune", SHORT, finetune)
    with pytest.raises(InputError, match="no batch-norm statistics to recalibrate"):
        replace(one, origin="raw")


def test_raw_features_have_no_weights(candidate):
    with pytest.raises(InputError, match="raw features have no weights to train"):
        replace(candidate, origin="raw").evaluate("finetune", SHORT, finetune)
