"""A block of ST-GCN as one operation (interpreted) against its reference in double: outputs, gradients, statistics."""

from typing import NamedTuple

import pytest
import torch
from conftest import rms_error
from hiclr_kernels.batch_norm.parts import After, Norm, Rule
from hiclr_kernels.stgcn_block import Block, Plan, reference, stgcn_block

graph = pytest.importorskip("hiclr_kernels.graph_conv.gpu")


class Case(NamedTuple):
    rows: int
    frames: int
    joints: int
    c: int
    d: int
    groups: int
    stride: int = 1
    shortcut: str = "identity"
    dropped: int = 32768
    bodies: int = 0  # pooled over so many


CASES = {
    "first": Case(2, 7, 20, 3, 8, 1, 1, "none", 0),
    "middle": Case(3, 5, 25, 8, 8, 3),
    "strided": Case(4, 7, 17, 8, 16, 2, 2, "project"),
    "strided, even": Case(2, 6, 5, 5, 12, 1, 2, "project", 0),
    "last": Case(6, 5, 5, 16, 24, 2, 1, "project", 32768, 3),
    "last, same": Case(4, 5, 5, 8, 8, 4, 1, "identity", 6554, 1),
}


def new_block(case: Case, seed: int, subsets: int = 3) -> Block:
    g = torch.Generator().manual_seed(seed)
    c, d, v = case.c, case.d, case.joints

    def normal(*shape):
        return torch.randn(shape, generator=g) / max(1, (shape[-1] if len(shape) == 2 else shape[0]) ** 0.5)

    def norm():
        return Norm(torch.rand(d, generator=g) + 0.5, normal(d), normal(d), torch.rand(d, generator=g) + 1, torch.tensor(3))

    project = (normal(d, c), normal(d), norm()) if case.shortcut == "project" else ()
    head = torch.rand(subsets, v, v, generator=g) + 0.5, normal(subsets * d, c), normal(subsets * d)
    return Block(*head, norm(), normal(d, d, 9, 1), normal(d), norm(), *project)


def copy(block: Block, dtype: torch.dtype) -> Block:
    """With leaves of its own in that dtype."""

    def new(t, learned=True):
        t = t.to(dtype).clone() if t.is_floating_point() else t.clone()
        return t.requires_grad_(learned and t.is_floating_point())

    def norm(n):
        return Norm(*(new(t, i < 2) for i, t in enumerate(n)))

    return Block(*(None if t is None else norm(t) if isinstance(t, Norm) else new(t) for t in block))


