"""Augmentation: one read of each raw sample, all its views at once, in the encoder's layout.

    view = mask( stream( time_flip( axis . blur( A . x[:, window(t), flip(v)] + noise ) ) ) )

A = rotation x shear, blur = 15 taps along time, stream = joint, bone or motion, mask = joints replaced by a learned scalar.
`draw_views` draws every parameter from counters; `apply_views` is deterministic given them. Backends: Triton on CUDA
(`augment/gpu.py`), numba on CPU (`augment/cpu.py`), plain torch anywhere (`augment/draw.py`, `augment/reference.py`); all
draw the same bits. Official quirks that hold by default: the blur taps are not divided by their sum (gain 1 to 5), one
joint mask for the whole batch, noise and mask also on an empty body; `blur_normalized` and `mask_per_sample` end the first two.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hiclr_kernels.augment.draw import Draws, ViewStrength, draw_keep, draw_rows, switches
from hiclr_kernels.augment.reference import Stream, apply_view
from hiclr_kernels.backend import choose_backend


def _module(backend: str):
    """The backend's module; imported here, so that a machine without Triton (or numba) can do without it."""
    if backend == "triton":
        from hiclr_kernels.augment import gpu as module
    else:
        from hiclr_kernels.augment import cpu as module
    return module


def draw_views(
    strengths: Sequence[ViewStrength],
    sample: Tensor,
    step: Tensor,
    *,
    seed: int,
    frames: int,
    joints: int,
    mask_per_sample: bool = False,
) -> Draws:
    """Parameters of one view for every entry of `strengths`.

    sample: (N,) int64 ids; step: () int64; both on the device that draws. No synchronisation on CUDA.
    """
    strengths, backend = tuple(strengths), choose_backend(sample.device)
    if backend == "reference":
        masked, noisy = switches(strengths)
        keep = draw_keep(strengths, sample, step, seed, frames, joints, mask_per_sample) if any(masked) else None
        return Draws(draw_rows(strengths, sample, step, seed), masked, noisy, keep, None, seed, step, sample)
    sizes = dict(frames=frames, joints=joints, mask_per_sample=mask_per_sample)
    return _module(backend).draw(strengths, sample, step, seed=seed, **sizes)


class _Views(torch.autograd.Function):
    """All views; the gradient of the fill is the sum of the masked joints' gradients."""

    @staticmethod
    def forward(ctx, fill, x, index, draws, mirror, parents, stream, out_dtype, backend):
        ctx.draws, ctx.backend = draws, backend
        ctx.set_materialize_grads(False)
        out = _module(backend).apply(x, index, draws, mirror, parents, stream, fill, out_dtype)
        views = tuple(v.permute(0, 4, 2, 3, 1) for v in out.unbind())  # (N, M, T, V, 3) in memory
        ctx.mark_non_differentiable(*(v for v, masked in zip(views, draws.masked, strict=True) if not masked))
        return views

    @staticmethod
    def backward(ctx, *grads):
        draws, total = ctx.draws, None
        for w, grad in enumerate(grads):
            if draws.masked[w] and grad is not None:
                own = _module(ctx.backend).fill_gradient(grad, draws.keep[w])
                total = own if total is None else total + own
        return total, *(None,) * 8


def check_sizes(x: Tensor, index: Tensor, draws: Draws) -> None:
    """ValueError or IndexError where a kernel would read outside of its tensors. On CUDA nothing is said of the values of index:
    looking at them would wait for the device."""
    n, views = len(index), len(draws.masked)
    if index.dtype != torch.int64 or index.dim() != 1 or draws.rows.shape[:2] != (n, views):
        raise ValueError(f"index {index.dtype} {tuple(index.shape)} and draws of {tuple(draws.rows.shape[:2])} views: do not fit")
    keep = draws.keep
    if keep is not None and (len(keep) != views or keep.shape[1] not in (1, n) or keep.shape[2:] != x.shape[2:4]):
        raise ValueError(f"draws mask {tuple(keep.shape)}, expected ({views}, 1 or {n}, {x.shape[2]}, {x.shape[3]})")
    if draws.noise is None and draws.sample is not None and draws.sample.shape != (n,):
        raise ValueError(f"draws of samples {tuple(draws.sample.shape)}, expected ({n},)")
    if x.device.type == "cpu" and n and not 0 <= int(index.min()) <= int(index.max()) < len(x):
        raise IndexError(f"index from {int(index.min())} to {int(index.max())} into {len(x)} samples")


def apply_views(
    x: Tensor,
    index: Tensor,
    draws: Draws,
    *,
    mirror: Sequence[int],
    parents: Sequence[int],
    stream: Stream = "joint",
    fill: Tensor | None = None,
    out_dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """The views (N, 3, T, V, M) of the samples x[index], as `draws` say.

    x: (S, 3, T, V, M) float32, metres, the whole resident dataset or a batch; index: (N,) int64. mirror, parents: (V,).
    fill: (1,) learned value of masked joints, None is 0; a view with masked joints has its gradient. In memory a view is
    (N, M, T, V, 3), which is how the encoder stores its activations (the reference backend leaves it to torch).
    Raises ValueError on shapes, dtypes and joints that do not fit, IndexError on an index outside of x (on CPU).
    """
    if x.dim() != 5 or x.shape[1] != 3 or not len(mirror) == len(parents) == x.shape[3]:
        raise ValueError(f"x is {tuple(x.shape)} with {len(mirror)} mirror joints: expected (S, 3, T, V, M) and V of them")
    if not all(0 <= joint < x.shape[3] for joint in (*mirror, *parents)):
        raise ValueError(f"mirror {tuple(mirror)} or parents {tuple(parents)} name joints that are not among {x.shape[3]}")
    backend = choose_backend(x.device)
    if backend == "reference":
        raw = x[index]
        views = [draws.view(w, x.shape[1:]) for w in range(len(draws.masked))]
        return [apply_view(raw, p, mirror=mirror, parents=parents, stream=stream, fill=fill).to(out_dtype) for p in views]
    if x.dtype != torch.float32 or not x.is_contiguous():
        raise ValueError(f"x is {x.dtype} with strides {x.stride()}: expected a contiguous float32 dataset")
    check_sizes(x, index, draws)
    fill = torch.zeros(1, device=x.device) if fill is None else fill
    return list(_Views.apply(fill, x, index, draws, tuple(mirror), tuple(parents), stream, out_dtype, backend))
