"""Batch norm of one or two operands in Triton (interpreted) against its reference in double: outputs, gradients, statistics."""

from typing import NamedTuple

import pytest
import torch
from conftest import rms_error
from hiclr_kernels.batch_norm import normalise, parts, reference
from hiclr_kernels.philox.reference import keep

pytest.importorskip("triton")
DROPPED = 32768


class Case(NamedTuple):
    groups: int
    rows: int
    channels: int
    norms: str  # which operands are normalised, "1", "2" or "12"; a dot behind: there is a second, plain one
    slope: float = 1.0
    dropped: int = 0
    pooled: int = 0


CASES = {
    "block tail": Case(3, 2 * 7 * 25, 16, "1.", 0.0, DROPPED),
    "projected shortcut": Case(2, 13 * 20, 8, "12", 0.0, DROPPED),
    "end of the encoder": Case(4, 3 * 4 * 17, 24, "1.", 0.0, DROPPED, 3 * 17),
    "end, projected": Case(1, 60, 40, "12", 0.0, 6554, 30),
    "inner": Case(2, 300, 32, "1", 0.0),
    "input": Case(2, 140, 75, "1"),
    "leaky, dropout on the shortcut": Case(2, 90, 5, "2", 0.1, DROPPED),
    "leaky, both": Case(1, 61, 6, "12", 0.1, DROPPED),
    "wide": Case(2, 33, 300, "1.", 0.0, 100),
}


def new_norm(channels: int, seed: int) -> parts.Norm:
    g = torch.Generator().manual_seed(seed)
    bias, mean = torch.randn(2, channels, generator=g)
    weight, var = torch.rand(2, channels, generator=g) + 0.5
    return parts.Norm(weight, bias, mean, var, torch.tensor(4))


def copy(norm: parts.Norm | None, dtype: torch.dtype | None = None) -> parts.Norm | None:
    if norm is None:
        return None
    new = parts.Norm(*(t.to(dtype) if t.is_floating_point() and dtype else t.clone() for t in norm))
    return new._replace(weight=new.weight.clone().requires_grad_(), bias=new.bias.clone().requires_grad_())


def outcome(function, case: Case, dtype, wide=None) -> dict[str, torch.Tensor]:
    """Outputs, gradients and running statistics; `wide`: of the same inputs, after rounding, in that dtype."""
    g = torch.Generator().manual_seed(case.rows)
    shape = case.groups, case.rows, case.channels
    xs = [(torch.randn(shape, generator=g) * 2 + shift).to(dtype).to(wide or dtype).requires_grad_() for shift in (3, 0)]
    x1, x2 = xs if len(case.norms) > 1 or case.norms == "2" else (xs[0], None)
    norm1, norm2 = (copy(new_norm(case.channels, i), wide) if str(i) in case.norms else None for i in (1, 2))
    after = parts.After(case.slope, torch.tensor(2**40 + 11), case.dropped)
    y = function(x1, x2, norm1, norm2, rule=parts.Rule(1e-3, 0.2), after=after, pooled=case.pooled)
    grad = torch.randn(y.shape, generator=g).to(dtype if not case.pooled else torch.float32)
    y.backward(grad.to(y.dtype))
    found = {"y": y.detach(), "x1": x1.grad}
    if x2 is not None:
        found["x2"] = x2.grad
    for i, norm in enumerate((norm1, norm2), 1):
        if norm is not None:
            found |= {f"weight{i}": norm.weight.grad, f"bias{i}": norm.bias.grad, f"tracked{i}": norm.tracked}
            found |= {f"mean{i}": norm.running_mean, f"var{i}": norm.running_var}
    return found


