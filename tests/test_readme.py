"""The pages name only commands, options and files that exist; what they show of Python runs."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "docs/guide.md", "docs/results.md", "docs/differences.md")
READMES = (*PAGES, "kernels/README.md", "bench/RECORDS.md")
OTHERS = {"--benchmark-only", "--nproc_per_node"}  # of pytest-benchmark and torchrun


@pytest.mark.parametrize("readme", READMES)
def test_options_exist(readme):
    """An option is a field of a dataclass or a parameter (tyro writes - for _), or declared as text."""
    code = "\n".join(path.read_text() for folder in ("scripts", "hiclr_fast", "bench") for path in (ROOT / folder).rglob("*.py"))
    options = set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", (ROOT / readme).read_text())) - OTHERS
    unknown = [o for o in options if not re.search(rf"\b{re.escape(o[2:].replace('-', '_'))}: |\"{re.escape(o)}\"", code)]
    assert not unknown


@pytest.mark.parametrize("readme", READMES)
def test_files_exist(readme):
    """Paths below the folders of the project, as they are written in commands and between backticks."""
    named = set(re.findall(r"\b(?:scripts|bench|tests|configs|kernels|hiclr_fast)/[\w/.-]*\w", (ROOT / readme).read_text()))
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


@pytest.fixture(scope="module")
def written():
    """docs/commands.md as the programs are now."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import commands_doc
    finally:
        sys.path.pop(0)
    return commands_doc.document()


def test_the_reference_of_commands_is_what_the_programs_say(written):
    assert (ROOT / "docs" / "commands.md").read_text() == written, "run scripts/commands_doc.py"


def commands(page: str) -> list[list[str]]:
    """Words of every `hiclr ...` line of a page, continued lines joined."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in re.findall(r"^    (hiclr .*)$", text, flags=re.M)]


@pytest.mark.parametrize("page", PAGES)
def test_commands_have_these_options(page, written):
    """Every option of a shown command stands in the help of that very command."""
    for _, program, *words in commands(page):
        sub = words[0] if f"usage: hiclr {program} {words[0]} " in written else ""
        usage = f"usage: hiclr {program} {sub}".strip()
        assert f"{usage} [" in written, (program, words)
        helped = written[written.index(f"{usage} [") :].split("```")[0]
        missing = [word for word in words if word.startswith("--") and not re.search(rf"{re.escape(word)}\b", helped)]
        assert not missing, (program, words, missing)


def test_python_snippets_run(run, tmp_path, monkeypatch):
    """In README.md, on a tiny run that has a linear classifier."""
    from hiclr_fast.data.packed.dataset import open_packed
    from hiclr_fast.evaluation.candidate import Candidate
    from hiclr_fast.evaluation.protocols.linear import LinearConfig, linear_protocol

    data = open_packed(run.parent / "set")
    folder = tmp_path / "runs" / "ucla"
    shutil.copytree(run, folder)
    Candidate(folder / "checkpoint.pt", data, folder / "eval", torch.device("cpu")).evaluate(
        "linear", LinearConfig(epochs=1), linear_protocol
    )
    monkeypatch.chdir(tmp_path)
    clips = [np.random.default_rng(0).normal(0, 0.3, (frames, 25, 3)) for frames in (20, 31)]
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert len(snippets) == 2
    for snippet in snippets:
        found = {"clips": clips}
        exec(snippet, found)
        shown = found["features"] if "features" in found else found["probabilities"]
        assert len(shown) == len(clips)
