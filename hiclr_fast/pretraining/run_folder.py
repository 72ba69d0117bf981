"""A run folder: config.yaml, environment.json, metrics.jsonl, tensorboard/, checkpoint.pt; at its end encoder.safetensors and
comparison.json (1-NN of raw coordinates, random and pretrained encoder).

It is enough to rebuild the model, to resume, and to evaluate.
"""

import json
import os
import shutil
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hiclr_fast.errors import InputError, writing
from hiclr_fast.files.archives import sha256
from hiclr_fast.files.atomic import left_over, new_folder, write_text
from hiclr_fast.files.json_files import read_json, read_json_lines
from hiclr_fast.files.lock import Lock
from hiclr_fast.files.settings import save_yaml
from hiclr_fast.files.tensors import save_tensors
from hiclr_fast.machine import environment
from hiclr_fast.models.load import CHECKPOINT
from hiclr_fast.pretraining.board import Board
from hiclr_fast.pretraining.config import PretrainConfig, load_yaml

ENCODER = "encoder.safetensors"


def free_name(root: Path, stem: str) -> Path:
    """root/stem, or root/stem-2, ... whichever does not exist yet."""
    number, path = 1, root / stem
    while path.exists():
        number += 1
        path = root / f"{stem}-{number}"
    return path


def check_free(out: Path) -> None:
    if os.path.lexists(out):
        raise InputError(f"{out} exists already; choose another --out, or continue it with --resume {out}")


def create_run(out: Path, config: PretrainConfig, device: torch.device, data_checksum: str, state: dict[str, Any]) -> Lock:
    """Makes the folder, complete with the checkpoint of the start, or nothing, and returns the lock on it; InputError when it
    exists, or another process makes it meanwhile."""
    check_free(out)
    _remove_abandoned(out)
    with new_folder(out) as temporary:
        lock = Lock(temporary)
        try:
            save_yaml(config, temporary / "config.yaml")
            facts = {**environment(device), "data_checksum": data_checksum}
            write_text(temporary / "environment.json", json.dumps(facts, indent=1))
            save_tensors(state, temporary / CHECKPOINT)
        except BaseException:
            lock.release()
            raise
    lock.moved(out)
    return lock


def _remove_abandoned(out: Path) -> None:
    """Temporary folders of starts that were killed: old, and their locks are free."""
    for left in left_over(out):
        with suppress(InputError, OSError):
            if time.time() - left.stat().st_mtime > 60:
                with Lock(left):
                    shutil.rmtree(left, ignore_errors=True)


def read_environment(run: Path) -> dict[str, Any]:
    """environment.json of a run; empty where there is none. InputError where it is damaged."""
    file = Path(run) / "environment.json"
    return read_json(file) if file.exists() else {}


def load_run_config(run: Path) -> PretrainConfig:
    """The settings of a run, with its dataset where it can be found from here."""
    run = Path(run)
    if not (run / "config.yaml").is_file():
        raise InputError(f"{run} is not a run folder (no config.yaml); give the --out of a pretraining run")
    config = load_yaml(run / "config.yaml")
    return config if config.data is None else replace(config, data=_find(config.data, run))


def _find(data: Path, run: Path) -> Path:
    """Where a run's dataset lies: older runs hold a path that was relative to the folder they were started in, which is mostly
    above the run's. The one with the run's checksum counts, else the first that exists, else the path as it is."""
    places = [place / data for place in (Path(), *run.absolute().parents)]  # an absolute path stays as it is
    there = [place for place in dict.fromkeys(places) if (place / "meta.json").is_file()]
    if len(there) > 1:
        wanted = read_environment(run).get("data_checksum")
        there = [place for place in there if sha256(place / "meta.json") == wanted] or there
    return there[0] if there else data


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without the half one that a killed run may have left. InputError where it is damaged: every
    line holds the number of its epoch, and other numbers, finite and far enough from the largest to be drawn."""
    file = Path(run) / "metrics.jsonl"
    if not file.exists():
        return []
    found = read_json_lines(file)
    for number, values in enumerate(found, 1):
        counted = type(values.get("epoch")) is int and 0 <= values["epoch"] <= 10**9
        if not counted or not all(isinstance(v, (int, float)) and abs(v) < 1e300 for v in values.values()):
            raise InputError(f"{file}: line {number} is no line of metrics, numbers by name; remove that line")
    return found


def check_metrics(run: Path) -> None:
    """InputError where metrics could not be written on, before anything is changed."""
    read_metrics(run)
    if (board := run / "tensorboard").exists() and not board.is_dir():
        raise InputError(f"{board} is no folder; move it away")


class Metrics:
    """Appends to metrics.jsonl and TensorBoard. On resume, lines from beyond the checkpoint are dropped, and half a line that
    a killed run left at the end."""

    def __init__(self, run: Path, resume_epoch: int):
        self.path = run / "metrics.jsonl"
        if self.path.exists():
            kept = [line for line in read_metrics(run) if line["epoch"] <= resume_epoch]
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self.board = Board(run / "tensorboard", resume_epoch + 1)

    def write(self, epoch: int, values: dict[str, float]) -> None:
        with writing(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch, **values}) + "\n")
        self.board.write(epoch, values)

    def close(self) -> None:
        self.board.close()
