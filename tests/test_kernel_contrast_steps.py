"""The contrastive kernel in use: recorded steps, training, torch.compile, CUDA graphs, a queue of a million rows."""

import subprocess
import sys
import textwrap

import pytest
import test_contrast
import torch
import torch.nn.functional as F
from conftest import rms_error
from hiclr_kernels.contrast import hierarchical_contrast
from hiclr_kernels.contrast import reference as contrast_ref
from hiclr_kernels.queue import queue_update
from test_kernel_contrast import BACKENDS, DEVICES, problem, reference, solve

from hiclr_fast.models import hiclr, layers, stgcn


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    if request.param == "triton":
        pytest.importorskip("triton")
    monkeypatch.setenv("HICLR_KERNELS", request.param)
    return request.param


@pytest.mark.parametrize("size", test_contrast.SIZES)
@pytest.mark.parametrize(("run", "recorded", "topk"), [("a1", "a1/f64", 0), ("b1", "b1/f64", 1), ("b1", "b1_topk3", 3)])
def test_recorded_losses(golden, backend, size, run, recorded, topk):
    """Terms and loss of recorded steps of the official processor; recorded noise of one float32 step is 1e-6."""
    g = golden("stgcn_train_step")
    q = torch.stack([g.t(f"{size}/{run}/f64/{name}") for name in ("q", "q_1", "q_2")])
    tensors = q, g.t(f"{size}/{run}/f64/k"), g.t(f"{size}/init/queue").T
    options = dict(topk=topk, weights=contrast_ref.WEIGHTS)
    loss, terms, grad = solve(hierarchical_contrast, tensors, torch.float32, DEVICES[backend], **options)
    expected = g.t(f"{size}/{recorded}/losses")
    torch.testing.assert_close(torch.cat([terms, loss[None]]).cpu().double(), expected, rtol=0, atol=4e-6)
    assert rms_error(grad.cpu(), reference(tensors, **options)[2]) <= 1e-5


def test_recorded_step_through_the_encoder(golden, backend, monkeypatch):
    """A whole step with mining and torch's encoder: every parameter's gradient is that of the reference."""
    if DEVICES[backend] != "cpu":
        pytest.skip("a model on the CPU; on the GPU the recorded losses above and the twins of test_graph.py say as much")
    monkeypatch.setattr(layers, "plain", lambda: False)  # the same batch norm in both
    for module in (layers, stgcn, hiclr):
        monkeypatch.setattr(module, "on_triton", lambda *_: False)
    g = golden("stgcn_train_step")
    steps = []
    for kernels in (backend, "reference"):
        monkeypatch.setenv("HICLR_KERNELS", kernels)
        model = test_contrast.load(g, "small", torch.float32)
        steps.append(test_contrast.run_step(model, g, "small/b1", 1, 1, torch.float32))
    (terms, loss, *_, grads), (expected_terms, expected_loss, *_, expected_grads) = steps
    torch.testing.assert_close(terms, expected_terms, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=1e-6)
    total = torch.stack([x.norm() for x in expected_grads.values()]).norm()
    for name, grad in grads.items():
        assert (grad - expected_grads[name]).norm() <= 1e-5 * max(total * 1e-1, expected_grads[name].norm()), name


