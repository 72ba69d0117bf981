"""Our training step on made-up skeletons, for benchmarks."""

import tempfile
from pathlib import Path

import numpy as np
from official_style import LAYOUT

from hiclr_fast.data.packed.dataset import Packed, Split
from hiclr_fast.data.packed.rows_on_disk import Rows
from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.pretraining.trainer import Pretrainer

QUEUE = 32768
SHAPE = (3, 50, LAYOUT.num_joints, 2)


def dataset(n: int) -> Packed:
    """Random NTU-shaped skeletons, half with an empty second body; the speed does not depend on the values."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 0.3, (n, *SHAPE)).astype(np.float32)
    x[::2, ..., 1] = 0
    file = Path(tempfile.mkdtemp()) / "train.npy"
    np.save(file, x)
    split = Split(Rows([file]), np.zeros(n, np.int64), np.arange(n).astype(str), np.full(n, -1), np.full(n, -1))
    return Packed("memory", LAYOUT, ("a",), x.shape[1:], {"train": split}, "none")


def trainer(batch: int, device: str, queue: int = QUEUE, **kw) -> Pretrainer:
    return Pretrainer(PretrainConfig(batch_size=batch, queue_size=queue, device=device, **kw), dataset(4 * batch))
