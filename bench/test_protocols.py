"""The linear protocol, 100 epochs on NW-UCLA: on features that are extracted once, beside the encoder in every epoch.

official_style is what LE_Processor does: the frozen encoder runs on every training batch of every epoch, and on the test set
every 5 epochs. It runs our own encoder, which is faster than the official one, so the ratio is that of the caching alone; head,
batches and schedule are the same, and so must be the accuracy, to 0.2 points. `cached` reads the features from the cache, with
its checks of checkpoint and data; `cold` extracts them first.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hiclr_fast.data.formats.sequences import pack_sequences
from hiclr_fast.data.packed.dataset import Packed, open_packed
from hiclr_fast.data.preprocess import Preprocess
from hiclr_fast.evaluation.features import cached_features, recalibrate
from hiclr_fast.evaluation.metrics import topk_accuracy
from hiclr_fast.evaluation.protocols.linear import LinearConfig, linear, official_head
from hiclr_fast.models.load import load_encoder, load_weights
from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.pretraining.start import finish, start
from hiclr_fast.training.optimizer import MOMENTUM, learning_rate

SHARED = Path(os.environ.get("HICLR_SHARED", Path(__file__).parent.parent.parent / "shared"))
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
EVAL_EVERY = 5  # official eval_interval
SETTINGS = LinearConfig().official("stgcn")
TOLERANCE = 0.2  # points


@pytest.fixture(scope="module")
def ucla(tmp_path_factory) -> tuple[Packed, Path]:
    """NW-UCLA cross-subject without duplicates, and a release-size encoder at its initialisation, with batch-norm
    statistics of the data: neither time nor agreement depends on what it has learned."""
    file, root = SHARED / "data" / "nw_ucla.npz", tmp_path_factory.mktemp("ucla")
    if not file.exists():
        pytest.skip("NW-UCLA recordings: HICLR_SHARED is absent")
    with np.load(file, allow_pickle=False) as arrays:
        how = Preprocess(rotate="none")
        pack_sequences(dict(arrays), root / "set", how, train=lambda a: a["subject"] % 2 == 1, drop_duplicates=True)
    data = open_packed(root / "set")
    trainer = start(PretrainConfig(queue_size=128, init="torch", device="cpu"), data, root / "run")
    recalibrate(trainer.model.encoder_q, data["train"], data.layout, "joint", trainer.device)
    finish(trainer, root / "run")
    return data, root / "run" / "encoder.safetensors"


@torch.no_grad()
def features_of(encoder, x: np.ndarray, device: torch.device) -> torch.Tensor:
    return encoder.features(torch.from_numpy(x).to(device)).float()


def encoder_every_epoch(data: Packed, checkpoint: Path, config: LinearConfig, device: torch.device) -> float:
    """Top-1 after the last epoch; the encoder has run epochs times over the training set."""
    encoder = load_encoder(checkpoint)[0].to(device, memory_format=torch.channels_last)
    train, val = data["train"], data["val"]
    generator = torch.Generator().manual_seed(config.seed)
    width = features_of(encoder, train.x[:1], device).shape[1]
    head = official_head(width, len(data.classes), generator).to(device)
    optimizer = torch.optim.SGD(head.parameters(), lr=config.lr, momentum=MOMENTUM)
    label = torch.from_numpy(np.array(train.label)).to(device)
    for epoch in range(1, config.epochs + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(epoch, base=config.lr, epochs=config.epochs, drops=config.drops)
        order = torch.randperm(len(train), generator=generator).numpy()
        for step in range(len(train) // config.batch_size):
            rows = order[step * config.batch_size : (step + 1) * config.batch_size]
            loss = F.cross_entropy(head(features_of(encoder, train.x[rows], device)), label[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch % EVAL_EVERY == 0 or epoch == config.epochs:
            with torch.no_grad():
                parts = [head(features_of(encoder, val.x[i : i + 128], device)).cpu() for i in range(0, len(val), 128)]
            top1 = topk_accuracy(torch.cat(parts).numpy(), val.label, 1)
    return top1


def on_cached_features(data: Packed, checkpoint: Path, config: LinearConfig, device: torch.device) -> float:
    found = cached_features(load_weights(checkpoint), data, "joint", device)
    return linear(found["train"], found["val"], config, device).top1


@pytest.fixture(scope="module")
def agreement(ucla) -> dict[str, float]:
    """Both ways reach the same accuracy in 10 epochs; else nothing is timed. Holds the full runs' accuracy by device."""
    short = LinearConfig(epochs=10).official("stgcn")
    ways = [way(*ucla, short, torch.device("cpu")) for way in (encoder_every_epoch, on_cached_features)]
    assert abs(ways[0] - ways[1]) <= TOLERANCE, ways
    return {}


def facts(data: Packed, device: str, variant: str) -> dict:
    shape = f"UCLA {len(data['train'])}/{len(data['val'])} E{SETTINGS.epochs}"
    items = SETTINGS.epochs * len(data["train"])  # items: training samples seen
    return dict(op="linear", variant=variant, device=device, dtype="float32", shape=shape, items=items)


@pytest.mark.parametrize("device", DEVICES)
def test_official_style(measure, benchmark, ucla, agreement, device):
    """Once, all 100 epochs; the warm-up call is a single epoch."""
    epochs = iter([1])

    def once():
        config = LinearConfig(epochs=next(epochs, SETTINGS.epochs), drops=SETTINGS.drops)
        agreement[device] = encoder_every_epoch(*ucla, config, torch.device(device))

    measure(once, rounds=1, **facts(ucla[0], device, "official_style"))
    benchmark.extra_info["top1"] = agreement[device]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", ["cached", "cold"])
def test_features_extracted_once(measure, benchmark, ucla, agreement, variant, device):
    found = {}

    def once():
        if variant == "cold":
            shutil.rmtree(ucla[1].parent / "features", ignore_errors=True)
        found["top1"] = on_cached_features(*ucla, SETTINGS, torch.device(device))

    measure(once, rounds=5, **facts(ucla[0], device, variant))
    benchmark.extra_info["top1"] = found["top1"]
    if device in agreement and benchmark.stats is not None:
        assert abs(found["top1"] - agreement[device]) <= TOLERANCE
