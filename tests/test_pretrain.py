"""The loop: learns, resumes bit for bit, stops cleanly, refuses what cannot work."""

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import packed, tiny

from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.features import extract
from hiclr_fast.files.tensors import load_checkpoint
from hiclr_fast.pretraining import monitor
from hiclr_fast.pretraining.loop import save, train
from hiclr_fast.pretraining.run_folder import load_run_config
from hiclr_fast.pretraining.start import finish, resume, start
from hiclr_fast.pretraining.trainer import Pretrainer
from hiclr_fast.views.augment import AugmentConfig


@pytest.fixture
def data(tmp_path):
    return open_packed(packed(tmp_path / "set"))


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same(a: Pretrainer, b: Pretrainer):
    for name, value in a.model.state_dict().items():
        torch.testing.assert_close(b.model.state_dict()[name], value, rtol=0, atol=0, msg=name)
    for p, q in zip(a.train.optimizer.state.values(), b.train.optimizer.state.values(), strict=True):
        torch.testing.assert_close(p["momentum_buffer"], q["momentum_buffer"], rtol=0, atol=0)


def test_a_run_leaves_everything(tmp_path, data):
    run = tmp_path / "run"
    trainer = start(tiny(), data, run)
    assert train(trainer, run)
    finish(trainer, run)
    names = {p.name for p in run.iterdir()}
    assert {"config.yaml", "environment.json", "metrics.jsonl", "tensorboard", "checkpoint.pt", "encoder.safetensors"} <= names
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert {"loss", "info_nce", "consistency_1", "consistency_2", "lr", "knn1", "samples_per_s", "spread"} <= set(lines[0])
    assert lines[0]["loss"] == pytest.approx(
        lines[0]["info_nce"] + (lines[0]["consistency_1"] + lines[0]["consistency_2"]) / 2, rel=1e-5
    )
    assert load_run_config(run) == tiny()
    assert json.loads((run / "environment.json").read_text())["data_checksum"] == data.checksum


@pytest.mark.parametrize(("encoder", "hidden_channels", "lr"), [("stgcn", 8, 0.1), ("dsta", 4, 0.02)])
def test_it_tells_samples_apart(tmp_path, data, encoder, hidden_channels, lr):
    """With weak augmentation samples can be recognised: InfoNCE has to fall well below that of the untrained encoder."""
    weak = AugmentConfig(shear=0.05, crop_ratio=1000)
    size = dict(encoder=encoder, hidden_channels=hidden_channels, hidden_dim=32, dropout=0.0)
    config = tiny(branches=("basic",), weights=(1.0,), augment=weak, seed=1, **size)
    final = {}
    for rate in (0.0, lr):
        run = tmp_path / f"lr{rate}"
        assert train(start(replace(config, epochs=12, lr=rate, knn_every=0), data, run), run)
        final[rate] = sum(losses(run)[-4:]) / 4
    assert final[lr] < 0.75 * final[0.0] <= 0.75 * math.log(17), final


def test_the_monitor_reads_the_resident_set_where_it_is(data, monkeypatch):
    seen = {}
    monkeypatch.setattr(monitor, "extract", lambda encoder, split, *_, rows: seen.setdefault(len(split), rows))
    monkeypatch.setattr(monitor, "nearest", lambda *_: 0.0)
    trainer = Pretrainer(tiny(loader="resident"), data)
    monitor.knn_monitor(trainer.model.encoder_q, data, "joint", trainer.device, resident=trainer.loader.x)
    assert seen[len(data["train"])] is trainer.loader.x and seen[len(data["val"])] is None
    features = [
        extract(trainer.model.encoder_q, data["train"], data.layout, "joint", trainer.device, rows=rows)
        for rows in (None, trainer.loader.x)
    ]
    assert np.array_equal(features[0].feature, features[1].feature)


EDGES = AugmentConfig(edge_drop=0.1, edge_add=0.05)


@pytest.mark.parametrize(
    "kw",
    [
        {},
        {"amp": True, "mining_epoch": 1},
        {"stream": "motion", "schedule": "cosine"},
        {"encoder": "dsta", "amp": True, "augment": EDGES},
    ],
)
def test_resume_is_exact(tmp_path, data, monkeypatch, kw):
    """Straight run against one interrupted in the middle of an epoch and one cut between epochs."""
    config = tiny(epochs=4, **kw)
    straight = start(config, data, tmp_path / "straight")
    assert train(straight, tmp_path / "straight")

    broken = start(config, data, tmp_path / "broken")
    inner = Pretrainer.train_step

    def interrupted(self, *args):
        inner(self, *args)
        if (self.epoch, self.step) == (2, 1):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Pretrainer, "train_step", interrupted)
    assert not train(broken, tmp_path / "broken")
    monkeypatch.setattr(Pretrainer, "train_step", inner)
    assert (broken.epoch, broken.step) == (2, 2)
    torch.manual_seed(999)  # a resumed process starts from another generator state
    resumed = resume(config, data, tmp_path / "broken")
    assert train(resumed, tmp_path / "broken")
    assert_same(straight, resumed)
    assert losses(tmp_path / "straight") == losses(tmp_path / "broken")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_resume_may_add_epochs_and_drops_metrics_from_beyond_the_checkpoint(tmp_path, data):
    run = tmp_path / "run"
    assert train(start(tiny(epochs=1), data, run), run)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "loss": 0.0}\n')
    longer = resume(tiny(epochs=2), data, run)
    assert train(longer, run)
    record = losses(run)
    assert len(record) == 2 and record[1] > 0


