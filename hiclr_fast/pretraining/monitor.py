"""What a person watches while it trains: nearest neighbours on the validation split, and whether training has collapsed."""

import math

import torch
from hiclr_kernels.augment.reference import Stream
from torch import Tensor
from tqdm import tqdm

from hiclr_fast.data.packed.dataset import Packed
from hiclr_fast.evaluation.features import extract
from hiclr_fast.evaluation.protocols.knn import nearest
from hiclr_fast.models.build import Encoder
from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.pretraining.queue_health import stale

COLLAPSED = 0.99  # of the loss at which every row of the queue looks the same, sum(weights) * log(Q + 1)


def knn_monitor(encoder: Encoder, data: Packed, stream: Stream, device: torch.device, resident: Tensor | None = None) -> float:
    """1-NN cosine accuracy in percent on the validation split. Leaves the encoder in training mode.

    resident: x of the training split, where it lies on the device.
    """
    both = ("train", resident), ("val", None)
    train, val = (extract(encoder, data[split], data.layout, stream, device, rows=rows) for split, rows in both)
    encoder.train()
    return nearest(train, val)


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
