"""What a person watches while it trains: nearest neighbours on the validation split, and whether training has collapsed."""

import json
import math
from pathlib import Path

import torch
from hiclr_kernels.augment.reference import Stream
from torch import Tensor
from tqdm import tqdm

from hiclr_fast.data.packed.dataset import Packed
from hiclr_fast.evaluation.features import extract, raw_features
from hiclr_fast.evaluation.protocols.knn import nearest
from hiclr_fast.files.atomic import write_text
from hiclr_fast.models.build import Encoder, initial_encoder
from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.pretraining.queue_health import stale

COMPARISON = "comparison.json"  # in a finished run's folder
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


def compare(trainer, out: Path) -> dict[str, float]:
    """What pretraining was good for: percent 1-NN accuracy of the coordinates themselves (raw), of the encoder as its run began
    (random), and of the pretrained one. Written to the run folder `out`. trainer: a `Pretrainer` at its end."""
    data, config = trainer.data, trainer.config
    fresh = initial_encoder(config, data.layout).to(trainer.device, memory_format=torch.channels_last)
    common = data, config.stream, trainer.device, trainer.resident
    found = {"metric": "1-NN accuracy by cosine similarity, percent", "epoch": trainer.epoch - 1}
    found["validation_samples"] = len(data["val"])
    found["random"], found["pretrained"] = (knn_monitor(encoder, *common) for encoder in (fresh, trainer.model.encoder_q))
    found["raw"] = nearest(*(raw_features(data[s], data.layout, config.stream) for s in ("train", "val")))
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
            f"({limit:.3f}). Lower --lr, use --init torch, or a longer --warmup-epochs"
        )
