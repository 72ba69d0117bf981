"""A run folder: config.yaml, environment.json, metrics.jsonl, tensorboard/, checkpoint.pt, encoder.safetensors.

It is enough to rebuild the model, to resume, and to evaluate.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from hiclr_fast.errors import InputError
from hiclr_fast.files.atomic import write_text
from hiclr_fast.files.settings import save_yaml
from hiclr_fast.files.tensors import save_tensors
from hiclr_fast.machine import environment
from hiclr_fast.models.load import CHECKPOINT
from hiclr_fast.pretraining.config import PretrainConfig, load_yaml

ENCODER = "encoder.safetensors"


def free_name(root: Path, stem: str) -> Path:
    """root/stem, or root/stem-2, ... whichever does not exist yet."""
    number, path = 1, root / stem
    while path.exists():
        number += 1
        path = root / f"{stem}-{number}"
    return path


def create_run(out: Path, config: PretrainConfig, device: torch.device, data_checksum: str, state: dict[str, Any]) -> None:
    """Makes the folder, complete with the checkpoint of the start, or nothing; InputError when it exists."""
    if out.exists():
        raise InputError(f"{out} exists already; choose another --out, or continue it with --resume {out}")
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a start that was killed
    temporary.mkdir(parents=True)
    save_yaml(config, temporary / "config.yaml")
    facts = {**environment(device), "data_checksum": data_checksum}
    (temporary / "environment.json").write_text(json.dumps(facts, indent=1))
    save_tensors(state, temporary / CHECKPOINT)
    os.replace(temporary, out)


def load_run_config(run: Path) -> PretrainConfig:
    if not (Path(run) / "config.yaml").is_file():
        raise InputError(f"{run} is not a run folder (no config.yaml); give the --out of a pretraining run")
    return load_yaml(Path(run) / "config.yaml")


class Metrics:
    """Appends to metrics.jsonl and TensorBoard. On resume, lines from beyond the checkpoint are dropped, and half a line that
    a killed run left at the end."""

    def __init__(self, run: Path, resume_epoch: int):
        from torch.utils.tensorboard import SummaryWriter

        self.path = run / "metrics.jsonl"
        if self.path.exists():
            lines = [line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            kept = [line for line in lines if json.loads(line)["epoch"] <= resume_epoch]
            write_text(self.path, "".join(kept))
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=resume_epoch + 1)

    def write(self, epoch: int, values: dict[str, float]) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps({"epoch": epoch, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, epoch)

    def close(self) -> None:
        self.board.close()
