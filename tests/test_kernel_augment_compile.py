"""The augmentation kernels compile for real GPUs within a register budget, and spill nothing. Needs no GPU.

Budgets are the measured numbers rounded up to what the launch relies on: at most 102 registers, so that
`PROGRAMS_PER_SM` = 5 programs of 128 threads are resident at once (65536 / 128 / 5).
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

BUDGET = {"views joint": 102, "views bone": 102, "views motion": 102, "rows": 64, "keep": 200, "fill": 48}  # registers a thread
POINTERS = dict(
    x="*fp32", index="*i64", rows="*fp32", keep="*u8", noise="*fp32", sample="*i64", step="*i64", fill="*fp32", mirror="*i32",
    parents="*i32", out="*bf16", scratch="*fp32", table="*fp32", grad="*fp32", partial="*fp32",
)  # fmt: skip
SCALARS = dict(n="i32", masks="i32", total="i32", T="i32", V="i32", seed="i64", sn="i64", sc="i64", st="i64", sv="i64", sm="i64")


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
    """name -> {REG, STACK, LOCAL, spills, barriers} of every kernel for that compute capability."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    tool = next(Path(triton.__file__).parent.rglob("cuobjdump"))
    usage = {}
    for name, (kernel, constants, warps) in kernels().items():
        types = {**POINTERS, **SCALARS, **dict.fromkeys(constants, "constexpr")}
        order = [p.name for p in kernel.params]
        signature = {argument: types[argument] for argument in order}
        aligned = {(i,): [["tt.divisibility", 16]] for i, a in enumerate(order) if signature[a].startswith("*")}
        source = ASTSource(kernel, signature, {(order.index(a),): v for a, v in constants.items()}, aligned)
        binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(num_warps=warps))
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(binary.asm["cubin"])
            file.flush()
            text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
        usage[name] = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
        usage[name]["barriers"] = binary.asm["ptx"].count("bar.sync")
    return usage


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_registers_and_spills(capability):
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    command = [sys.executable, __file__, str(capability)]  # a process of its own: here the kernels are interpreted
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    usage = json.loads(done.stdout)
    print(f"sm_{capability}:", ", ".join(f"{name} {used['REG']}" for name, used in usage.items()))
    assert set(usage) == set(BUDGET)
    for name, used in usage.items():
        assert used["STACK"] == used["LOCAL"] == 0, (name, used)
        assert 0 < used["REG"] <= BUDGET[name], (name, used)
        if name.startswith("views"):
            assert used["barriers"] >= 2, "the scratch is read without waiting for its writers"


if __name__ == "__main__":
    print(json.dumps(compile_all(int(sys.argv[1]))))
