"""A run folder: config.yaml, environment.json, metrics.jsonl, tensorboard/, checkpoint.pt, encoder.safetensors.

It is enough to rebuild the model, to resume, and to evaluate.
"""

import json
import os
import pickle
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hiclr_fast.errors import InputError
from hiclr_fast.pretraining.config import PretrainConfig, as_plain, load_yaml, save_yaml

CHECKPOINT = "checkpoint.pt"
ENCODER = "encoder.safetensors"


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, commit and hardware that a reader needs to judge the numbers."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "cpu_threads": torch.get_num_threads()}
    for package in ("hiclr_fast", "torch", "triton", "numpy", "numba", "nvidia-dali-cuda130"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    here = Path(__file__).parent
    git = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True)
    found["commit"] = git.stdout.strip() or None
    found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return found


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
    save_atomic(state, temporary / CHECKPOINT)
    os.replace(temporary, out)


def save_atomic(content: dict[str, Any], path: Path) -> None:
    """torch.save under a temporary name, flushed to disk, then renamed: the old file stays whole until the new one is."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_tensors(path: Path) -> Any:
    """What torch.save wrote, on CPU; never unpickles anything but tensors and plain values."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give a checkpoint, or a run that has saved one") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a readable checkpoint of plain tensors ({str(error).splitlines()[0]})") from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of ours, on CPU."""
    content = load_tensors(path)
    if not isinstance(content, dict) or "model" not in content or "config" not in content:
        raise InputError(f"{path}: not a checkpoint of hiclr_fast; for official weights add --format official")
    return content


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
            temporary = self.path.with_name(".metrics.tmp")
            temporary.write_text("".join(kept))
            os.replace(temporary, self.path)
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=resume_epoch + 1)

    def write(self, epoch: int, values: dict[str, float]) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps({"epoch": epoch, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, epoch)

    def close(self) -> None:
        self.board.close()


def export_encoder(encoder: torch.nn.Module, config: PretrainConfig, layout: str, path: Path) -> None:
    """The query encoder as safetensors; config and layout go into its metadata."""
    temporary = path.with_name(f".{path.name}.tmp")
    state = {name: tensor.contiguous().cpu() for name, tensor in encoder.state_dict().items()}
    save_file(state, temporary, metadata={"config": json.dumps(as_plain(config)), "layout": layout})
    os.replace(temporary, path)


def load_encoder_file(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(state, config values with the layout it was trained on) of an exported encoder."""
    try:
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            facts = file.metadata() or {}
            return state, {**json.loads(facts["config"]), "layout": facts["layout"]}
    except (SafetensorError, KeyError, OSError, ValueError) as error:
        raise InputError(f"{path}: not an encoder exported by hiclr_fast ({error})") from None
