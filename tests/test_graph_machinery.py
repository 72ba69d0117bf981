"""What a captured step does around the graph, on CPU: a stand-in for the graph runs the step again where one would replay it."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import packed, tiny

from hiclr_fast.data.loading.loader import Batch
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.evaluation.classifier import Training
from hiclr_fast.evaluation.schedule import FinetuneConfig, official
from hiclr_fast.models.build import initial_encoder
from hiclr_fast.pretraining.trainer import Pretrainer
from hiclr_fast.training.graph import WARM_UP, GraphedStep


@pytest.fixture
def graphed(monkeypatch):
    """graphed(step): a GraphedStep whose graph is a stand-in. `runs`: how often the step ran for each variant."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **_: nullcontext())
    monkeypatch.setattr(torch.cuda, "default_generators", (torch.default_generator,))

    def make(step) -> GraphedStep:
        one = GraphedStep(step)
        replay = lambda: step(one.inputs, one.variant)  # noqa: E731
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=replay, reset=lambda: None))
        return one

    return make


@pytest.fixture
def data(tmp_path):
    return open_packed(packed(tmp_path / "set"))


def trained(trainer: Pretrainer, streamed: bool) -> dict:
    """The state after two epochs across the mining epoch."""
    for epoch in (1, 2):
        trainer.epoch, trainer.step = epoch, 0
        for batch in trainer.loader.epoch(epoch):
            rows = torch.arange(len(batch.index))
            trainer.train_step(Batch(batch.x[batch.index], rows, batch.ids, batch.label) if streamed else batch)
            trainer.step += 1
    return {**trainer.model.state_dict(), "sums": trainer.train.sums}


@pytest.mark.parametrize("streamed", [False, True])
def test_capture_changes_nothing_and_replays_see_their_batch(data, graphed, streamed):
    config = tiny(dropout=0.5, mining_epoch=1, loader="resident")
    eager, other = Pretrainer(config, data), Pretrainer(config, data)
    other.do_step = graphed(other.train)
    want, got = trained(eager, streamed), trained(other, streamed)
    for name, value in want.items():
        assert torch.equal(got[name], value), name
    assert other.do_step.variant is True and other.do_step.resident == [not streamed, False, False, False]


def test_every_variant_is_captured_as_it_comes(graphed):
    runs = []

    class Count:
        optimizer, scaler = torch.optim.SGD([torch.zeros(1)], lr=0.1), torch.amp.GradScaler("cpu", enabled=False)
        number = torch.zeros(1)

        def __call__(self, inputs, variant=None):
            runs.append((variant, inputs[0].tolist()))
            self.number += 1

        def state_tensors(self):
            return [self.number]

    step = Count()
    one = graphed(step)
    for variant, value in ((None, 1.0), (None, 2.0), ("b", 3.0)):
        one((torch.tensor([value]),), variant)
    captured = WARM_UP + 1
    assert runs == [(None, [1.0])] * (captured + 1) + [(None, [2.0])] + [("b", [3.0])] * (captured + 1)
    assert step.number == 3
    one.close()
    one((torch.tensor([4.0]),), "b")
    assert len(runs) == 3 + 3 * captured + 1


def test_another_resident_tensor_is_refused(graphed):
    step = SimpleNamespace(optimizer=torch.optim.SGD([torch.zeros(1)], lr=0.1), scaler=torch.amp.GradScaler("cpu", enabled=False))
    step = type("Step", (), {**vars(step), "__call__": lambda *_: None, "state_tensors": lambda _: [torch.zeros(1)]})()
    one, x, ids = graphed(step), torch.zeros(4), torch.zeros(2)
    one((x, ids))
    one((x, ids + 1))
    with pytest.raises(ValueError, match="keep one resident tensor"):
        one((x.clone(), ids))


@pytest.mark.parametrize("augment", [False, True])
def test_a_classifier_trains_the_same_in_a_graph(data, graphed, augment):
    def training() -> Training:
        config = official(FinetuneConfig(epochs=4, batch_size=8, augment=augment), "finetune", "stgcn")
        place = data.layout, "joint", config, torch.device("cpu")
        return Training(initial_encoder(tiny(), data.layout), data["train"], data["val"], np.arange(20), 3, *place)

    eager, other = training(), training()
    for one in (eager, other):
        for p in one.model.parameters():  # a captured step finds its momenta in place
            one.step.optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    states = {}
    for name, one in (("eager", eager), ("graph", other)):
        torch.manual_seed(1)  # dropout draws from the one generator, in turn
        one.do_step = graphed(one.step) if name == "graph" else one.step
        one.train_epoch()
        one.train_epoch()
        states[name] = {**one.model.state_dict(), "losses": torch.tensor(one.losses)}
    for name, value in states["eager"].items():
        assert torch.equal(states["graph"][name], value), name
