"""Four views (basic, normal, strong, basic) of a batch of NTU shape, draws included: ours beside the field's per-sample numpy.

bytes = one read of the batch and four writes of it. copy_fraction: their rate over that of a plain copy of as many bytes,
measured in the same process just before. On CPU every variant has one thread, as the per-sample pipeline's process has.
"""

import time

import numpy as np
import pytest
import torch
from hiclr_kernels.augment import draw_views
from hiclr_kernels.augment.draw import Draws, draw_keep, draw_rows, switches
from hiclr_kernels.augment.reference import apply_view
from hiclr_kernels.philox.reference import uniform
from official_style import Views, basic, normal

from hiclr_fast.skeletons import LAYOUTS
from hiclr_fast.views.augment import AugmentConfig, make_views, view_strength

NTU = LAYOUTS["ntu25"]
KINDS, CONFIG, SHAPE = ("basic", "normal", "strong", "basic"), AugmentConfig(), (3, 50, 25, 2)
STRENGTHS = tuple(view_strength(kind, CONFIG, *SHAPE[1:3]) for kind in KINDS)
BATCHES = (128, 1024, 4096)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
CALLS = {"cpu": 1, "cuda": 20}  # of short kernels, between two waits for the device
SEED, CHECKED = 5, 12  # samples that every variant is compared on before it is timed


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def dataset():
    return torch.randn(max(BATCHES), *SHAPE, generator=torch.Generator().manual_seed(0)) * 0.3


def reference(x: torch.Tensor, ids: torch.Tensor, step: torch.Tensor) -> list[torch.Tensor]:
    """The batched plain-torch views, mask filled with 0."""
    rows = draw_rows(STRENGTHS, ids, step, SEED)
    keep = draw_keep(STRENGTHS, ids, step, SEED, *SHAPE[1:3], False)
    draws = Draws(rows, *switches(STRENGTHS), keep, None, SEED, step, ids)
    raw = x[ids]
    tables = dict(mirror=NTU.mirror, parents=NTU.parents)
    return [apply_view(raw, draws.view(w, SHAPE), **tables) for w in range(len(KINDS))]


def check(make, x: torch.Tensor) -> None:
    """A variant that makes other views than the reference in double is not timed."""
    ids, step = torch.arange(CHECKED, device=x.device), torch.tensor(3, device=x.device)
    for out, want in zip(make(x, ids, step), reference(x.double(), ids, step), strict=True):
        error = ((out.double() - want).norm() / want.norm()).item()
        assert error < 1e-6, f"relative RMS error {error:.1e}: not timed"


class Replay:
    """A numpy generator that returns recorded draws in order."""

    def __init__(self, draws):
        self.draws = list(draws)

    def _next(self, *_):
        return self.draws.pop(0)

    integers = uniform = random = normal = _next


def check_official(x: torch.Tensor) -> None:
    """The per-sample operations give the reference's basic and normal views from the same draws (fill and mask apart)."""
    ids, step = torch.arange(CHECKED), torch.tensor(3)
    draws = draw_views(STRENGTHS, ids, step, seed=SEED, frames=50, joints=25)
    want = reference(x.double(), ids, step)
    for w, kind in enumerate(KINDS[:2]):
        u = uniform(SEED, torch.tensor(w), ids, step, 20).double().numpy()
        noise = draws.view(w, SHAPE).noise
        for i in range(CHECKED):
            d, off = u[i], u[i, 1:7] - 0.5
            recorded = [int(d[0] * 17), off[[0, 2, 4]], off[[1, 3, 5]]]
            if kind == "normal":
                main = int(d[8] * 3)
                recorded += [d[7], main, *(d[9 + a] * (30 if a == main else 1) for a in range(3)), d[12]]
                recorded += [noise[i].double().numpy()] * int(d[12] < 0.5) + [0.1 + 1.9 * d[13], d[14], d[15]]
                recorded += [int(d[16] * 3)] * int(d[15] < 0.5)
            out = (basic if kind == "basic" else normal)(x[i].double().numpy(), Replay(recorded))
            visible = np.abs(out).max((1, 2, 3), keepdims=True) > 0  # noise of the hidden axis is folded away
            np.testing.assert_allclose(out, want[w][i].numpy() * visible, rtol=0, atol=1e-4 * np.abs(out).max())


