"""Tiny datasets and configs, seconds on one core."""

import numpy as np

from hiclr_fast.data.packed.dataset import Split, open_packed
from hiclr_fast.data.packed.writer import write_packed
from hiclr_fast.evaluation.features import Features
from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.pretraining.loop import train
from hiclr_fast.pretraining.start import finish, start
from hiclr_fast.skeletons import LAYOUTS


def split(n: int, frames: int = 16, joints: int = 25, bodies: int = 1, classes: int = 3, seed: int = 0) -> Split:
    """Random walks whose class shifts one joint, so that there is something to find."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % classes
    x = rng.normal(0, 0.1, (n, 3, frames, joints, bodies)).cumsum(2).astype(np.float32)
    for c in range(classes):
        x[label == c, 0, :, c] += 3.0
    names = np.array([f"s{seed}_{i:04d}" for i in range(n)])
    return Split(x, label, names, np.arange(n) % 5, np.full(n, -1))


def packed(path, train: int = 32, val: int = 12, layout: str = "ntu25", **kw):
    """Writes a tiny packed dataset and returns its path."""
    joints = LAYOUTS[layout].num_joints
    splits = {"train": split(train, joints=joints, **kw), "val": split(val, joints=joints, **{**kw, "seed": 1})}
    write_packed(path, splits, LAYOUTS[layout], ["a", "b", "c"], source="test", preprocessing={})
    return path


def packed_otherwise(path, classes: int, layout: str = "ntu25", frames: int = 20):
    """Another tiny dataset: other samples, classes and frames."""
    kw = dict(joints=LAYOUTS[layout].num_joints, classes=classes, frames=frames)
    splits = {"train": split(30, **kw, seed=5), "val": split(15, **kw, seed=6)}
    write_packed(path, splits, LAYOUTS[layout], [f"c{i}" for i in range(classes)], source="test", preprocessing={})
    return path


def pretrained(root):
    """A run folder, pretrained for two epochs; its data lie in `set` beside it."""
    data = open_packed(packed(root / "set"))
    trainer = start(tiny(data=root / "set"), data, root / "run")
    assert train(trainer, root / "run")
    finish(trainer, root / "run")
    return root / "run"


def tiny(**kw) -> PretrainConfig:
    base = dict(
        hidden_channels=2,
        hidden_dim=8,
        feature_dim=8,
        queue_size=16,
        batch_size=8,
        epochs=2,
        lr=0.01,
        momentum=0.9,
        init="torch",
        knn_every=1,
        device="cpu",
        threads=1,
    )
    return PretrainConfig(**{**base, **kw})


def features_of(x, label) -> Features:
    """Features named n0, n1, ... for cases made by hand."""
    x = np.asarray(x, dtype=np.float32)
    return Features(x, np.asarray(label), np.array([f"n{i}" for i in range(len(x))]))


def at(*degrees) -> np.ndarray:
    """(n, 2) unit vectors at those angles."""
    angle = np.deg2rad(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)
