"""What a person watches while it trains: nearest neighbours on the validation split, and whether training has collapsed."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from hiclr_kernels.augment.reference import Stream
from torch import Tensor
from tqdm import tqdm

from hiclr_fast.data.packed.dataset import Packed
from hiclr_fast.evaluation.features import Features, extract, raw_features
from hiclr_fast.evaluation.protocols.knn import nearest
from hiclr_fast.evaluation.spaces import choose_space, in_space, inner_groups
from hiclr_fast.files.atomic import write_text
from hiclr_fast.models.build import Encoder, initial_encoder
from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.pretraining.queue_health import stale

COMPARISON = "comparison.json"  # in a finished run's folder
CHOSEN = 4096  # training samples up to which every side chooses its space
COLLAPSED = 0.99  # of the loss at which every row of the queue looks the same, sum(weights) * log(Q + 1)


def monitored(data: Packed) -> bool:
    """Whether there is something to find: a validation split, and labels."""
    return {"train", "val"} <= set(data.splits) and data.labelled


def knn_monitor(encoder: Encoder, data: Packed, stream: Stream, device: torch.device, resident: Tensor | None = None) -> float:
    """1-NN cosine accuracy in percent on the validation split. Leaves the encoder in training mode.

    resident: x of the training split, where it lies on the device.
    """
    both = ("train", resident), ("val", None)
    train, val = (extract(encoder, data[split], data.layout, stream, device, rows=rows) for split, rows in both)
    encoder.train()
    return nearest(train, val)


def compare(trainer, out: Path) -> dict[str, Any]:
    """What pretraining was good for: percent 1-NN accuracy of the coordinates themselves (raw), of the encoder as its run began
    (random), and of the pretrained one. Written to the run folder `out`. trainer: a `Pretrainer` at its end.

    Each side is compared in the space (plain, centred, whitened) that is best for it inside the training split, as `spaces` says;
    on more than CHOSEN training samples all are plain.
    """
    data, config = trainer.data, trainer.config
    fresh = initial_encoder(config, data.layout).to(trainer.device, memory_format=torch.channels_last)
    found = {"metric": "1-NN accuracy by cosine similarity, percent", "epoch": trainer.epoch - 1}
    found |= {"validation_samples": len(data["val"]), "spaces": {}}

    def judge(side: str, train: Features, val: Features) -> None:
        few = len(train.label) <= CHOSEN
        space = choose_space(train, inner_groups(data["train"], data["val"])[1], nearest)[0] if few else "plain"
        found[side], found["spaces"][side] = nearest(*in_space(train, val, space)), space

    both = ("train", trainer.resident), ("val", None)
    for side, encoder in (("random", fresh), ("pretrained", trainer.model.encoder_q)):
        judge(side, *(extract(encoder, data[s], data.layout, config.stream, trainer.device, rows=rows) for s, rows in both))
    trainer.model.encoder_q.train()
    judge("raw", *(raw_features(data[split], data.layout, config.stream) for split in ("train", "val")))
    write_text(out / COMPARISON, json.dumps(found, indent=1))
    return found


def tell(epoch: int, values: dict[str, float], config: PretrainConfig) -> None:
    """One line for a finished epoch, and a warning when training has collapsed."""
    shown = f"epoch {epoch}: loss {values['loss']:.3f}, {values['samples_per_s']:.0f} samples/s"
    tqdm.write(shown + (f", 1-NN {values['knn1']:.1f} %" if "knn1" in values else ""))
    if epoch > max(1, config.warmup_epochs) and (said := stale(values, config.temperature, config.momentum)):
        tqdm.write(said)
    limit = sum(config.weights) * math.log(config.queue_size + 1)
    if values["loss"] > COLLAPSED * limit and epoch > max(1, config.warmup_epochs):
        tqdm.write(
            f"warning: training has collapsed: the loss {values['loss']:.3f} is that of identical features "
            f"({limit:.3f}). Lower --lr, {'' if config.init == 'torch' else 'use --init torch, '}or a longer --warmup-epochs"
        )
