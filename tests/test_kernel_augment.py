"""Every backend of the augmentation against the recordings and, on awkward sizes, against the reference in double."""

import math

import pytest
import torch
from conftest import rms_error
from hiclr_kernels.augment import apply_views, cpu, draw_views
from hiclr_kernels.augment.draw import NOISE_BLOCK, Draws, ViewStrength, draw_rows, pack
from hiclr_kernels.augment.reference import ViewParams
from hiclr_kernels.memory import Reused
from hiclr_kernels.philox.reference import uniform
from test_kernel_augment_reference import basic_params, normal_params

from hiclr_fast.skeletons import LAYOUTS

NTU = LAYOUTS["ntu25"]
TABLES = dict(mirror=NTU.mirror, parents=NTU.parents)
TIGHT = dict(rtol=0, atol=1e-10)
PADDING = 50 // 6
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BACKENDS = ("reference", "cpu", "triton")


@pytest.fixture
def g(golden):
    return golden("augment")


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    monkeypatch.setenv("HICLR_KERNELS", request.param)
    if request.param == "triton":
        pytest.importorskip("triton")
        from hiclr_kernels.augment import gpu as augment_triton

        if DEVICE == "cpu":  # the interpreter's time is per operation: fewer, larger tiles
            monkeypatch.setattr(augment_triton, "BLOCK", 512)
    return request.param


def device_of(backend):
    return DEVICE if backend != "cpu" else "cpu"


def to(draws: Draws, device) -> Draws:
    return Draws(**{k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in vars(draws).items()})


def poison(monkeypatch):
    """torch.empty gives NaN (255 for bytes), and memory is never old, so that a value that nobody writes shows."""
    empty = torch.empty
    monkeypatch.setattr(cpu, "OUTPUT", Reused())
    monkeypatch.setattr(
        torch, "empty", lambda *a, **kw: empty(*a, **kw).fill_(255 if kw.get("dtype") == torch.uint8 else torch.nan)
    )


def test_every_backend_makes_the_recorded_views(g, backend):
    """Basic and normal view of the six recorded samples, and a masked one, gathered by index from a larger set."""
    keep = g.t("mask/jointmask/mask_TV", torch.float32)
    views = [ViewParams(**basic_params(g)), ViewParams(**normal_params(g)), ViewParams(joint_keep=keep)]
    device, index = device_of(backend), torch.tensor([3, 8, 1, 0, 6, 2])
    x = torch.full((9, 3, 50, 25, 2), torch.nan)
    x[index] = g.t("x", torch.float32)
    fill = torch.tensor([0.125], device=device)
    draws = to(pack(views, 6, x.shape[1:]), device)
    basic, normal, masked = apply_views(x.to(device), index.to(device), draws, **TABLES, fill=fill)
    assert rms_error(basic.cpu(), g.t("basic/out_f64")) < 1e-6
    assert rms_error(normal.cpu(), g.t("strong/out_f64")) < 1e-6
    torch.testing.assert_close(masked.cpu(), torch.where(keep[:, :, None] == 0, 0.125, g.t("x", torch.float32)), rtol=0, atol=0)
    axis = g.t("strong/axis", torch.int64)
    assert all(bool((normal[i, a] == 0).all()) for i, a in enumerate(axis.tolist()) if a >= 0)


EVERYTHING = ViewStrength(4, 0.5, 0.5, 30, 1, 0.01, 0.5, (0.1, 2.0), 0.5, False, 0.5, 0.5, 0)
VIEWS = (ViewStrength(padding=4, shear=0.5), EVERYTHING, ViewStrength(6, 0.5, 1, 200, 1, 0.01, 1, (1, 2), 1, True, 0, 0.5, 3))


