"""Files of tensors: `.pt` and `.safetensors`. Nothing in them is ever executed."""

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hiclr_fast.errors import InputError
from hiclr_fast.files.atomic import replacing


def save_tensors(content: dict[str, Any], path: Path) -> None:
    """torch.save: the old file stays whole until the new one is on disk."""
    with replacing(path) as temporary:
        torch.save(content, temporary)


def load_tensors(path: Path) -> Any:
    """What torch.save wrote, on CPU; never unpickles anything but tensors and plain values."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give a checkpoint, or a run that has saved one") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a readable checkpoint of plain tensors ({str(error).splitlines()[0]})") from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of ours, on CPU: tensors and plain values, `model` and `config` among them."""
    content = load_tensors(path)
    if not isinstance(content, dict) or "model" not in content or "config" not in content:
        raise InputError(f"{path}: not a checkpoint of hiclr_fast; for official weights add --format official")
    return content


def save_weights(state: dict[str, Tensor], facts: dict[str, str], path: Path) -> None:
    """Safetensors; the facts are its metadata."""
    with replacing(path) as temporary:
        save_file({name: tensor.contiguous().cpu() for name, tensor in state.items()}, temporary, metadata=facts)


def load_weights_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(state, facts) of `save_weights`, on CPU."""
    try:
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return state, file.metadata() or {}
    except (SafetensorError, KeyError, OSError, ValueError) as error:
        raise InputError(f"{path}: not readable safetensors ({error})") from None
