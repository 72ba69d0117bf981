"""The READMEs name only options and files that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
READMES = ("README.md", "kernels/README.md", "bench/RECORDS.md")
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
