"""Every dataset x stream x encoder as `dataset/stream/encoder`, composed from one table.

What is not named here is the default of `PretrainConfig`: the released NTU60 cross-subject joint run of ST-GCN. Sources:
official config/release/*/pretext and config/pkummd/pretext; NW-UCLA's own recipe is explained in configs/small.yaml.
Nothing is published for DSTA-Net on PKU-MMD II (it gets ST-GCN's epochs) nor on small data: untried.
"""

import difflib
from pathlib import Path
from typing import Any

from hiclr_fast.errors import InputError
from hiclr_fast.files.settings import update
from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.skeletons import STREAMS

NEVER = 10**6  # an epoch that no run has
SMALL: dict[str, Any] = dict(
    init="torch",
    pool="parts",
    dropout=0.0,
    queue_size=512,
    momentum=0.99,
    batch_size=32,
    schedule="cosine",
    warmup_epochs=5,
    epochs=120,
    mining_epoch=NEVER,
    augment=dict(blur_normalized=True),
)
# The built-in actors, in minutes on two CPU cores. Their gestures are left or right, so views are not mirrored; their posture
# tells actors apart, so views exchange it; a fast key encoder would let keys be told by their age.
FIRST_RUN: dict[str, Any] = dict(
    lr=0.01,
    warmup_epochs=2,
    epochs=18,
    momentum=0.997,
    knn_every=6,
    augment=dict(blur_normalized=True, flip_p=0.0, pose_swap=[1.0, 1.0, 1.0]),
)
NTU: dict[str, Any] = dict(layout="ntu25", frames=50)

DATASETS: dict[str, dict[str, Any]] = {
    "ntu60_xsub": NTU,
    "ntu60_xview": NTU,
    "ntu120_xsub": NTU,
    "ntu120_xset": NTU,
    "pku1": NTU,
    "pku2": NTU | dict(epochs=600, drops=[500], mining_epoch=300),
    "small": SMALL,  # hundreds to a few thousand sequences of any layout
    "ucla": SMALL | dict(layout="kinect20", frames=50),
    "synthetic": SMALL | NTU | FIRST_RUN,
    # 115 to 134 training sequences: a queue below that, small batches for more steps; 1-NN did not grow after 20 epochs
    "irds": SMALL | dict(layout="ntu25", frames=50, queue_size=96, batch_size=8, lr=0.05, epochs=20),
}
ENCODERS: dict[str, dict[str, Any]] = {"stgcn": {}, "dsta": dict(encoder="dsta", weight_decay=5e-4)}
EXCEPTIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("pku2", "joint"): dict(epochs=1500, drops=[1250], mining_epoch=750),
}
NAMES = [f"{d}/{s}/{e}" for d in DATASETS for s in STREAMS for e in ENCODERS]


def preset(name: str) -> PretrainConfig:
    """The pretraining config of `dataset/stream/encoder`, with data in data/DATASET. InputError names the nearest valid one."""
    if name not in NAMES:
        close = difflib.get_close_matches(name, NAMES, n=1, cutoff=0)[0]
        parts = " / ".join("|".join(part) for part in (DATASETS, STREAMS, ENCODERS))
        raise InputError(f"unknown preset {name!r}; the nearest valid one is {close!r} ({parts})")
    dataset, stream, encoder = name.split("/")
    values = DATASETS[dataset] | ENCODERS[encoder] | EXCEPTIONS.get((dataset, stream), {})
    return update(PretrainConfig(data=Path("data", dataset), stream=stream), values, f"preset {name}")
