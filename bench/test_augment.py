"""Four views (basic, normal, strong, basic) of a batch of NTU shape, draws included: ours beside the field's per-sample numpy.

bytes = one read of the batch and four writes of it. copy_fraction: their rate over that of a plain copy of as many bytes,
measured in the same process just before. On CPU every variant has one thread, as the per-sample pipeline's process has.
"""

from functools import partial

import numpy as np
import pytest
import torch
from hiclr_kernels.augment import draw_views
from hiclr_kernels.augment.draw import Draws, draw_keep, draw_rows, switches
from hiclr_kernels.augment.reference import apply_view
from hiclr_kernels.philox.reference import uniform
from official_style import Views, basic, normal
from race import Entrant, calls_for, lap

from hiclr_fast.skeletons import LAYOUTS
from hiclr_fast.views.augment import AugmentConfig, make_views, view_strength

NTU = LAYOUTS["ntu25"]
KINDS, CONFIG, SHAPE = ("basic", "normal", "strong", "basic"), AugmentConfig(), (3, 50, 25, 2)
STRENGTHS = tuple(view_strength(kind, CONFIG, *SHAPE[1:3]) for kind in KINDS)
SEED, CHECKED = 5, 12  # samples that every variant is compared on before it is timed


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


def make(x, ids, step):
    return make_views(x, ids, ids, KINDS, CONFIG, NTU, seed=SEED, step=step)


def compiled(x, ids, step):
    """The reference as torch.compile builds it, for these very shapes."""
    function = torch.compile(reference, dynamic=False)
    try:
        function(x, ids, step)
    except torch._inductor.exc.InductorError as error:
        pytest.skip(f"torch.compile cannot build here: {str(error).splitlines()[0]}")
    return function


def copy_of(values: int, device: str):
    """A copy that reads half of 5 `values` and writes as many: the bytes of one read and four writes."""
    source = torch.zeros(values * 5 // 2, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def cases():
    """The reference needs minutes for 4096 samples on a CPU: eager Philox in int64."""
    for device in ("cpu", "cuda"):
        for batch in (128, 1024, 4096):
            variants = {"reference": False, "reference_compiled": True, "kernel": False, "copy": False}
            if device == "cpu":
                variants = {"official_style": False, **variants}
                variants |= dict.fromkeys(variants, True) if batch == 4096 else {}
            else:
                variants["kernel_graphed"] = False
            for variant, full in variants.items():
                if device == "cpu" and batch == 4096 and variant.startswith("reference"):
                    continue
                marks = [pytest.mark.gpu] * (device == "cuda") + [pytest.mark.full] * full
                yield pytest.param(device, batch, variant, id=f"{device}-{batch}-{variant}", marks=marks)


@pytest.mark.parametrize(("device", "batch", "variant"), list(cases()))
def test_augment(race, graphed, tiny, device, batch, variant):
    """official_style: one process, every sample of the batch, then the collate of a DataLoader. kernel: numba on CPU, Triton on
    GPU, called one by one; kernel_graphed: replayed as in the training step's graph."""
    batch = 4 if tiny else batch
    x = torch.randn(max(batch, CHECKED), *SHAPE, generator=torch.Generator().manual_seed(0)) * 0.3
    values = batch * int(np.prod(SHAPE))

    def build(variant: str) -> Entrant:
        there, ids = x.to(device), torch.arange(batch, device=device)
        step, views = torch.tensor(0, device=device), Views(x.numpy())
        copy = Entrant(copy_of(values, device))
        many = calls_for(copy)
        copy_seconds = sorted(lap(copy, many) for _ in range(11))[5]

        def derive(seconds: float) -> dict:
            return {"gb_per_s": 5 * 4 * values / seconds / 1e9, "copy_fraction": copy_seconds / seconds}

        if variant == "copy":
            call = copy.call
        elif variant == "official_style":
            check_official(x)

            def call():
                return torch.utils.data.default_collate([views[i] for i in range(batch)])
        else:
            function = {"reference": reference, "reference_compiled": None}.get(variant, make)
            function = function or compiled(there, ids, step)
            check(function, there)
            call = partial(function, there, ids, step)
        return Entrant(graphed(call) if variant == "kernel_graphed" else call, derive=derive)

    facts = dict(op="augment", device=device, dtype="float32", shape=f"N{batch} T50 V25 M2 views4")
    race(build, items=batch, **facts)
