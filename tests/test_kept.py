"""What stands there already: a result stays whole until the next is there, and what others have made is never overwritten."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import packed, tiny

from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation import results
from hiclr_fast.evaluation.classifier import Training
from hiclr_fast.evaluation.protocols.finetune import finetune
from hiclr_fast.evaluation.protocols.knn import KnnConfig, knn
from hiclr_fast.evaluation.protocols.linear import LinearConfig, linear_protocol
from hiclr_fast.evaluation.protocols.retrieval import RetrievalConfig, retrieval
from hiclr_fast.evaluation.protocols.semi import run_semi
from hiclr_fast.evaluation.results import read_results, result_folders
from hiclr_fast.evaluation.schedule import FinetuneConfig
from hiclr_fast.files.atomic import remove_folder
from hiclr_fast.reports.ablation import ablate
from hiclr_fast.reports.plan import Plan
from hiclr_fast.reports.reproduce import reproduce
from hiclr_fast.tuning.halving import Halving, halve

SHORT = FinetuneConfig(epochs=1, batch_size=16, lr=0.02)


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_result_stays_whole_until_all_of_the_next_is_on_the_disk(candidate, monkeypatch):
    """The classifier belongs to it."""
    candidate.evaluate("linear", LinearConfig(epochs=1), linear_protocol)
    before = files_of(candidate.folder)
    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(InputError, match="No space left"):
        candidate.evaluate("linear", LinearConfig(epochs=1, lr=0.5), linear_protocol)
    monkeypatch.undo()
    assert files_of(candidate.folder) == before and len(before) == 3
    assert candidate.evaluate("linear", LinearConfig(epochs=1, lr=0.5), linear_protocol)["settings"]["lr"] == 0.5
    assert files_of(candidate.folder).keys() == before.keys() and read_results(candidate.folder / "linear")


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("stop", ["second repeat", "scores", "first move", "second move"])
def test_a_semi_result_stays_whole_until_all_repeats_of_the_next_are_there(candidate, monkeypatch, stop):
    run_semi(candidate, (10,), 2, SHORT)
    (candidate.folder / "semi_10" / "repeat0" / "notes.txt").write_text("mine")
    before, trained, moved = files_of(candidate.folder), [], []
    other, train_one, place, savez = replace(SHORT, lr=0.01), Training.train_epoch, results.take_place, np.savez

    def train_epoch(self):
        trained.append(self.config.seed)
        if stop == "second repeat" and self.config.seed == 1:
            raise KeyboardInterrupt
        train_one(self)

    def take_place(*where):
        moved.append(where)
        if stop == ("first move", "second move")[len(moved) - 1]:
            raise KeyboardInterrupt
        place(*where)

    def no_scores(file, **arrays):
        savez(file, **arrays) if "scores" in arrays or stop != "scores" else full_disk()

    for where, new in ((Training, train_epoch), (results, take_place)):
        monkeypatch.setattr(where, new.__name__, new)
    monkeypatch.setattr(np, "savez", no_scores)
    with pytest.raises((KeyboardInterrupt, InputError)):
        run_semi(candidate, (10,), 2, other)
    if stop != "second move":  # there only renames stand between the two results
        now = files_of(candidate.folder)
        assert {name: now.get(name) for name in before} == before and read_results(candidate.folder / "semi_10")
        assert result_folders(candidate.folder) == [candidate.folder / f"semi_10{end}" for end in ("", "/repeat0", "/repeat1")]
    monkeypatch.undo()
    monkeypatch.setattr(Training, "train_epoch", lambda self: [trained.append(self.config.seed), train_one(self)])
    (found,) = run_semi(candidate, (10,), 2, other)
    assert trained == ([0, 1, 1] if stop == "second repeat" else [0, 1]) and found["schedule"]["lr"] == 0.01
    assert read_results(candidate.folder / "semi_10")["key"] == found["key"]
    assert files_of(candidate.folder).keys() == before.keys()
    assert (candidate.folder / "semi_10" / "repeat0" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("protocol", "settings", "compute", "name"),
    [
        ("retrieval", RetrievalConfig(2), retrieval, "neighbours.csv"),
        ("linear", LinearConfig(epochs=1), linear_protocol, "classifier.safetensors"),
        ("finetune", SHORT, finetune, "classifier.safetensors"),
        ("knn", KnnConfig((1,)), knn, "scores.npz"),
        ("finetune", SHORT, finetune, "training.pt"),
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_files_of_others_are_not_overwritten(candidate, protocol, settings, compute, name, beside):
    """Neither in a folder without results nor beside those that do not list it."""
    folder = candidate.folder / protocol
    if beside:
        candidate.evaluate(protocol, settings, compute)
        found = json.loads((folder / "results.json").read_text())
        found["files"].pop(name, None)
        (folder / "results.json").write_text(json.dumps(found))
    folder.mkdir(parents=True, exist_ok=True)
    if name == "training.pt":
        torch.save({"model": {}, "config": {}}, folder / name)
    else:
        (folder / name).write_text("mine")
    before = files_of(folder)
    if beside and name == "scores.npz":
        (folder / "results.json").unlink()
        before.pop("results.json")
    with pytest.raises(InputError, match=rf"{name} is (not of an evaluation|of no training with labels); give another folder"):
        candidate.evaluate(protocol, settings, compute)
    assert files_of(folder) == before


def test_a_training_of_others_stays_where_nothing_is_trained(candidate):
    (candidate.folder / "linear").mkdir(parents=True)
    (candidate.folder / "linear" / "training.pt").write_text("mine")
    candidate.evaluate("linear", LinearConfig(epochs=1), linear_protocol)
    assert (candidate.folder / "linear" / "training.pt").read_text() == "mine"


@pytest.mark.parametrize("kept", [("classifier.safetensors",), ("scores.npz",), ("scores.npz", "classifier.safetensors")])
def test_what_was_killed_before_it_had_results_is_ours(candidate, kept):
    """The classifier first, as it was once; the scores first, as it is."""
    candidate.evaluate("linear", LinearConfig(epochs=1), linear_protocol)
    folder = candidate.folder / "linear"
    for file in list(folder.iterdir()):
        file.name in kept or file.unlink()
    assert candidate.evaluate("linear", LinearConfig(epochs=2), linear_protocol)["settings"]["epochs"] == 2


@pytest.mark.parametrize(
    ("command", "mark", "other"),
    [("tune", "evidence.json", "preset.yaml"), ("table", "table.json", "table.md"), ("ablation", "ablation.json", "ablation.md")],
)
def test_tables_and_presets_are_written_over_their_own_alone(tmp_path, command, mark, other):
    """Before anything is trained."""
    data = open_packed(packed(tmp_path / "set", train=60))
    plan = Plan("toy", "all", (data.path,), tmp_path, {"joint": tiny(epochs=1, knn_every=0)}, seeds=(0,), protocols=("knn",))
    start = {
        "tune": lambda: halve([("any", tiny())], data, tmp_path, Halving(epochs=1, rounds=1)),
        "table": lambda: reproduce(plan),
        "ablation": lambda: ablate(plan),
    }[command]
    (tmp_path / other).write_text("mine")
    for content in (None, "mine", "[]", '{"percent": 1}'):
        if content is not None:
            (tmp_path / mark).write_text(content)
        with pytest.raises(InputError, match=r"exists already and was not made by this command; choose another --out"):
            start()
    assert (tmp_path / other).read_text() == "mine" and {p.name for p in tmp_path.iterdir()} == {"set", mark, other}


def test_a_folder_that_once_could_not_be_removed_goes(tmp_path, monkeypatch, capsys):
    real, refused = os.rmdir, []

    def rmdir(path, **how):
        if len(refused) < refusals:
            refused.append(path)
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, **how)

    for refusals in (1, 9):
        (tmp_path / "work" / "inner").mkdir(parents=True)
        refused.clear()
        monkeypatch.setattr(os, "rmdir", rmdir)
        remove_folder(tmp_path / "work")
        assert (tmp_path / "work").exists() is (refusals == 9) is ("could not be removed" in capsys.readouterr().err)
