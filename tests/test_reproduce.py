"""The chain from data to table: tables by hand, a smoke run of every stage, and what a second run skips."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import packed, split, tiny

from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.data.packed.writer import write_packed
from hiclr_fast.errors import InputError
from hiclr_fast.models.pooling import Readout
from hiclr_fast.pretraining.loop import Loop
from hiclr_fast.pretraining.run_folder import load_run_config
from hiclr_fast.pretraining.start import resume
from hiclr_fast.reports import stages
from hiclr_fast.reports.copies import copied
from hiclr_fast.reports.plan import Plan
from hiclr_fast.reports.published import published
from hiclr_fast.reports.reproduce import pretrain_stage, reproduce
from hiclr_fast.reports.tables import Measured, as_json, markdown
from hiclr_fast.skeletons import LAYOUTS, STREAMS


def test_a_table_by_hand():
    """Folds are averaged within a seed, then mean and spread over seeds; the paper's number stands beside ours only."""
    measured = Measured()
    for seed, folds in ((0, (70, 80)), (1, (74, 84))):
        for value in folds:
            measured.add("random", "linear", "joint", seed, value - 50)
            measured.add("pretrained", "linear", "joint", seed, value)
    measured.add("pretrained", "linear", "equal", 0, 81.25)
    measured.add("raw", "k-NN, k=1", "joint", 0, 66.4)
    known = published("ntu60", "xsub")
    lines = markdown(measured, known, "stgcn", ["a caption"]).splitlines()
    assert lines[0] == "a caption"
    assert lines[4:7] == [
        "| HiCLR | linear | 77.0 ± 2.8 | - | - | 81.2 | - | 80.4 |",
        "| random initialisation | linear | 27.0 ± 2.8 | - | - | - | - | - |",
        "| raw features | k-NN, k=1 | 66.4 | - | - | - | - | - |",
    ]
    assert "| HiCLR, released code | stgcn | linear | 77.3 | 75.59 | 70.29 | 80.94 |" in lines
    assert "| 78.8 |" in markdown(measured, known, "dsta", []).split("Published")[0]
    cell = as_json(measured, known, [])["rows"][0]["cells"]["joint"]
    assert cell["by_seed"] == {0: 75, 1: 79} and cell["folds_by_seed"][1] == [74, 84] and cell["n"] == 2
    assert published("ucla", "xsub") == []


def plan(root: Path, **changes) -> Plan:
    data = root / "set" if (root / "set").exists() else packed(root / "set")
    one = Plan("toy", "all", (data,), root / "runs", {"joint": tiny(epochs=1, knn_every=0)}, seeds=(0,))
    return replace(one, **{"protocols": ("knn",), "linear_epochs": 1, **changes})


def test_a_run_that_is_there_is_taken(tmp_path, monkeypatch, capsys):
    one = plan(tmp_path)
    assert reproduce(one)
    table = (tmp_path / "runs" / "table.md").read_text()

    def never(*_):
        raise AssertionError("done again")

    for name in ("start", "resume"):
        monkeypatch.setattr(stages, name, never)
    from hiclr_fast.evaluation.protocols import knn

    monkeypatch.setattr(knn, "knn_scores", never)
    assert reproduce(one) and (tmp_path / "runs" / "table.md").read_text() == table
    config = tmp_path / "runs" / "joint_s0" / "config.yaml"
    config.write_text(config.read_text().replace("stream: joint", "stream: bone"))
    with pytest.raises(InputError, match=r"is a run with stream bone, expected joint; move it away"):
        reproduce(one)


def test_a_run_of_other_settings_is_not_taken(tmp_path):
    data, config, out = open_packed(packed(tmp_path / "set")), tiny(epochs=1, knn_every=0), tmp_path / "run"
    assert pretrain_stage(config, data, out)
    assert pretrain_stage(replace(config, threads=2, knn_every=1), data, out)
    assert pretrain_stage(replace(config, mining_epoch=10**6), data, out)  # never, in other words
    for changes, message in (
        (dict(epochs=9), "epochs 1, expected 9"),
        (dict(encoder="dsta"), "encoder stgcn, expected dsta"),
        (dict(lr=0.5), "lr 0.01, expected 0.5"),
    ):
        with pytest.raises(InputError, match=f"is a run with {message}; move it away"):
            pretrain_stage(replace(config, **changes), data, out)
    (out / "checkpoint.pt").unlink()
    with pytest.raises(InputError, match=r"holds no checkpoint.pt, .*move it away"):
        pretrain_stage(config, data, out)
    assert (out / "encoder.safetensors").is_file() and (out / "metrics.jsonl").is_file()


def test_a_run_that_goes_on_is_not_finished(tmp_path):
    data, config, out = open_packed(packed(tmp_path / "set")), tiny(epochs=1, knn_every=0), tmp_path / "run"
    assert pretrain_stage(config, data, out)
    trainer = resume(replace(config, epochs=2), data, out)
    assert load_run_config(out).epochs == 2 and not (out / "encoder.safetensors").exists() and trainer.epoch == 2