@pytest.mark.parametrize(
    ("frames", "joints", "bodies", "stream", "per_sample", "seed"),
    [
        (50, 25, 2, "joint", False, 0),
        (37, 25, 1, "motion", True, 1),
        (37, 20, 3, "bone", True, (1 << 63) - 1),
        (50, 17, 1, "joint", True, 1 << 40),
        (9, 17, 2, "motion", False, 5),
        (1, 3, 1, "joint", False, 6),
    ],
)
def test_backends_against_the_reference_in_double(backend, monkeypatch, frames, joints, bodies, stream, per_sample, seed):
    """Same rows, masks, noise bits and views from the same counters; whole numbers and masks equal, the rest to rounding."""
    torch.manual_seed(0)
    device = device_of(backend)
    mirror, parents = torch.randperm(joints).tolist(), torch.randint(joints, (joints,)).tolist()
    x, index = torch.randn(7, 3, frames, joints, bodies), torch.tensor([6, 0, 3, 3])
    sample, step = torch.tensor([5, 1 << 30, 77, 4]), torch.tensor(123)
    sizes = dict(seed=seed, frames=frames, joints=joints, mask_per_sample=per_sample)
    strengths = [replaced(s, frames) for s in VIEWS]
    poison(monkeypatch)
    draws = draw_views(strengths, sample.to(device), step.to(device), **sizes)
    fill = torch.tensor([0.5], device=device, requires_grad=True)
    tables = dict(mirror=mirror, parents=parents, stream=stream)
    views = apply_views(x.to(device), index.to(device), draws, **tables, fill=fill)
    monkeypatch.undo()
    monkeypatch.setenv("HICLR_KERNELS", "reference")
    want = draw_views(strengths, sample, step, **sizes)
    torch.testing.assert_close(draws.rows.cpu(), want.rows, rtol=0, atol=2e-6)
    whole = slice(27, 32)
    assert torch.equal(draws.rows[..., whole].cpu(), want.rows[..., whole]) and torch.equal(draws.keep.cpu(), want.keep)
    doubled = Draws(draws.rows.double().cpu(), draws.masked, draws.noisy, draws.keep.cpu(), None, seed, step, sample)
    exact = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    twins = apply_views(x.double(), index, doubled, **tables, fill=exact, out_dtype=torch.float64)
    for out, twin in zip(views, twins, strict=True):
        error = rms_error(out.cpu(), twin)
        print(f"relative RMS error {error:.1e}")
        assert error < 1e-6
    grad = torch.randn_like(twins[2])
    assert [v.requires_grad for v in views] == [False, False, True]
    views[2].backward(grad.float().to(device))
    twins[2].backward(grad)
    torch.testing.assert_close(fill.grad.cpu().double(), exact.grad, rtol=1e-5, atol=1e-5)


