"""Choosing settings inside the training split."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers import packed, tiny

from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.errors import Diverged, InputError
from hiclr_fast.pretraining.config import load_yaml
from hiclr_fast.tuning import halving
from hiclr_fast.tuning.grid import read_grid
from hiclr_fast.tuning.halving import EVIDENCE, PRESET, Halving, halve, inner_sets, scaled


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return open_packed(packed(tmp_path_factory.mktemp("tune") / "set", train=60))


def test_the_test_split_is_not_there(data):
    (name, inner), *more = inner_sets(data, 0)
    assert len(more) == 4 and name.startswith("subject_") and set(inner.splits) == {"train", "val"}
    assert not set(inner["train"].subject.tolist()) & set(inner["val"].subject.tolist())
    names = {*inner["train"].name.tolist(), *inner["val"].name.tolist()}
    assert names == set(data["train"].name.tolist()) and inner.checksum != data.checksum
    assert len(inner_sets(data, 2)) == 2


def test_halving_goes_on_after_a_stop_and_writes_what_it_found(data, tmp_path, monkeypatch):
    settings = [(f"lr {lr}", tiny(lr=lr, epochs=4)) for lr in (0.01, 0.001)]
    plan, calls, inner = Halving(epochs=1, rounds=2), [], halving.train

    def counted(trainer, out):
        calls.append(out)
        return inner(trainer, out) if len(calls) != 2 else False

    monkeypatch.setattr(halving, "train", counted)
    assert halve(settings, data, tmp_path, plan) is None and not (tmp_path / PRESET).exists()
    rounds, left_out = halve(settings, data, tmp_path, plan)
    assert [len(r) for r in rounds] == [2, 1] and len(left_out) == 1 and len(calls) == 4
    best = load_yaml(tmp_path / PRESET)
    assert best == replace(rounds[-1][0].config, knn_every=best.knn_every) and (tmp_path / EVIDENCE).is_file()
    assert rounds[0][0].score >= rounds[0][1].score


def test_other_data_is_judged_anew_and_a_setting_that_diverges_is_last(data, tmp_path, monkeypatch):
    settings, plan, train = [(f"lr {lr}", tiny(lr=lr)) for lr in (0.5, 0.001)], Halving(epochs=1, rounds=1), halving.train
    runs = []

    def bold(trainer, out):
        runs.append(out)
        if trainer.config.lr == 0.5:
            raise Diverged("the loss became NaN")
        return train(trainer, out)

    monkeypatch.setattr(halving, "train", bold)
    (rounds,), _ = halve(settings, data, tmp_path, plan)
    assert [s.said for s in rounds] == ["lr 0.001", "lr 0.5"] and rounds[1].score == 0
    assert halve(settings, data, tmp_path, plan)[0][0] == rounds and len(runs) == 2
    halve(settings, replace(data, checksum="other"), tmp_path, plan)
    assert len(set(runs)) == 4
    kept = json.loads((tmp_path / EVIDENCE).read_text())
    assert kept["data_checksum"] == "other" and kept["best"]["lr"] == 0.001
    assert len(kept["rounds"][0]["settings"][0]["without"]) == 1


def test_a_schedule_is_scaled_as_a_whole():
    config = scaled(tiny(epochs=300, warmup_epochs=5, drops=(250,), mining_epoch=150), 12)
    assert (config.epochs, config.warmup_epochs, config.drops, config.mining_epoch) == (12, 1, (10,), 6)


def test_what_cannot_be_compared_is_said_before_the_first_training(data, tmp_path):
    plan, unlabelled = Halving(epochs=1), replace(data["train"], label=np.full(60, -1))
    with pytest.raises(InputError, match="fewer than batch_size 64"):
        halve([("small", tiny()), ("large", tiny(batch_size=64, queue_size=64))], data, tmp_path / "out", plan)
    with pytest.raises(InputError, match="samples without a label"):
        halve([("any", tiny())], replace(data, splits={**data.splits, "train": unlabelled}), tmp_path / "out", plan)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("lr: 0.1", "lr is 0.1, expected a list of values to try"),
        ("[1, 2]", "expected a mapping from settings to lists"),
        ("lrr: [0.1]", "unknown key 'lrr'; the nearest valid one is 'lr'"),
        ("epochs: [10]", "epochs are those of the rounds"),
        ("momentum: [2]", "momentum 2.0: expected"),
        (f"seed: '{'a' * 1000}'", "seed is 'a{59}, expected a list"),
        ("".join(f"{name}: {list(range(9))}\n" for name in ("seed", "lr", "topk", "threads", "momentum", "dropout", "temperature",
                 "knn_every", "weight_decay")), "387420489 combinations"),
        ("seed: [" + ", ".join(map(str, range(65))) + "]", "65 combinations, at most 64"),
    ],
)
def test_bad_grids(tmp_path, text, what):
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(InputError, match=what):
        read_grid(tmp_path / "grid.yaml", tiny())


def test_a_grid_is_every_combination(tmp_path):
    (tmp_path / "grid.yaml").write_text("lr: [0.1, 0.2]\naugment:\n  flip_p: [0.0, 0.5]\n  blur_p: [0.1]\n")
    found = read_grid(tmp_path / "grid.yaml", tiny())
    assert len(read_grid(None, tiny())) == 8
    assert [(c.lr, c.augment.flip_p, c.augment.blur_p) for _, c in found] == [
        (lr, flip, 0.1) for lr in (0.1, 0.2) for flip in (0.0, 0.5)
    ]
    assert found[1][0] == "lr 0.1, augment.flip_p 0.5, augment.blur_p 0.1"
