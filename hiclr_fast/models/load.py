"""An encoder from a file and into one: our checkpoints and exports, and official checkpoints."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hiclr_fast.data.packed.dataset import Packed
from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import read_npz, sha256
from hiclr_fast.files.settings import as_plain, update
from hiclr_fast.files.tensors import load_checkpoint, load_tensors, load_weights_file, save_tensors, save_weights
from hiclr_fast.models.build import Encoder
from hiclr_fast.models.config import EncoderConfig
from hiclr_fast.models.dsta import DSTA
from hiclr_fast.models.official import official_name, skeletonclr_name
from hiclr_fast.models.stgcn import STGCN

Format = Literal["hiclr_fast", "official"]
OFFICIAL_LAYOUTS = {25: "ntu25", 20: "kinect20"}  # by number of joints; official checkpoints do not name theirs
CHECKPOINT = "checkpoint.pt"  # in a run folder
PREFIX = "encoder_q."  # of the query encoder, in our checkpoints and in the official ones


def encoder_from_state(
    state: dict[str, Tensor], where: str, name_of: Callable[[str], str] = str, dropout: float = 0.5
) -> tuple[Encoder, dict[str, Any]]:
    """(encoder with these weights, the config fields that can be read off them). name_of: our name -> the state's."""
    try:
        feature_dim, hidden_dim = state[name_of("projector.2.weight")].shape
        attention, pooling = state.get(name_of("blocks.0.attention0s")), state.get("pooling")
        if attention is not None:
            width, in_channels = state["proj.weight"].shape[:2]
            sizes = (width // 2, hidden_dim, feature_dim)
            model: Encoder = DSTA(attention.shape[-1], in_channels, *sizes, dropout, pooling)
        else:
            graph, in_channels = state["A"], state[name_of("blocks.0.gcn.weight")].shape[1]
            sizes = (len(state[name_of("blocks.0.conv.weight")]), hidden_dim, feature_dim)
            model = STGCN(graph, in_channels, *sizes, dropout, pooling)
        model.load_state_dict({name: state[name_of(name)] for name in model.state_dict()})
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
        state = {name: torch.from_numpy(array) for name, array in read_npz(path).items() if array.dtype.kind in "fi"}
    else:
        state = load_tensors(path)
    if not isinstance(state, dict):
        raise InputError(f"{path}: holds a {type(state).__name__}, expected a dict of tensors")
    names = {name: str(name).removeprefix("module.") for name in state}
    query = {names[n].removeprefix(PREFIX): tensor for n, tensor in state.items() if names[n].startswith(PREFIX)}
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


def load_encoder(path: Path, fmt: Format = "hiclr_fast") -> tuple[Encoder, EncoderConfig]:
    """(encoder in eval mode, config with the layout it was trained on) of a checkpoint, an exported encoder, or an
    official checkpoint."""
    path = Path(path)
    if fmt == "official":
        encoder, config = load_official(path)
        return encoder.eval(), config
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a checkpoint.pt or an encoder.safetensors")
    if path.suffix == ".safetensors":
        state, facts = load_weights_file(path)
        try:
            values = {**json.loads(facts["config"]), "layout": facts["layout"]}
        except (KeyError, ValueError) as error:
            raise InputError(f"{path}: not an encoder exported by hiclr_fast ({error})") from None
    else:
        content = load_checkpoint(path)
        values = {**content["config"], "layout": content.get("layout")}
        state = {name.removeprefix(PREFIX): t for name, t in content["model"].items() if name.startswith(PREFIX)}
    known = {name: values[name] for name in EncoderConfig.names() if name in values}  # of a run's settings
    config = update(EncoderConfig(), known, f"{path} config")
    encoder, _ = encoder_from_state(state, str(path), dropout=config.dropout)
    return encoder.eval(), config


def export_encoder(encoder: Encoder, config: EncoderConfig, layout: str, path: Path) -> None:
    """The query encoder as safetensors; config and layout go into its metadata."""
    facts = {"config": json.dumps(as_plain(config.of_encoder())), "layout": layout}
    save_weights(encoder.state_dict(), facts, path)


def checkpoint_of(run: Path) -> Path:
    """The checkpoint of a run folder."""
    file = Path(run) / CHECKPOINT
    if not file.is_file():
        raise InputError(f"{run} holds no {CHECKPOINT}; pretrain first, or give --checkpoint FILE")
    return file


@dataclass(frozen=True)
class Weights:
    """An encoder in eval mode, its config with the layout it was trained on, and the file they are from with its hash."""

    path: Path
    encoder: Encoder
    config: EncoderConfig
    sha256: str


def load_weights(path: Path, fmt: Format = "hiclr_fast") -> Weights:
    """`load_encoder` with the hash of what was read: a file that a running pretraining replaces meanwhile is read again."""
    while True:
        before = sha256(path)
        encoder, config = load_encoder(path, fmt)
        if sha256(path) == before:
            return Weights(Path(path), encoder, config, before)


def check_fits(encoder: Encoder, data: Packed, where: str) -> None:
    """InputError when the encoder was made for another number of joints."""
    if encoder.num_joints != data.shape[2]:
        raise InputError(f"{where} is for {encoder.num_joints} joints, {data.path} has {data.shape[2]} ({data.layout.name})")
