"""The report of a run: self-contained, complete, safe with any name, and a browser shows it."""

import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import packed, tiny

from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.data.packed.writer import write_packed
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.candidate import Candidate
from hiclr_fast.evaluation.protocols.linear import LinearConfig, linear_protocol
from hiclr_fast.pretraining.loop import train
from hiclr_fast.pretraining.monitor import compare, compared_in
from hiclr_fast.pretraining.start import finish, start

for package in ("matplotlib", "sklearn", "jinja2"):
    pytest.importorskip(package, reason=f"{package} of the report extra is not installed")

from hiclr_fast.reports.figures import confusion  # noqa: E402
from hiclr_fast.reports.run_report import make_report  # noqa: E402

NASTY = ["<script>alert(1)</script>", '$x_$ & "co"', "a very long class name that would not fit beside any figure"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """(report.html, run) of a tiny run on data whose class and sample names are hostile."""
    root = tmp_path_factory.mktemp("report")
    data = open_packed(packed(root / "plain"))
    splits = {s: replace(v, name=np.array([f"<b>{n}</b>" for n in v.name])) for s, v in data.splits.items()}
    write_packed(root / "set", splits, data.layout, NASTY, source="test", preprocessing={})
    data, run = open_packed(root / "set"), root / "run"
    trainer = start(replace(tiny(), data=root / "set"), data, run)
    assert train(trainer, run)
    finish(trainer, run)
    compare(trainer, run)
    candidate = Candidate(run / "checkpoint.pt", data, run / "eval", torch.device("cpu"))
    return make_report(candidate, run, root / "out"), run, candidate


def test_the_page_holds_everything(report):
    page, run, _ = report
    text = page.read_text()
    assert not re.search(r"https?://|<script|<link|url\(|<iframe", text)
    assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]{11})', text))
    assert len(re.findall(r"<img ", text)) == 5 and "data:image/gif;base64,R0lGOD" in text
    stored = json.loads((run / "comparison.json").read_text())
    for name, words in (("raw", "raw coordinates"), ("random", "random encoder"), ("pretrained", "pretrained encoder")):
        assert f"<b>{stored[name]:.1f} %</b><span>1-NN, {words} ({compared_in(stored, name)})</span>" in text
    results = json.loads((run / "eval" / "linear" / "results.json").read_text())
    assert f"<b>{results['mean_class_top1']:.2f}</b>" in text and [c["class"] for c in results["per_class"]] == NASTY
    for part in ("Confusion matrix", "linear", "weighted k=5", "queue_size", "augment.shear", "data_checksum", run.name):
        assert part in text
    assert {file.name for file in page.parent.glob("*.*")} == {
        "report.html", "curves.png", "confusion.png", "per_class.png", "tsne.png", "skeletons.gif",
    }  # fmt: skip


def test_names_from_files_are_escaped(tmp_path, report):
    """A run folder whose name is markup."""
    _, run, candidate = report
    evil = tmp_path / "<img onerror=x>"
    shutil.copytree(run, evil)
    text = make_report(replace(candidate, folder=evil / "eval"), evil, tmp_path / "out").read_text()
    assert "<img onerror" not in text and "&lt;img onerror=x&gt;" in text