def replaced(strength: ViewStrength, frames: int) -> ViewStrength:
    return ViewStrength(**{**vars(strength), "padding": min(strength.padding, frames // 6)})


def test_uniform_bits_and_normals(backend):
    """Uniforms are bit-equal (read off unrotated shears); normals are within 2e-6 of Box-Muller in float64."""
    device, step, ids = device_of(backend), torch.tensor(9), torch.tensor([0, 3, 1 << 31])
    strengths = [ViewStrength(shear=0.5), ViewStrength(noise_std=1.0, noise_p=1.0)]
    draws = draw_views(strengths, ids.to(device), step.to(device), seed=(7 << 32) + 5, frames=50, joints=25)
    assert torch.equal(draws.rows[:, 0].cpu(), draw_rows(strengths, ids, step, (7 << 32) + 5)[:, 0])
    zero = torch.zeros(1, 3, 50, 25, 1, device=device)
    out = apply_views(zero, torch.zeros(3, dtype=torch.int64, device=device), draws, **TABLES)[1].cpu().double()
    view, quarter = torch.ones_like(ids), 313  # ceil(1250 / 4)
    u = uniform((7 << 32) + 5, view, ids, step, 12 * quarter, first_block=NOISE_BLOCK).double().view(3, 3, quarter, 2, 2)
    radius, angle = torch.sqrt(-2 * torch.log1p(-u[..., 0])), 2 * math.pi * u[..., 1]
    z = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)  # (N, 3, quarter, pair, 2)
    want = z.permute(0, 1, 3, 4, 2).reshape(3, 3, -1)[..., :1250].reshape(out.shape)
    print(f"largest error of a normal {(out - want).abs().max():.1e}")
    torch.testing.assert_close(out, want, rtol=0, atol=2e-6)


def test_out_dtype_and_memory_layout(backend):
    device = device_of(backend)
    x, ids = torch.randn(3, 3, 12, 25, 2, device=device), torch.arange(3, device=device)
    sizes = dict(seed=0, frames=12, joints=25)
    draws = draw_views([EVERYTHING], ids, torch.tensor(0, device=device), **sizes)
    (wide,) = apply_views(x, ids, draws, **TABLES)
    (half,) = apply_views(x, ids, draws, **TABLES, out_dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and half.shape == wide.shape == x.shape
    torch.testing.assert_close(half.float(), wide, rtol=2**-7, atol=1e-6)  # the interpreter truncates
    if backend != "reference":  # (N, M, T, V, C): the encoder's rows need no copy
        assert wide.permute(0, 4, 2, 3, 1).is_contiguous() and half.permute(0, 4, 2, 3, 1).is_contiguous()


@pytest.mark.filterwarnings("ignore:Input #0 requires gradient")
def test_gradcheck_of_the_fill(backend):
    """Finite differences through the kernel: float32, so a large step and a matching tolerance."""
    device = device_of(backend)
    x, ids = torch.randn(2, 3, 4, 25, 1, device=device), torch.arange(2, device=device)
    draws = draw_views([ViewStrength(masked_joints=2)], ids, torch.tensor(0, device=device), seed=3, frames=4, joints=25)
    weight = torch.randn(2, 3, 4, 25, 1, device=device)
    fill = torch.zeros(1, device=device, requires_grad=True)
    torch.autograd.gradcheck(
        lambda f: (apply_views(x, ids, draws, **TABLES, fill=f)[0] * weight).sum(),
        fill, eps=0.25, atol=1e-3, rtol=1e-3,
    )  # fmt: skip


def test_refusals(monkeypatch):
    x, ids = torch.randn(2, 3, 4, 25, 1), torch.arange(2)
    draws = draw_views([ViewStrength()], ids, torch.tensor(0), seed=0, frames=4, joints=25)
    with pytest.raises(ValueError, match="with 25 mirror joints: expected"):
        apply_views(x[:, :, :, :20], ids, draws, **TABLES)
    monkeypatch.delenv("HICLR_KERNELS", raising=False)
    with pytest.raises(ValueError, match="expected a contiguous float32 dataset"):
        apply_views(x.double(), ids, draws, **TABLES)


@pytest.mark.parametrize("index", [[0, 2], [-1, 0], [0, 10**9]])
def test_an_index_outside_of_the_data_is_refused(index, monkeypatch):
    """The kernel itself looks at nothing: on the CPU this was a segmentation fault."""
    monkeypatch.delenv("HICLR_KERNELS", raising=False)
    x, ids = torch.randn(2, 3, 4, 25, 1), torch.arange(2)
    draws = draw_views([ViewStrength()], ids, torch.tensor(0), seed=0, frames=4, joints=25)
    with pytest.raises(IndexError, match="into 2 samples"):
        apply_views(x, torch.tensor(index), draws, **TABLES)


def test_joints_and_draws_that_do_not_fit_are_refused(monkeypatch):
    monkeypatch.delenv("HICLR_KERNELS", raising=False)
    x, ids = torch.randn(2, 3, 4, 25, 1), torch.arange(2)
    draws = draw_views([ViewStrength(masked_joints=3)], ids, torch.tensor(0), seed=0, frames=4, joints=25)
    for tables in (dict(TABLES, parents=(25, *NTU.parents[1:])), dict(TABLES, mirror=(*NTU.mirror[:-1], -1))):
        with pytest.raises(ValueError, match="name joints that are not among 25"):
            apply_views(x, ids, draws, **tables)
    with pytest.raises(ValueError, match="do not fit"):
        apply_views(x, ids[:1], draws, **TABLES)
    with pytest.raises(ValueError, match="draws mask"):
        apply_views(torch.randn(2, 3, 5, 25, 1), ids, draws, **TABLES)
