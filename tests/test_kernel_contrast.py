"""Contrastive loss, its terms and gradient: the CPU backend and the Triton kernels against double and by hand."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import rms_error
from hiclr_kernels.contrast import contrast_op, hierarchical_contrast
from hiclr_kernels.contrast import cpu as contrast_cpu
from hiclr_kernels.contrast import reference as contrast_ref

WEIGHTS = (1.0, 0.5, 0.3, 0.2, 0.1)
INCOMING = 1.7  # gradient that arrives at the loss
DEVICES = {"cpu": "cpu", "triton": "cuda" if torch.cuda.is_available() else "cpu"}
BACKENDS = tuple(DEVICES)
# (B, N, Q, D, topk): every pair of values of B {1..4}, N {1, 3, 33, 130}, Q {1, 512, 1000}, D {64, 128, 256}, topk {0, 1, 3};
# the interpreter is too slow for every combination, which the CPU backend gets.
INTERPRETED = [
    (1, 1, 1000, 64, 1), (1, 3, 1, 64, 0), (1, 33, 512, 256, 1), (1, 130, 1000, 128, 3), (2, 1, 1, 256, 0),
    (2, 3, 1000, 128, 3), (2, 33, 512, 64, 3), (2, 130, 1, 64, 1), (3, 1, 512, 64, 3), (3, 1, 1000, 128, 0),
    (3, 3, 512, 128, 0), (3, 3, 1000, 256, 1), (3, 33, 1, 128, 0), (3, 130, 512, 64, 0), (4, 1, 512, 256, 3),
    (4, 3, 1, 128, 1), (4, 33, 1000, 64, 0), (4, 130, 1000, 256, 0),
]  # fmt: skip
AWKWARD = [(5, 2, 70, 96, 2), (2, 5, 65, 16, 4), (3, 2, 4, 100, 4)]  # D off the powers of two, five branches, topk = Q


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    if request.param == "triton":
        pytest.importorskip("triton")
    monkeypatch.setenv("HICLR_KERNELS", request.param)
    return request.param


@pytest.fixture
def poison(monkeypatch):
    """Fresh memory holds NaN, or an index far outside, so that an output that nobody wrote shows."""

    def filled(*args, **kwargs):
        out = empty(*args, **kwargs)
        return out.fill_(math.nan if out.is_floating_point() else 2**30)

    empty = torch.empty
    monkeypatch.setattr(torch, "empty", filled)


def problem(b, n, q, d, seed=0):
    """Unit rows in double; the branches and the key of one row resemble each other."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(b + 1, n, d, generator=g, dtype=torch.float64) / d**0.5
    rows = F.normalize(rows + 1.2 * F.normalize(torch.randn(n, d, generator=g, dtype=torch.float64), dim=-1), dim=-1)
    queue = F.normalize(torch.randn(q, d, generator=g, dtype=torch.float64), dim=-1)
    return rows[:b], rows[b], queue


def solve(function, tensors, dtype, device="cpu", **options):
    """loss, terms and gradient to q under an incoming gradient other than 1."""
    q, key, queue = (x.to(device, dtype) for x in tensors)
    q = q.clone().requires_grad_()
    options.setdefault("weights", WEIGHTS[: len(q)])
    loss, terms = function(q, key, queue, **options)
    (INCOMING * loss).backward()
    assert q.grad.dtype == dtype and loss.dtype == terms.dtype == torch.promote_types(dtype, torch.float32)
    assert not terms.requires_grad
    return loss.detach(), terms, q.grad


def reference(tensors, dtype=torch.float64, **options):
    return solve(contrast_ref.hierarchical_contrast, tensors, dtype, **options)


def check_against_double(case, backend):
    b, n, q, d, topk = case
    tensors = problem(b, n, q, d)
    out = solve(hierarchical_contrast, tensors, torch.float32, DEVICES[backend], topk=topk)
    errors = [rms_error(x.cpu(), y) for x, y in zip(out, reference(tensors, topk=topk), strict=True)]
    assert max(errors) <= 1e-5, (case, errors)  # NaN fails too
    return max(errors)


@pytest.mark.parametrize("q", [1, 512, 1000])
@pytest.mark.parametrize("d", [64, 128, 256])
def test_cpu_in_float32(q, d, monkeypatch, poison):
    monkeypatch.setenv("HICLR_KERNELS", "cpu")
    cases = itertools.product((1, 2, 3, 4), (1, 3, 33, 130), (q,), (d,), [k for k in (0, 1, 3) if k <= q])
    print("largest relative error", max(check_against_double(case, "cpu") for case in cases))


