"""The compile cache: kept while the sources stay, left behind when any file of the folder changes."""

import os
import subprocess
import sys
from pathlib import Path

KERNELS = Path(__file__).parent.parent / "kernels"


def test_a_change_in_an_inlined_file_is_seen(tmp_path):
    (tmp_path / "inner.py").write_text("from hiclr_kernels.jit import compiled\n@compiled()\ndef f(x):\n    return x + 1\n")
    (tmp_path / "outer.py").write_text(
        "from hiclr_kernels.jit import compiled\nfrom inner import f\n@compiled()\ndef g(x):\n    return f(x)\nprint(g(1))\n"
    )

    def run() -> str:
        done = subprocess.run(
            [sys.executable, "-B", str(tmp_path / "outer.py")],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": str(KERNELS), "PATH": "", "HOME": str(tmp_path)},
        )
        return done.stdout.strip()

    assert run() == run() == "2"
    assert len(list((tmp_path / "__pycache__").glob("numba_*"))) == 1
    inner = tmp_path / "inner.py"
    inner.write_text(inner.read_text().replace("x + 1", "x + 41"))
    assert run() == "42"


def test_where_nothing_can_be_kept_it_still_runs(tmp_path):
    """No folder beside the source, none of the user; then a disk that takes no file."""
    file = tmp_path / "f.py"
    file.write_text("from hiclr_kernels.jit import compiled\n@compiled()\ndef f(x):\n    return x + 1\nprint(f(1))\n")
    environment = {"PYTHONPATH": str(KERNELS), "PATH": "", "HOME": os.devnull, "NUMBA_CACHE_DIR": ""}
    call = dict(capture_output=True, text=True, env=environment)
    (tmp_path / "__pycache__").write_text("")
    done = subprocess.run([sys.executable, "-B", str(file)], **call)
    assert done.stdout == "2\n" and not done.stderr, done.stderr
    (tmp_path / "__pycache__").unlink()
    full = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9)); runpy.run_path(sys.argv[1])"
    done = subprocess.run([sys.executable, "-B", "-c", full, str(file)], **call)
    assert done.stdout == "2\n" and not done.stderr, done.stderr


def test_numba_leaves_the_number_of_torch_threads_as_it_is():
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from hiclr_kernels.augment import draw_views\n"
        "from hiclr_kernels.augment.draw import ViewStrength\n"
        "draw_views([ViewStrength(padding=2, shear=0.5)], torch.arange(4), torch.tensor(0), seed=0, frames=8, joints=5)\n"
        "print(torch.get_num_threads())"
    )
    environment = os.environ | {"PYTHONPATH": str(KERNELS), "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split()[-1] == "1"


def test_it_says_once_that_it_compiles(tmp_path, monkeypatch, capsys):
    """To a person who waits, and only where something is compiled."""
    from hiclr_kernels import jit

    monkeypatch.setattr(jit, "_folder", lambda source: str(tmp_path))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    jit._say_once.cache_clear()
    add = jit.compiled()(lambda x: x + 1)
    assert (add(1), add(1.5)) == (2, 2.5)
    assert capsys.readouterr().err.count("numba compiles the CPU kernels, once") == 1
