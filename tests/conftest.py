"""Golden arrays and real recordings: from HICLR_SHARED where it exists, else the compact subset beside the tests."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported: kernels then run on CPU tensors

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("HICLR_SHARED", HERE.parent.parent / "shared"))


class Golden:
    """`golden["name"]` of one recorded file; a missing array skips the test with the reason."""

    def __init__(self, stem: str):
        full, compact = SHARED / "golden" / f"{stem}.npz", HERE / "golden" / f"{stem}.npz"
        self.path = full if full.exists() else compact
        if not self.path.exists():
            pytest.skip(f"golden {stem}.npz: not in the compact subset, and HICLR_SHARED is absent")
        self.arrays = np.load(self.path, allow_pickle=False)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.arrays.files:
            pytest.skip(f"golden array {name}: not in the compact subset, and HICLR_SHARED is absent")
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays.files

    def t(self, name: str, dtype=torch.float64) -> torch.Tensor:
        return torch.from_numpy(np.array(self[name])).to(dtype)

    def names(self, prefix: str) -> list[str]:
        return [name for name in self.arrays.files if name.startswith(prefix)]


@pytest.fixture(scope="session")
def golden():
    cache = {}

    def load(stem: str) -> Golden:
        if stem not in cache:
            cache[stem] = Golden(stem)
        return cache[stem]

    return load


@pytest.fixture(scope="session")
def real_data():
    """Path of a real recording file; skips where HICLR_SHARED is absent."""

    def path(name: str) -> Path:
        file = SHARED / "data" / name
        if not file.exists():
            pytest.skip(f"real recordings {name}: HICLR_SHARED is absent")
        return file

    return path


def rms_error(out, ref) -> float:
    """Relative RMS error ||out - ref|| / ||ref|| in float64."""
    out, ref = torch.as_tensor(out).double(), torch.as_tensor(ref).double()
    return float((out.detach() - ref.detach()).norm() / ref.detach().norm())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder, its dataset in `set` beside it."""
    from helpers import pretrained  # only now: it imports the project, after TRITON_INTERPRET is set

    return pretrained(tmp_path_factory.mktemp("run"))


@pytest.fixture
def candidate(run, tmp_path):
    """The run's encoder on its data; results go to a folder of the test."""
    from hiclr_fast.data.packed.dataset import open_packed
    from hiclr_fast.evaluation.candidate import Candidate

    return Candidate(run / "checkpoint.pt", open_packed(run.parent / "set"), tmp_path / "eval", torch.device("cpu"))
