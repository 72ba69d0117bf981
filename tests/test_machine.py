"""What is known of the machine where something is missing."""

import torch

from hiclr_fast.machine import environment


def test_a_machine_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = environment(torch.device("cpu"))
    assert found["commit"] is None and found["torch"] == torch.__version__
