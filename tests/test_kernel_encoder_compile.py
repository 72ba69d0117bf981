"""The kernels of graph convolution and attention compile for real GPUs without spilling, within a budget. Needs no GPU."""

import pytest
from compiling import TENSOR_MEMORY, compile_kernel, compiled, print_compiled, some

# registers a thread, shared memory in KB
BUDGET = dict(
    fold=(96, 1), unfold=(128, 4), spread=(128, 8), wide_forward=(255, 32), wide_input=(232, 32), wide_weight=(192, 32),
    row_forward=(255, 40), row_input=(232, 32), row_weight=(255, 32), scores=(96, 24), gradient=(96, 32),
)  # fmt: skip
JOINTS, SUBSETS = 25, 3
STGCN = [(3, 16), (16, 16), (32, 64)]  # input, output channels of the folded product
WIDE = [("fp16", 64, 64), ("bf16", 64, 256)]
ROWS = [("bf16", 32, 32), ("fp16", 64, 128), ("bf16", 128, 256)]
HEADS = [("bf16", 16), ("bf16", 32), ("fp32", 32)]


def compile_all(capability: int) -> dict:
    from hiclr_kernels.attention import gpu as attention
    from hiclr_kernels.graph_conv import gpu, gpu_kernels, row_kernels, wide_kernels

    floats = "adjacency importance weight bias importance2 weight2 bias2 d_column d_importance d_weight d_bias stats back part"
    floats = dict.fromkeys(f"{floats} edges d_edges scores".split(), "*fp32") | dict(slope="fp32", scale="fp32")
    used = {}

    def add(name, kernel, dtype, constants, stages=None, warps=gpu.WARPS, **more):
        types = floats | dict.fromkeys("x z dz dx before grad matrix column d_matrix qk dqk".split(), f"*{dtype}") | more
        options = dict(num_warps=warps) | (dict(num_stages=stages) if stages else {})
        used[name] = compile_kernel(kernel, types, constants, options, capability)

    for c, d in some(STGCN, capability):
        cut = gpu.fold_tile(SUBSETS, JOINTS, c, d)
        add(f"fold {c} {d}", gpu_kernels.fold_kernel, "bf16", cut)
        add(f"unfold {c} {d}", gpu_kernels.unfold_kernel, "bf16", cut)
    for channels in some([16, 256], capability):
        cut = gpu.spread_tile(JOINTS, channels)
        add(f"spread {channels}", gpu_kernels.spread_kernel, "bf16", cut | dict(ACT=True))
    for dtype, c, d in some(WIDE, capability):
        cut, narrow = (gpu.wide_tile(SUBSETS, JOINTS, c, d, f) for f in (gpu.FRAMES, gpu.INPUT_FRAMES))
        weight = {"weight": f"*{dtype}", "weight2": f"*{dtype}"}
        add(f"wide_forward {dtype} {c} {d}", wide_kernels.forward_kernel, dtype, cut, 1, gpu.FORWARD_WARPS, **weight)
        add(f"wide_input {dtype} {c} {d}", wide_kernels.input_kernel, dtype, narrow | dict(ADD=True), 1, **weight)
        add(f"wide_weight {dtype} {c} {d}", wide_kernels.weight_kernel, dtype, cut, 1)
    for dtype, c, d in some(ROWS, capability):
        cut, narrow = (gpu.wide_tile(SUBSETS, JOINTS, c, d, f) for f in (gpu.FRAMES, gpu.INPUT_FRAMES))
        weight = {"weight": f"*{dtype}"}
        add(f"row_forward {dtype} {c} {d}", row_kernels.forward_kernel, dtype, cut, 1, gpu.FORWARD_WARPS, **weight)
        add(f"row_input {dtype} {c} {d}", row_kernels.input_kernel, dtype, narrow, 1, **weight)
        add(f"row_weight {dtype} {c} {d}", row_kernels.weight_kernel, dtype, cut, 1)
    for dtype, channels in some(HEADS, capability):
        cut = attention.config(JOINTS, SUBSETS, channels)
        add(f"scores {dtype} {channels}", attention.scores_kernel, dtype, cut, 1)
        add(f"gradient {dtype} {channels}", attention.gradient_kernel, dtype, cut, 1, grad="*fp32")
    return used


def test_budget():
    pytest.importorskip("triton")
    for capability, found in compiled(__file__).items():
        assert {name.split()[0] for name in found} == set(BUDGET)
        for name, used in found.items():
            registers, shared = BUDGET[name.split()[0]]
            assert used["STACK"] == used["LOCAL"] == 0, (capability, name, used)
            assert 8 < used["REG"] <= registers and used["shared"] <= shared * 1024, (capability, name, used)
            assert used["tensor"] <= TENSOR_MEMORY, (capability, name, used)


if __name__ == "__main__":
    print_compiled(compile_all)
