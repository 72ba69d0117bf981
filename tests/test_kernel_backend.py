"""Which implementation is chosen, and what is refused."""

import pytest
import torch
from hiclr_kernels.backend import choose_backend

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_by_device(monkeypatch):
    monkeypatch.delenv("HICLR_KERNELS", raising=False)
    assert choose_backend(CUDA) == "triton"
    assert choose_backend(CUDA, torch.float64) == "reference"
    assert choose_backend(CPU) == choose_backend(CPU, torch.float64) == "cpu"
    assert choose_backend(torch.device("meta")) == "reference"


@pytest.mark.parametrize(
    ("forced", "device", "dtype", "message"),
    [
        ("gpu", CPU, torch.float32, "HICLR_KERNELS=gpu: expected triton, cpu or reference"),
        ("cpu", CUDA, torch.float32, "move them to the CPU"),
        ("triton", CPU, torch.float32, "set TRITON_INTERPRET=1"),
        ("triton", CUDA, torch.float64, "use cpu or reference for double"),
    ],
)
def test_refused(monkeypatch, forced, device, dtype, message):
    monkeypatch.setenv("HICLR_KERNELS", forced)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match=message):
        choose_backend(device, dtype)


def test_forced(monkeypatch):
    monkeypatch.setenv("HICLR_KERNELS", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose_backend(CPU) == "triton"
