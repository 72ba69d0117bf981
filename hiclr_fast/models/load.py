"""An encoder from a file and into one: our checkpoints and exports, and official checkpoints."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hiclr_fast.data.contract import Contract
from hiclr_fast.data.packed.dataset import Packed
from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import read_npz, sha256
from hiclr_fast.files.json_files import expect, parse_json
from hiclr_fast.files.settings import as_plain, update
from hiclr_fast.files.tensors import (
    check_numbers,
    load_checkpoint,
    load_tensors,
    load_weights_file,
    save_tensors,
    save_weights,
)
from hiclr_fast.models.build import Encoder
from hiclr_fast.models.config import EncoderConfig
from hiclr_fast.models.dsta import DSTA
from hiclr_fast.models.official import official_name, skeletonclr_name
from hiclr_fast.models.stgcn import STGCN

Format = Literal["hiclr_fast", "official"]
OFFICIAL_LAYOUTS = {25: "ntu25", 20: "kinect20"}  # by number of joints; official checkpoints do not name theirs
CHECKPOINT = "checkpoint.pt"  # in a run folder
COORDINATES = 3  # x, y, z
PREFIX = "encoder_q."  # of the query encoder, in our checkpoints and in the official ones


def encoder_from_state(
    state: dict[str, Tensor], where: str, name_of: Callable[[str], str] = str, dropout: float = 0.5
) -> tuple[Encoder, dict[str, Any]]:
    """(encoder with these weights, the config fields that can be read off them). name_of: our name -> the state's.

    InputError unless every weight has the shape that the others ask for, so that what is made is no larger than the state, and
    is a finite floating-point number where ours is one.
    """
    try:
        feature_dim, hidden_dim = state[name_of("projector.2.weight")].shape
        attention, pooling = state.get(name_of("blocks.0.attention0s")), state.get("pooling")
        if attention is not None:
            width, in_channels = state["proj.weight"].shape[:2]
            sizes = (width // 2, hidden_dim, feature_dim)
            make = partial(DSTA, attention.shape[-1], in_channels, *sizes, dropout, pooling)
            counts = (*attention.shape, *sizes)
        else:
            graph, in_channels = state["A"], state[name_of("blocks.0.gcn.weight")].shape[1]
            sizes = (len(state[name_of("blocks.0.conv.weight")]), hidden_dim, feature_dim)
            make = partial(STGCN, graph, in_channels, *sizes, dropout, pooling)
            counts = (*graph.shape, *sizes)
        if pooling is not None and pooling.shape[1:] != (counts[-4],):
            raise ValueError(f"pooling {tuple(pooling.shape)} for {counts[-4]} joints")
        if min(counts) < 1 or in_channels != COORDINATES:
            raise ValueError(f"sizes {counts} for {in_channels} coordinates")
        with torch.device("meta"):  # shapes alone, whatever they claim
            wanted = make().state_dict()
        found = {name: state[name_of(name)] for name in wanted}
        for name, like in wanted.items():
            if found[name].shape != like.shape or found[name].is_floating_point() != like.is_floating_point():
                raise ValueError(f"{name} is {found[name].dtype} {tuple(found[name].shape)}, expected {tuple(like.shape)}")
        check_numbers(found, where)
        model: Encoder = make()
        model.load_state_dict(found)
    except InputError:
        raise
    except (KeyError, IndexError, RuntimeError, ValueError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{where}: not the weights of an ST-GCN or DSTA-Net encoder ({reason})") from None
    fields = dict(zip(("hidden_channels", "hidden_dim", "feature_dim"), sizes, strict=True))
    return model, {"encoder": "dsta" if attention is not None else "stgcn", **fields}


def load_official(path: Path) -> tuple[Encoder, EncoderConfig]:
    """(query encoder, config as far as the weights tell) of a HiCLR, AimCLR or SkeletonCLR checkpoint.

    path: .pt (tensors only) or .npz of the same keys.
    """
    if path.suffix == ".npz":
        arrays = {name: a for name, a in read_npz(path).items() if a.dtype.kind in "fi" and a.dtype.itemsize <= 8}
        state = {name: torch.from_numpy(a.astype(a.dtype.newbyteorder("="), copy=False)) for name, a in arrays.items()}
    else:
        state = load_tensors(path)
    if not isinstance(state, dict):
        raise InputError(f"{path}: holds a {type(state).__name__}, expected a dict of tensors")
    names = {name: name.removeprefix("module.") for name in state if isinstance(name, str)}
    query = {name.removeprefix(PREFIX): state[n] for n, name in names.items() if name.startswith(PREFIX)}
    if "fc.weight" in query:
        raise InputError(f"{path} ends in a class head (finetuned or linear evaluation); give the pretrained checkpoint")
    listed = skeletonclr_name("blocks.0.edge_importance") in query
    encoder, fields = encoder_from_state(query, str(path), skeletonclr_name if listed else official_name)
    return encoder, EncoderConfig(layout=OFFICIAL_LAYOUTS.get(encoder.num_joints), **fields)


def save_official(encoder: Encoder, frames: int, path: Path) -> None:
    """The query encoder as a .pt that the official HiCLR code loads. frames: T, to which DSTA-Net's buffers are cut there."""
    state = {official_name(name): tensor for name, tensor in encoder.state_dict().items()}
    if isinstance(encoder, DSTA):
        for number, block in enumerate(encoder.blocks):
            encoding = block.encoding[None].expand(-1, -1, frames, -1)
            state |= {f"graph_layers.{number}.pes.pe": encoding, f"graph_layers.{number}.atts": 0 * block.attention0s.detach()}
            frames = -(-frames // block.temporal[0].stride[0])
    save_tensors({PREFIX + name: tensor.cpu().contiguous() for name, tensor in state.items()}, path)


def format_of(path: Path) -> Format:
    """Whose weights a file holds, by what is in it."""
    path = Path(path)
    if path.suffix in (".safetensors", ".npz"):
        return "official" if path.suffix == ".npz" else "hiclr_fast"
    content = load_tensors(path)
    return "hiclr_fast" if isinstance(content, dict) and {"model", "config"} <= set(content) else "official"


def load_encoder(path: Path, fmt: Format = "hiclr_fast") -> tuple[Encoder, EncoderConfig]:
    """(encoder in eval mode, config with the layout it was trained on) of a checkpoint, an exported encoder, or an
    official checkpoint."""
    return _load(path, fmt)[:2]


def _load(path: Path, fmt: Format) -> tuple[Encoder, EncoderConfig, Contract | None]:
    """`load_encoder`, and what the encoder reads where the file says so."""
    path = Path(path)
    if fmt == "official":
        encoder, config = load_official(path)
        return encoder.eval(), config, None
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a checkpoint.pt or an encoder.safetensors")
    if path.suffix == ".safetensors":
        state, facts = load_weights_file(path)
        if not {"config", "layout"} <= set(facts):
            raise InputError(f"{path}: not an encoder exported by hiclr_fast (no config or layout in its metadata)")
        where = f"{path} config"
        values = {**expect(parse_json(facts["config"].encode(), where), dict, where), "layout": facts["layout"]}
        fed = parse_json(facts["input"].encode(), f"{path} input") if "input" in facts else None
    else:
        content = load_checkpoint(path)
        values, fed = {**content["config"], "layout": content.get("layout")}, content.get("input")
        state = {name.removeprefix(PREFIX): t for name, t in content["model"].items() if name.startswith(PREFIX)}
    known = {name: values[name] for name in EncoderConfig.names() if name in values}  # of a run's settings
    config = update(EncoderConfig(), known, f"{path} config")
    if not 0 <= config.dropout < 1:
        raise InputError(f"{path} config: dropout {config.dropout}, expected 0 to below 1")
    encoder, fields = encoder_from_state(state, str(path), dropout=config.dropout)
    for name in fields.keys() & known.keys():
        if fields[name] != known[name]:
            raise InputError(f"{path} config: {name} is {known[name]}, its weights have {fields[name]}; take another copy")
    contract = None if fed is None else Contract.from_dict(fed, str(path))
    if contract and config.layout not in (None, contract.layout.name):
        raise InputError(f"{path}: its layout is {config.layout}, and {contract.layout.name} as its input; take another copy")
    if contract and contract.layout.num_joints != encoder.num_joints:
        there = contract.layout.num_joints
        raise InputError(f"{path}: weights of {encoder.num_joints} joints, its layout has {there}; export it again")
    return encoder.eval(), replace(config, **fields), contract


def export_facts(config: EncoderConfig, contract: Contract) -> dict[str, str]:
    """What an exported network says of itself: its settings, and how to feed it."""
    return {
        "config": json.dumps(as_plain(config.of_encoder())),
        "layout": contract.layout.name,
        "input": json.dumps(contract.as_dict()),
    }


def export_encoder(encoder: Encoder, config: EncoderConfig, contract: Contract, path: Path) -> None:
    """The query encoder as safetensors; config, layout and what it reads go into its metadata."""
    save_weights(encoder.state_dict(), export_facts(config, contract), path)


def checkpoint_of(run: Path) -> Path:
    """The checkpoint of a run folder."""
    file = Path(run) / CHECKPOINT
    if not file.is_file():
        raise InputError(f"{run} holds no {CHECKPOINT}; pretrain first, or give --checkpoint FILE")
    return file


@dataclass(frozen=True)
class Weights:
    """An encoder in eval mode, its config with the layout it was trained on, and the file they are from with its hash.
    contract: what it reads, where the file says so."""

    path: Path
    encoder: Encoder
    config: EncoderConfig
    sha256: str
    contract: Contract | None = None


def load_weights(path: Path, fmt: Format = "hiclr_fast") -> Weights:
    """`load_encoder` with the hash of what was read: a file that a running pretraining replaces meanwhile is read again."""
    while True:
        before = sha256(path)
        encoder, config, contract = _load(path, fmt)
        if sha256(path) == before:
            return Weights(Path(path), encoder, config, before, contract)


def check_fits(encoder: Encoder, data: Packed, where: str) -> None:
    """InputError when the encoder was made for another number of joints."""
    if encoder.num_joints != data.shape[2]:
        raise InputError(f"{where} is for {encoder.num_joints} joints, {data.path} has {data.shape[2]} ({data.layout.name})")