def test_a_run_without_metrics(tmp_path, report):
    _, run, candidate = report
    shutil.copytree(run, tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    wrong = {
        "": "has no metrics",
        "{\n": "line 1: not readable JSON",
        '{"epoch": 1}\n': "line 1 has no loss",
        None: "has no metrics",
    }
    for content, message in wrong.items():
        metrics.write_text(content) if content is not None else metrics.unlink()
        with pytest.raises(InputError, match=message):
            make_report(candidate, tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_report_is_written_over_reports_alone(tmp_path, report):
    page, run, candidate = report
    for name in ("curves.png", "report.html", "tsne.png"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(InputError, match=r"exists already and is of no report; give another folder with --out"):
            make_report(candidate, run, tmp_path)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == dict.fromkeys(("curves.png", "report.html", "tsne.png"), "mine")
    old = page.read_text().replace('<meta name="generator" content="hiclr_fast report">', "")
    (tmp_path / "report.html").write_text(old)  # as pages were once
    assert 'content="hiclr_fast report"' in make_report(candidate, run, tmp_path).read_text()
    assert (tmp_path / "curves.png").read_bytes() == (page.parent / "curves.png").read_bytes()


def test_counts_equal_scikit_learn(tmp_path):
    from sklearn.metrics import confusion_matrix

    rng = np.random.default_rng(0)
    label, guess = rng.integers(0, 5, 300), rng.integers(0, 5, 300)
    counts = confusion(label, guess, list("abcde"), tmp_path / "c.png")
    np.testing.assert_array_equal(counts, confusion_matrix(label, guess))


def test_results_that_are_there_are_shown_not_replaced(tmp_path, report):
    """Those of other settings stay; those of an older checkpoint are marked."""
    _, run, candidate = report
    shutil.copytree(run, tmp_path / "run")
    one = replace(candidate, checkpoint=tmp_path / "run" / "checkpoint.pt", folder=tmp_path / "run" / "eval")
    mine = one.evaluate("linear", LinearConfig(epochs=3), linear_protocol)
    assert "another checkpoint" not in make_report(one, tmp_path / "run", tmp_path / "out").read_text()
    assert one.finished("linear")["key"] == mine["key"]
    state = torch.load(one.checkpoint, weights_only=True)
    state["model"]["encoder_q.blocks.1.conv.weight"].neg_()
    torch.save(state, one.checkpoint)
    (one.folder / "semi_1").mkdir()
    results = json.loads((one.folder / "linear" / "results.json").read_text())
    (one.folder / "semi_1" / "results.json").write_text(json.dumps({**results, "files": {}}))
    before = {p: p.read_bytes() for p in one.folder.rglob("*.npz")}
    text = make_report(replace(one), tmp_path / "run", tmp_path / "out").read_text()
    assert re.findall(r"<th>([^<]*) \(another checkpoint\)", text) == ["knn", "linear", "semi_1"]
    assert before and all(p.read_bytes() == content for p, content in before.items())


def test_a_report_on_three_samples(tmp_path):
    """Too few for t-SNE and for the usual k."""
    data = open_packed(packed(tmp_path / "set", train=9, val=3))
    trainer = start(tiny(data=tmp_path / "set"), data, tmp_path / "run")
    assert train(trainer, tmp_path / "run")
    candidate = Candidate(tmp_path / "run" / "checkpoint.pt", data, tmp_path / "run" / "eval", torch.device("cpu"))
    text = make_report(candidate, tmp_path / "run", tmp_path / "out").read_text()
    assert len(re.findall(r"<img ", text)) == 4 and "k=5" in text and "k=10" not in text


def test_a_report_without_labels(tmp_path):
    """Curves, features and skeletons; nothing is said about right and wrong."""
    data = open_packed(packed(tmp_path / "plain", train=9))
    train_split = replace(data["train"], label=np.full_like(data["train"].label, -1))
    write_packed(tmp_path / "set", {"train": train_split}, data.layout, (), source="test", preprocessing={})
    data, run = open_packed(tmp_path / "set"), tmp_path / "run"
    assert train(start(tiny(data=tmp_path / "set"), data, run), run)
    candidate = Candidate(run / "checkpoint.pt", data, run / "eval", torch.device("cpu"))
    text = make_report(candidate, run, tmp_path / "out").read_text()
    assert re.findall(r"<h2>([^<]*)<", text)[:3] == ["Pretraining", "Features", "Skeletons"] and "9 training samples" in text
    assert "not all labelled" in text and "linear" not in text and "confusion" not in text.lower()


@pytest.mark.slow
def test_a_browser_shows_it(report, tmp_path):
    """The page fills the window, and every picture in it can be decoded (a copy of the page is asked by a script)."""
    from PIL import Image

    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no headless browser is installed (looked for {', '.join(BROWSERS)})")
    page, shot = report[0], tmp_path / "shot.png"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1050,4000"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    subprocess.run(
        [browser, *options, profile, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True, timeout=120
    )
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape == (4000, 1050)
    inked = (pixels < 250).any(axis=1).reshape(-1, 100).any(axis=1)  # bands of 100 rows that show something
    assert inked[:25].mean() > 0.9
    ask = "<script>onload = () => document.title = [...document.images].map(i => i.naturalWidth).join()</script>"
    (tmp_path / "asked.html").write_text(page.read_text() + ask)
    dump = [browser, *options, profile, "--dump-dom", (tmp_path / "asked.html").as_uri()]
    done = subprocess.run(dump, check=True, capture_output=True, text=True, timeout=120)
    widths = re.search(r"<title>([\d,]*)</title>", done.stdout).group(1).split(",")
    assert len(widths) == 5 and min(map(int, widths)) > 300
