"""The contrast kernels compile for real GPUs without spilling, within a budget, to warp-group products. Needs no GPU."""

import pytest
import torch
from compiling import CAPABILITIES, TENSOR_MEMORY, compile_kernel, compiled, print_compiled, some

TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
B16, F16, F32 = TYPES
# every row of BUDGET; with MORE_CASES, in 16 bits every pair of dtype and D, dtype and topk, D and fewest or most neighbours, and
# masked columns
SWEEP_CASES = [(B16, 64, 0), (B16, 64, 4), (B16, 128, 0), (B16, 128, 1), (B16, 256, 4)]
SWEEP_CASES += [(F16, 256, 0)]
SWEEP_CASES += [(F32, d, topk) for d in (64, 128, 256) for topk in (0, 4)]
MORE_CASES = [(F16, 64, 1), (F16, 128, 4), (B16, 96, 0), (F32, 16, 1), (F32, 96, 0)]
MERGE_CASES = [(B16, 3, 128, 1), (F32, 3, 128, 0), (F32, 5, 256, 0), (F32, 5, 256, 4)]
SPLITS = 264  # two a multiprocessor of an H200, the most that split_count gives there

# (bytes an element, padded D, mining) -> (registers a thread, shared memory in KB) for sm_80, sm_90, sm_100, as kernels/README.md
# lists them. 255 registers are all that a thread can have; the sm_80 column stays under the 99 KB of its consumer relatives.
BUDGET = {
    (2, 64, False): ((154, 32), (128, 40), (109, 49)),
    (2, 64, True): ((198, 32), (201, 40), (219, 49)),
    (2, 128, False): ((200, 64), (149, 80), (130, 97)),
    (2, 128, True): ((178, 64), (167, 64), (165, 65)),
    (2, 256, False): ((170, 72), (151, 96), (136, 129)),
    (2, 256, True): ((242, 72), (241, 96), (190, 129)),
    (4, 64, False): ((239, 48), (125, 64), (160, 68)),
    (4, 64, True): ((181, 40), (182, 48), (126, 52)),
    (4, 128, False): ((223, 80), (204, 96), (190, 100)),
    (4, 128, True): ((197, 72), (224, 80), (226, 84)),
    (4, 256, False): ((250, 80), (254, 80), (251, 80)),
    (4, 256, True): ((200, 80), (190, 80), (192, 80)),
}
MERGE_BUDGET = (128, 2)
REDUCE_BUDGET = (32, 1)


def compile_all(capability: int) -> dict:
    """Kernel and configuration -> resources, for everything that `contrast.gpu` can launch."""
    from hiclr_kernels.contrast import gpu as launch

    between = dict(m_ptr="*fp32", l_ptr="*fp32", acc_ptr="*fp32", value_ptr="*fp32", index_ptr="*i32", queue_rows="i32")
    used = {}
    for dtype, d, topk in SWEEP_CASES + some(MORE_CASES, capability):
        tile, constants = launch.sweep_config(dtype, d, topk)
        q = "*fp16" if constants["PAIR"] else f"*{TYPES[dtype]}"
        types = dict(between, q_ptr=q, q_lo_ptr=q, queue_ptr=f"*{TYPES[dtype]}", rows="i32", tiles_per_split="i32", scale="fp32")
        options = dict(num_warps=tile.warps, num_stages=tile.stages)
        name = f"sweep {dtype.itemsize} {constants['BLOCK_D']} {topk > 0} {TYPES[dtype]} D{d} topk{topk}"
        used[name] = compile_kernel(launch.sweep_kernel, types, constants, options, capability)
    for dtype, branches, d, topk in MERGE_CASES:
        constants = launch.merge_config(branches, d, topk, SPLITS)
        types = dict(between, **dict.fromkeys(("q_ptr", "key_ptr", "queue_ptr"), f"*{TYPES[dtype]}"), term_ptr="*fp32")
        types |= dict(grad_ptr="*fp32", batch="i32", splits="i32", scale="fp32", grad_scales=("fp32",) * branches)
        name = f"merge {TYPES[dtype]} B{branches} D{d} topk{topk}"
        used[name] = compile_kernel(launch.merge_kernel, types, constants, {}, capability)
    types = dict(term_ptr="*fp32", terms_ptr="*fp32", loss_ptr="*fp32", batch="i32", weights=("fp32",) * 5)
    constants = dict(B=5, BLOCK=launch.REDUCE_BLOCK)
    used["reduce"] = compile_kernel(launch.reduce_kernel, types, constants, {}, capability)
    return used


def test_budget():
    pytest.importorskip("triton")
    for capability, found in compiled(__file__).items():
        assert {name.split()[0] for name in found} == {"sweep", "merge", "reduce"}
        assert {(int(n[1]), int(n[2]), n[3] == "True") for n in map(str.split, found) if n[0] == "sweep"} == set(BUDGET)
        for name, used in found.items():
            print(f"sm_{capability}", name, used)
            kernel, *config = name.split()
            registers, shared = {"merge": MERGE_BUDGET, "reduce": REDUCE_BUDGET}.get(kernel) or BUDGET[
                int(config[0]), int(config[1]), config[2] == "True"
            ][CAPABILITIES.index(capability)]
            assert used["STACK"] == used["LOCAL"] == 0, (capability, name, used)  # no spill
            assert 16 < used["REG"] <= registers and used["shared"] <= shared * 1024, (capability, name, used)
            assert used["tensor"] <= TENSOR_MEMORY, (capability, name, used)
            if kernel == "sweep":
                small_rows = config[:2] == ["4", "256"]  # tiles of 16 or 32 rows are too short for a warp group of 64
                expected = "mma.sync" if capability == 80 or small_rows else {90: "wgmma", 100: "tcgen05.mma"}[capability]
                assert used["mma"] == expected, (capability, name, used)


def test_every_tile_has_a_budget():
    launch = pytest.importorskip("hiclr_kernels.contrast.gpu")
    assert set(launch.TILES) == set(BUDGET)


if __name__ == "__main__":
    print_compiled(compile_all)