@pytest.mark.parametrize("case", [*AWKWARD, (3, 150, 5000, 32, 2)], ids=str)  # several chunks of rows and of the queue
def test_cpu_awkward_sizes(case, monkeypatch, poison):
    monkeypatch.setenv("HICLR_KERNELS", "cpu")
    check_against_double(case, "cpu")


@pytest.mark.parametrize("case", [*INTERPRETED, *AWKWARD], ids=str)
def test_triton_in_float32(case, monkeypatch, poison):
    pytest.importorskip("triton")
    monkeypatch.setenv("HICLR_KERNELS", "triton")
    print("relative error", check_against_double(case, "triton"))


def test_triton_splits_of_the_queue(monkeypatch, poison):
    """From one split to one a tile, the last one shorter."""
    launch = pytest.importorskip("hiclr_kernels.contrast.gpu")
    monkeypatch.setenv("HICLR_KERNELS", "triton")
    for slots in (1, 4, 200):
        monkeypatch.setattr(launch, "slots_of", lambda device, slots=slots: slots)
        check_against_double((2, 2, 1000, 64, 1), "triton")


def test_split_count_fills_the_waves():
    launch = pytest.importorskip("hiclr_kernels.contrast.gpu")
    for row_blocks, tiles in ((3, 512), (12, 512), (48, 512), (192, 512), (192, 3), (1, 1), (1000, 7)):
        splits = launch.split_count(row_blocks, tiles, 132)
        waves = row_blocks * splits / 132
        assert 1 <= splits <= tiles
        assert splits == tiles or waves / math.ceil(waves) >= launch.FULL_WAVE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", [(3, 33, 1000, 128, 0), (2, 3, 512, 64, 1), (3, 3, 512, 256, 0)], ids=str)
def test_16_bit_inputs(case, dtype, backend, poison):
    """Error against double on the unrounded inputs: at most 1.5 times that of the reference on the same rounded inputs."""
    b, n, q, d, topk = case
    tensors = problem(b, n, q, d)
    exact, ours = reference(tensors, topk=topk), reference(tensors, dtype, topk=topk)
    out = solve(hierarchical_contrast, tensors, dtype, DEVICES[backend], topk=topk)
    for name, x, r, y in zip(("loss", "terms", "gradient"), out, ours, exact, strict=True):
        error, allowed = rms_error(x.cpu(), y), 1.5 * rms_error(r, y)
        print(name, error, "allowed", allowed)
        assert error <= allowed, name


def test_double_on_cpu():
    tensors = problem(3, 33, 1000, 64)
    for topk in (0, 3):
        out = solve(hierarchical_contrast, tensors, torch.float64, topk=topk)
        for x, y in zip(out, reference(tensors, topk=topk), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-14)


def test_equal_keys(backend):
    """All logits of a row are equal: both kinds of term are log(Q + 1), the gradient is zero."""
    row = F.normalize(torch.randn(64, generator=torch.Generator().manual_seed(1)), dim=0)
    q, _, _ = problem(3, 5, 1, 64)
    _, terms, grad = solve(hierarchical_contrast, (q, row.expand(5, -1), row.expand(77, -1)), torch.float32, DEVICES[backend])
    torch.testing.assert_close(terms.cpu(), torch.full((3,), math.log(78)), rtol=1e-6, atol=0)
    assert grad.abs().max() < 1e-7 * 5 / 0.07


def test_mined_union_by_hand(backend):
    """Branches mine queue rows 2, 2 and 5: the positives are the key, row 2 once, and row 5."""
    axis = torch.eye(64)
    queue, key = axis[:8], axis[10:11]
    q = F.normalize(axis[10] + torch.stack([0.9 * axis[2] + 0.1 * axis[3], 0.8 * axis[2], 0.5 * axis[5]]), dim=-1)[:, None]
    loss, terms, grad = solve(
        hierarchical_contrast, (q, key, queue), torch.float32, DEVICES[backend], topk=1, temperature=0.5, weights=(1.0, 0.0, 0.0)
    )
    lse = torch.logsumexp(torch.cat([q[0] @ key.T, q[0] @ queue.T], dim=1) / 0.5, dim=1)
    positives = (key + queue[2] + queue[5]) / 3
    expected = lse - (q[0] * positives).sum() / 0.5
    torch.testing.assert_close(terms[:1].cpu(), expected)
    torch.testing.assert_close(loss.cpu(), expected[0])
    p = torch.softmax(torch.cat([q[0] @ key.T, q[0] @ queue.T], dim=1) / 0.5, dim=1)
    slope = p @ torch.cat([key, queue]) - positives
    torch.testing.assert_close(grad[0].cpu(), INCOMING * slope / 0.5)
    assert grad[1:].abs().max() == 0


