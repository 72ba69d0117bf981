"""Config: unknown keys, wrong types, round trip."""

import pytest
import yaml

from hiclr_fast.errors import InputError
from hiclr_fast.files.settings import save_yaml, update
from hiclr_fast.pretraining.config import PretrainConfig, load_yaml
from hiclr_fast.views.augment import AugmentConfig


def test_round_trip(tmp_path):
    config = PretrainConfig(lr=0.3, drops=(3, 5), augment=AugmentConfig(shear=0.1, blur_sigma=(0.2, 1.0)))
    save_yaml(config, tmp_path / "c.yaml")
    assert load_yaml(tmp_path / "c.yaml") == config


def test_defaults_are_the_release():
    c = PretrainConfig()
    assert (c.lr, c.batch_size, c.queue_size, c.momentum, c.temperature) == (0.1, 128, 32768, 0.999, 0.07)
    assert (c.epochs, c.drops, c.mining_epoch, c.topk, c.weight_decay, c.dropout) == (300, (250,), 150, 1, 1e-4, 0.5)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("learning_rat: 1", "unknown key 'learning_rat'; the nearest valid one is"),
        ("queue_sise: 1", "the nearest valid one is 'queue_size'"),
        ("augment: {sheer: 0.1}", "augment: unknown key 'sheer'; the nearest valid one is 'shear'"),
        ("epochs: ten", "epochs is 'ten', expected a whole number"),
        ("epochs: 1.5", "epochs is 1.5, expected a whole number"),
        ("epochs: true", "epochs is True, expected a whole number"),
        ("amp: 1", "amp is 1, expected true or false"),
        ("stream: depth", "stream is 'depth', expected one of joint, bone, motion"),
        ("drops: 250", "drops is 250, expected a list"),
        ("augment: {blur_sigma: [1.0]}", "expected a list of 2"),
        ("augment: 3", "expected a mapping of settings, got int"),
        ("- 1", "expected a mapping of settings, got list"),
        ("a: [", "not readable YAML"),
    ],
)
def test_bad_yaml(tmp_path, text, what):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=what):
        load_yaml(tmp_path / "c.yaml")


def test_missing_yaml(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_yaml(tmp_path / "none.yaml")


def test_empty_yaml_and_whole_numbers_for_floats(tmp_path):
    (tmp_path / "c.yaml").write_text("")
    assert load_yaml(tmp_path / "c.yaml") == PretrainConfig()
    assert update(PretrainConfig(), {"lr": 1}, "x").lr == 1.0


def test_shipped_configs_load(pytestconfig):
    files = sorted((pytestconfig.rootpath / "configs").glob("*.yaml"))
    assert files
    for file in files:
        load_yaml(file).check()
        assert set(yaml.safe_load(file.read_text())) <= set(vars(PretrainConfig()))
