"""Temporal convolution: the Triton kernels, interpreted, and the reference against double; gradients, determinism, traffic."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import rms_error
from hiclr_kernels.temporal import Fold, covers, reference, temporal, temporal_backward, traffic

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
F32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
# R, T, V, C, O, K, stride, sets of the groups, slope, dtype: the release's widths and joints, then awkward ones
CASES = [
    (4, 7, 25, 16, 16, 9, 1, (0, 0, 0, 1), 0.0, BF16),
    (2, 7, 25, 32, 32, 9, 2, (0, 0), 0.0, BF16),
    (1, 3, 25, 64, 64, 9, 1, (0,), 0.0, BF16),
    (3, 7, 20, 16, 32, 9, 2, (0, 0, 1), 0.1, F32),
    (2, 6, 17, 24, 16, 7, 1, (0,), 0.1, F32),
    (2, 3, 20, 64, 64, 9, 2, (0, 0), 0.0, FP16),
    (1, 2, 17, 128, 40, 7, 2, (0,), 0.1, BF16),
    (2, 1, 3, 3, 5, 9, 1, (1, 0), 2.0, F32),
]
JOINT = [  # of the kernel of both gradients
    (3, 7, 20, 16, 16, 9, 2, (0, 0, 1), 0.1, F32),
    (2, 6, 17, 12, 8, 7, 1, (0, 1), 0.1, F32),
    (1, 5, 20, 24, 32, 9, 2, (0,), 0.0, F32),
]


@pytest.fixture
def triton(monkeypatch):
    """The kernels, on memory that holds NaN before they write it."""
    pytest.importorskip("triton")
    monkeypatch.setenv("HICLR_KERNELS", "triton")

    def poisoned(make):
        def filled(*args, **kwargs):
            out = make(*args, **kwargs)
            return out.fill_(math.nan) if out.is_floating_point() else out

        return filled

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))


def problem(case, seed=0):
    r, t, v, c, o, k, _, sets, _, dtype = case
    g = torch.Generator().manual_seed(seed)

    def draw(*shape, like=dtype):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(DEVICE, like)

    groups, to = len(sets), reference.out_frames(t, case[6])
    x = dict(z1=draw(r, t, v, c) + 0.3, scale=draw(groups, c, like=F32).abs() + 0.2, shift=draw(groups, c, like=F32))
    x |= dict(weight=draw(max(sets) + 1, o, c, k, like=F32) / (c * k) ** 0.5, bias=draw(max(sets) + 1, o, like=F32))
    return x, draw(r, to, v, o), draw


def options(case):
    return dict(groups=len(case[7]), stride=case[6], slope=case[8], sets=case[7])


def solve(function, x, h, dtype, case):
    """z2, mean, var and the five gradients for the incoming gradient h; tensors of the activations' kind in `dtype`."""
    wide = torch.float64 if dtype == torch.float64 else F32
    x = {name: value.to(dtype if name == "z1" else wide).requires_grad_() for name, value in x.items()}
    out = function(**x, **options(case))
    return [*out, *torch.autograd.grad(out[0], list(x.values()), h.to(dtype))]


