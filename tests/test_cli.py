"""What the commands say of themselves: every flag has a line, a wrong word meets the nearest right one; and tables of runs."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_scripts import command  # noqa: F401 (a fixture)

from hiclr_fast.cli import COMMANDS
from hiclr_fast.cli import evaluate as evaluate_cli
from hiclr_fast.cli import prepare as prepare_cli
from hiclr_fast.cli import report as report_cli

SUB = {"evaluate": evaluate_cli.COMMANDS, "prepare": prepare_cli.COMMANDS, "report": report_cli.COMMANDS}
ALL = [(name, *sub) for name in COMMANDS for sub in ([(s,) for s in SUB[name]] if name in SUB else [()])]


def flags(text: str) -> dict[str, str]:
    """{flag with what it takes: what is said of it, without the default} of a help page."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    found, flag = {}, None
    for line in (line.strip("│| ") for line in plain.splitlines()):
        if re.match(r"--[a-z]", line):
            flag, _, said = (part.strip() for part in re.sub(r"\s{2,}", "\t", line).partition("\t"))
            found[flag] = said
        elif flag and line and not line.startswith(("─", "---")):
            found[flag] += f" {line}"
        else:
            flag = None
    defaults = re.compile(r"\((default|required|optional|repeatable)[^()]*(\([^()]*\)[^()]*)*\)")
    return {flag: defaults.sub("", said).strip() for flag, said in found.items()}


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_flag_has_a_line(command, words, monkeypatch):  # noqa: F811
    """One that says what it is, and a default that is none of Python's words for nothing."""
    monkeypatch.setenv("COLUMNS", "90")
    code, out, err = command(words[0], *words[1:], "--help")
    assert code == 0, err
    found = flags(out)
    assert found and not [flag for flag, said in found.items() if not re.search(r"\w{3}", said)]
    assert "(default: None)" not in out and "--no-no" not in out


@pytest.mark.parametrize(
    ("words", "nearest"),
    [(("evaluate", "liner"), "linear"), (("prepare", "sequence"), "sequences"), (("report", "comparison"), "compare")],
)
def test_a_wrong_word_meets_the_nearest(command, words, nearest):  # noqa: F811
    code, _, err = command(*words)
    assert code == 2 and f"has no command '{words[1]}'; the nearest is '{nearest}' (one of " in err


def result(run: Path, where: str, **values) -> None:
    folder = run / "eval" / where
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"protocol": where, "key": str(folder), **values}))


@pytest.fixture
def runs(tmp_path):
    a, b = tmp_path / "x" / "joint_s0", tmp_path / "y" / "joint_s0"
    result(a, "linear", percent={"top1": 50.126, "top5": 90.0})
    result(a, "semi_1", percent={"top1": 20.0, "top5": 40.0}, top1_spread=1.5)
    result(a, "semi_1/repeat0", percent={"top1": 21.0})
    result(a, "transfer_b/linear", percent={"top1": 30.0})
    result(b, "knn", percent={"k=1": 44.0, "k=5": 46.0})
    result(b, "linear", percent={"top1": 60.0}, checkpoint_sha256="old")
    (b / "checkpoint.pt").write_bytes(b"new")
    return a, b


def test_one_table_of_runs(command, runs, tmp_path):  # noqa: F811
    code, out, _ = command("report", "compare", *runs)
    assert code == 0
    lines = out.splitlines()
    assert lines[2] == "| run | knn, k=1 | linear, top1 | semi_1, top1 | transfer_b/linear, top1 |"
    assert lines[4] == "| x/joint_s0 | - | 50.1 | 20.0 ± 1.5 | 30.0 |"
    assert lines[5] == r"| y/joint_s0 | 44.0 | 60.0 \* | - | - |" and lines[7].startswith(r"\* of another checkpoint")
    code, out, _ = command("report", "compare", *runs, "--out", "t.tex")
    text = Path("t.tex").read_text()
    assert code == 0 and out == "t.tex\n" and r"x/joint\_s0 & - & 50.1 & 20.0 $\pm$ 1.5 & 30.0 \\" in text
    assert text.startswith(r"\begin{tabular}{lrrrr}") and r"semi\_1, top1" in text
    code, out, _ = command("report", "compare", *runs, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(r["run"], r["protocol"], r["number"], r["percent"], r["spread"], r["stale"]) for r in rows] == [
        ("x/joint_s0", "linear", "top1", "50.1260", "", "False"),
        ("x/joint_s0", "semi_1", "top1", "20.0000", "1.5000", "False"),
        ("x/joint_s0", "transfer_b/linear", "top1", "30.0000", "", "False"),
        ("y/joint_s0", "knn", "k=1", "44.0000", "", "False"),
        ("y/joint_s0", "linear", "top1", "60.0000", "", "True"),
    ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "no runs to compare"),
        (("none",), "none holds no results; evaluate it first"),
        (("{a}", "{a}"), "the same run is given twice"),
        (("{a}", "--out", "t.pdf"), "name it .md or .csv or .tex"),
    ],
)
def test_runs_that_cannot_be_compared(command, runs, args, message):  # noqa: F811
    code, _, err = command("report", "compare", *(str(runs[0]) if arg == "{a}" else arg for arg in args))
    assert code == 2 and message in err


def test_signals_are_heeded_before_anything_large_is_imported():
    code = "import sys, hiclr_fast.cli; assert not {'tyro', 'torch', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