def test_large_logits_stay_finite(backend):
    """Logits from -100 to 100: the positive may be the largest, the smallest, or one of two giants."""
    q, _, queue = problem(3, 3, 512, 64)
    key = q[0].clone()
    key[1] *= -1
    queue[100], queue[300] = q[0, 1], q[0, 2]
    tensors = (q, key, queue)
    out = solve(hierarchical_contrast, tensors, torch.float32, DEVICES[backend], temperature=0.01)
    for x, y in zip(out, reference(tensors, temperature=0.01), strict=True):
        assert torch.isfinite(x).all() and rms_error(x.cpu(), y) < 1e-5


def test_cpu_shifts_from_the_middle_of_the_queue(monkeypatch):
    """The first chunk of the queue needs no shift; the second one does, for one row; the others keep both chunks."""
    monkeypatch.setenv("HICLR_KERNELS", "cpu")
    q, key, queue = problem(3, 3, 2 * contrast_cpu.QUEUE_BLOCK, 64)
    key, queue = 0 * key, 0.1 * queue
    queue[-1] = q[0, 0] - q[0, 1] * (q[0, 0] @ q[0, 1]) / (q[0, 1] @ q[0, 1])
    out = solve(hierarchical_contrast, (q, key, queue), torch.float32, temperature=0.01)
    for x, y in zip(out, reference((q, key, queue), temperature=0.01), strict=True):
        assert rms_error(x, y) < 1e-5


def test_strided_inputs_and_autocast(backend):
    tensors = problem(2, 3, 300, 64)
    plain = solve(hierarchical_contrast, tensors, torch.float32, DEVICES[backend])
    q, key, queue = (x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in tensors)
    with torch.autocast(DEVICES[backend], dtype=torch.bfloat16):
        strided = solve(hierarchical_contrast, (q, key, queue), torch.float32, DEVICES[backend])
    for x, y in zip(plain, strided, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-7)


def test_gradient_reaches_q_only(backend):
    q, key, queue = (x.to(DEVICES[backend], torch.float32).requires_grad_() for x in problem(2, 3, 40, 64))
    loss, terms = hierarchical_contrast(q, key, queue, weights=(1.0, 0.5))
    loss.backward()
    assert q.grad is not None and key.grad is None and queue.grad is None and not terms.requires_grad


def test_operator_contract():
    """Schema, fake implementation and autograd registration, by torch's own checker."""
    q, key, queue = (x.float() for x in problem(3, 5, 40, 64))
    torch.library.opcheck(contrast_op, (q.requires_grad_(), key, queue, 0.07, [1.0, 0.5, 0.5], 1, "cpu", False))


def call(b=3, n=2, q=9, d=64, dtype=torch.float32, key_dtype=None, device="cpu", **options):
    x = torch.randn(b, n, d, dtype=dtype, device=device)
    return hierarchical_contrast(x, x[0].to(key_dtype or dtype), torch.randn(q, d, dtype=dtype, device=device), **options)


@pytest.mark.parametrize(
    ("kernels", "options", "message"),
    [
        ("fast", {}, "HICLR_KERNELS=fast: expected triton, cpu or reference"),
        ("cpu", {"weights": (1.0, 0.5)}, "2 weights for 3 branches"),
        ("cpu", {"key_dtype": torch.bfloat16}, "same floating dtype"),
        ("cpu", {"topk": 10}, "topk 10 with a queue of 9 rows"),
        ("triton", {"dtype": torch.float64}, "use cpu or reference for double"),
        ("triton", {"d": 257}, "go to D 256"),
        ("triton", {"topk": 5}, "topk 4"),
    ],
)
def test_bad_input_is_one_sentence(monkeypatch, kernels, options, message):
    if kernels == "triton":
        pytest.importorskip("triton")
    monkeypatch.setenv("HICLR_KERNELS", kernels)
    with pytest.raises(ValueError, match=message):
        call(device=DEVICES.get(kernels, "cpu"), **options)


def test_onednn_product(monkeypatch):
    """The product that goes to oneDNN equals the plain one, also on the transposed views that the sweep uses."""
    x, w = torch.randn(5, 70), torch.randn(70, 9)
    torch.testing.assert_close(contrast_cpu.matmul_t(x, w.T), x @ w)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    torch.testing.assert_close(contrast_cpu.matmul_t(x, w.T), x @ w)
