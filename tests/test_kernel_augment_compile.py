"""The augmentation kernels compile for real GPUs within a register budget, and spill nothing. Needs no GPU.

Budgets are the measured numbers rounded up to what the launch relies on: at most 102 registers, so that
`PROGRAMS_PER_SM` = 5 programs of 128 threads are resident at once (65536 / 128 / 5).
"""

import pytest
from compiling import compile_kernel, compiled, print_compiled

BUDGET = {"views joint": 102, "views bone": 102, "views motion": 102, "rows": 64, "keep": 200, "fill": 48}  # registers a thread
POINTERS = dict(
    x="*fp32", index="*i64", rows="*fp32", keep="*u8", noise="*fp32", sample="*i64", step="*i64", fill="*fp32", mirror="*i32",
    parents="*i32", out="*bf16", scratch="*fp32", table="*fp32", grad="*fp32", partial="*fp32",
)  # fmt: skip
SCALARS = dict(seed="i64", sn="i64", sc="i64", st="i64", sv="i64", sm="i64")


def kernels() -> dict:
    """name -> (kernel, constants, warps), NTU shape: T 50, V 25, M 2, four views."""
    from hiclr_kernels.augment import gpu as augment_triton
    from hiclr_kernels.augment import gpu_draw as augment_triton_draw

    shape = dict(T=50, V=25, M=2)
    view = dict(**shape, W=4, MASKED=4, GIVEN=False, BLOCK=augment_triton.BLOCK)
    found = {
        f"views {name}": (augment_triton._views_kernel, dict(**view, STREAM=number), 4)
        for number, name in enumerate(augment_triton.STREAMS)
    }
    found["rows"] = (augment_triton_draw._rows_kernel, dict(W=4, COLUMNS=14, BLOCK=128), 4)
    found["keep"] = (augment_triton_draw._keep_kernel, dict(PER_SAMPLE=False, COLUMNS=14, BLOCK=32), 1)
    found["fill"] = (augment_triton._fill_kernel, dict(**shape, BLOCK=256), 4)
    return found


def compile_all(capability: int) -> dict:
    return {
        name: compile_kernel(kernel, POINTERS | SCALARS, constants, dict(num_warps=warps), capability)
        for name, (kernel, constants, warps) in kernels().items()
    }


def test_registers_and_spills():
    pytest.importorskip("triton")
    for capability, found in compiled(__file__).items():
        print(f"sm_{capability}:", ", ".join(f"{name} {used['REG']}" for name, used in found.items()))
        assert set(found) == set(BUDGET)
        for name, used in found.items():
            assert used["STACK"] == used["LOCAL"] == 0, (capability, name, used)
            assert 0 < used["REG"] <= BUDGET[name], (capability, name, used)
            if name.startswith("views"):
                assert used["barriers"] >= 2, "the scratch is read without waiting for its writers"


if __name__ == "__main__":
    print_compiled(compile_all)
