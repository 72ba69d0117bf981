"""Compiles Triton kernels for real GPUs, without one."""

import re
import subprocess
import tempfile
from pathlib import Path


def compile_kernel(kernel, types: dict, constants: dict, options: dict, capability: int) -> dict:
    """Registers, stack, spills and shared memory of one kernel, its matrix instruction, and the widest load and store (bits).

    types: of the arguments, by name; 64-bit integers for those left out. Pointers are aligned to 16 bytes.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {**types, **dict.fromkeys(constants, "constexpr")}
    order = [p.name for p in kernel.params]
    signature = {name: types.get(name, "i32") for name in order}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(order) if signature[name].startswith("*")}
    source, target = ASTSource(kernel, signature, constants, aligned), GPUTarget("cuda", capability, 32)
    binary = triton.compile(source, target=target, options=options)
    tools = Path(triton.__file__).parent
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        command = [next(tools.rglob("cuobjdump")), "-res-usage", file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", report)}
    ptx = binary.asm["ptx"]
    used["shared"] = binary.metadata.shared
    used["tensor"] = getattr(binary.metadata, "tmem_size", None) or 0
    used["mma"] = next((name for name in ("wgmma", "tcgen05.mma", "mma.sync") if name in ptx), "none")
    for what in ("ld", "st"):
        found = re.findall(rf"{what}\.global\S*?(?:\.v(\d))?\.b(\d+)", ptx)
        used[what] = max((int(lanes or 1) * int(bits) for lanes, bits in found), default=0)
    return used
