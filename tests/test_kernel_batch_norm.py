"""Batch norm of groups with dropout, residual and activation: against torch's own operations in double."""

import pytest
import torch
import torch.nn.functional as F
from conftest import rms_error
from hiclr_kernels.batch_norm import batch_norm

CASES = [  # rows, channels, T, V, groups, slope, residual, dropped of 65536
    pytest.param(6, 16, 10, 25, 3, 0.0, True, 32768, id="block-tail"),
    pytest.param(6, 16, 10, 25, 3, 0.0, False, 0, id="relu"),
    pytest.param(4, 75, 7, 1, 2, 1.0, False, 0, id="input"),
    pytest.param(2, 3, 5, 1, 1, 0.1, True, 6554, id="leaky-small"),
    pytest.param(5, 130, 3, 7, 5, 1.0, False, 16384, id="odd"),
]


def problem(rows, channels, frames, joints, dtype):
    g = torch.Generator().manual_seed(rows * channels)
    x, residual, grad = (torch.randn(3, rows, channels, frames, joints, generator=g) * 2 + 5).to(dtype).unbind()
    weight, bias = torch.rand(2, channels, generator=g) + 0.5
    bits = torch.randint(-32768, 32768, (rows * frames * joints * channels,), generator=g).to(torch.int16)
    return x.contiguous(memory_format=torch.channels_last), residual, grad, weight, bias, bits


def plainly(x, weight, bias, groups, slope, residual, bits, dropped):
    """Separate passes of torch's operations; bits walk in channels-last order."""
    y = torch.cat([F.batch_norm(part, None, None, weight, bias, True) for part in x.chunk(groups)])
    if dropped:
        r, c, t, v = x.shape
        keep = (bits.view(r, t, v, c).permute(0, 3, 1, 2) >= dropped - 32768) * (65536 / (65536 - dropped))
        y = y * keep
    return F.leaky_relu(y if residual is None else y + residual, slope)


def run(function, dtype, x, weight, bias, residual, grad):
    """(output, gradients) of a function of (x, weight, bias, residual)."""
    given = [t.to(dtype).requires_grad_() for t in (x, weight, bias, residual) if t is not None]
    out = function(*given)
    return [out.detach(), *torch.autograd.grad(out, given, grad.to(out.dtype))]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "channels", "frames", "joints", "groups", "slope", "has_residual", "dropped"), CASES)
def test_outputs_gradients_statistics(rows, channels, frames, joints, groups, slope, has_residual, dropped, dtype):
    x, residual, grad, weight, bias, bits = problem(rows, channels, frames, joints, dtype)
    residual = residual if has_residual else None
    rest = dict(groups=groups, slope=slope, bits=bits if dropped else None, dropped=dropped)

    def theirs(x, w, b, res=None):
        return plainly(x, w, b, groups, slope, res, bits, dropped)

    want = run(theirs, torch.float64, x, weight, bias, residual, grad)
    wide = torch.promote_types(dtype, torch.float32)
    given = [None if t is None else t.clone().requires_grad_() for t in (x, weight.to(wide), bias.to(wide), residual)]
    out, mean, var = batch_norm(*given[:3], eps=1e-5, residual=given[3], **rest)
    assert out.dtype == dtype and out.is_contiguous(memory_format=torch.channels_last)
    got = [out.detach(), *torch.autograd.grad(out, [t for t in given if t is not None], grad.to(dtype))]
    bar = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 6e-3}[dtype]
    for name, a, b in zip(("out", "x", "weight", "bias", "residual"), got, want, strict=False):
        scale = max(float(b.double().norm()), 1e-6 * float(grad.double().norm()))
        assert float((a.double() - b).norm()) <= bar * scale, name
    parts = x.double().view(groups, -1, channels, frames, joints)
    torch.testing.assert_close(mean, parts.mean((1, 3, 4)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(var, parts.var((1, 3, 4), correction=0), rtol=1e-10, atol=1e-10)


def test_nan_stays_nan_in_bfloat16():
    x = torch.full((2, 4, 3, 2), float("nan"), dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    assert batch_norm(x, torch.ones(4), torch.zeros(4), eps=1e-5)[0].isnan().all()


def test_rounding_to_bfloat16_is_to_nearest_even():
    from hiclr_kernels.batch_norm.cpu import apply

    x = torch.randn(1, 4096, 16).bfloat16()
    scale = torch.rand(1, 16)
    out = apply(x, torch.zeros(1, 16), scale, torch.zeros(16), 1.0, None, None, 0)
    torch.testing.assert_close(out, (x.float() * scale[:, None]).bfloat16(), rtol=0, atol=0)


def test_groups_that_do_not_divide():
    with pytest.raises(ValueError, match="5 rows do not divide into 2 groups"):
        batch_norm(torch.ones(5, 2, 3, 3), torch.ones(2), torch.zeros(2), eps=1e-5, groups=2)


def test_offset_costs_no_accuracy():
    """Mean a hundred times the spread: one pass for both moments needs its float64 sums."""
    x = (torch.randn(4, 8, 50, 25) * 0.1 + 10).contiguous(memory_format=torch.channels_last)
    out, *_ = batch_norm(x, torch.ones(8), torch.zeros(8), eps=1e-5)
    assert rms_error(out, F.batch_norm(x.double(), None, None, training=True)) < 1e-5


def test_threads_change_nothing():
    x = torch.randn(4, 16, 9, 25).contiguous(memory_format=torch.channels_last)
    outs, before = [], torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        try:
            leaf = x.clone().requires_grad_()
            out = batch_norm(leaf, torch.ones(16), torch.zeros(16), eps=1e-5, groups=2, slope=0.0)[0]
            outs.append((out.detach(), torch.autograd.grad(out.square().sum(), leaf)[0]))
        finally:
            torch.set_num_threads(before)
    for one, three in zip(*outs, strict=True):
        torch.testing.assert_close(one, three, rtol=0, atol=0)
