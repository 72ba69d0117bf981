"""A ledger of what a step costs on CUDA: kernels, bytes, FLOPs and memory, counted without a GPU and without values.

The code runs on fake tensors (shapes, strides and dtypes only) that say of themselves that they lie on a GPU, so that it
takes the branches that it takes there. Every operation of torch is one entry: its distinct inputs are read once, its outputs
written once (`_special` has the exceptions). So is every launch of a Triton kernel, which does not run: a buffer that nothing
has written yet is its output, every other tensor its input. `kernel_work.py` says of a kernel what this rule cannot know.

Nothing here is a measurement. Caches, alignment and how well a kernel does its work are not in it.
"""

import math
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from hiclr_fast.training.kernel_work import WORK, kernel_name, multiplies
from hiclr_fast.training.pretended_gpu import pretending

LISTED = (110, 64, 48, 36, 30)  # items that a multi-tensor kernel takes, by tensors an item (torch MultiTensorApply.cuh)
FILLING = ("fill_", "zero_", "random_", "uniform_", "normal_", "bernoulli_", "exponential_", "copy_")  # read not what they write


class Entry(NamedTuple):
    phase: str
    name: str
    kernels: int
    read: int  # bytes
    written: int
    flops: int


class Cost(NamedTuple):
    """What some entries cost together. bytes: read and written."""

    kernels: int
    bytes: int
    flops: int


def span(t: Tensor) -> int:
    """Bytes that a kernel touches: an expanded dimension counts once."""
    return t.element_size() * math.prod(size if stride else 1 for size, stride in zip(t.shape, t.stride(), strict=True))


def _order(t: Tensor) -> tuple[int, ...]:
    """Strides of the dimensions that have any."""
    return tuple(stride for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1)


def _tensors(tree: Any) -> list[Tensor]:
    return [t for t in tree_leaves(tree) if isinstance(t, Tensor)]


def _storage(t: Tensor) -> int:
    return t.untyped_storage()._cdata


def _distinct(tensors: list[Tensor]) -> int:
    seen = {(_storage(t), t.storage_offset(), t.shape): span(t) for t in tensors}
    return sum(seen.values())


