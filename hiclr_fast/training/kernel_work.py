"""What the ledger cannot see of a Triton kernel: the FLOPs of its products, and bytes where it does not read every input once
or writes over one. Executed FLOPs, those on padding too.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any


def _graph_conv(a: dict[str, Any], gathers: int) -> dict[str, int]:
    """Of padded joints J: that many products with a graph, and one with the weights."""
    frames = a["x"].numel() // (a["V"] * a["C"])
    return dict(flops=2 * frames * a["K"] * a["J"] * a["C"] * (gathers * a["J"] + a["D"]))


def _attention(a: dict[str, Any], maps: str, products: int) -> dict[str, int]:
    """That many products of padded maps (J, J) with the N channels of some frames, for every row, head and run of frames."""
    runs = math.ceil(a["T"] * a["CP"] / a["N"])
    return dict(flops=2 * products * a["J"] ** 2 * a["N"] * runs * a[maps].numel() // a["V"] ** 2)


def _temporal(a: dict[str, Any], tiles: int) -> dict[str, int]:
    """Of so many tiles, each with the whole band matrix."""
    return dict(flops=2 * tiles * math.prod(a[name] for name in ("M", "STEPS", "BI", "F", "OB")))


def _product(a: dict[str, Any]) -> dict[str, int]:
    """With the folded graph, whole tiles."""
    frames = math.ceil(a["L"] / a["BM"]) * a["BM"] * len(a["x"])
    columns, depth = (math.ceil(n / a[b]) * a[b] for n, b in ((a["V"] * a["DP"], "BN"), (a["W"], "BK")))
    return dict(flops=2 * frames * columns * depth)


def _projector(a: dict[str, Any], products: int) -> dict[str, int]:
    """Of the rows that are given, products with both weights."""
    return dict(flops=2 * a["N"] * a["M"] * (a["H"] + a["F"]) * products)


def _shortcut(a: dict[str, Any], products: int) -> dict[str, int]:
    """That many products of all rows of the shortcut's x, as far as it is read, with the padded weights."""
    width = math.ceil(a["D"] / a["BLOCK"]) * a["BLOCK"]
    return dict(flops=2 * products * (a["x"].numel() // a["C"]) * a["CP"] * width)


WORK: dict[str, Callable[[dict[str, Any]], dict[str, int]]] = {  # op.kernel: its arguments -> any of flops, read, write (bytes)
    "attention.scores_kernel": lambda a: _attention(a, "scores", 1),
    "attention.gradient_kernel": lambda a: _attention(a, "grad", 2),
    "contrast.sweep_kernel": lambda a: dict(flops=4 * a["rows"] * a["queue_rows"] * a["D"]),
    "graph_conv.forward_kernel": lambda a: _graph_conv(a, 1),
    "graph_conv.input_kernel": lambda a: _graph_conv(a, 2),
    "graph_conv.weight_kernel": lambda a: _graph_conv(a, 1),
    "graph_conv.product_kernel": _product,
    "projection.forward_kernel": lambda a: _projector(a, 1),
    "projection.rows_kernel": lambda a: _projector(a, 1),
    "projection.weights_kernel": lambda a: _projector(a, 1),
    "stgcn_block.moments_kernel": lambda a: _shortcut(a, 1),
    "stgcn_block.end_kernel": lambda a: _shortcut(a, 1),
    "stgcn_block.reduce_kernel": lambda a: _shortcut(a, 1),
    "stgcn_block.spread_kernel": lambda a: _shortcut(a, 2),
    "stgcn_block.weights_kernel": lambda a: _shortcut(a, 2),
    "temporal.forward_kernel": lambda a: _temporal(a, math.prod(a["part_ptr"].shape[:2])),
    "temporal.inputs_kernel": lambda a: _temporal(a, math.prod(a["part_ptr"].shape[:2])),
    "temporal.joint_kernel": lambda a: _temporal(
        a, 2 * len(a["part_ptr"]) * -(-a["rows"] * a["V"] // a["M"]) * -(-a["T"] // a["F"])
    ),
    "temporal.weights_kernel": lambda a: _temporal(
        a, len(a["part_ptr"]) // a["lanes"] * -(-a["rows"] * a["V"] // a["M"]) * -(-a["TO"] // a["F"])
    ),
}


def kernel_name(function: Callable) -> str:
    """op.kernel, the op being the folder under hiclr_kernels."""
    return f"{function.__module__.removeprefix('hiclr_kernels.').split('.')[0]}.{function.__name__}"


@functools.cache
def multiplies(function: Callable) -> bool:
    return "tl.dot(" in inspect.getsource(function)
