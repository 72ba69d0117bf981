"""What a person watches while it trains: nearest neighbours on the validation split, and whether training has collapsed."""

import copy
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
from hiclr_fast.evaluation.spaces import choose_space, divisible, in_space, inner_groups
from hiclr_fast.files.atomic import write_text
from hiclr_fast.models.build import Encoder, initial_encoder
from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.pretraining.queue_health import stale

COMPARISON = "comparison.json"  # in a finished run's folder
CHOSEN = 4096  # training samples up to which every side chooses its space, and its spans of time
SEGMENTS = (1, 2, 4)
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

    Each side is compared in the space (plain, centred, whitened), and both encoders with the means over one, two or four spans of
    time, that are best for it inside the training split. On more than CHOSEN training samples, and where that split
    cannot be divided, nothing is chosen: all are plain means over all time. The coordinates keep every frame, their
    means over spans would only lose.
    """
    data, config = trainer.data, trainer.config
    few = len(data["train"]) <= CHOSEN and divisible(data["train"], data["val"])
    found: dict[str, Any] = {"metric": "1-NN accuracy by cosine similarity, percent", "epoch": trainer.epoch - 1}
    found |= {"validation_samples": len(data["val"]), "chosen": few, "spaces": {}, "segments": {}}

    def judge(side: str, sides: dict[int, tuple[Features, Features]]) -> None:
        segments, space = 1, "plain"
        if few:
            group = inner_groups(data["train"], data["val"])[1]
            scores = {n: choose_space(train, group, nearest)[1] for n, (train, _) in sides.items()}
            segments, space = max(((n, s) for n in scores for s in scores[n]), key=lambda how: scores[how[0]][how[1]])
        found[side], found["spaces"][side] = nearest(*in_space(*sides[segments], space)), space
        found["segments"][side] = segments

    both = ("train", trainer.resident), ("val", None)
    place = data.layout, config.stream, trainer.device
    fresh = initial_encoder(config, data.layout).to(trainer.device, memory_format=torch.channels_last)
    for side, encoder in (("random", fresh), ("pretrained", copy.deepcopy(trainer.model.encoder_q))):
        sides = {}
        for segments in SEGMENTS if few else (1,):
            encoder.segments = segments
            sides[segments] = tuple(extract(encoder, data[split], *place, rows=rows) for split, rows in both)
        judge(side, sides)
    judge("raw", {1: tuple(raw_features(data[split], data.layout, config.stream) for split in ("train", "val"))})
    write_text(out / COMPARISON, json.dumps(found, indent=1))
    return found


def compared_in(found: dict[str, Any], side: str) -> str:
    """In words, how `compare` compared that side: "whitened", or "plain, means over 2 spans of time"."""
    segments = found["segments"][side]
    return found["spaces"][side] + (f", means over {segments} spans of time" if segments > 1 else "")


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
