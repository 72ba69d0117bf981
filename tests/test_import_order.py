"""Imports point one way: a room may import from the rooms above it in this table, and from itself."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = (  # a module belongs to the longest name that it begins with
    "hiclr_kernels",
    "hiclr_fast.errors",
    "hiclr_fast.flags",
    "hiclr_fast.files",
    "hiclr_fast.skeletons",
    "hiclr_fast.drawing",
    "hiclr_fast.machine",
    "hiclr_fast.distributed",
    "hiclr_fast.data.gaps",
    "hiclr_fast.data.geometry",
    "hiclr_fast.data.preprocess",
    "hiclr_fast.data.packed",
    "hiclr_fast.data.labels",
    "hiclr_fast.data.formats.recording",
    "hiclr_fast.data.convert",
    "hiclr_fast.data.formats",
    "hiclr_fast.data.loading",
    "hiclr_fast.data",
    "hiclr_fast.views",
    "hiclr_fast.models",
    "hiclr_fast.training",
    "hiclr_fast.inference",
    "hiclr_fast.evaluation",
    "hiclr_fast.evaluation.protocols",
    "hiclr_fast.pretraining",
    "hiclr_fast.tuning",
    "hiclr_fast.reports",
    "hiclr_fast",
    "hiclr_fast.cli",
)
MOST_FILES, MOST_LINES = 12, 250


def modules() -> dict[str, Path]:
    found = {}
    for top in (ROOT / "hiclr_fast", ROOT / "kernels" / "hiclr_kernels"):
        for file in top.rglob("*.py"):
            parts = file.relative_to(top.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def room(module: str) -> str:
    return max((r for r in ROOMS if module == r or module.startswith(r + ".")), key=len)


def imported(file: Path, known: dict[str, Path]) -> set[str]:
    """Modules of ours that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & set(known)
            names |= inner or {node.module}
    return {name for name in names if name.split(".")[0] in ("hiclr_fast", "hiclr_kernels")}


def test_no_import_runs_back_up():
    known = modules()
    against = [
        f"{module} imports {name}"
        for module, file in known.items()
        for name in imported(file, known)
        if ROOMS.index(room(name)) > ROOMS.index(room(module))
    ]
    assert not against, against


def test_every_room_exists():
    assert {room(module) for module in modules()} == set(ROOMS)


def test_no_folder_is_crowded_and_no_file_is_long():
    for folder in {file.parent for file in modules().values()}:
        files = [file for file in folder.glob("*.py") if file.name != "__init__.py"]
        assert len(files) <= MOST_FILES, f"{folder} has {len(files)} files"
    long = [f for d in ("hiclr_fast", "kernels", "bench", "scripts", "tests") for f in (ROOT / d).rglob("*.py")]
    long = {f.name: n for f in long if (n := len(f.read_text().splitlines())) > MOST_LINES}
    assert not long, long