def plain(z1, scale, shift, weight, bias, *, groups, stride, slope, sets):
    """The op written down with torch's own functions, for torch's own gradients."""
    parts = zip(z1.chunk(groups), scale, shift, sets, strict=True)
    out = [
        F.conv2d(
            F.leaky_relu(x * s + b, slope).to(x.dtype).permute(0, 3, 1, 2), weight[n, ..., None].to(x.dtype), bias[n].to(x.dtype),
            (stride, 1), (weight.shape[-1] // 2, 0),
        ).permute(0, 2, 3, 1)
        for x, s, b, n in parts
    ]  # fmt: skip
    moments = [torch.var_mean(z.double().flatten(0, 2), 0, correction=0) for z in out]
    return torch.cat(out), torch.stack([m for _, m in moments]), torch.stack([v for v, _ in moments])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_triton_against_double(case, triton, monkeypatch):
    x, h, _ = problem(case)
    got = solve(temporal, x, h, case[9], case)
    want = solve(plain, x, h, torch.float64, case)
    monkeypatch.setenv("HICLR_KERNELS", "reference")
    base = solve(temporal, x, h, case[9], case)
    names = ("z2", "mean", "var", "z1", "scale", "shift", "weight", "bias")
    for name, ours, truth, same in zip(names, got, want, base, strict=True):
        error, floor = rms_error(ours, truth), rms_error(same, truth)
        print(f"{name} {error:.2e} {floor:.2e}")
        assert ours.shape == truth.shape and (ours.dtype == case[9] if name in ("z2", "z1") else ours.dtype == F32)
        assert error <= (1e-5 if case[9] == F32 else 1.5 * floor), (name, error, floor)


@pytest.mark.parametrize("case", CASES[1:5:2], ids=str)
def test_moments_are_of_what_is_stored(case, triton):
    x, _, _ = problem(case)
    z2, mean, var = temporal(**x, **options(case))
    values = z2.double().unflatten(0, (len(case[7]), -1)).flatten(1, 3)
    assert rms_error(mean, values.mean(1)) < 1e-6 and rms_error(var, values.var(1, correction=0)) < 1e-6


@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize("case", [CASES[0], CASES[1], CASES[3]], ids=str)
def test_fold_is_the_batch_norm_after(case, backend, triton, monkeypatch):
    """With the coefficients of a batch norm, the gradients are those through it, by torch's own in double."""
    monkeypatch.setenv("HICLR_KERNELS", backend)
    x, h, _ = problem(case)
    groups, eps = len(case[7]), 1e-5
    exact = {name: value.double().requires_grad_() for name, value in x.items()}
    z2, _, _ = plain(**exact, **options(case))
    z2 = z2.detach().to(case[9]).double() + (z2 - z2.detach())  # the values as stored, the gradient as it is
    parts = z2.unflatten(0, (groups, -1)).flatten(1, 3)
    var, mean = torch.var_mean(parts, 1, correction=0, keepdim=True)
    rstd = (var + eps).rsqrt()
    normal = (parts - mean) * rstd
    want = torch.autograd.grad(normal, list(exact.values()), h.double().view_as(normal))
    hat, grad = normal.detach(), h.double().view_as(normal)
    b = -(rstd**2) * (grad * hat).mean(1, keepdim=True)
    abc = rstd, b, -rstd * grad.mean(1, keepdim=True) - b * mean
    fold = Fold(z2.detach().to(case[9]), *(t.detach().float()[:, 0] for t in abc))
    center = x["z1"].float().unflatten(0, (groups, -1)).mean((1, 2, 3))
    inputs = {name: value for name, value in x.items() if name != "bias"}
    got = temporal_backward(h, **inputs, **options(case), center=center, fold=fold, bias=True)
    d_z1 = (got.g.unflatten(0, (groups, -1)).double() * x["scale"][:, None, None, None]).view_as(x["z1"])
    bar = 1e-5 if case[9] == F32 else 6e-3
    ours = (d_z1, got.products + center * got.total, got.total, got.weight)
    for name, mine, truth in zip(("z1", "scale", "shift", "weight"), ours, want, strict=False):
        error = rms_error(mine, truth)
        print(f"{name} {error:.2e}")
        assert error <= bar, (name, error)
    assert got.bias.abs().max() < 1e-2 * grad.abs().sum() / groups / h.shape[-1]  # zero but for rounding


@pytest.mark.parametrize("case", [*JOINT, CASES[7]], ids=str)
def test_both_gradients_by_one_kernel(case, triton, monkeypatch):
    """That of 16 bits, given float32, which tells what it gets wrong."""
    monkeypatch.setattr("hiclr_kernels.temporal.tiles.JOINT_DTYPES", (F32,))
    x, h, _ = problem(case)
    got, want = solve(temporal, x, h, F32, case), solve(plain, x, h, torch.float64, case)
    for name, ours, truth in zip(("z1", "scale", "shift", "weight"), got[3:], want[3:], strict=False):
        assert rms_error(ours, truth) <= 1e-5, name


@pytest.mark.parametrize(("case", "takes"), [*((case, True) for case in (*JOINT[:2], CASES[3])), (JOINT[1], False)], ids=str)
def test_marks_are_what_passes(case, takes, triton, monkeypatch):
    """A gradient and marks give what the marked gradient gives alone."""
    monkeypatch.setattr("hiclr_kernels.temporal.tiles.JOINT_DTYPES", (F32,) if takes else ())
    x, h, draw = problem(case)
    marks = torch.randint(0, 256, (h.numel() // 8,), generator=torch.Generator().manual_seed(3), dtype=torch.uint8).to(DEVICE)
    passed = torch.tensor([(byte >> bit) & 1 for byte in marks.tolist() for bit in range(8)], device=DEVICE).view(h.shape)
    abc = [draw(len(case[7]), h.shape[-1], like=F32) for _ in range(3)]
    z2, inputs = draw(*h.shape), {name: value for name, value in x.items() if name != "bias"}
    got = temporal_backward(h, **inputs, **options(case), fold=Fold(z2, *abc, marks, 1.6), bias=True)
    exact = {name: value.double() for name, value in inputs.items()}
    fold = Fold(z2.double(), *(t.double() for t in abc))
    want = reference.temporal_backward(
        h.double() * passed * 1.6, **exact, **options(case), center=None, fold=fold, bias=True
    )  # fmt: skip
    for name, ours, truth in zip(got._fields, got, want, strict=True):
        assert rms_error(ours, truth) <= 1e-5, name


def test_bit_equal_twice(triton):
    x, h, _ = problem(CASES[4])
    for first, second in zip(*(solve(temporal, x, h, F32, CASES[4]) for _ in range(2)), strict=True):
        assert torch.equal(first, second)


def test_rows_of_one_set_stand_alone(triton):
    """A slice of groups gives what the whole gave there: the key rows' output does not depend on the queries'."""
    x, _, _ = problem(CASES[0])
    z2, mean, var = temporal(**x, **options(CASES[0]))
    alone = dict(z1=x["z1"][3:], scale=x["scale"][3:], shift=x["shift"][3:], weight=x["weight"][1], bias=x["bias"][1])
    for part, whole in zip(temporal(**alone, groups=1), (z2, mean, var), strict=True):
        assert torch.equal(part, whole[3:])


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(groups=3), "4 rows do not divide into 3 groups"),
        (dict(stride=3), "stride 3: expected 1 or 2"),
        (dict(sets=(0, 0, 0, 2)), "expected one of 2 weight sets for each of 4 groups"),
        (dict(scale=torch.ones(4, 15)), "expected .groups, C. = .4, 16. both"),
        (dict(weight=torch.ones(2, 16, 16, 8)), "K odd"),
        (dict(bias=torch.ones(16)), "bias .16,."),
        (dict(z1=torch.ones(4, 25, 9, 16).transpose(1, 2)), "expected contiguous"),
    ],
)
def test_bad_input_is_one_sentence(change, message):
    x, _, _ = problem(CASES[0])
    x = {name: value.cpu() for name, value in x.items()}
    with pytest.raises(ValueError, match=message):
        temporal(**{**x, **options(CASES[0]), **change})


