"""Files of tensors: `.pt` and `.safetensors`. What is read is checked here: kinds, finite numbers, checksums."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import UNREADABLE, open_regular, reason_of
from hiclr_fast.files.atomic import replacing
from hiclr_fast.files.torch_files import STORAGES, read_torch

MOST_DIMENSIONS = 8  # of a tensor
LARGEST_HEADER = 1 << 21  # bytes of JSON in front of the tensors; the largest honest ones have some hundred thousand
DIGEST = "sha256"  # of `digest`, in the metadata of our safetensors


def save_tensors(content: dict[str, Any], path: Path) -> None:
    """torch.save: the old file stays whole until the new one is on disk."""
    with replacing(path) as temporary:
        torch.save(content, temporary)


def load_tensors(path: Path) -> Any:
    """What torch.save wrote, on CPU: tensors and plain values, unchecked beyond `torch_files`."""
    return read_torch(Path(path))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of ours, on CPU: tensors and plain values, among them `model`, a dict of finite tensors by name, and
    `config`, a dict by name."""
    content = load_tensors(path)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict) or not isinstance(content.get("config"), dict):
        raise InputError(f"{path}: not a checkpoint of hiclr_fast; for official weights add --format official")
    if not all(isinstance(name, str) for name in content["config"]):
        raise InputError(f"{path} config: a name that is no text; take another copy")
    check_numbers(content["model"], str(path))
    return content


def check_numbers(state: Mapping[Any, Any], where: str) -> None:
    """InputError unless it holds only tensors of a known dtype by name, all finite, and no negative variance."""
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.dtype not in STORAGES.values():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise InputError(f"{where}: {str(name)[:80]} is {kind}, expected a tensor of numbers; take another checkpoint")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"{where}: {name[:80]} holds NaN or Inf; take a checkpoint from before the weights diverged")
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise InputError(f"{where}: {name[:80]} holds a negative variance; the file was changed, take another copy")


def digest(state: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    """SHA-256 of every name, dtype, shape, value and fact."""
    found = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode())
    for name in sorted(state):
        tensor = state[name]
        found.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.flatten().clone(memory_format=torch.contiguous_format).view(torch.uint8).numpy())
    return found.hexdigest()


def weights_content(state: dict[str, Tensor], facts: dict[str, str]) -> bytes:
    """Of a safetensors file; the facts are its metadata, with a checksum of everything."""
    state = {name: tensor.contiguous().cpu() for name, tensor in state.items()}
    return save(state, metadata={**facts, DIGEST: digest(state, facts)})


def save_weights(state: dict[str, Tensor], facts: dict[str, str], path: Path) -> None:
    """Safetensors of `weights_content`."""
    with replacing(path) as temporary:  # written as any file is: safetensors' own writer lets nobody else read it
        temporary.write_bytes(weights_content(state, facts))


def load_weights_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(state, facts) of `save_weights`, on CPU, checked. A file without a checksum is one of before there were any."""
    with open_regular(path) as file:
        header = int.from_bytes(file.read(8), "little")
    if header > LARGEST_HEADER:
        claims = f"a header of {header} bytes, more than {LARGEST_HEADER}"
        raise InputError(f"{path}: not readable safetensors ({claims}); take another copy")
    try:
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            facts = file.metadata() or {}
    except (SafetensorError, *UNREADABLE) as error:
        raise InputError(f"{path}: not readable safetensors ({reason_of(error)}); take another copy") from None
    for name, tensor in state.items():
        if tensor.ndim > MOST_DIMENSIONS:
            raise InputError(f"{path}: {name[:80]} has {tensor.ndim} dimensions, no weight has so many; take another copy")
    check_numbers(state, str(path))
    wanted = facts.pop(DIGEST, None)
    if wanted is not None and wanted != digest(state, facts):
        raise InputError(f"{path}: its checksum is not the one it was written with; the file was changed, take another copy")
    return state, facts