def facts(batch: int, device: str, variant: str) -> tuple[dict, int]:
    """extra_info, and the bytes that have to move."""
    moved = 5 * batch * int(np.prod(SHAPE)) * 4
    shape = f"N{batch} T50 V25 M2 views4"
    return dict(op="augment", variant=variant, device=device, dtype="float32", shape=shape, items=batch), moved


def timed(measure, benchmark, run, batch, device, variant, copy_seconds, rounds=5, calls=1):
    """Times `run` and adds GB/s and the fraction of the copy."""
    info, moved = facts(batch, device, variant)
    measure(run, rounds=rounds, calls=calls, **info)
    if benchmark.stats is not None:
        seconds = benchmark.stats.stats.median
        benchmark.extra_info |= {"gb_per_s": moved / seconds / 1e9, "copy_fraction": copy_seconds / seconds}


def copy_run(batch: int, device: str):
    """A copy that reads 2.5 and writes 2.5 batches: as many bytes as one read and four writes."""
    source = torch.zeros(batch * int(np.prod(SHAPE)) * 5 // 2, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


@pytest.fixture
def copy_seconds(batch, device):
    """Median seconds of the copy; on CUDA many are launched before one wait."""
    run, times, calls = copy_run(batch, device), [], CALLS[device]
    for _ in range(11):
        start = time.perf_counter()
        for _ in range(calls):
            run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / calls)
    return sorted(times)[len(times) // 2]


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize("batch", BATCHES)
def test_official_style(measure, benchmark, dataset, copy_seconds, batch, device):
    """One process, every sample of the batch, then the collate of a DataLoader."""
    check_official(dataset)
    views = Views(dataset.numpy())

    def run():
        return torch.utils.data.default_collate([views[i] for i in range(batch)])

    timed(measure, benchmark, run, batch, device, "official_style", copy_seconds, rounds=max(1, 512 // batch))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch", BATCHES)
def test_reference(measure, benchmark, dataset, copy_seconds, batch, device):
    if device == "cpu" and batch > 1024:
        pytest.skip("minutes a call on a CPU: eager Philox in int64")
    x, ids = dataset.to(device), torch.arange(batch, device=device)
    check(reference, x)
    step = torch.tensor(0, device=device)
    timed(measure, benchmark, lambda: reference(x, ids, step), batch, device, "reference", copy_seconds, rounds=2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch", BATCHES)
def test_reference_compiled(measure, benchmark, dataset, copy_seconds, batch, device):
    x, ids = dataset.to(device), torch.arange(batch, device=device)
    compiled, step = torch.compile(reference, dynamic=False), torch.tensor(0, device=device)
    try:
        compiled(x, ids, step)
    except torch._inductor.exc.InductorError as error:
        pytest.skip(f"torch.compile cannot build here: {str(error).splitlines()[0]}")
    check(compiled, x)
    timed(measure, benchmark, lambda: compiled(x, ids, step), batch, device, "reference_compiled", copy_seconds, rounds=2)


def make(x, ids, step):
    return make_views(x, ids, ids, KINDS, CONFIG, NTU, seed=SEED, step=step)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch", BATCHES)
def test_kernel(measure, benchmark, dataset, copy_seconds, batch, device):
    """numba on CPU, Triton on GPU, called one by one."""
    x, ids, step = dataset.to(device), torch.arange(batch, device=device), torch.tensor(0, device=device)
    check(make, x)
    timed(measure, benchmark, lambda: make(x, ids, step), batch, device, "kernel", copy_seconds, rounds=21)


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda"])
@pytest.mark.parametrize("batch", BATCHES)
def test_kernel_graphed(measure, benchmark, graphed, dataset, copy_seconds, batch, device):
    """Triton, replayed as in the training step's graph."""
    x, ids, step = dataset.to(device), torch.arange(batch, device=device), torch.tensor(0, device=device)
    check(make, x)
    run = graphed(lambda: make(x, ids, step))
    timed(measure, benchmark, run, batch, device, "kernel_graphed", copy_seconds, rounds=21, calls=CALLS[device])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch", BATCHES)
def test_copy(measure, benchmark, copy_seconds, batch, device):
    timed(measure, benchmark, copy_run(batch, device), batch, device, "copy", copy_seconds, rounds=21, calls=CALLS[device])