def test_wide_or_double_is_refused_by_the_kernels(triton):
    assert covers(128, 128, BF16) and not covers(129, 16, BF16) and not covers(16, 16, torch.float64)
    wide = (1, 2, 3, 129, 16, 9, 1, (0,), 0.0, F32)
    x, _, _ = problem(wide)
    with pytest.raises(ValueError, match="129 to 16 channels"):
        temporal(**x, **options(wide))
    with pytest.raises(ValueError, match="float64"):
        solve(temporal, *problem(CASES[3])[:2], torch.float64, CASES[3])


def test_traffic_is_near_its_floor():
    """Block 2 of the release at batch 128: each activation once, and little beside."""
    shape = dict(rows=1024, frames=50, joints=25, c_in=16, c_out=16, kernel=9, stride=1, groups=4, sets=2, dtype=BF16, slots=264)
    one = 1024 * 50 * 25 * 16 * 2
    forward = traffic(**shape)
    assert [name for name, _, _ in forward] == ["band", "forward"]
    assert 2 * one < sum(r + w for _, r, w in forward) < 2.05 * one
    backward = traffic(**shape, backward=True)
    assert [name for name, _, _ in backward] == ["band", "joint", "taps"]
    assert 4 * one < sum(r + w for _, r, w in backward) < 4.5 * one  # of which 13 MB are sums of the weights' gradient
    apart = traffic(**shape, backward=True, fold=False)
    assert sum(r for _, r, _ in backward) - sum(r for _, r, _ in apart) == one + 3 * 4 * 16 * 4  # z2, a, b, c
    wide = traffic(**shape | dict(dtype=F32), backward=True)
    assert {name for name, _, _ in wide} == {"band", "inputs", "weights", "diagonals"}
    assert 14 * one < sum(r + w for _, r, w in wide) < 16 * one
