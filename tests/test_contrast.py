"""Whole pretraining steps against recorded ones of the official processor: 1e-8 in double, its own noise in float32."""

import pytest
import torch
from conftest import rms_error
from hiclr_kernels.augment.reference import ViewParams, apply_view
from hiclr_kernels.contrast.reference import WEIGHTS

from hiclr_fast.models.hiclr import HiCLR
from hiclr_fast.models.official import official_name
from hiclr_fast.models.stgcn import STGCN
from hiclr_fast.skeletons import LAYOUTS
from hiclr_fast.training.optimizer import make_sgd

NTU = LAYOUTS["ntu25"]
SIZES = {"rel": (16, 256, 128), "small": (4, 32, 16)}


def official_key(name: str) -> str:
    """Our state name in the official model."""
    if name.startswith(("encoder_q.", "encoder_k.")):
        side, rest = name.split(".", 1)
        return f"{side}.{official_name(rest)}"
    return {"fill": "mask_param", "pointer": "queue_ptr"}.get(name, name)


def load(g, size: str, dtype: torch.dtype) -> HiCLR:
    hidden, dim, feature = SIZES[size]
    encoder = STGCN(g.t(f"{size}/init/encoder_q.A"), 3, hidden, dim, feature, dropout=0.0)
    model = HiCLR(encoder, feature, queue_size=512, momentum=0.999, temperature=0.07).to(dtype)
    state = {}
    for name, tensor in model.state_dict().items():
        value = g.t(f"{size}/init/{official_key(name)}", tensor.dtype)
        state[name] = value.T if name == "queue" else value.reshape(tensor.shape)
    model.load_state_dict(state)
    return model.train()


def views(g, step: int, mask_tv, fill, dtype) -> tuple[list[torch.Tensor], torch.Tensor]:
    basic, key, normal, strong = (g.t(f"in/step{step}/data{i}", dtype) for i in (1, 2, 3, 4))
    params = ViewParams(joint_keep=mask_tv)
    return [basic, normal, apply_view(strong, params, mirror=NTU.mirror, parents=NTU.parents, fill=fill)], key


def run_step(model, g, run: str, step: int, topk: int, dtype):
    """One step in the loop's order: terms, loss, queries, keys, and gradients by our name."""
    query_views, key_view = views(g, step, g.t(f"{run}/mask_TV", dtype), model.fill, dtype)
    q = model.queries(query_views)
    key = model.keys(key_view)
    loss, terms = model.loss(q, key, WEIGHTS, topk)
    model.zero_grad()
    loss.backward()
    model.enqueue(key)
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return terms, loss.detach(), q.detach(), key, grads


RUNS = [("a1", 1, 0), ("b1", 1, 1)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("run", "step", "topk"), RUNS)
def test_one_step_in_double(golden, size, run, step, topk):
    g, prefix = golden("stgcn_train_step"), f"{size}/{run}"
    model = load(g, size, torch.float64)
    terms, loss, q, key, grads = run_step(model, g, prefix, step, topk, torch.float64)
    close = dict(rtol=1e-8, atol=1e-8)
    for b, name in enumerate(("q", "q_1", "q_2")):
        torch.testing.assert_close(q[b], g.t(f"{prefix}/f64/{name}"), **close)
    torch.testing.assert_close(key, g.t(f"{prefix}/f64/k"), **close)
    torch.testing.assert_close(torch.cat([terms, loss[None]]), g.t(f"{prefix}/f64/losses"), **close)
    if size == "small":
        total = float(g[f"{prefix}/grad_total_norm"])
        for name, grad in grads.items():
            want = g.t(f"{prefix}/f64/grad/{official_key(name)}").reshape(grad.shape)
            assert (grad - want).norm() <= 1e-8 * max(total, float(want.norm())), name
    assert model.pointer.item() == g[f"{prefix}/queue_ptr_after"][0]
    columns = torch.from_numpy(g[f"{prefix}/queue_changed_columns"])
    start = torch.from_numpy(g[f"{size}/init/queue"]).double().T.clone()
    torch.testing.assert_close(model.queue[columns], g.t(f"{prefix}/f64/k"), **close)
    untouched = torch.ones(512, dtype=torch.bool).index_fill(0, columns, False)
    torch.testing.assert_close(model.queue[untouched], start[untouched], rtol=0, atol=0)


