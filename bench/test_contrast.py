"""Contrastive loss, forward and backward: ours beside the materialised way of the field, a chunked one and flash attention.

flops = 4 B N Q D: every logit once, every weighted row once; tflops is their rate. matmul_fraction: that rate over the rate of
one large matrix product in the same dtype, measured in the same process just before. peak_mb: memory beyond what was there
before the call (CPU: resident set, Linux only; GPU: torch's allocator), of a call of its own, not of the timed ones.
"""

import ctypes
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hiclr_kernels.contrast import cpu as contrast_cpu
from hiclr_kernels.contrast import hierarchical_contrast
from hiclr_kernels.contrast import reference as contrast_ref
from official_style import plain_loss
from race import Entrant

BRANCHES, D, TEMPERATURE, WEIGHTS = 3, 128, contrast_ref.TEMPERATURE, contrast_ref.WEIGHTS
SIZES = {
    "cpu": ((128, 32768), (1024, 32768), (512, 32768), (2048, 32768), (128, 262144)),
    "cuda": tuple((n, q) for n in (128, 512, 2048, 8192) for q in (32768, 262144)),
}
USUAL = ((128, 32768), (1024, 32768))  # sizes on a CPU without --full
SLOW = ("reference", "chunked")  # and which variants only the smaller of them has
CHUNK = 32  # rows of the chunked variant
CHECKED = 32  # rows on which every variant is compared with double before it is timed
COPIES = 20  # (N, Q) float32 arrays that the materialised loss holds at its peak, as measured on a CPU
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def problem(n: int, q: int):
    g = torch.Generator().manual_seed(0)
    centre = torch.randn(n, D, generator=g)
    rows = F.normalize(centre + torch.randn(BRANCHES + 1, n, D, generator=g), dim=-1)
    return rows[:BRANCHES], rows[BRANCHES], F.normalize(torch.randn(q, D, generator=g), dim=-1)


def official_style(q, key, queue):
    """queue: (D, Q), as the field keeps it."""
    loss = plain_loss(q.unbind(), key, queue, TEMPERATURE)
    return loss, torch.autograd.grad(loss, q)[0]


def reference(q, key, queue):
    loss, _ = contrast_ref.hierarchical_contrast(q, key, queue)
    return loss, torch.autograd.grad(loss, q)[0]


def chunked(q, key, queue):
    """The reference over a few rows at a time, backward at once."""
    n, total, grads = len(key), 0, []
    for rows, keys in zip(q.split(CHUNK, dim=1), key.split(CHUNK), strict=True):
        loss, grad = reference(rows, keys, queue)
        total = total + loss.detach() * len(keys) / n
        grads.append(grad * len(keys) / n)
    return total, torch.cat(grads, dim=1)


def sdpa(q, key, queue):
    """torch's flash attention with values = keys; the key joins by log-sum-exp; then the same algebra as ours."""
    rows, n = q.detach().reshape(1, 1, -1, D), len(key)
    if q.device.type == "cpu":
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    else:
        attend = torch.ops.aten._scaled_dot_product_flash_attention
    mean, lse = attend(rows, queue[None, None], queue[None, None], scale=1 / TEMPERATURE)[:2]
    mean, lse = mean.view(BRANCHES, n, D).float(), lse.view(BRANCHES, n, 1).float()
    q, key = q.detach().float(), key.float()
    positive = (q * key).sum(-1, keepdim=True) / TEMPERATURE
    lse, queue_lse = torch.logaddexp(lse, positive), lse
    mean = mean * (queue_lse - lse).exp() + key * (positive - lse).exp()
    target = torch.cat([key[None], mean[:-1]])
    weight = torch.tensor(WEIGHTS, device=q.device)[:, None, None]
    loss = (weight * (lse - (q * target).sum(-1, keepdim=True) / TEMPERATURE)).sum() / n
    return loss, weight * (mean - target) / (n * TEMPERATURE)


def kernel(q, key, queue):
    loss, _ = hierarchical_contrast(q, key, queue)
    return loss, torch.autograd.grad(loss, q)[0]