def test_resume_refuses_another_model_method_or_dataset(tmp_path, data):
    run = tmp_path / "run"
    assert train(start(tiny(epochs=1), data, run), run)
    for change in ({"hidden_dim": 16}, {"temperature": 0.1}, {"batch_size": 4}, {"seed": 1}):
        name = next(iter(change))
        with pytest.raises(InputError, match=f"was trained with {name}"):
            resume(tiny(epochs=1, **change), data, run)
    other = open_packed(packed(tmp_path / "other", seed=5))
    with pytest.raises(InputError, match="trained on another dataset"):
        resume(tiny(epochs=1), other, run)


def test_nan_stops_and_keeps_the_last_good_checkpoint(tmp_path, data, monkeypatch):
    run = tmp_path / "run"
    trainer = start(tiny(epochs=3), data, run)
    inner = Pretrainer.train_step

    def poisoned(self, *args):
        if (self.epoch, self.step) == (2, 1):
            with torch.no_grad():
                self.model.encoder_q.projector[0].weight[0, 0] = float("nan")
        inner(self, *args)

    monkeypatch.setattr(Pretrainer, "train_step", poisoned)
    with pytest.raises(InputError, match=r"NaN or Inf in epoch 2 .* last good checkpoint is kept"):
        train(trainer, run)
    state = load_checkpoint(run / "checkpoint.pt")
    assert (state["epoch"], state["step"]) == (2, 0)
    assert all(torch.isfinite(t).all() for t in state["model"].values())


def test_collapse_is_said(tmp_path, data, monkeypatch, capsys):
    run = tmp_path / "run"
    trainer = start(tiny(epochs=2, lr=0.0), data, run)
    with torch.no_grad():  # every query, key and queue row the same
        for encoder in (trainer.model.encoder_q, trainer.model.encoder_k):
            encoder.projector[2].weight.zero_()
            encoder.projector[2].bias.fill_(1.0)
        trainer.model.queue.fill_(8**-0.5)
    assert train(trainer, run)
    assert capsys.readouterr().out.count("warning: training has collapsed") == 1
    assert losses(run)[0] == pytest.approx(2 * torch.tensor(17.0).log().item(), rel=1e-5)


def test_save_is_atomic(tmp_path, data, monkeypatch):
    run = tmp_path / "run"
    trainer = start(tiny(epochs=1), data, run)
    save(trainer, run)
    before = (run / "checkpoint.pt").read_bytes()

    def half(content, file):
        Path(file).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(InputError, match=r"cannot write .*No space"):
        save(trainer, run)
    assert (run / "checkpoint.pt").read_bytes() == before and not list(run.glob(".*"))


def test_checkpoints_that_stay(tmp_path, data):
    run = tmp_path / "run"
    assert train(start(tiny(keep_every=2, knn_every=0), data, run), run)
    assert load_checkpoint(run / "checkpoint_epoch2.pt")["epoch"] == 3
    assert not (run / "checkpoint_epoch1.pt").exists()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"queue_size": 20}, "queue_size 20 is not a multiple of batch_size 8; try queue_size 16"),
        ({"frames": 50}, "has frames 16, the config says 50"),
        ({"layout": "kinect20"}, "has layout ntu25, the config says kinect20"),
        ({"batch_size": 64, "queue_size": 64}, "32 training samples are fewer than batch_size 64"),
        ({"branches": ("basic", "normal")}, "3 weights for 2 branches"),
        ({"branches": ("basic", "normal", "hard")}, "unknown view set 'hard'"),
        ({"epochs": 0}, "epochs 0: expected at least 1"),
        ({"topk": 17}, "topk 17 is more than queue_size 16"),
        ({"device": "cuda"}, "sees no CUDA device"),
    ],
)
def test_configs_that_cannot_work(data, change, what, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=what):
        Pretrainer(tiny(**change), data)


def test_any_number_of_branches(tmp_path, data):
    for branches, weights in ((("basic",), (1.0,)), (("basic", "normal", "normal", "strong"), (1.0, 0.5, 0.3, 0.2))):
        run = tmp_path / f"run{len(branches)}"
        assert train(start(tiny(epochs=1, branches=branches, weights=weights), data, run), run)


def test_a_run_folder_is_never_overwritten(tmp_path, data):
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match="exists already; choose another --out, or continue it"):
        start(tiny(), data, tmp_path / "run")


def test_fp16_on_cpu_uses_the_scaler(data):
    trainer = Pretrainer(tiny(amp=True, amp_dtype="fp16"), data)
    assert trainer.train.scaler.is_enabled() and trainer.train.autocast().fast_dtype == torch.float16
    trainer.train_step(next(trainer.loader.epoch(1)))
    trainer.check_finite()


def test_the_order_is_a_function_of_seed_and_epoch(data):
    loader = Pretrainer(tiny(), data).loader
    assert torch.equal(loader.plan.order(3), loader.plan.order(3)) and not torch.equal(loader.plan.order(3), loader.plan.order(4))
    assert sorted(loader.plan.order(1).tolist()) == list(range(32))
