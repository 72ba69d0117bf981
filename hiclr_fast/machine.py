"""The machine that a run is on: its device, and what a reader has to know of it to judge the numbers."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from hiclr_fast.errors import InputError


def pick_device(name: str, local: int = 0) -> torch.device:
    """name: auto, cpu or cuda; local: number of this rank's GPU."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: this torch sees no CUDA device; use --device cpu or install a CUDA build of torch")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local)


def commit(package: Path) -> str | None:
    """The commit of the repository whose first folder is that package; None where it was installed, or git is not there."""
    try:
        git = ["git", "-C", str(package), "rev-parse", "--show-toplevel", "HEAD"]
        said = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True).stdout
        root, found = said.splitlines()
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return found if Path(root).resolve() == package.resolve().parent else None


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, commit and hardware that a reader needs to judge the numbers."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "cpu_threads": torch.get_num_threads()}
    for package in ("hiclr_fast", "torch", "triton", "numpy", "numba", "nvidia-dali-cuda130"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    found["commit"] = commit(Path(__file__).parent)
    found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return found
