"""One cast for many weights, and the queue's update in Triton (interpreted), against what torch does one by one."""

import pytest
import torch
from hiclr_kernels.casts import cast_all
from hiclr_kernels.queue import queue_update


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_cast_is_that_of_every_weight(dtype):
    """Values, strides and gradients; a weight that is used detached alone has zeros, of its own shape."""
    torch.manual_seed(0)
    weights = [torch.randn(6, 4, 3, 1).to(memory_format=torch.channels_last), *map(torch.randn, ((6,), (5, 2), (2, 2)))]
    weights = [w.requires_grad_() for w in weights]
    cast = cast_all(weights, dtype)
    for own, w in zip(cast, weights, strict=True):
        assert own.dtype == dtype and own.stride() == w.stride() and torch.equal(own.detach(), w.detach().to(dtype))
    (cast[0].float().square().sum() + (cast[2].float() * cast[1].detach().float().sum()).sum()).backward()
    assert torch.equal(weights[0].grad, 2 * weights[0].detach().to(dtype).float()) and weights[0].grad.dtype == torch.float32
    assert (weights[2].grad == cast[1].detach().float().sum().to(dtype)).all()
    assert all(weights[i].grad.shape == weights[i].shape and weights[i].grad.count_nonzero() == 0 for i in (1, 3))
    weights[1].grad += 1
    assert weights[3].grad.count_nonzero() == 0  # they lie apart


@pytest.mark.parametrize("start", [0, 5, 29])
def test_queue_wraps(monkeypatch, start):
    pytest.importorskip("triton")
    states = []
    for backend in ("triton", "reference"):
        monkeypatch.setenv("HICLR_KERNELS", backend)
        torch.manual_seed(0)
        queue, pointer, keys = torch.randn(32, 70), torch.tensor(start), torch.randn(20, 70)
        for turn in range(2):
            queue_update(queue, pointer, keys + turn)
        states.append((queue, pointer))
    assert torch.equal(states[0][0], states[1][0]) and torch.equal(states[0][1], states[1][1])
    assert states[0][1] == (start + 40) % 32
