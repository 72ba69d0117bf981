"""What stands there already: a result stays whole until the next is there, and what others have made is never overwritten."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hiclr_fast.errors import InputError
from hiclr_fast.evaluation import results
from hiclr_fast.evaluation.classifier import Training
from hiclr_fast.evaluation.protocols.linear import LinearConfig, linear_protocol
from hiclr_fast.evaluation.protocols.semi import run_semi
from hiclr_fast.evaluation.results import read_results, result_folders
from hiclr_fast.evaluation.schedule import FinetuneConfig

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

    for where, name, new in ((Training, "train_epoch", train_epoch), (results, "take_place", take_place), (np, "savez", no_scores)):
        monkeypatch.setattr(where, name, new)
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