def test_a_stopped_pretraining_goes_on(tmp_path, monkeypatch):
    data, config = open_packed(packed(tmp_path / "set")), tiny(epochs=3, knn_every=0)
    epoch, seen = Loop.epoch, []

    def stop_after_one(self):
        seen.append(self.trainer.epoch)
        done = epoch(self)
        self.trainer.stop = len(seen) == 1
        return done

    monkeypatch.setattr(Loop, "epoch", stop_after_one)
    assert not pretrain_stage(config, data, tmp_path / "run") and not (tmp_path / "run" / "encoder.safetensors").exists()
    assert pretrain_stage(config, data, tmp_path / "run") and (tmp_path / "run" / "encoder.safetensors").is_file()
    assert seen == [1, 2, 2, 3]


def test_folds_have_their_own_folders(tmp_path):
    folds = tuple(packed(tmp_path / f"fold{i}", seed=10 * i) for i in (1, 2))
    assert reproduce(plan(tmp_path, data=folds))
    assert (tmp_path / "runs" / "fold2" / "joint_s0" / "encoder.safetensors").is_file()
    found = json.loads((tmp_path / "runs" / "table.json").read_text())
    assert len(found["rows"][0]["cells"]["joint"]["folds_by_seed"]["0"]) == 2 and found["environment"]["torch"]
    assert "mean over 2 folds" in found["caption"][1] and "linear epochs 1" in found["caption"][2]


def test_a_test_that_holds_copies_is_reported_without_them_too(tmp_path):
    """Five of twelve test samples are those of training, and 1-NN finds each of them."""
    train_split, val = split(32), split(12, seed=1)
    val.x[:5], val.label[:5] = train_split.x[:5], train_split.label[:5]
    write_packed(tmp_path / "set", dict(train=train_split, val=val), LAYOUTS["ntu25"], list("abc"), source="t", preprocessing={})
    assert copied(open_packed(tmp_path / "set")) == set(val.name[:5].tolist())
    configs = {stream: tiny(epochs=1, knn_every=0) for stream in STREAMS}
    one = plan(tmp_path, configs=configs, protocols=("knn", "linear"), readout=Readout("parts"))
    assert reproduce(one)
    rows = {(r["origin"], r["row"]): r["cells"] for r in json.loads((tmp_path / "runs" / "table.json").read_text())["rows"]}
    assert ("raw", "linear, test without copies") in rows and rows["pretrained", "linear, test without copies"]["equal"]["n"] == 1
    everything, clean = (rows["pretrained", f"k-NN, k=1{end}"]["joint"]["mean"] for end in ("", ", test without copies"))
    assert everything * 12 == pytest.approx(clean * 7 + 500)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(protocols=("knn", "lineal")), "unknown protocol 'lineal': expected some of knn, linear"),
        (dict(configs={"joints": tiny()}), "unknown stream 'joints'"),
        (dict(seeds=()), "at least one"),
        (dict(protocols=()), "one protocol"),
        (dict(semi_percent=(1, 0)), "percent 0: expected"),
        (dict(semi_repeats=0), "repeats 0: expected"),
        (dict(linear_epochs=0), "epochs 0: expected"),
        (dict(protocols=("transfer",), transfer_to=Path("nowhere")), "nowhere"),
        (dict(data=(Path("a/x"), Path("b/x"))), "two --data folders have the same name"),
    ],
)
def test_plans_that_cannot_work(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        reproduce(replace(plan(tmp_path), **changes))
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_whole_chain(tmp_path, monkeypatch, capsys):
    """reproduce.py --smoke: every stage, every protocol, fusion and table; a second call does nothing again."""
    import runpy
    import sys

    script = Path(__file__).parent.parent / "scripts" / "reproduce.py"

    def call() -> str:
        monkeypatch.setattr(sys, "argv", ["reproduce.py", "--smoke", "--out", str(tmp_path)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(script), run_name="__main__")
        assert stop.value.code == 0
        return (tmp_path / "runs" / "table.md").read_text()

    table = call()
    for origin in ("HiCLR", "random initialisation"):
        for row in ("linear", "finetune", "semi, 20 %"):
            assert re.search(rf"\| {origin} \| {row} (\| [\d.]+ ± [\d.]+ ){{5}}\| - \|", table), (origin, row)
        assert re.search(rf"\| {origin} \| transfer to others, finetune (\| [\d.]+ ± [\d.]+ ){{3}}\| - \| - \| - \|", table)
    for kind in ("raw features", "random, clean statistics"):
        for row in ("k-NN, k=1", "k-NN, weighted k=20", "linear", "retrieval, mAP", "k-means, NMI"):
            assert re.search(rf"\| {kind} \| {row} (\| [\d.]+ ± [\d.]+ ){{3}}", table), (kind, row)
    assert "random, clean statistics | finetune" not in table
    assert "semi epochs 1" in table and "finetune epochs 2" in table and "Pretrained for 2 epochs" in table

    def written() -> dict[Path, int]:
        """Checkpoints and results of every run; fusion is made anew each time."""
        files = [*tmp_path.rglob("*.pt"), *tmp_path.rglob("eval/**/results.json")]
        return {file: file.stat().st_mtime_ns for file in files}

    before = written()
    assert len(before) > 100 and call() == table and written() == before
