"""Scores between joints (interpreted) against the reference in double."""

import pytest
import torch
from conftest import rms_error
from hiclr_kernels.attention import joint_scores, reference

pytest.importorskip("triton")


@pytest.mark.parametrize("shape", [(2, 7, 25, 2, 3, 16), (3, 5, 17, 2, 1, 6), (1, 3, 20, 2, 2, 100)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_and_gradient(monkeypatch, shape, dtype):
    monkeypatch.setenv("HICLR_KERNELS", "triton")
    g = torch.Generator().manual_seed(0)
    qk, grad = torch.randn(shape, generator=g).to(dtype), torch.randn(shape[0], shape[4], shape[2], shape[2], generator=g)
    results = []
    for function, wide in ((joint_scores, dtype), (reference, torch.float64), (reference, dtype)):
        leaf = qk.to(wide).requires_grad_()
        out = function(leaf)
        results.append([out.detach(), *torch.autograd.grad(out, leaf, grad.to(out.dtype))])
    for got, want, theirs in zip(*results, strict=True):
        bar = 1e-5 if dtype == torch.float32 else 1.5 * rms_error(theirs, want)
        assert rms_error(got, want) <= bar