class Ledger(TorchDispatchMode):
    """`with Ledger() as ledger:` counts what runs inside. `ledger.phase(name)`: a context whose entries have that name.

    entries: in order. saved: bytes that autograd keeps for the backward, without what was there before. peak: most bytes
    that were allocated at once. unstated: kernels with products of matrices that WORK does not know.
    """

    def __init__(self):
        super().__init__()
        self.entries: list[Entry] = []
        self.saved, self.peak = 0, 0
        self.unstated: set[str] = set()
        self._phase, self._depth, self._live = "", 0, 0
        self._allocated: dict[int, int] = {}  # storage -> bytes
        self._blank: set[int] = set()  # storages that nothing has written
        self._kept: set[int] = set()  # storages saved for the backward

    def __enter__(self) -> "Ledger":
        if self._depth == 0:
            self._stack = ExitStack()
            self._stack.enter_context(pretending(lambda: self._depth > 0, self.launch))
            self._stack.enter_context(torch.autograd.graph.saved_tensors_hooks(self._keep, lambda t: t))
        self._depth += 1
        return super().__enter__()

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        self._depth -= 1
        if self._depth == 0:
            self._stack.close()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        before, self._phase = self._phase, name
        yield
        self._phase = before

    def cost(self, phase: str | None = None) -> Cost:
        """Of a phase, or of everything."""
        found = [e for e in self.entries if phase in (None, e.phase)]
        return Cost(sum(e.kernels for e in found), sum(e.read + e.written for e in found), sum(e.flops for e in found))

    def seconds(self, bandwidth: float, rate: float, least: float, phase: str | None = None) -> float:
        """Predicted: every entry takes the longest of its bytes at that bandwidth, its FLOPs at that rate, `least` a kernel."""
        found = [e for e in self.entries if phase in (None, e.phase)]
        return sum(max((e.read + e.written) / bandwidth, e.flops / rate, least * e.kernels) for e in found)

    def _keep(self, t: Tensor) -> Tensor:
        key = _storage(t)
        if key in self._allocated and key not in self._kept:
            self._kept.add(key)
            self.saved += self._allocated[key]
        return t

    def _allocate(self, t: Tensor, blank: bool) -> None:
        storage = t.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._allocated:
            return
        self._allocated[key] = size
        self._live += size
        self.peak = max(self.peak, self._live)
        if blank:
            self._blank.add(key)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self._live -= self._allocated.pop(key)
        self._blank.discard(key)
        self._kept.discard(key)

    def _add(self, name: str, kernels: int, read: int, written: int, flops: int = 0) -> None:
        self.entries.append(Entry(self._phase, name, kernels, read, written, flops))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, space = dict(kwargs or {}), func.namespace
        if getattr(kwargs.get("device"), "type", None) == "cuda":
            kwargs["device"] = torch.device("cpu")
        opaque = OPDEFS.get(func._schema.name) if space not in ("aten", "prim", "prims") else None
        if opaque is not None:  # an operation of our own: count what it launches
            with self:
                return opaque._init_fn(*args, **kwargs)
        given = {a.name: value for a, value in zip(func._schema.arguments, args, strict=False)} | kwargs
        outputs = {a.name for a in func._schema.arguments if a.is_out}
        inputs = _tensors([value for name, value in given.items() if name not in outputs])
        before = set(map(_storage, _tensors(given)))
        depth, self._depth = self._depth, 0  # torch's own code sees where the tensors really are
        try:
            out = func(*args, **kwargs)
        finally:
            self._depth = depth
        made = [t for t in _tensors(out) if _storage(t) not in before]
        blank = func._schema.name.split("::")[1].lstrip("_").startswith(("empty", "new_empty"))
        for t in made:
            self._allocate(t, blank)
        changed = [
            t for a in func._schema.arguments if _written(a) for t in tree_leaves(given.get(a.name)) if isinstance(t, Tensor)
        ]
        self._blank -= {_storage(t) for t in changed}
        if (made or changed) and not blank and any(t.numel() for t in (*made, *changed)):
            self._count(func, args, kwargs, out, inputs, made, changed)
        return out

    def _count(self, func, args, kwargs, out, inputs, made, changed) -> None:
        name = func._schema.name.split("::")[1]
        special = _special(name, args, inputs, made, changed)
        special = [(1, _distinct(inputs), _distinct([*made, *changed]))] if special is None else special
        formula = flop_registry.get(func.overloadpacket)
        flops = formula(*args, **kwargs, out_val=out) if formula else 0
        for part, (kernels, read, written) in enumerate(special):
            self._add(name, kernels, read, written, 0 if part else flops)

    def launch(self, kernel: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        """One launch of a Triton kernel."""
        given = dict(zip(kernel.arg_names, args, strict=False)) | kwargs
        tensors = _tensors(given)
        outputs = [t for t in tensors if _storage(t) in self._blank]
        self._blank -= {_storage(t) for t in outputs}
        ids = {id(t) for t in outputs}
        name = kernel_name(kernel.fn)
        if name not in WORK and multiplies(kernel.fn):
            self.unstated.add(name)
        work = dict(read=_distinct([t for t in tensors if id(t) not in ids]), write=_distinct(outputs), flops=0)
        work |= WORK[name](given) if name in WORK else {}
        self._add(name, 1, work["read"], work["write"], work["flops"])


def _written(argument) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _special(name: str, args, inputs, made, changed) -> list[tuple[int, int, int]] | None:
    """[(kernels, bytes read, bytes written)] of operations that are more than one kernel, or read or write other bytes."""
    ours = _distinct(made)
    if name.startswith(("_foreach", "_fused")):
        lists = [a for a in args if isinstance(a, (list, tuple)) and a and isinstance(a[0], Tensor)]
        alike = all(len(set(map(_order, item))) == 1 for item in zip(*lists, strict=True))  # else one launch a tensor
        kernels = math.ceil(len(lists[0]) / LISTED[len(lists) - 1 + (not changed)]) if alike else len(lists[0])
        return [(kernels, _distinct(inputs if name != "_foreach_copy_" else list(args[1])), _distinct([*made, *changed]))]
    if name == "convolution_backward":
        (dy, x, w), (to_x, to_w, to_bias) = inputs[:3], args[-1]
        parts = [(to_x, span(dy) + span(w), span(x)), (to_w, span(dy) + span(x), span(w)), (to_bias, span(dy), 4 * dy.shape[1])]
        return [(1, read, written) for wanted, read, written in parts if wanted]
    if "batch_norm" in name:  # statistics, then the values; backward: sums, then the values
        backward = "backward" in name
        twice = sum(map(span, inputs[: 1 + backward]))
        return [(1, twice, 0), (1, twice, span(inputs[0]))]
    if name.endswith("_backward") and name.split("_")[0] in ("slice", "select", "diagonal", "as"):  # zeros, then a copy
        return [(1, 0, ours), (1, span(inputs[0]), span(inputs[0]))]
    if name in ("index", "index_select", "gather", "embedding"):
        return [(1, ours + _distinct(inputs[1:]), ours)]
    if name in ("index_copy_", "index_put_", "scatter_", "_index_put_impl_"):
        return [(1, _distinct(inputs[1:]), span(inputs[-1]))]
    if name in FILLING:
        return [(1, _distinct(inputs[1:]), span(inputs[0]))]
    if name == "lift_fresh":  # a constant, copied to the device before a capture
        return []
    if name == "_to_copy" and made[0].dtype == inputs[0].dtype and made[0].stride() == inputs[0].stride():
        return []  # to the device where it is
    return None
