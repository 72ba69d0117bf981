"""A training step: ours beside the official style, loader and augmentation included in both."""

import numpy as np
import pytest
import torch
from official_style import LAYOUT, PlainTrainer, Views

from hiclr_fast.config import PretrainConfig
from hiclr_fast.data.packed import Packed, Split
from hiclr_fast.pretrain import Pretrainer

QUEUE = 32768
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def dataset(n: int) -> Packed:
    """Random NTU-shaped skeletons, half with an empty second body; the speed does not depend on the values."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 0.3, (n, 3, 50, LAYOUT.num_joints, 2)).astype(np.float32)
    x[::2, ..., 1] = 0
    split = Split(x, np.zeros(n, np.int64), np.arange(n).astype(str), np.full(n, -1), np.full(n, -1))
    return Packed("memory", LAYOUT, ("a",), x.shape[1:], {"train": split}, "none")


def trainer(batch: int, device: str, **kw) -> Pretrainer:
    return Pretrainer(PretrainConfig(batch_size=batch, queue_size=QUEUE, device=device, **kw), dataset(4 * batch))


def copy_weights(ours: Pretrainer, plain: PlainTrainer) -> None:
    """Puts our weights into the plain trainer, so that both have to give the same loss."""
    for mine, theirs in ((ours.model.encoder_q, plain.encoder_q), (ours.model.encoder_k, plain.encoder_k)):
        theirs.data_bn.load_state_dict(mine.data_bn.state_dict())
        theirs.fc.load_state_dict(mine.projector.state_dict())
        for a, b, edge in zip(mine.blocks, theirs.blocks, theirs.edges, strict=True):
            edge.data.copy_(a.edge_importance)
            for x, y in ((a.gcn, b.gcn), (a.bn1, b.tcn[0]), (a.conv, b.tcn[2]), (a.bn2, b.tcn[3])):
                y.load_state_dict(x.state_dict())
            if b.shortcut is not None and len(b.shortcut.state_dict()):
                b.shortcut.load_state_dict(a.residual.state_dict())
    plain.queue.copy_(ours.model.queue.T)


@pytest.fixture(scope="module")
def agreement():
    """The two steps compute the same loss from the same weights and views; else nothing is timed."""
    ours, plain = trainer(4, "cpu", dropout=0.0, init="torch"), PlainTrainer(QUEUE, dropout=0.0)
    copy_weights(ours, plain)
    x = torch.from_numpy(ours.data["train"].x[:4])
    views = [x + 0.1 * i for i in range(4)]
    plain.mask = lambda v: v
    want, _ = plain.loss(views)
    q, key = ours.model.queries(views[:3]), ours.model.keys(views[3])
    got, _ = ours.model.loss(q, key, (1.0, 0.5, 0.5), 0)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def facts(batch: int, device: str, variant: str, dtype: str) -> dict:
    return dict(op="step", variant=variant, device=device, dtype=dtype, shape=f"N{batch} T50 V25 M2 Q{QUEUE}", items=batch)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch", [32, 128])
def test_official_style(measure, agreement, batch, device):
    plain = PlainTrainer(QUEUE, device=device)
    views = Views(dataset(16 * batch)["train"].x)
    loader = torch.utils.data.DataLoader(views, batch, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True)

    def forever():
        while True:
            yield from loader

    batches = forever()
    measure(
        lambda: plain.step([v.to(device) for v in next(batches)]),
        rounds=5,
        **facts(batch, device, "official_style", "float32"),
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("batch", [32, 128])
def test_reference(measure, agreement, batch, amp, device):
    ours = trainer(batch, device, amp=amp)
    measure(
        lambda: ours.train_step(next(ours.loader.epoch(1))),
        rounds=5,
        **facts(batch, device, "reference_amp" if amp else "reference", "bfloat16" if amp else "float32"),
    )
