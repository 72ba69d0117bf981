"""The kernels of graph convolution and attention compile for real GPUs without spilling, within a budget. Needs no GPU."""

import pytest
from compiling import TENSOR_MEMORY, check_budget, compile_kernel, compiled, print_compiled, some

# registers a thread, shared memory in KB
BUDGET = dict(
    fold=(96, 1), unfold=(96, 4), spread=(128, 8), wide_forward=(255, 32), wide_input=(232, 32), wide_weight=(192, 32),
    row_forward=(255, 40), row_input=(232, 32), row_weight=(255, 32), scores=(96, 24), gradient=(96, 32), product=(255, 100),
    finish=(56, 2), project=(184, 64), project_rows=(112, 96), project_weights=(136, 72), queue=(48, 2), pointer=(24, 1),
)  # fmt: skip
JOINTS, SUBSETS = 25, 3
STGCN = [(3, 16), (16, 16), (32, 64)]  # input, output channels of the folded product
WIDE = [("fp16", 64, 64), ("bf16", 64, 256)]
ROWS = [("bf16", 32, 32), ("fp16", 64, 128), ("bf16", 128, 256)]
HEADS = [("bf16", 16), ("bf16", 32), ("fp32", 32)]


def compile_all(capability: int) -> dict:
    from hiclr_kernels import queue_gpu
    from hiclr_kernels.attention import gpu as attention
    from hiclr_kernels.graph_conv import gpu, gpu_kernels, product_kernels, row_kernels, wide_kernels
    from hiclr_kernels.projection import gpu as projection

    floats = "adjacency importance weight bias importance2 weight2 bias2 d_importance d_weight d_bias stats back part weights"
    floats = dict.fromkeys(f"{floats} edges d_edges scores".split(), "*fp32") | dict(slope="fp32", scale="fp32")
    used = {}

    def add(name, kernel, dtype, constants, stages=None, warps=gpu.WARPS, **more):
        types = floats | dict.fromkeys("x z active dz dx before grad matrix column d_matrix qk dqk".split(), f"*{dtype}") | more
        options = dict(num_warps=warps) | (dict(num_stages=stages) if stages else {})
        used[name] = compile_kernel(kernel, types, constants, options, capability)

    for c, d in STGCN:
        cut = gpu.fold_tile(SUBSETS, JOINTS, c, d)
        add(f"fold {c} {d}", gpu_kernels.fold_kernel, "bf16", cut)
        add(f"unfold {c} {d}", gpu_kernels.unfold_kernel, "bf16", gpu.unfold_tile(SUBSETS, JOINTS, c, d), None, gpu.UNFOLD_WARPS)
        for moments in (True, False) if c == 3 else (True,):
            kernel, (cut, stages) = product_kernels.product_kernel, gpu.product_tile(JOINTS, c, d)
            cut |= dict(MOMENTS=moments)
            add(f"product {c} {d} {moments}", kernel, "bf16", cut, stages, gpu.PRODUCT_WARPS, column="*bf16")
    for channels in some([16, 256], capability):
        cut = gpu.spread_tile(JOINTS, channels)
        add(f"spread {channels}", gpu_kernels.spread_kernel, "bf16", cut | dict(ACT=True))
    for dtype, c, d in some(WIDE, capability):
        cut, narrow = (gpu.wide_tile(SUBSETS, JOINTS, c, d, f) for f in (gpu.FRAMES, gpu.INPUT_FRAMES))
        ways = dict(MOMENTS=True, ACT=False), dict(MOMENTS=False, ACT=True)  # forward; made again
        for i, way in enumerate(ways):
            add(f"wide_forward {dtype} {c} {d} {i}", wide_kernels.forward_kernel, dtype, cut | way, 1, gpu.FORWARD_WARPS)
        add(f"wide_input {dtype} {c} {d}", wide_kernels.input_kernel, dtype, narrow | dict(ADD=True), 1, gpu.INPUT_WARPS)
        add(f"wide_weight {dtype} {c} {d}", wide_kernels.weight_kernel, dtype, cut, 1)
        add(f"finish {dtype} {c} {d}", wide_kernels.finish_kernel, dtype, gpu.finish_tile(SUBSETS, JOINTS, c, d))
    for dtype, c, d in some(ROWS, capability):
        steps = dict(TO_K=c, TO_D=SUBSETS * c)
        cut, narrow = (gpu.wide_tile(SUBSETS, JOINTS, c, d, f) | steps for f in (gpu.FRAMES, gpu.INPUT_FRAMES))
        add(f"row_forward {dtype} {c} {d}", row_kernels.forward_kernel, dtype, cut, 1, gpu.FORWARD_WARPS, bias=f"*{dtype}")
        add(f"row_input {dtype} {c} {d}", row_kernels.input_kernel, dtype, narrow, 1)
        add(f"row_weight {dtype} {c} {d}", row_kernels.weight_kernel, dtype, cut, 1)
    for dtype, channels in some(HEADS, capability):
        cut = attention.config(JOINTS, SUBSETS, channels)
        add(f"scores {dtype} {channels}", attention.scores_kernel, dtype, cut, 1)
        add(f"gradient {dtype} {channels}", attention.gradient_kernel, dtype, cut, 1, grad="*fp32")
    heads = "x weight1 bias1 weight2 bias2 other1 bias1_other other2 bias2_other q inverse grad dx"
    heads = dict.fromkeys(f"{heads} d_weight1 d_bias1 d_weight2 d_bias2".split(), "*fp32")
    for dtype, *sizes in (("bf16", 256, 256, 128), ("fp16", 256, 256, 256)):
        types = heads | dict.fromkeys(("hidden", "dy", "dh"), f"*{dtype}")
        cut, name = projection.rows_tile(*sizes), f"{dtype} {sizes[2]}"
        add(f"project {name}", projection.forward_kernel, dtype, cut, projection.STAGES, projection.WARPS, **types)
        add(f"project_rows {name}", projection.rows_kernel, dtype, cut, projection.STAGES, projection.WARPS, **types)
        own = projection.weights_tile(*sizes)
        add(f"project_weights {name}", projection.weights_kernel, dtype, own, projection.STAGES, projection.WARPS, **types)
    update = dict(queue="*fp32", keys="*fp32", pointer="*i64")
    add("queue", queue_gpu.rows_kernel, "fp32", dict(BLOCK=queue_gpu.BLOCK), None, 4, **update)
    add("pointer", queue_gpu.pointer_kernel, "fp32", {}, None, 4, **update)
    return used


def test_budget():
    pytest.importorskip("triton")
    for capability, found in compiled(__file__).items():
        assert {name.split()[0] for name in found} == set(BUDGET)
        for name, used in found.items():
            check_budget(capability, name, used, *BUDGET[name.split()[0]])
            assert used["tensor"] <= TENSOR_MEMORY, (capability, name, used)


if __name__ == "__main__":
    print_compiled(compile_all)