VARIANTS = {f.__name__: f for f in (official_style, reference, chunked, sdpa, kernel)}
GRAPHED = "kernel_graphed"  # the kernel, replayed as in the training step's graph; CUDA only


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))


def available_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), 8 << 30)


def peak_bytes(run, device: str) -> int | None:
    """Memory of one call beyond what was there before."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if not Path("/proc/self/clear_refs").exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed goes back, so that this call has to ask for its own
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    run()
    return resident("VmHWM") - before


def seconds(run, device: str, repeats: int = 5) -> float:
    """Median after one warm-up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeats // 2]


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a large square product, by the fastest library at hand."""
    side = 1024 if device == "cpu" else 8192
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    product = contrast_cpu.matmul_t if device == "cpu" else torch.mm
    return 2 * side**3 / seconds(lambda: product(a, b), device, repeats=9)


def arguments(variant: str, device: str, dtype: torch.dtype, n: int, q: int):
    query, key, queue = (x.to(device, dtype) for x in problem(n, q))
    return query.requires_grad_(), key, queue.T.contiguous() if variant == "official_style" else queue


def check(variant: str, device: str, dtype: torch.dtype, q: int) -> None:
    """A variant whose loss or gradient differs from the reference in double is not timed."""
    loss, grad = VARIANTS[variant](*arguments(variant, device, dtype, CHECKED, q))
    query, key, queue = (x.double() for x in problem(CHECKED, q))
    want_loss, want_grad = reference(query.requires_grad_(), key, queue)
    error = max((a.double().cpu() - b).norm().item() / b.norm().item() for a, b in ((loss, want_loss), (grad, want_grad)))
    assert error <= TOLERANCE[dtype], f"relative error {error:.1e}: not timed"


def cases():
    for device, sizes in SIZES.items():
        for n, q in sizes:
            for dtype in (torch.float32,) if device == "cpu" else (torch.float32, torch.bfloat16):
                for variant in VARIANTS if device == "cpu" else (*VARIANTS, GRAPHED):
                    if variant == "official_style" and dtype != torch.float32:
                        continue  # the field's log of a softmax is unsafe in half precision; its float32 run is the yardstick
                    if variant == "sdpa" and device == "cuda" and dtype == torch.float32:
                        continue  # flash attention on CUDA takes 16-bit inputs only
                    full = device == "cpu" and ((n, q) not in USUAL or (variant in SLOW and n > 128))
                    marks = [pytest.mark.gpu] * (device == "cuda") + [pytest.mark.full] * full
                    name = f"{device}-N{n}-Q{q}-{str(dtype)[6:]}-{variant}"
                    yield pytest.param(device, n, q, dtype, variant, marks=marks, id=name)


@pytest.mark.parametrize(("device", "n", "q", "dtype", "variant"), list(cases()))
def test_contrast(race, graphed, tiny, device, n, q, dtype, variant):
    n, q = (CHECKED, 256) if tiny else (n, q)

    def build(variant: str, dtype: torch.dtype) -> Entrant:
        if variant in ("official_style", "reference") and COPIES * n * q * 4 > available_bytes(device):
            pytest.skip("the logits do not fit in memory")
        name = "kernel" if variant == GRAPHED else variant
        check(name, device, dtype, q)
        tensors = arguments(name, device, dtype, n, q)

        def call():
            VARIANTS[name](*tensors)

        rate = matmul_rate(device, dtype)
        call()
        peak = peak_bytes(call, device)

        def derive(seconds: float) -> dict:
            done = 4 * BRANCHES * n * q * D / seconds
            return {"tflops": done / 1e12, "matmul_fraction": done / rate}

        info = {"peak_mb": peak / 1e6 if peak is not None else None}
        return Entrant(graphed(call) if variant == GRAPHED else call, info=info, derive=derive)

    facts = dict(op="contrast", device=device, shape=f"B{BRANCHES} N{n} Q{q} D{D}")
    race(build, items=n, alternate=device == "cpu", **facts)
