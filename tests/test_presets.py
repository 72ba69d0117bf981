"""Every preset loads, checks, and has the values of the release; quoted YAMLs are presets."""

from dataclasses import replace

import pytest

from hiclr_fast.errors import InputError
from hiclr_fast.files.settings import save_yaml
from hiclr_fast.models.build import build_encoder
from hiclr_fast.models.dsta import DSTA
from hiclr_fast.models.stgcn import STGCN
from hiclr_fast.pretraining.config import PretrainConfig, load_yaml
from hiclr_fast.pretraining.presets import NAMES, preset
from hiclr_fast.skeletons import get_layout
from hiclr_fast.training.optimizer import learning_rate

RELEASE = dict(momentum=0.999, temperature=0.07, topk=1, batch_size=128, lr=0.1, queue_size=32768, dropout=0.5)
RELEASE |= dict(hidden_dim=256, feature_dim=128, hidden_channels=16, init="official", schedule="step", warmup_epochs=0)


def rates(config: PretrainConfig) -> list[float]:
    schedule = dict(base=config.lr, epochs=config.epochs, drops=config.drops, warmup=config.warmup_epochs)
    return [learning_rate(epoch, **schedule, schedule=config.schedule) for epoch in range(1, config.epochs + 1)]


def test_all_are_there():
    assert len(set(NAMES)) == 10 * 3 * 2
    assert {name.split("/")[0] for name in NAMES} == {
        *("ntu60_xsub", "ntu60_xview", "ntu120_xsub", "ntu120_xset", "pku1", "pku2", "small", "ucla", "synthetic", "irds")
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_preset(tmp_path, name):
    config = preset(name)
    config.check()
    dataset, stream, encoder = name.split("/")
    assert (config.stream, config.encoder, config.data.as_posix()) == (stream, encoder, f"data/{dataset}")
    assert config.weight_decay == {"stgcn": 1e-4, "dsta": 5e-4}[encoder]
    assert config.augment.mask_ratio == 0.1
    assert (config.branches, config.weights) == (("basic", "normal", "strong"), (1.0, 0.5, 0.5))
    assert type(build_encoder(config, get_layout(config.layout or "coco17"))) is {"stgcn": STGCN, "dsta": DSTA}[encoder]
    save_yaml(config, tmp_path / "c.yaml")
    assert load_yaml(tmp_path / "c.yaml") == config


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("ntu", "pku"))])
def test_schedules_of_the_release(golden, name):
    config, (dataset, stream, encoder) = preset(name), name.split("/")
    assert {key: getattr(config, key) for key in RELEASE} == RELEASE
    epochs = (config.epochs, config.drops, config.mining_epoch)
    if dataset == "pku2":
        assert epochs == ((1500, (1250,), 750) if stream == "joint" else (600, (500,), 300))
    else:
        assert epochs == (300, (250,), 150)
        recorded = golden("schedules")[f"pretrain/{dict(stgcn='gcn', dsta='transformer')[encoder]}"]
        assert rates(config) == pytest.approx(recorded.tolist(), rel=1e-12)


def test_quoted_yamls_are_presets(pytestconfig):
    configs = pytestconfig.rootpath / "configs"
    assert load_yaml(configs / "ntu60_xsub_joint.yaml") == replace(preset("ntu60_xsub/joint/stgcn"), data=None)
    assert load_yaml(configs / "small.yaml") == replace(preset("small/joint/stgcn"), data=None)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("ntu60_xsub/bones/dsta", "ntu60_xsub/bone/dsta"),
        ("ntu60_xset/joint/stgcn", "ntu120_xset/joint/stgcn"),
        ("pku2", "pku2/"),
    ],
)
def test_unknown_names_tell_the_nearest(name, nearest):
    with pytest.raises(InputError, match=f"unknown preset '{name}'; the nearest valid one is '{nearest}"):
        preset(name)
