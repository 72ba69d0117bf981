"""What a setting may be: every number has a range, and a wrong one is a sentence before anything is there."""

import math
import re
import typing
from dataclasses import replace

import pytest
from helpers import packed, tiny

from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.protocols.cluster import ClusterConfig
from hiclr_fast.evaluation.protocols.knn import KnnConfig
from hiclr_fast.evaluation.protocols.linear import LinearConfig
from hiclr_fast.evaluation.protocols.retrieval import RetrievalConfig
from hiclr_fast.evaluation.protocols.semi import RepeatConfig, SemiConfig
from hiclr_fast.evaluation.schedule import FinetuneConfig, official
from hiclr_fast.files.ranges import Range
from hiclr_fast.pretraining import config as pretraining
from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.pretraining.start import start
from hiclr_fast.views import augment
from hiclr_fast.views.augment import AugmentConfig

PROTOCOLS = (KnnConfig, LinearConfig, RetrievalConfig, ClusterConfig, FinetuneConfig, SemiConfig, RepeatConfig)
TABLES = [(PretrainConfig, pretraining.RANGES), (AugmentConfig, augment.RANGES), *((p, p.RANGES) for p in PROTOCOLS)]


@pytest.mark.parametrize(("config", "table"), TABLES, ids=lambda x: getattr(x, "__name__", ""))
def test_every_number_has_a_range(config, table):
    hints = {name: str(hint) for name, hint in typing.get_type_hints(config).items() if name not in ("RANGES", "shared")}
    numbers = {name for name, hint in hints.items() if re.search(r"\b(int|float)\b", hint)}
    alone = {"k"} if config is KnnConfig else set()  # it has rules of its own
    assert numbers - alone == set(table)


def test_ranges():
    assert 1 in Range(0, 1) and 1 not in Range(0, 1, below=True) and 0 not in Range(0, 1, above=True)
    for bad in (math.nan, math.inf, -math.inf, (1, math.nan), -1, 10**400):
        assert bad not in Range(0, 10**9) and (bad == 10**400 or bad not in Range())
    assert str(Range(1, 8)) == "at least 1 and at most 8" and str(Range(0, above=True)) == "a finite number above 0"


BAD = [
    *({"lr": v} for v in (-1.0, math.nan, math.inf)),
    *({"momentum": v} for v in (2.0, -0.1, math.nan)),
    *({"temperature": v} for v in (-0.1, 0.0, math.nan)),
    *({"dropout": v} for v in (math.nan, 1.0, -0.5)),
    *({"weights": v} for v in ((1.0, math.nan, 0.5), (-1.0, 0.5, 0.5), (0.0, 0.0, 0.0))),
    *({name: -1} for name in ("topk", "seed", "threads", "knn_every", "keep_every", "warmup_epochs", "mining_epoch", "lr_batch")),
    *({name: 0} for name in ("batch_size", "queue_size", "read_every", "accumulate", "hidden_channels", "frames")),
    {"seed": 2**32},
    {"branches": (), "weights": ()},
    {"drops": (-1,)},
    {"lr": 1e300},
    {"save_minutes": math.nan},
    {"memory_share": 1.5},
    {"queue_size": 10**9},
    *({"augment": AugmentConfig(**kw)} for kw in ({"crop_ratio": 0}, {"flip_p": 2.0}, {"blur_sigma": (0.0, 0.0)})),
    *({"augment": AugmentConfig(**kw)} for kw in ({"blur_sigma": (2.0, 1.0)}, {"rotate_main": math.nan}, {"edge_add": -1.0})),
]


@pytest.mark.parametrize("change", BAD, ids=str)
def test_pretraining_refuses(change):
    with pytest.raises(InputError, match=r"expected|all are 0"):
        replace(tiny(), **change).check()


def test_nothing_is_there_after_a_refusal(tmp_path):
    data = open_packed(packed(tmp_path / "set"))
    with pytest.raises(InputError, match="topk -1: expected at least 0"):
        start(tiny(topk=-1), data, tmp_path / "run")
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    "settings",
    [
        KnnConfig((1, 1)),
        KnnConfig(()),
        KnnConfig(temperature=math.nan),
        LinearConfig(lr=math.nan),
        LinearConfig(lr=math.inf),
        LinearConfig(seed=-1),
        LinearConfig(lr=1e300),
        FinetuneConfig(weight_decay=1e39),
        LinearConfig(drops=(-3,)),
        FinetuneConfig(seed=2**63),
        FinetuneConfig(weight_decay=math.nan),
        RetrievalConfig(0),
        ClusterConfig(seed=2**40),
        SemiConfig(percent=math.nan),
        SemiConfig(repeats=3, training=FinetuneConfig(seed=2**32 - 2)),
    ],
    ids=str,
)
def test_protocols_refuse(settings):
    with pytest.raises(InputError, match="expected"):
        settings.official("stgcn").check()


def test_the_usual_settings_pass():
    for kind in ("stgcn", "dsta"):
        for settings in (KnnConfig(), LinearConfig(), RetrievalConfig(), ClusterConfig(), FinetuneConfig(), SemiConfig()):
            settings.official(kind).check()
        official(FinetuneConfig(epochs=1), "semi", kind).check()
    PretrainConfig().check()
