"""A training step: ours beside the official style, loader and augmentation included in both.

official_no_loader: its step on views that lie on the device already. floor_fraction: the step's least time by its bytes and
FLOPs (`hiclr_fast/pretraining/step_ledger.py`), over its median.
"""


import pytest
import torch
from memory import largest_batch, too_large
from official_style import LAYOUT, PlainTrainer, Views
from our_step import QUEUE, SHAPE, dataset, trainer
from race import Entrant

from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.pretraining.profile import rates
from hiclr_fast.pretraining.step_ledger import floor, floor_seconds
from hiclr_fast.pretraining.trainer import Pretrainer

SETTLE = 1.0  # seconds in which the DataLoader's workers fill their queues again


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


def agree(device: str, queue: int, **kw) -> None:
    """The variant computes the loss and the gradients of the official style from the same weights and views, else it is not
    timed."""
    ours, plain = trainer(4, device, queue, dropout=0.0, init="torch", **kw), PlainTrainer(queue, dropout=0.0, device=device)
    copy_weights(ours, plain)
    x = torch.from_numpy(ours.data["train"].x[:4]).to(device)
    views = [x + 0.1 * i for i in range(4)]
    plain.mask = lambda v: v
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # ours multiplies where the official style convolves
        want, _ = plain.loss(views)
        want.backward()
        with ours.train.autocast():
            q, key = ours.model.queries(views[:3], together=ours.train.together), ours.model.keys(views[3])
        got, _ = ours.model.loss(q, key, (1.0, 0.5, 0.5), 0)
        got.backward()
    bar = 3e-2 if kw.get("amp") else 1e-4
    torch.testing.assert_close(got, want, rtol=bar, atol=bar)
    if not kw.get("amp"):  # from random views, bfloat16 gradients differ by tens of percent: the loss has to do
        mine, theirs = ours.model.encoder_q, plain.encoder_q
        for a, b in ((mine.projector[2], theirs.fc[2]), (mine.data_bn, theirs.data_bn)):
            assert (a.weight.grad - b.weight.grad).norm() <= 5e-2 * b.weight.grad.norm()


def official(batch: int, device: str, queue: int, loaded: bool):
    """One step of the official style; loaded: with its DataLoader, else on views that are on the device already."""
    plain, views = PlainTrainer(queue, device=device), Views(dataset(16 * batch)["train"].x)
    if not loaded:
        ready = [v.to(device) for v in next(iter(torch.utils.data.DataLoader(views, batch)))]
        return lambda: plain.step(ready)
    loader = torch.utils.data.DataLoader(views, batch, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True)

    def forever():
        while True:
            yield from loader

    batches = forever()
    return lambda: plain.step([v.to(device) for v in next(batches)])


def ours(batch: int, device: str, queue: int, **kw) -> Entrant:
    """Views, encoders, loss, backward, optimizer, moving average, queue."""
    torch._dynamo.reset()  # it compiles eight shapes of one forward in a process, then silently none
    agree(device, queue, **kw)
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    mine = trainer(batch, device, queue, **kw)
    batches = (given for epoch in range(1, 10**6) for given in mine.loader.epoch(epoch))

    def call():
        mine.train_step(next(batches))
        mine.step += 1

    call()  # compiles, captures
    dtype = torch.bfloat16 if kw.get("amp") else torch.float32
    copy_rate, product_rate = rates(mine.device, dtype)
    least = floor_seconds(floor(mine.config, LAYOUT, mine.data.shape, batch), copy_rate, product_rate)

    def derive(seconds: float) -> dict:
        peak = {"peak_mb": torch.cuda.max_memory_reserved() / 1e6} if device == "cuda" else {}  # a graph's is not allocated
        return peak | {"floor_fraction": least / seconds}

    return Entrant(call, info={"dtype": str(dtype).removeprefix("torch.")}, derive=derive)


OURS = {
    "step": {},
    "step_amp": {"amp": True},
    "step_compiled": {"compile": True},
    "step_amp_compiled": {"amp": True, "compile": True},
    "step_eager": {"no_graph": True},
    "step_amp_eager": {"amp": True, "no_graph": True},
    "step_amp_compiled_eager": {"amp": True, "compile": True, "no_graph": True},
}


def cases():
    """On CPU nothing is captured, so the eager twins are for CUDA; large batches too, in float32 as far as memory goes."""
    for device, batches in (("cpu", (32, 128)), ("cuda", (32, 128, 1024, 4096))):
        for batch in batches:
            for variant in ("official_style", "official_no_loader", *OURS):
                kw = OURS.get(variant)
                if kw is None and batch > 128:
                    continue
                eager_twin = device == "cpu" and kw is not None and "no_graph" in kw
                other_size = device == "cuda" and kw is not None and (batch == 32 or (batch == 4096 and not kw.get("amp")))
                if eager_twin or other_size:
                    continue
                full = device == "cpu" and (batch > 32 or variant not in ("official_style", "step", "step_amp"))
                marks = [pytest.mark.gpu] * (device == "cuda") + [pytest.mark.full] * full
                yield pytest.param(device, batch, variant, id=f"{device}-{batch}-{variant}", marks=marks)
    yield pytest.param("cuda", None, "step_amp", id="cuda-largest-step_amp", marks=pytest.mark.gpu)


@pytest.mark.parametrize(("device", "batch", "variant"), list(cases()))
def test_step(race, tiny, device, batch, variant):
    batch, queue = (4, 64) if tiny else (batch, QUEUE)
    if device == "cuda" and variant in OURS:
        place = PretrainConfig(queue_size=queue, **OURS[variant]), LAYOUT, SHAPE
        batch = batch or largest_batch(*place, torch.cuda.mem_get_info()[0])
        if reason := too_large(*place, batch):
            pytest.skip(reason)

    def build(variant: str) -> Entrant:
        if variant in OURS:
            return ours(batch, device, queue, **OURS[variant])
        call = official(batch, device, queue, loaded=variant == "official_style")
        call()
        return Entrant(call, settle=0 if tiny else SETTLE, info={"dtype": "float32"})

    facts = dict(op="step", device=device, shape=f"N{batch} T50 V25 M2 Q{queue}")
    rounds = 7 if device == "cpu" else 30
    race(build, items=batch, rounds=rounds, warm=device == "cuda", alternate=device == "cpu", **facts)
