"""The passes of batch norm compile for real GPUs without spilling, within a budget, with wide loads. Needs no GPU."""

import pytest
from compiling import check_budget, compile_kernel, compiled, print_compiled, some

BUDGET = dict(moments=80, join=104, finish=104, apply=80, pool=96, reduce=224, spread=128, coefficients=64)  # registers a thread
TAILS = [  # first operand, second, dropout, activation, pooled: of blocks, of the shortcuts of DSTA-Net, of the encoder's end
    ("NORM", "PLAIN", True, True, False),
    ("NORM", "NORM", True, True, False),
    ("PLAIN", "NORM", True, True, False),
    ("NORM", "NONE", False, True, False),
    ("NORM", "PLAIN", True, True, True),
    ("NORM", "NORM", True, True, True),
]
INPUT = ("NORM", "NONE", False, False, False)
CASES = [("bf16", 16, TAILS), ("bf16", 256, TAILS[1:5:3]), ("fp32", 256, TAILS[5:]), ("fp32", 75, [INPUT])]


def compile_all(capability: int) -> dict:
    from hiclr_kernels.batch_norm import gpu, gpu_kernels, gpu_sums

    floats = "part weight bias running_mean running_var weight2 bias2 running_mean2 running_var2 stats stats1 stats2"
    floats = dict.fromkeys(f"{floats} back1 back2 out d_weight d_bias d_front".split(), "*fp32")
    floats |= dict.fromkeys(("tracked", "tracked2", "seed"), "*i64")
    floats |= dict.fromkeys("eps momentum unbias per inverse slope".split(), "fp32")
    used = {}
    for groups, count, channels in some([(4, 128, 16), (4, 700, 16), (1, 512, 75), (3, 1, 64), (4, 128, 256)], capability):
        joins, options = gpu.join_tile(groups, count, channels), dict(num_warps=gpu.JOIN_WARPS)
        name = f"G{groups} S{count} C{channels}"
        add = lambda kernel, types, **more: compile_kernel(kernel, floats | types, joins | more, options, capability)  # noqa: E731, B023
        used[f"join {name}"] = add(gpu_sums.join_kernel, {"out": "*fp64"})
        used[f"finish {name}"] = add(gpu_sums.finish_kernel, {}, RAW=False, TWO=True)
        used[f"coefficients {name}"] = add(gpu_sums.coefficients_kernel, {"shared": "*fp64"}, SHARED=True, FRONT=True)
    options = dict(num_warps=gpu.WARPS)
    for dtype, channels, tails in CASES:
        types = floats | dict.fromkeys("x x1 x2 grad own before dx1 dx2".split(), f"*{dtype}")
        cut = gpu.tile(channels)
        used[f"moments {dtype} C{channels}"] = compile_kernel(gpu_sums.moments_kernel, types, cut, options, capability)
        for kind1, kind2, drop, act, pooled in tails:
            constants = cut | dict(KIND1=getattr(gpu, kind1).value, KIND2=getattr(gpu, kind2).value, DROP=drop, ACT=act)
            name = f"{dtype} C{channels} {kind1} {kind2} {'drop' if drop else ''}"
            add = lambda kernel, types, **more: compile_kernel(kernel, types, constants | more, options, capability)  # noqa: E731, B023
            if pooled:
                used[f"pool {name}"] = add(gpu_kernels.pool_kernel, types)
            else:
                used[f"apply {name}"] = add(gpu_kernels.apply_kernel, types | {"out": f"*{dtype}"})
            back = types | ({"grad": "*fp32"} if pooled else {})
            write = kind2 == "PLAIN"
            used[f"reduce {name} {pooled}"] = add(gpu_kernels.reduce_kernel, back, POOL=pooled, OWN=write, WRITE=write)
            if write:
                constants |= {"ACT": False, "KIND2": 0}
                used[f"spread {name} {pooled}"] = add(gpu_kernels.spread_kernel, types, POOL=False)
            else:
                used[f"spread {name} {pooled}"] = add(gpu_kernels.spread_kernel, back, POOL=pooled)
    return used


def test_budget():
    pytest.importorskip("triton")
    for capability, found in compiled(__file__).items():
        assert {name.split()[0] for name in found} == set(BUDGET)
        for name, used in found.items():
            kernel = name.split()[0]
            check_budget(capability, name, used, BUDGET[kernel], 48)
            if "C75" not in name and kernel in ("moments", "apply", "pool", "reduce", "spread"):
                assert used["ld"] == 128, (capability, name, used)


if __name__ == "__main__":
    print_compiled(compile_all)
