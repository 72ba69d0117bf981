"""The linear protocol on NW-UCLA, 5 epochs (--full: the official 100), on features that are extracted once, beside the encoder
in every epoch.

official_style is what LE_Processor does: the frozen encoder runs on every training batch of every epoch, and on the test set
every 5 epochs. It runs our own encoder, which is faster than the official one, so the ratio is that of the caching alone; head,
batches and schedule are the same, and so must be the accuracy, to 0.2 points. `cached` reads the features from the cache, with
its checks of checkpoint and data; `cold` extracts them first.
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import pretrained
from race import Entrant

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
EVAL_EVERY = 5  # official eval_interval
SETTINGS = LinearConfig().official("stgcn")
TOLERANCE = 0.2  # points
TOP1: dict[tuple, dict[str, float]] = {}  # by (device, epochs), then variant


@pytest.fixture(scope="module")
def ucla(tmp_path_factory, tiny) -> tuple[Packed, Path]:
    """NW-UCLA cross-subject without duplicates, and a release-size encoder at its initialisation, with batch-norm
    statistics of the data: neither time nor agreement depends on what it has learned. tiny: random walks and a tiny encoder."""
    if tiny:
        run = pretrained(tmp_path_factory.mktemp("walks"))
        return open_packed(run.parent / "set"), run / "encoder.safetensors"
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


def cases():
    for device in ("cpu", "cuda"):
        for epochs in (5, SETTINGS.epochs):
            for variant in ("official_style", "cached", "cold"):
                marks = [pytest.mark.gpu] * (device == "cuda") + [pytest.mark.full] * (device == "cpu" and epochs > 5)
                yield pytest.param(device, epochs, variant, id=f"{device}-E{epochs}-{variant}", marks=marks)


@pytest.mark.parametrize(("device", "epochs", "variant"), list(cases()))
def test_linear(race, tiny, ucla, device, epochs, variant):
    data, checkpoint = ucla
    config = replace(SETTINGS, epochs=2 if tiny else epochs, batch_size=8 if tiny else SETTINGS.batch_size)
    top1 = TOP1.setdefault((device, epochs), {})

    def build(variant: str) -> Entrant:
        way = encoder_every_epoch if variant == "official_style" else on_cached_features

        def call():
            top1[variant] = way(data, checkpoint, config, torch.device(device))

        def forget():
            shutil.rmtree(checkpoint.parent / "features", ignore_errors=True)

        if variant == "official_style":  # the encoder is loaded and warm after one batch's worth
            features_of(load_encoder(checkpoint)[0].to(device), data["val"].x[:128], torch.device(device))
        elif variant == "cached":
            call()
        return Entrant(call, before=forget if variant == "cold" else None, derive=lambda _: {"top1": top1[variant]})

    shape = f"{'walks' if tiny else 'UCLA'} {len(data['train'])}/{len(data['val'])} E{config.epochs}"
    facts = dict(op="linear", device=device, dtype="float32", shape=shape)
    race(build, items=config.epochs * len(data["train"]), warm=False, **facts)  # items: training samples seen
    apart = abs(top1[variant] - top1.get("official_style", top1[variant]))
    assert apart <= TOLERANCE, f"top-1 differs by {apart} points from official_style: not a benchmark"