@pytest.fixture
def kernels(monkeypatch):
    """Interpreted, and every buffer that they are given is full of NaN."""
    monkeypatch.setenv("HICLR_KERNELS", "triton")
    empty = torch.empty

    def poisoned(*shape, **rest):
        new = empty(*shape, **rest)
        return new.fill_(float("nan")) if new.is_floating_point() else new.fill_(77)

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_float32(kernels, case):
    got, want = outcome(normalise, case, torch.float32), outcome(reference.normalise, case, torch.float32, torch.float64)
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert rms_error(got[name], value) <= 1e-5, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["block tail", "projected shortcut", "end, projected", "leaky, both"])
def test_half(kernels, name, dtype):
    case = CASES[name]
    exact = outcome(reference.normalise, case, dtype, torch.float64)
    got, theirs = outcome(normalise, case, dtype), outcome(reference.normalise, case, dtype)
    for what, value in exact.items():
        assert rms_error(got[what], value) <= 1.5 * rms_error(theirs[what], value) + 1e-6, what


def test_the_same_twice(kernels):
    first, second = (outcome(normalise, CASES["block tail"], torch.bfloat16) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_offset_costs_no_accuracy(kernels):
    """Mean thirty times the spread."""
    x = torch.randn(2, 700, 8) * 0.1 + 3
    y, want = (f(x.to(t), None, copy(new_norm(8, 1), t), None, rule=parts.Rule(), after=parts.After()) for f, t in
               ((normalise, torch.float32), (reference.normalise, torch.float64)))  # fmt: skip
    assert rms_error(y, want) < 1e-5


def test_dropout_of_the_kernel_is_that_of_the_reference(kernels):
    """Aligned and unaligned channels, rate, and other draws with another seed."""
    for channels in (16, 5):
        x = torch.ones(1, 400, channels)
        norm, rule = new_norm(channels, 0)._replace(bias=torch.ones(channels)), parts.Rule()
        draws = [parts.After(1.0, torch.tensor(seed), 16384) for seed in (1, 2)]
        masks = [normalise(x, None, norm, None, rule=rule, after=after) != 0 for after in draws]
        assert torch.equal(masks[0].flatten(), keep(1, x.numel(), 16384))
        assert not torch.equal(*masks)
        assert abs(masks[0].float().mean() - 0.75) < 5 * (0.1875 / x.numel()) ** 0.5


def test_statistics_over_processes(kernels):
    """Two processes with half of the rows each: forward, gradients and running statistics are those of one with all.

    They run one after the other: what they exchange is recorded, and its mean given to them when they run again.
    """
    torch.manual_seed(0)
    x, r, grad = torch.randn(3, 2, 64, 16)

    def run(rows, rule):
        norm, a, b = copy(new_norm(16, 1)), x[:, rows].contiguous().requires_grad_(), r[:, rows].contiguous().requires_grad_()
        y = normalise(a, b, norm, None, rule=rule, after=parts.After(0.0))
        y.backward(grad[:, rows])
        return y.detach(), a.grad, b.grad, norm

    def ranks(agreed: list[torch.Tensor]):
        """What the two give and return, where the first exchanges have these means."""
        given, results = [], []
        for rank in range(2):
            sent = []

            def mean_of(t, sent=sent):
                assert t.dtype == torch.float64
                sent.append(t.clone())
                return agreed[len(sent) - 1] if len(sent) <= len(agreed) else t

            results.append(run(slice(32 * rank, 32 * rank + 32), parts.Rule(1e-5, 0.1, mean_of, 2)))
            given.append(sent)
        return given, results

    agreed = []
    for exchange in range(2):  # forward, then backward, whose sums rest on the forward's mean
        given, _ = ranks(agreed)
        agreed.append((given[0][exchange] + given[1][exchange]) / 2)
    given, results = ranks(agreed)
    assert len(given[0]) == 2
    whole = run(slice(None), parts.Rule(1e-5, 0.1))
    for i in range(3):
        assert rms_error(torch.cat([results[0][i], results[1][i]], 1), whole[i]) < 1e-6
    for rank in range(2):
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(getattr(results[rank][3], name), getattr(whole[3], name), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(results[0][3].weight.grad + results[1][3].weight.grad, whole[3].weight.grad, rtol=1e-5, atol=1e-5)


def test_parts_of_other_sizes_are_joined(kernels):
    """More parts than a program holds, of uneven counts, far from zero, wider than the channels; and sums of as many."""
    from hiclr_kernels.batch_norm import gpu

    g = torch.Generator().manual_seed(1)
    counts = torch.randint(1, 5, (1100,), generator=g)
    values = 100 + torch.randn(2, int(counts.sum()), 5, generator=g, dtype=torch.float64)
    pieces = [torch.stack([torch.full_like(p[:, 0], p.shape[1]), p.mean(1), p.var(1, correction=0) * p.shape[1]], 1)
              for p in values.split(counts.tolist(), 1)]  # fmt: skip
    part = torch.nn.functional.pad(torch.stack(pieces, 1).float(), (0, 3), value=float("nan"))
    stats = gpu.statistics(values.float(), [new_norm(5, 0)], parts.Rule(0.0), None, part)
    assert rms_error(stats[0], values.mean(1)) < 1e-6 and rms_error(stats[1], values.var(1, correction=0) ** -0.5) < 1e-5
    sums = torch.randn(2, 1100, 4, 5, generator=g)[:, :, 1:4:2]
    back = gpu.coefficients(sums, torch.ones(5), stats, 7)
    assert rms_error(back.bias, sums[:, :, 0].double().sum((0, 1))) < 1e-6
    assert rms_error(back.weight, (sums[:, :, 1].double().sum(1) * stats[1]).sum(0)) < 1e-6


def test_inputs_of_two_encoders(kernels):
    """Views of one encoder and a view of another: their values, gradients and running statistics are those of each alone."""
    from hiclr_kernels.batch_norm.views import normalise_views

    g = torch.Generator().manual_seed(0)
    views = [torch.randn(2, 2, 6, 5, 3, generator=g).permute(0, 4, 2, 3, 1) * (i + 1) for i in range(3)]
    own, other = (copy(new_norm(15, seed)) for seed in (1, 2))
    leaves = [views[0].clone(), views[1].clone().requires_grad_()]
    y, every = normalise_views(leaves, views[2], (own, other), rule=parts.Rule(), dtype=torch.float32)
    assert torch.equal(y, every[: len(y)]) and y.shape == (8, 6, 5, 3) and not every.requires_grad
    grad = torch.randn(y.shape, generator=g)
    y.backward(grad)
    exact = [copy(new_norm(15, seed), torch.float64) for seed in (1, 2)]
    x = torch.stack([v.permute(0, 4, 2, 3, 1).reshape(-1, 15) for v in views]).double().requires_grad_()
    want, theirs = (reference.normalise(rows, None, norm, None, rule=parts.Rule(), after=parts.After())
                    for rows, norm in ((x[:2], exact[0]), (x[2:], exact[1])))  # fmt: skip
    want.backward(grad.double().view(want.shape))
    assert rms_error(y.view(want.shape), want) < 1e-6 and rms_error(every[len(y) :].view(theirs.shape), theirs) < 1e-6
    assert leaves[0].grad is None and rms_error(leaves[1].grad.permute(0, 4, 2, 3, 1).reshape(-1, 15), x.grad[1]) < 1e-5
    assert rms_error(own.weight.grad, exact[0].weight.grad) < 1e-5 and rms_error(own.bias.grad, exact[0].bias.grad) < 1e-5
    for norm, twin in zip((own, other), exact, strict=True):
        assert rms_error(norm.running_var, twin.running_var) < 1e-6 and norm.tracked == twin.tracked


def test_rows_that_do_not_divide(kernels):
    with pytest.raises(ValueError, match="7 rows of a group do not divide into means of 2"):
        normalise(torch.ones(1, 7, 8), None, new_norm(8, 0), None, rule=parts.Rule(), after=parts.After(), pooled=2)
