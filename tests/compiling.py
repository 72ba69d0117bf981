"""Compiles Triton kernels for real GPUs, without one."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

CAPABILITIES = (80, 90, 100)
TENSOR_MEMORY = 512  # columns of a Blackwell multiprocessor; Triton compiles a kernel that needs more to a trap


@cache
def _cuobjdump() -> Path:
    import triton

    return next(Path(triton.__file__).parent.rglob("cuobjdump"))


def compile_kernel(kernel, types: dict, constants: dict, options: dict, capability: int) -> dict:
    """What one kernel uses: registers, stack, spills, shared and tensor memory, its matrix instruction, barriers, and the
    widest load and store (bits).

    types: of the arguments, by name; 32-bit integers for those left out. Pointers are aligned to 16 bytes.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {**types, **dict.fromkeys(constants, "constexpr")}
    order = [p.name for p in kernel.params]
    signature = {name: types.get(name, "i32") for name in order}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(order) if str(signature[name]).startswith("*")}
    source, target = ASTSource(kernel, signature, constants, aligned), GPUTarget("cuda", capability, 32)
    binary = triton.compile(source, target=target, options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        command = [_cuobjdump(), "-res-usage", file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", report)}
    ptx = binary.asm["ptx"]
    used["shared"] = binary.metadata.shared
    used["tensor"] = getattr(binary.metadata, "tmem_size", None) or 0
    used["mma"] = next((name for name in ("wgmma", "tcgen05.mma", "mma.sync") if name in ptx), "none")
    used["barriers"] = ptx.count("bar.sync")
    for what in ("ld", "st"):
        found = re.findall(rf"{what}\.global\S*?(?:\.v(\d))?\.b(\d+)", ptx)
        used[what] = max((int(lanes or 1) * int(bits) for lanes, bits in found), default=0)
    return used


def print_compiled(compile_all: Callable[[int], dict[str, dict]]) -> None:
    print(json.dumps({capability: compile_all(capability) for capability in CAPABILITIES}))


def compiled(file: str) -> dict[int, dict[str, dict]]:
    """Capability -> kernel -> what it uses, as `file` prints it in a process of its own: in this one kernels are interpreted."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return {int(capability): found for capability, found in json.loads(done.stdout).items()}


def some(cases: list, capability: int) -> list:
    """All cases on sm_90; elsewhere the last, which is to be the largest: every kernel on every architecture, not every case."""
    return cases if capability == 90 else cases[-1:]


def check_budget(capability: int, name: str, used: dict, registers: int, kilobytes: int) -> None:
    """No spill, no stack, and no more registers and shared memory than that."""
    assert used["STACK"] == used["LOCAL"] == 0, (capability, name, used)
    assert 8 < used["REG"] <= registers and used["shared"] <= kilobytes * 1024, (capability, name, used)
