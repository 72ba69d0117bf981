"""What a run folder says of itself, and how a run is continued from it."""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import packed, tiny

from hiclr_fast import machine
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.errors import InputError
from hiclr_fast.pretraining.loop import train
from hiclr_fast.pretraining.run_folder import load_run_config, read_metrics
from hiclr_fast.pretraining.start import finish, resume, start
from hiclr_fast.pretraining.trainer import Pretrainer


@pytest.fixture
def data(tmp_path):
    return open_packed(packed(tmp_path / "set"))


def test_resume_refuses_fewer_epochs_than_there_are(tmp_path, data):
    run = tmp_path / "run"
    trainer = start(tiny(epochs=2), data, run)
    assert train(trainer, run)
    finish(trainer, run)
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    with pytest.raises(InputError, match="has begun epoch 2, more than --epochs 1; give at least 2"):
        resume(tiny(epochs=1), data, run)
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == before
    resume(tiny(epochs=2), data, run).release()


@pytest.mark.parametrize("step", [1, 3])  # inside an epoch of four steps, and its last one
def test_a_resumed_epoch_logs_what_a_straight_one_does(tmp_path, data, monkeypatch, step):
    config = tiny(epochs=3, warmup_epochs=2, schedule="cosine", knn_every=0)
    assert train(start(config, data, tmp_path / "straight"), tmp_path / "straight")
    inner = Pretrainer.train_step

    def interrupted(self, *args):
        inner(self, *args)
        self.stop |= (self.epoch, self.step) == (2, step)

    monkeypatch.setattr(Pretrainer, "train_step", interrupted)
    assert not train(start(config, data, tmp_path / "run"), tmp_path / "run")
    monkeypatch.undo()
    assert train(resume(config, data, tmp_path / "run"), tmp_path / "run")
    straight, resumed = (
        [{k: v for k, v in line.items() if k not in ("seconds", "samples_per_s")} for line in read_metrics(tmp_path / name)]
        for name in ("straight", "run")
    )
    assert straight == resumed and straight[1]["lr"] == pytest.approx(0.005)


def test_the_dataset_is_found_from_any_folder(tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start(tiny(data=Path("set")), open_packed(Path("set")), Path("runs/new")).release()
    assert load_run_config(Path("runs/new")).data == tmp_path / "set"
    old = tmp_path / "runs" / "new" / "config.yaml"  # an older run has the path as it was given
    old.write_text(old.read_text().replace(str(tmp_path / "set"), "set"))
    (tmp_path / "elsewhere").mkdir()
    packed(tmp_path / "elsewhere" / "set", seed=9)
    monkeypatch.chdir(tmp_path / "elsewhere")  # a set of that name lies here, but it is another
    assert load_run_config(tmp_path / "runs" / "new").data == tmp_path / "set"


DAMAGED = [('{"epoch": 1}\n{"epoch"\n', 2), ("\0\0\n", 1), ('{"epoch": "a"}\n', 1), ("[]\n", 1), ('{"epoch": -1}\n', 1)]
DAMAGED += [(f'{{"epoch": 1, "lr": {number}}}\n', 1) for number in ("1e999", "1e300", "-1e305", "1" + "0" * 400, '"a"')]


@pytest.mark.parametrize(("text", "line"), DAMAGED)
def test_damaged_metrics_are_a_sentence(tmp_path, text, line):
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(InputError, match=rf"metrics.jsonl.* line {line}"):
        read_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n\0\0')
    assert read_metrics(tmp_path) == [{"epoch": 1}]


def test_the_commit_is_of_this_repository_or_of_none(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    package = tmp_path / "repo" / "env" / "site-packages" / "hiclr_fast"
    package.mkdir(parents=True)
    one = ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x")
    for words in (("init", "-q"), one):
        subprocess.run(["git", "-C", str(tmp_path / "repo"), *words], check=True)
    assert machine.commit(package) is None  # installed inside somebody's repository
    (tmp_path / "repo" / "hiclr_fast").mkdir()
    assert len(machine.commit(tmp_path / "repo" / "hiclr_fast")) == 40
    monkeypatch.setenv("PATH", "")
    assert machine.commit(tmp_path / "repo" / "hiclr_fast") is None and "torch" in machine.environment(torch.device("cpu"))


def test_curves_are_read_by_tensorboard(tmp_path, data):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    assert train(start(tiny(epochs=1), data, run), run)
    assert train(resume(replace(tiny(), epochs=2), data, run), run)
    board = EventAccumulator(str(run / "tensorboard")).Reload()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(e.step, pytest.approx(e.value)) for e in board.Scalars("loss")] == [(line["epoch"], line["loss"]) for line in lines]


def unreadable(run):
    (run / "metrics.jsonl").write_bytes(b"\0\0\n{}\n")


def no_board(run):
    shutil.rmtree(run / "tensorboard")
    (run / "tensorboard").touch()


@pytest.mark.parametrize("damage", [unreadable, no_board])
def test_a_refused_resume_changes_nothing(tmp_path, data, damage):
    run, config = tmp_path / "run", tiny(epochs=1)
    trainer = start(config, data, run)
    assert train(trainer, run)
    finish(trainer, run)
    damage(run)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    with pytest.raises(InputError, match=r"metrics.jsonl|is no folder"):
        resume(replace(config, epochs=5), data, run)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
