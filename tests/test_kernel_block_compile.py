"""The kernels of a block's end compile for real GPUs without spilling, within a budget, with wide loads. Needs no GPU."""

import pytest
from compiling import check_budget, compile_kernel, compiled, print_compiled

BUDGET = dict(  # registers a thread
    moments=168, end=162, reduce=218, weights=220, spread=255, join=32, marked_apply=64, marked_reduce=96
)
SHORTCUTS = [(16, 32, 2, False), (32, 64, 2, False), (64, 256, 1, True)]  # input, output channels, stride, pooled: the release's
MARKED = [(16, True), (64, False)]  # channels, whether there is a second operand


def compile_all(capability: int) -> dict:
    from hiclr_kernels.batch_norm import gpu, gpu_marks
    from hiclr_kernels.stgcn_block import shortcut, shortcut_gradient_kernels, shortcut_kernels

    names = "weight bias weight2 bias2 part stats stats1 stats2 stats3 back back2 back3"
    floats = dict.fromkeys(names.split(), "*fp32")
    floats |= dict(seed="*i64", marks="*u8", inverse="fp32", slope="fp32")
    types = floats | dict.fromkeys("x x1 x2 z2 dz2 dx grad before out".split(), "*bf16")
    used = {}
    for c, d, stride, pooled in SHORTCUTS:
        name, own = f"{c} {d}", types | (dict(grad="*fp32", out="*fp32") if pooled else {})
        end = dict(DROP=True, POOL=pooled)
        back = shortcut.tile(25, c, d, stride, shortcut.BACK_BLOCK)
        for kernel, module, block, more, options in (
            ("moments", shortcut_kernels, shortcut.BLOCK, {}, shortcut.FEW_WARPS),
            ("end", shortcut_kernels, shortcut.BLOCK, end, shortcut.OPTIONS),
            ("reduce", shortcut_gradient_kernels, shortcut.BACK_BLOCK, end, shortcut.OPTIONS),
            ("weights", shortcut_gradient_kernels, shortcut.BACK_BLOCK, end, shortcut.OPTIONS),
            ("spread", shortcut_gradient_kernels, shortcut.spread_block(back), end, shortcut.FEW_WARPS),
        ):
            constants = shortcut.tile(25, c, d, stride, block) | more
            used[f"{kernel} {name}"] = compile_kernel(
                getattr(module, f"{kernel}_kernel"), own, constants, options, capability
            )  # fmt: skip
    constants = dict(PARTS=shortcut.JOINED, BLOCK=shortcut.JOINED)
    join = compile_kernel(shortcut_gradient_kernels.join_kernel, own | dict(out="*fp32"), constants, shortcut.OPTIONS, capability)
    used["join"] = join
    for channels, two in MARKED:
        cut, options = gpu.tile(channels), dict(num_warps=gpu.WARPS)
        constants = cut | dict(SECOND=two, DROP=two)
        used[f"marked_apply {channels}"] = compile_kernel(gpu_marks.apply_kernel, types, constants, options, capability)
        constants = cut | dict(WRITE=two)
        used[f"marked_reduce {channels}"] = compile_kernel(gpu_marks.reduce_kernel, types, constants, options, capability)
    return used


def test_budget():
    pytest.importorskip("triton")
    for capability, found in compiled(__file__).items():
        assert {name.split()[0] for name in found} == set(BUDGET)
        for name, used in found.items():
            kernel = name.split()[0]
            check_budget(capability, name, used, BUDGET[kernel], 64)
            if kernel != "join":
                assert used["ld"] == 128, (capability, name, used)
            fast = {80: ("mma.sync",), 90: ("wgmma",), 100: ("tcgen05.mma", "mma.sync")}[capability]
            if kernel in ("moments", "end", "reduce", "weights", "spread"):
                assert used["mma"] in fast, (capability, name, used)


if __name__ == "__main__":
    print_compiled(compile_all)