def test_two_consecutive_steps_in_double(golden):
    """Losses, every gradient, parameters, running statistics, key encoder, queue and pointer after both steps."""
    g = golden("stgcn_train_step")
    model = load(g, "small", torch.float64)
    optimizer = make_sgd(model.trainable(), lr=float(g["small/a1/lr"]), weight_decay=1e-4)
    for step, run in ((1, "a1"), (2, "a2")):
        prefix = f"small/{run}"
        terms, loss, _, key, grads = run_step(model, g, prefix, step, 0, torch.float64)
        optimizer.step()
        torch.testing.assert_close(torch.cat([terms, loss[None]]), g.t(f"{prefix}/f64/losses"), rtol=1e-8, atol=1e-8)
        total = float(g[f"{prefix}/grad_total_norm"])
        for name, grad in grads.items():
            want = g.t(f"{prefix}/f64/grad/{official_key(name)}").reshape(grad.shape)
            assert (grad - want).norm() <= 1e-8 * max(total, float(want.norm())), f"{run} {name}"
        compared = 0
        for name, value in model.state_dict().items():
            if name != "queue" and not name.endswith(".A"):  # constants, and the queue is compared below
                want = g.t(f"{prefix}/f64/after/{official_key(name)}").reshape(value.shape)
                assert (value.double() - want).abs().max() <= 1e-8 * max(1, want.abs().max()), f"{run} {name}"
                compared += 1
        assert compared == 362
        columns = torch.from_numpy(g[f"{prefix}/queue_changed_columns"])
        torch.testing.assert_close(model.queue[columns], key, rtol=0, atol=0)
        assert model.pointer.item() == g[f"{prefix}/queue_ptr_after"][0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("run", "step", "topk"), RUNS)
def test_one_step_in_float32(golden, size, run, step, topk):
    g, prefix = golden("stgcn_train_step"), f"{size}/{run}"
    terms, loss, q, key, grads = run_step(load(g, size, torch.float32), g, prefix, step, topk, torch.float32)
    assert (q[0] - g.t(f"{prefix}/f64/q")).abs().max() < 5e-7
    assert (key - g.t(f"{prefix}/f64/k")).abs().max() < 5e-7
    torch.testing.assert_close(torch.cat([terms, loss[None]]).double(), g.t(f"{prefix}/f64/losses"), rtol=0, atol=4e-6)
    if size == "small":
        total = float(g[f"{prefix}/grad_total_norm"])
        for name, grad in grads.items():
            want = g.t(f"{prefix}/f64/grad/{official_key(name)}").reshape(grad.shape)
            if want.norm() > 1e-4 * total:
                assert rms_error(grad, want) < 4e-5, name


@pytest.mark.parametrize("size", SIZES)
def test_mining_three_neighbours(golden, size):
    g, prefix = golden("stgcn_train_step"), f"{size}/b1_topk3"
    model = load(g, size, torch.float64)
    terms, loss, *_ = run_step(model, g, f"{size}/b1", 1, 3, torch.float64)
    torch.testing.assert_close(torch.cat([terms, loss[None]]), g.t(f"{prefix}/losses"), rtol=0, atol=5e-6)


def test_release_size_gradients_and_state(golden):
    """Release size in double: recorded samples of every gradient and of the state after the optimizer's step."""
    g, prefix = golden("stgcn_train_step"), "rel/a1"
    model = load(g, "rel", torch.float64)
    *_, grads = run_step(model, g, prefix, 1, 0, torch.float64)
    make_sgd(model.trainable(), lr=float(g[f"{prefix}/lr"]), weight_decay=1e-4).step()
    total = float(g[f"{prefix}/grad_total_norm"])
    assert torch.stack([x.norm() for x in grads.values()]).norm().item() == pytest.approx(total, rel=1e-3)
    keys = [name.removeprefix("rel/init/") for name in g.names("rel/init/")]
    offset, index = g["rel/pack_offset"], torch.from_numpy(g["rel/pack_index"]).long()
    ours = {official_key(name): name for name in model.state_dict()}
    state, compared = model.state_dict(), 0
    for i, key in enumerate(keys):
        if key == "queue":
            continue
        at = slice(offset[i], offset[i + 1])
        value = state[ours[key]].double().flatten()[index[at]]
        want = g.t(f"{prefix}/after_sample")[at]
        torch.testing.assert_close(value, want, rtol=0, atol=2e-4 * max(1, value.abs().max()))
        if ours[key] in grads:
            got, want = grads[ours[key]].flatten()[index[at]], g.t(f"{prefix}/grad_sample")[at]
            assert (got - want).norm() <= 5e-3 * want.norm() + 1e-5 * total, key
            compared += 1
    assert compared == int(g["rel/has_grad"].sum())


def test_key_encoder_starts_as_the_query_encoder_and_has_no_gradient():
    model = HiCLR(STGCN(torch.rand(3, 5, 5), 3, 2, 8, 4), 4, 16, 0.9, 0.07)
    for q, k in zip(model.encoder_q.parameters(), model.encoder_k.parameters(), strict=True):
        torch.testing.assert_close(q, k, rtol=0, atol=0)
        assert q.requires_grad and not k.requires_grad
    torch.testing.assert_close(model.queue.norm(dim=1), torch.ones(16))
