"""Graph convolution by one product and by the kernels of wide inputs (interpreted) against its reference in double."""

import pytest
import torch
from conftest import rms_error
from hiclr_kernels.graph_conv import graph_conv, reference
from hiclr_kernels.graph_conv.rows import row_graph_conv, row_graph_conv_reference

gpu = pytest.importorskip("hiclr_kernels.graph_conv.gpu")
SHAPES = [(2, 7, 25, 3, 8, 3), (3, 5, 20, 16, 16, 3), (2, 3, 17, 20, 40, 1), (1, 9, 5, 8, 80, 2)]  # R, T, V, C, D, K


def outcome(function, shape, dtype, wide=None) -> dict[str, torch.Tensor]:
    rows, frames, joints, c, d, subsets = shape
    g = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(rows, frames, joints, c, generator=g).to(dtype)
    adjacency = torch.rand(subsets, joints, joints, generator=g) * (torch.rand(subsets, joints, joints, generator=g) < 0.2)
    importance = torch.rand(subsets, joints, joints, generator=g) + 0.5
    weight, bias = torch.randn(subsets * d, c, generator=g) / c**0.5, torch.randn(subsets * d, generator=g)
    wide = wide or dtype
    full = torch.promote_types(wide, torch.float32)
    given = {"x": x.to(wide), **{n: t.to(full) for n, t in dict(importance=importance, weight=weight, bias=bias).items()}}
    given = {name: t.requires_grad_() for name, t in given.items()}
    z = function(given["x"], adjacency.to(full), *list(given.values())[1:])
    z.backward(torch.randn(z.shape, generator=g).to(dtype).to(z.dtype))
    return {"z": z.detach(), **{name: t.grad for name, t in given.items()}}


@pytest.fixture(params=[32, 0], ids=["folded", "wide"])
def kernels(monkeypatch, request):
    """Interpreted, and every buffer that they are given is full of NaN."""
    monkeypatch.setenv("HICLR_KERNELS", "triton")
    monkeypatch.setattr(gpu, "FOLDED", request.param)
    monkeypatch.setattr(gpu, "TILED_DTYPES", (torch.float32, torch.bfloat16, torch.float16))
    empty, empty_like = torch.empty, torch.empty_like
    monkeypatch.setattr(torch, "empty", lambda *a, **kw: empty(*a, **kw).fill_(float("nan")))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **kw: empty_like(*a, **kw).fill_(float("nan")))


@pytest.mark.parametrize("shape", SHAPES)
def test_float32(kernels, shape):
    got, want = outcome(graph_conv, shape, torch.float32), outcome(reference.graph_conv, shape, torch.float32, torch.float64)
    for name, value in want.items():
        assert rms_error(got[name], value) <= 1e-5, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half(kernels, dtype):
    exact = outcome(reference.graph_conv, SHAPES[1], dtype, torch.float64)
    got, theirs = outcome(graph_conv, SHAPES[1], dtype), outcome(reference.graph_conv, SHAPES[1], dtype)
    for name, value in exact.items():
        assert rms_error(got[name], value) <= 1.5 * rms_error(theirs[name], value), name


def test_folding_is_exact_algebra():
    torch.manual_seed(0)
    a, e, w, b = torch.rand(3, 5, 5), torch.rand(3, 5, 5), torch.randn(12, 2), torch.randn(12)
    x = torch.randn(2, 3, 5, 2).double()
    matrix, column = reference.folded(*(t.double() for t in (a, e, w, b)))
    want = reference.graph_conv(x, *(t.double() for t in (a, e, w, b)))
    torch.testing.assert_close((x.view(6, 10) @ matrix.T + column).view(want.shape), want)


def test_two_sets_of_weights(kernels):
    """Groups from the split on take the second set; and the moments of the parts are those of what is stored."""
    torch.manual_seed(0)
    a, x = torch.rand(3, 5, 5), torch.randn(4, 150, 5, 8)
    for out in (16, 20):
        sets = [gpu.Weights(torch.rand(3, 5, 5), torch.randn(3 * out, 8), torch.randn(3 * out) + 5) for _ in range(2)]
        z, _, part = gpu.forward(x, a, sets, 3)
        for rows, own in ((slice(3), sets[0]), (slice(3, 4), sets[1])):
            assert rms_error(z[rows], reference.graph_conv(x[rows], a, *own)) < 1e-6
        values = z.flatten(1, 2).double()
        count, mean, squares = part[..., :out].double().unbind(2)
        assert part.shape[1] > 1 and (count.sum(1) == 150 * 5).all()
        joined = (count * mean).sum(1) / 750
        assert rms_error(joined, values.mean(1)) < 1e-6
        var = (squares + count * (mean - joined[:, None]) ** 2).sum(1) / 750
        assert rms_error(var, values.var(1, correction=0)) < 1e-5


@pytest.mark.parametrize(("channels", "out"), [(16, 20), (40, 33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_edges_of_every_row(monkeypatch, channels, out, dtype):
    """Attention maps instead of one graph; blocks of channels smaller than there are channels."""
    monkeypatch.setenv("HICLR_KERNELS", "triton")
    monkeypatch.setattr(gpu, "BLOCKS", (32, 16))
    g = torch.Generator().manual_seed(0)
    x, edges = torch.randn(3, 5, 17, channels, generator=g).to(dtype), torch.randn(3, 3, 17, 17, generator=g)
    weight, bias = torch.randn(out, 3, channels, generator=g).transpose(0, 1) / channels**0.5, torch.randn(out, generator=g)
    grad = torch.randn(3, 5, 17, out, generator=g).to(dtype)
    results = []
    for function, wide in ((row_graph_conv, dtype), (row_graph_conv_reference, torch.float64), (row_graph_conv_reference, dtype)):
        full = torch.promote_types(wide, torch.float32)
        given = [t.to(kind).requires_grad_() for t, kind in ((x, wide), (edges, full), (weight, full), (bias, full))]
        z = function(*given)
        results.append([z.detach(), *torch.autograd.grad(z, given[:3], grad.to(wide))])
    for i, (got, want, theirs) in enumerate(zip(*results, strict=True)):
        bar = 1e-5 if dtype == torch.float32 else 1.5 * rms_error(theirs, want)
        assert rms_error(got, want) <= bar, i


def test_blocks_of_channels(monkeypatch):
    monkeypatch.setenv("HICLR_KERNELS", "triton")
    monkeypatch.setattr(gpu, "FOLDED", 0)
    monkeypatch.setattr(gpu, "BLOCKS", (16, 16))
    monkeypatch.setattr(gpu, "TILED_DTYPES", (torch.float32,))
    shape = (2, 3, 5, 40, 36, 3)
    got, want = outcome(graph_conv, shape, torch.float32), outcome(reference.graph_conv, shape, torch.float32, torch.float64)
    for name, value in want.items():
        assert rms_error(got[name], value) <= 1e-5, name
