"""The temporal kernels compile for real GPUs without spilling, within a budget, to warp-group products. Needs no GPU."""

import pytest
import torch
from compiling import CAPABILITIES, TENSOR_MEMORY, compile_kernel, compiled, print_compiled

TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
B16, F32 = torch.bfloat16, torch.float32
# C, O, joints, K, stride, slope, dtype: the release's blocks; widths that differ, a wide layer; float32
CASES = [(c, c, 25, 9, stride, 0.0, B16) for c, stride in ((16, 1), (32, 1), (32, 2), (64, 1), (64, 2), (128, 2))]
CASES += [(16, 16, 20, 9, 2, 0.0, B16)]
CASES += [(24, 40, 20, 7, 2, 0.1, B16), (128, 16, 17, 7, 1, 0.1, torch.float16), (16, 128, 25, 9, 1, 0.0, B16)]
CASES += [(16, 16, 25, 9, 1, 0.0, F32), (64, 64, 20, 9, 1, 0.1, F32), (128, 128, 25, 7, 2, 0.0, F32)]
SHARED = {80: 163, 90: 227, 100: 227}  # KB of a program, by NVIDIA's tuning guides
# registers a thread on sm_80, sm_90, sm_100 by (kernel, bytes an element, padded width), as kernels/README.md lists them
BUDGET = {
    ("forward", 2, 16): (166, 158, 134),
    ("inputs", 2, 16): (184, 212, 152),
    ("weights", 2, 16): (255, 127, 82),
    ("joint", 2, 16): (0, 255, 166),
    ("joint", 2, 32): (0, 254, 185),
    ("forward", 2, 32): (206, 162, 133),
    ("inputs", 2, 32): (176, 204, 193),
    ("weights", 2, 32): (255, 154, 84),
    ("forward", 2, 64): (181, 166, 168),
    ("inputs", 2, 64): (208, 216, 192),
    ("weights", 2, 64): (255, 163, 101),
    ("forward", 2, 128): (128, 144, 112),
    ("inputs", 2, 128): (194, 248, 186),
    ("weights", 2, 128): (202, 198, 121),
    ("forward", 4, 16): (93, 72, 80),
    ("inputs", 4, 16): (96, 80, 90),
    ("weights", 4, 16): (125, 128, 157),
    ("forward", 4, 64): (96, 96, 94),
    ("inputs", 4, 64): (113, 112, 118),
    ("weights", 4, 64): (120, 118, 118),
    ("forward", 4, 128): (120, 94, 80),
    ("inputs", 4, 128): (252, 244, 150),
    ("weights", 4, 128): (152, 150, 148),
}
JOINS = (72, 2)  # band, diagonals: registers and KB of shared memory


def compile_all(capability: int) -> dict:
    """Kernel and configuration -> resources, for everything that `temporal.gpu` can launch."""
    from hiclr_kernels.temporal import gpu, gpu_joint, tiles

    wide = dict.fromkeys("a b c scale shift center bias bias2 part sum dw weight weight2".split(), "*fp32")
    whole = dict.fromkeys("sets rows T TO tiles lanes size programs apart forwards to_set to_out to_in to_tap".split(), "i32")
    whole |= dict(sets="i64")
    used, major = {}, capability // 10

    def add(name, kernel, element, constants, options, marked=False):
        given = dict.fromkeys("h z2 z1 g band gradient".split(), f"*{element}") | wide
        given["marks"] = "*u8" if marked else f"*{element}"
        names = [p.name for p in kernel.params if p.name not in constants]
        types = {
            n: given[n.removesuffix("_ptr")] if n.endswith("_ptr") else "fp32" if n == "inverse" else whole[n] for n in names
        }
        used[name] = compile_kernel(kernel, types, constants, options, capability)

    def options(tile):
        return dict(num_warps=tile.warps, num_stages=tile.stages)

    for c, o, joints, kernel, stride, slope, dtype in CASES:
        element, shape = TYPES[dtype], (joints, c, o, kernel, stride, slope, dtype)
        at = f"{dtype.itemsize} {max(tiles.padded(c), tiles.padded(o))} {element} {c} to {o} stride {stride}"
        tile, constants = tiles.forward_config(*shape)
        add(f"forward {at}", gpu.forward_kernel, element, constants, options(tile))
        joint = tiles.joint_tile(c, o, kernel, stride, dtype, major) is not None
        ways = [(True, tiles.takes_marks(c, o, dtype, major))]  # fold, marks
        if joint or (c == o == 64 and stride == 1):
            ways += [(False, False)] if joint else [(True, False), (False, False)]
        for fold, marked in dict.fromkeys(ways):
            tile, constants = tiles.inputs_config(*shape, fold, major)
            more, how = dict(MARKED=marked), f"fold {fold} marks {marked}"
            if joint:
                add(f"joint {at} {how}", gpu_joint.joint_kernel, element, constants | more, options(tile), marked)
                taps = gpu_joint.taps_constants(constants)
                add(f"taps 4 {at}", gpu_joint.taps_kernel, "fp32", taps, {})
                continue
            add(f"inputs {at} {how}", gpu.inputs_kernel, element, constants | more, options(tile), marked)
            tile, constants = tiles.weights_config(*shape, fold)
            add(f"weights {at} {how}", gpu.weights_kernel, element, constants | more, options(tile), marked)
    add("band 2 32", gpu.band_kernel, "bf16", gpu.band_constants((25, 32, 32, 9, 2), B16, major), {})
    tile, constants = tiles.weights_config(25, 16, 16, 9, 1, 0.0, B16, True)
    add("diagonals 4 16", gpu.diagonals_kernel, "fp32", gpu.diagonals_constants(constants), {})
    return used


def test_budget():
    pytest.importorskip("triton")
    for capability, found in compiled(__file__).items():
        assert {name.split()[0] for name in found} >= {"forward", "inputs", "weights", "band", "diagonals"}
        for name, used in found.items():
            print(f"sm_{capability}", name, used)
            kernel, size, width, *_ = name.split()
            assert used["STACK"] == used["LOCAL"] == 0, (capability, name, used)  # no spill
            assert used["tensor"] <= TENSOR_MEMORY, (capability, name, used)
            if kernel in ("forward", "inputs", "weights", "joint"):
                registers = BUDGET[kernel, int(size), int(width)][CAPABILITIES.index(capability)]
                within = 16 < used["REG"] <= registers and used["shared"] <= SHARED[capability] * 1024
                assert within, (capability, name, used)
                fast = {80: "mma.sync", 90: "wgmma", 100: "tcgen05.mma"}[capability]
                assert used["mma"] == (fast if size == "2" else "none"), (capability, name, used)
            else:
                assert used["REG"] <= JOINS[0] and used["shared"] <= JOINS[1] * 1024, (capability, name, used)


if __name__ == "__main__":
    print_compiled(compile_all)