def problem(case: Case, dtype, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(case.rows, case.frames, case.joints, case.c, generator=g).to(dtype)
    adjacency = torch.rand(3, case.joints, case.joints, generator=g)
    adjacency = adjacency * (torch.rand(3, case.joints, case.joints, generator=g) < 3 / case.joints)
    frames = -(-case.frames // case.stride)
    after, pooled = After(0.0, torch.tensor(99), case.dropped), case.bodies * frames * case.joints
    return x, adjacency, Plan(case.groups, case.groups, case.stride, case.shortcut == "identity", Rule(), after, pooled)


def outcome(function, case: Case, dtype, wide=None) -> dict[str, torch.Tensor]:
    x, adjacency, plan = problem(case, dtype)
    wide = wide or dtype
    full = torch.promote_types(wide, torch.float32)
    block, x = copy(new_block(case, 1), full), x.to(wide).requires_grad_()
    y = function(x, adjacency.to(full), block, plan)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(torch.float32 if case.bodies else dtype)
    y.backward(grad.to(y.dtype))
    found = {"y": y.detach(), "x": x.grad}
    names = "importance gcn_weight gcn_bias w1 b1 conv_weight conv_bias w2 b2 project_weight project_bias w3 b3".split()
    found |= {name: p.grad for name, p in zip(names, block.learned(), strict=True) if p is not None}
    for i, norm in enumerate((block.norm1, block.norm2, block.norm3)):
        if norm is not None:
            found |= {f"mean{i}": norm.running_mean, f"var{i}": norm.running_var, f"tracked{i}": norm.tracked}
    return found


def ours(x, adjacency, block, plan):
    return stgcn_block(x, x, adjacency, (block,), plan)[0]


@pytest.fixture
def kernels(monkeypatch):
    """Interpreted, and every buffer that they are given is full of NaN."""
    monkeypatch.setenv("HICLR_KERNELS", "triton")
    empty, empty_like = torch.empty, torch.empty_like

    def poisoned(new):
        return new.fill_(float("nan")) if new.is_floating_point() else new

    monkeypatch.setattr(torch, "empty", lambda *a, **kw: poisoned(empty(*a, **kw)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **kw: poisoned(empty_like(*a, **kw)))


def compare(got, want, bar):
    """Biases in front of a norm have no gradient; the reference's is rounding."""
    assert got.keys() == want.keys()
    for name, value in want.items():
        if name in ("conv_bias", "project_bias"):
            assert got[name].abs().max() == 0 and value.abs().max() < 1e-9, name
        else:
            assert rms_error(got[name], value) <= bar(name), (name, rms_error(got[name], value))


@pytest.mark.parametrize(("name", "folded"), [*((name, 32) for name in CASES), ("middle", 4), ("last", 4)])
def test_float32(kernels, monkeypatch, name, folded):
    monkeypatch.setattr(graph, "FOLDED", folded)
    monkeypatch.setattr(graph, "TILED_DTYPES", (torch.float32,))
    case = CASES[name]
    want = outcome(reference.stgcn_block, case, torch.float32, torch.float64)
    compare(outcome(ours, case, torch.float32), want, lambda _: 1e-5)


@pytest.fixture
def as_in_half(monkeypatch):
    """The kernels that CUDA keeps for 16 bits take float32, too, so that it tells what they get wrong."""
    monkeypatch.setattr("hiclr_kernels.stgcn_block.shortcut.DTYPES", (torch.float32,))
    monkeypatch.setattr("hiclr_kernels.temporal.tiles.JOINT_DTYPES", (torch.float32,))
    monkeypatch.setattr("hiclr_kernels.stgcn_block.shortcut.BLOCK", 16)  # several blocks of channels and tiles a program
    monkeypatch.setattr("hiclr_kernels.stgcn_block.shortcut.BACK_BLOCK", 16)
    monkeypatch.setattr("hiclr_kernels.stgcn_block.shortcut.SHARES", 4)


@pytest.mark.parametrize("name", CASES)
def test_float32_as_in_half(kernels, as_in_half, monkeypatch, name):
    monkeypatch.setattr("hiclr_kernels.batch_norm.gpu.SPLITS", 4)
    want = outcome(reference.stgcn_block, CASES[name], torch.float32, torch.float64)
    compare(outcome(ours, CASES[name], torch.float32), want, lambda _: 1e-5)


def test_bfloat16(kernels):
    """Errors of all tensors of a kind together: that of a few values alone is mostly which signs flip at the ReLUs."""
    errors = {}
    for name in ("middle", "strided", "last"):
        runs = [outcome(reference.stgcn_block, CASES[name], torch.bfloat16, torch.float64)]
        runs += [outcome(f, CASES[name], torch.bfloat16) for f in (ours, reference.stgcn_block)]
        for what, value in runs[0].items():
            if what not in ("conv_bias", "project_bias") and not what.startswith("tracked"):
                kind = what if what in ("y", "x") else "statistics" if what[:-1] in ("mean", "var") else "learned"
                pair = errors.setdefault(kind, [0.0, 0.0])
                for i, run in enumerate(runs[1:]):
                    pair[i] += rms_error(run[what], value) ** 2
    for kind, (own, theirs) in errors.items():
        assert own**0.5 <= 1.5 * theirs**0.5, kind


@pytest.mark.parametrize("name, half", [("strided", False), ("last", False), ("strided", True), ("middle", True)])
def test_rows_of_a_second_encoder(kernels, name, half, request):
    """They get its weights and move its statistics; those of the first get what they get alone, bit for bit."""
    if half:
        request.getfixturevalue("as_in_half")
    case = CASES[name]
    case = case._replace(groups=case.groups + 1, rows=case.rows // case.groups * (case.groups + 1))
    x, adjacency, plan = problem(case, torch.float32)
    plan = plan._replace(split=case.groups - 1)
    own = case.rows * plan.split // case.groups
    blocks = [copy(new_block(case, seed), torch.float32) for seed in (1, 2)]
    leaf = x[:own].clone().requires_grad_()
    y, whole = stgcn_block(leaf, x, adjacency, blocks, plan)
    assert torch.equal(y, whole[: len(y)]) and not whole.requires_grad
    y.sum().backward()
    alone = copy(new_block(case, 1), torch.float32)
    again = x[:own].clone().requires_grad_()
    want = ours(again, adjacency, alone, plan._replace(groups=plan.split))
    want.sum().backward()
    assert torch.equal(y, want) and torch.equal(leaf.grad, again.grad)
    for p, q in zip(blocks[0].learned(), alone.learned(), strict=True):
        assert p is None or torch.equal(p.grad, q.grad)
    assert all(p is None or p.grad is None for p in blocks[1].learned())
    for a, b in zip(blocks[0].norm2, alone.norm2, strict=True):
        assert torch.equal(a, b)
    assert blocks[1].norm1.tracked == 4


@pytest.mark.parametrize("name", ["middle", "strided"])
def test_the_second_encoder_is_right(kernels, as_in_half, name):
    case = CASES[name]._replace(dropped=0)
    x, adjacency, plan = problem(case, torch.float32)
    blocks = [copy(new_block(case, seed), torch.float32) for seed in (1, 2)]
    split, own = case.groups - 1, case.rows // case.groups * (case.groups - 1)
    _, whole = stgcn_block(x[:own], x, adjacency, blocks, plan._replace(split=split))
    theirs = copy(new_block(case, 2), torch.float64)
    want = reference.stgcn_block(x[own:].double(), adjacency.double(), theirs, plan._replace(groups=1))
    assert rms_error(whole[own:], want) < 1e-5
    for ours_, truth in zip(blocks[1][6:], theirs[6:], strict=True):
        if isinstance(truth, Norm):
            assert rms_error(ours_.running_var, truth.running_var) < 1e-6 and ours_.tracked == truth.tracked


@pytest.mark.parametrize(("name", "folded"), [("middle", 32), ("last", 32), ("last", 4)])
def test_float32_by_torchs_convolution(kernels, monkeypatch, name, folded):
    """The way of widths that the temporal kernels leave to a library; also with the rows of a second encoder."""
    monkeypatch.setattr("hiclr_kernels.stgcn_block.temporal_part.covers", lambda *_, **__: False)
    monkeypatch.setattr(graph, "FOLDED", folded)
    monkeypatch.setattr(graph, "TILED_DTYPES", (torch.float32,))
    case = CASES[name]
    want = outcome(reference.stgcn_block, case, torch.float32, torch.float64)
    compare(outcome(ours, case, torch.float32), want, lambda _: 1e-5)
    case = case._replace(dropped=0)
    x, adjacency, plan = problem(case, torch.float32)
    blocks = [copy(new_block(case, seed), torch.float32) for seed in (1, 2)]
    split = case.groups - 1
    own = case.rows * split // case.groups
    y, whole = stgcn_block(x[:own], x, adjacency, blocks, plan._replace(split=split))
    theirs = copy(new_block(case, 2), torch.float64)
    want = reference.stgcn_block(x[own:].double(), adjacency.double(), theirs, plan._replace(groups=1))
    assert rms_error(whole[len(y) :], want) < 1e-5
    assert rms_error(blocks[1].norm2.running_var, theirs.norm2.running_var) < 1e-6
