"""Hierarchical contrastive loss from one sweep over the queue, exact gradient included, no logit stored.

For branch b (0 the weakest view), query rows q_b, positive keys k, queue rows K_j, temperature t (paper eq. 3 to 6):

    s_b = [q_b.k, q_b.K_1, ..., q_b.K_Q] / t,  p_b = softmax(s_b),  lse_b = logsumexp(s_b)
    G_b = p_b[0] k + sum_j p_b[j] K_j

    term_b = lse_b - q_b.target_b / t,  d term_b / d q_b = (G_b - target_b) / t,  loss = sum_b weights[b] mean(term_b)
    target_0 = k                  InfoNCE; mined: the mean of k and of the union of each branch's topk queue rows
    target_b = G_{b-1}, b >= 1    consistency: sum_j p_{b-1}[j] s_b[j] = q_b.G_{b-1} / t, and the weaker branch is detached

lse and G are what flash attention (Dao et al. 2022, arXiv 2205.14135) computes when its values are its keys, so all
branches stacked read the queue once. Both backends work with lse - q.k / t and G - k: nothing cancels where the key
dominates. The forward pass saves the gradient (B, N, D), at least float32; the backward pass scales it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hiclr_kernels.backend import choose_backend
from hiclr_kernels.contrast import cpu, reference
from hiclr_kernels.contrast.reference import TEMPERATURE, WEIGHTS, check_contrast


@torch.library.custom_op("hiclr::contrast", mutates_args=())
def contrast_op(
    q: Tensor, key: Tensor, queue: Tensor, temperature: float, weights: Sequence[float], topk: int, backend: str, half: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """loss (), terms (B,), gradient of the loss to q (B, N, D); all in at least float32. half: Triton, of bfloat16 rows."""
    if backend == "cpu":
        return cpu.contrast(q, key, queue, temperature, weights, topk)
    from hiclr_kernels.contrast import gpu  # here: this module imports on machines without Triton

    if half:
        q, key, queue = gpu.rounded(q, key, queue)
    return gpu.contrast(q, key, queue, temperature, weights, topk)


@contrast_op.register_fake
def _(q, key, queue, temperature, weights, topk, backend, half):
    wide = q.new_empty(q.shape, dtype=torch.promote_types(q.dtype, torch.float32))
    return wide.new_empty(()), wide.new_empty(q.shape[0]), wide


def _save_gradient(ctx, inputs, output):
    ctx.save_for_backward(output[2])
    ctx.set_materialize_grads(False)
    ctx.dtype = inputs[0].dtype


def _scale_gradient(ctx, grad_loss, grad_terms, grad_grad):
    if grad_loss is None:
        return (None,) * 8
    (grad,) = ctx.saved_tensors
    return (grad_loss * grad).to(ctx.dtype), None, None, None, None, None, None, None


contrast_op.register_autograd(_scale_gradient, setup_context=_save_gradient)


def hierarchical_contrast(
    q: Tensor,
    key: Tensor,
    queue: Tensor,
    *,
    temperature: float = TEMPERATURE,
    weights: Sequence[float] = WEIGHTS,
    topk: int = 0,
    half: bool = False,
) -> tuple[Tensor, Tensor]:
    """Loss and its terms; `contrast.reference.hierarchical_contrast` is the same function in plain torch.

    q: (B, N, D) L2-normalised queries, weakest view first; key: (N, D); queue: (Q, D); one dtype and one device.
    topk > 0: InfoNCE's positives are the key and the union over the branches of each query's topk queue rows.
    half: of the rows rounded to bfloat16.
    Returns loss (), with gradient to q only, and terms (B,) detached and unweighted: InfoNCE, then the consistencies;
    both at least float32. Memory beyond the arguments: O(B N D), for any queue length.
    Triton: bfloat16, float16, or float32 kept to 22 bits (elements below 63 in magnitude); D up to 256, topk up to 4.
    Raises ValueError on shapes, dtypes, sizes or a HICLR_KERNELS that do not fit.
    """
    check_contrast(q, key, queue, weights, topk)
    if not q.dtype == key.dtype == queue.dtype or not q.is_floating_point():
        raise ValueError(f"q is {q.dtype}, key {key.dtype}, queue {queue.dtype}: give all three the same floating dtype")
    backend = choose_backend(q.device, q.dtype)
    if half and backend != "triton":
        q, key, queue, half = q.bfloat16(), key.bfloat16(), queue.bfloat16(), False
    if backend == "reference":
        return reference.hierarchical_contrast(q, key, queue, temperature=temperature, weights=weights, topk=topk)
    loss, terms, _ = contrast_op(q, key, queue, temperature, list(weights), topk, backend, half)
    return loss, terms.detach()
