"""The projector as one operation (interpreted) against its reference in double: unit rows, every gradient, a second encoder."""

import pytest
import torch
from conftest import rms_error
from hiclr_kernels.projection import Head, reference, unit_rows

pytest.importorskip("triton")
SIZES = [(24, 16, 32, 8, 6), (35, 70, 90, 130, 20), (8, 256, 256, 128, 0)]  # N, H, M, F, rows of a second encoder


def new_head(features: int, hidden: int, out: int, seed: int) -> Head:
    g = torch.Generator().manual_seed(seed)
    shapes = (hidden, features), (hidden,), (out, hidden), (out,)
    return Head(*(torch.randn(shape, generator=g) / shape[-1] ** 0.5 for shape in shapes))


@pytest.fixture
def kernels(monkeypatch):
    """Interpreted, and every buffer that they are given is full of NaN."""
    monkeypatch.setenv("HICLR_KERNELS", "triton")
    for name in ("empty", "empty_like"):
        shipped = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, shipped=shipped, **kw: shipped(*a, **kw).fill_(float("nan")))


def outcome(function, sizes, dtype, wide=None) -> dict[str, torch.Tensor]:
    n, features, hidden, out, more = sizes
    rows = torch.randn(n + more, features, generator=torch.Generator().manual_seed(0)).to(wide or torch.float32)
    heads = [Head(*(t.to(rows.dtype).requires_grad_() for t in new_head(features, hidden, out, seed))) for seed in (1, 2)]
    x = rows[:n].clone().requires_grad_()
    q, whole = function(x, rows, heads if more else heads[:1], dtype)
    (q * torch.arange(q.numel()).view_as(q).cos()).sum().backward()
    assert not whole.requires_grad and all(t.grad is None for t in heads[1])
    return {"q": q.detach(), "whole": whole, "x": x.grad, **{name: t.grad for name, t in heads[0]._asdict().items()}}


def plain(x, rows, heads, dtype):
    parts = [reference.unit_rows(x, heads[0], dtype), reference.unit_rows(rows[len(x) :], heads[-1], dtype)]
    return parts[0], torch.cat([part.detach() for part in parts])


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_float32(kernels, sizes):
    want = outcome(plain, sizes, torch.float64, torch.float64)
    for name, got in outcome(unit_rows, sizes, torch.float32).items():
        assert rms_error(got, want[name]) < 1e-5, name


def test_bfloat16(kernels):
    exact = outcome(plain, SIZES[1], torch.float64, torch.float64)
    got, theirs = (outcome(f, SIZES[1], torch.bfloat16) for f in (unit_rows, plain))
    for name, value in exact.items():
        assert rms_error(got[name], value) <= 1.5 * rms_error(theirs[name], value), name


def test_a_row_without_length_stays_finite(kernels):
    """And its gradient is that of a division by a constant."""
    head = Head(torch.zeros(16, 16), torch.zeros(16), torch.zeros(16, 16), torch.zeros(16))
    grads = []
    for function in (unit_rows, plain):
        bias = head.bias2.clone().requires_grad_()
        x = torch.ones(3, 16)
        q, _ = function(x, x, [head._replace(bias2=bias)], torch.float32)
        q.sum().backward()
        grads.append(bias.grad)
        assert q.abs().max() == 0
    torch.testing.assert_close(*grads)