def train(monkeypatch, backend: str, steps=32):
    """Losses, queue and weights of a linear encoder trained with a queue; mining from the middle on."""
    monkeypatch.setenv("HICLR_KERNELS", backend)
    g = torch.Generator().manual_seed(3)
    data, encoder = torch.randn(24, 20, generator=g), torch.nn.Linear(20, 64, bias=False)
    encoder.weight.data = torch.randn(64, 20, generator=g) / 20**0.5
    queue, pointer = F.normalize(torch.randn(96, 64, generator=g), dim=1), torch.zeros((), dtype=torch.int64)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1, momentum=0.9)
    start, losses = encoder.weight.detach().clone(), []
    for step in range(steps):
        x = data[torch.randperm(24, generator=g)[:6]]
        q = torch.stack([F.normalize(encoder(x + s * torch.randn(6, 20, generator=g)), dim=1) for s in (0.1, 0.3, 0.6)])
        key = F.normalize(encoder(x + 0.1 * torch.randn(6, 20, generator=g)), dim=1).detach()
        loss, _ = hierarchical_contrast(q, key, queue, topk=int(step >= steps // 2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        queue_update(queue, pointer, key)
        losses.append(loss.item())
    assert (encoder.weight - start).norm() > 0.1 * start.norm()
    return torch.tensor(losses), queue, encoder.weight.detach()


def test_training_twin(monkeypatch):
    """32 steps with either backend and with the reference: the same losses, queue and weights."""
    expected = train(monkeypatch, "reference")
    for backend in BACKENDS if DEVICES["triton"] == "cpu" else ("cpu",):
        for x, y in zip(train(monkeypatch, backend), expected, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_torch_compile(backend):
    q, key, queue = (x.to(DEVICES[backend], torch.float32) for x in problem(3, 5, 200, 64))
    compiled = torch.compile(hierarchical_contrast, backend="aot_eager", fullgraph=True)
    for a, b in zip(
        solve(compiled, (q, key, queue), torch.float32, DEVICES[backend], topk=1),
        solve(hierarchical_contrast, (q, key, queue), torch.float32, DEVICES[backend], topk=1),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("topk", [0, 1])
def test_cuda_graph(topk):
    """Captured whole, replayed on new inputs, equal to the eager call."""
    static, fresh = ([x.cuda().float() for x in problem(3, 128, 4096, 128, seed)] for seed in (0, 1))
    q = static[0].requires_grad_()
    options = dict(weights=(1.0, 0.5, 0.5), topk=topk)
    torch.autograd.grad(hierarchical_contrast(q, *static[1:], **options)[0], q)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss, terms = hierarchical_contrast(q, *static[1:], **options)
        (grad,) = torch.autograd.grad(loss, q)
    with torch.no_grad():
        for old, new in zip(static, fresh, strict=True):
            old.copy_(new)
    graph.replay()
    expected, expected_terms = hierarchical_contrast(fresh[0].requires_grad_(), *fresh[1:], **options)
    torch.testing.assert_close(terms, expected_terms)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, fresh[0])[0])


LONG_QUEUE = textwrap.dedent("""
    import os, resource, torch
    from hiclr_kernels import contrast
    from hiclr_kernels.contrast import reference as contrast_ref
    torch.manual_seed(0)
    rows = lambda *shape: torch.nn.functional.normalize(torch.randn(shape), dim=-1)
    q, key, queue = rows(3, 64, 16).requires_grad_(), rows(64, 16), rows(1 << 20, 16)
    contrast.hierarchical_contrast(q, key, queue[:4096])[0].backward()  # threads and libraries are loaded
    q.grad = None
    used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    logits = 3 * 64 * len(queue) * 4
    resource.setrlimit(resource.RLIMIT_AS, (used + logits // 8, -1))
    loss, terms = contrast.hierarchical_contrast(q, key, queue)
    loss.backward()
    weakest = torch.full((64,), float("-inf"), dtype=torch.float64)
    for chunk in queue.split(1 << 14):
        weakest = torch.logaddexp(weakest, (q[0].detach().double() @ chunk.double().T / 0.07).logsumexp(1))
    positive = (q[0].detach().double() * key.double()).sum(1) / 0.07
    info_nce = (torch.logaddexp(weakest, positive) - positive).mean()
    assert abs(terms[0] - info_nce) < 1e-5 * info_nce and torch.isfinite(q.grad).all() and q.grad.norm() > 0
    try:
        contrast_ref.hierarchical_contrast(q, key, queue)
    except RuntimeError as error:
        assert "allocate memory" in str(error), error
        print("the logits did not fit")
""")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and RLIMIT_AS")
def test_queue_of_a_million_rows():
    """Fits in an eighth of the memory of one copy of the logits, where the materialised version does not."""
    done = subprocess.run([sys.executable, "-c", LONG_QUEUE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "did not fit" in done.stdout


def test_imports_without_triton():
    code = """
import sys; sys.modules["triton"] = None
import torch; from hiclr_kernels.contrast import hierarchical_contrast
x = torch.nn.functional.normalize(torch.randn(3, 4, 16), dim=-1)
hierarchical_contrast(x, x[0], x[1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
