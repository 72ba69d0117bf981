"""report.html of a run: one file that holds everything (images inlined), and the PNGs beside it."""

import base64
import os
import shutil
import textwrap
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from hiclr_kernels.augment.reference import to_stream
from jinja2 import Environment

from hiclr_fast.data.packed.dataset import Packed
from hiclr_fast.drawing import Picture, animation
from hiclr_fast.errors import InputError, writing
from hiclr_fast.evaluation.candidate import Candidate
from hiclr_fast.evaluation.features import cached_features
from hiclr_fast.evaluation.protocols.knn import KnnConfig, knn, usual_ks
from hiclr_fast.evaluation.protocols.linear import LinearConfig, linear_protocol
from hiclr_fast.evaluation.results import percent_of, read_facts, read_results, read_scores, result_folders
from hiclr_fast.files.archives import open_regular
from hiclr_fast.files.atomic import replacing, write_text
from hiclr_fast.files.json_files import expect, read_json
from hiclr_fast.files.settings import as_plain
from hiclr_fast.pretraining import run_folder
from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.pretraining.monitor import COMPARISON, compared_in, monitored
from hiclr_fast.pretraining.run_folder import load_run_config
from hiclr_fast.reports.figures import confusion, curves, embedding, per_class

FEWEST = 4  # samples that t-SNE can lay out
ANIMATED = 4  # classes of which one sample moves
SAMPLES = {"train": "training", "val": "validation"}
Drawn = tuple[str, str, str]  # file, title, text
PAGE, PICTURES = "report.html", ("curves.png", "confusion.png", "per_class.png", "tsne.png", "skeletons.gif")
MARKS = (b'content="hiclr_fast report"', b".tiles { display: flex")  # near the start of our pages, now and before
TEMPLATE = Path(__file__).with_name("run_report.html")


def read_metrics(run: Path) -> list[dict]:
    """The lines of metrics.jsonl, at least one, each with its loss."""
    lines = run_folder.read_metrics(run)
    if not lines:
        raise InputError(f"{run} has no metrics: it has not finished an epoch, train it first")
    if without := [number for number, line in enumerate(lines, 1) if "loss" not in line]:
        raise InputError(f"{run / 'metrics.jsonl'}: line {without[0]} has no loss; remove that line")
    return lines


def read_comparison(run: Path, epoch: int) -> dict[str, float]:
    """1-NN percent of coordinates, random and pretrained encoder at the end of the run; empty where there is none of that
    epoch (the run goes on)."""
    if not (run / COMPARISON).is_file():
        return {}
    where = str(run / COMPARISON)
    found = read_json(run / COMPARISON)
    if found.get("epoch") != epoch:
        return {}
    names = {"raw": "raw coordinates", "random": "random encoder", "pretrained": "pretrained encoder"}
    for part, kind, usual in (("spaces", str, "plain"), ("segments", int, 1)):  # older runs had no choice
        of = expect(found.setdefault(part, dict.fromkeys(names, usual)), dict, where, part)
        for name in names:
            expect(of.get(name), kind, where, f"{part} {name}")
    percent = {name: expect(found.get(name), float, where, name) for name in names}
    return {f"{text} ({compared_in(found, name)})": percent[name] for name, text in names.items()}


def moving(data: Packed, rows: list[int], verdicts: list[str], path: Path) -> None:
    """GIF of these samples of the split that is shown, each with its class and a verdict (may be empty) below."""
    split = data[shown(data)]
    x = to_stream(torch.from_numpy(split.x[rows]), "joint", data.layout.parents).numpy()
    still, names = np.zeros(x.shape[2:4], bool), [_wrapped(data.class_name(split.label[row])) for row in rows]
    found = [Picture(name, said, sample, still, data.space) for name, said, sample in zip(names, verdicts, x, strict=True)]
    animation(found, data.layout.bones, path)


def shown(data: Packed) -> str:
    """The split whose samples the pictures show."""
    return "val" if "val" in data.splits else "train"


def _wrapped(name: str) -> str:
    """At most two lines."""
    return textwrap.fill(name, 24, max_lines=2, placeholder=" …")


def all_results(folder: Path, checkpoint: str) -> list[dict]:
    """results.json of every protocol below a run's eval folder, by path; percentages as text. checkpoint: its hash now."""
    found = []
    for place in result_folders(folder):
        results = read_results(place)
        percent = {name: f"{value:.2f}" for name, value in results.get("percent", {}).items()}
        if "mean_class_top1" in results:
            percent["mean class top1"] = f"{results['mean_class_top1']:.2f}"
        stale = results.get("checkpoint_sha256", checkpoint) != checkpoint
        found.append({"where": str(place.relative_to(folder)), "percent": percent, "stale": stale})
    return found


def beside(candidate: Candidate, out: Path) -> Candidate:
    """The candidate; where its folder holds k-NN or linear results of other weights or data, those of the report go to `out`."""
    mine = candidate.facts()
    for protocol in ("knn", "linear"):
        found = read_facts(candidate.folder / candidate.name_of(protocol))
        if found and any(found.get(name) != mine[name] for name in ("checkpoint_sha256", "data_checksum")):
            return replace(candidate, folder=out / f"eval_{mine['checkpoint_sha256'][:8]}_{mine['data_checksum'][:8]}")
    return candidate


def judged(candidate: Candidate, out: Path) -> tuple[dict[str, str], list[Drawn]]:
    """(headline, pictures) of the k-NN and linear protocols, evaluated where they have not been."""
    ks = KnnConfig(usual_ks(len(candidate.splits()[0])))
    near = candidate.finished("knn") or candidate.evaluate("knn", ks, knn, quiet=True)
    linear = candidate.finished("linear") or candidate.evaluate("linear", LinearConfig(), linear_protocol, quiet=True)
    scores = read_scores(candidate.folder / candidate.name_of("linear"))
    guess, classes, (_, val) = scores["scores"].argmax(1), candidate.data.classes, candidate.features
    counts = confusion(scores["label"], guess, classes, out / "confusion.png")
    per_class(counts, classes, out / "per_class.png")
    pictures = [
        ("confusion.png", "Confusion matrix", "Linear protocol, last epoch, validation samples; numbers are counts."),
        ("per_class.png", "Accuracy of each class", "Linear protocol, last epoch."),
    ]
    if len(val.label) >= FEWEST:
        drawn = embedding(val.feature, val.label, classes, out / "tsne.png")
        said = f"t-SNE of {drawn} validation samples, frozen encoder, coloured by class."
        pictures.append(("tsne.png", "Features", said))
    rows = [int(np.flatnonzero(val.label == c)[0]) for c in np.unique(val.label)[:ANIMATED]]
    right = [guess[row] == val.label[row] for row in rows]
    wrong = [f"✗ wrong, predicted:\n{_wrapped(classes[guess[row]])}" for row in rows]
    moving(candidate.data, rows, ["✓ right" if r else w for r, w in zip(right, wrong, strict=True)], out / "skeletons.gif")
    text = "One validation sample of each of the first classes, and the linear classifier's answer."
    space = "" if near.get("space", "plain") == "plain" else f", {near['space']}"
    headline = {
        "linear, top-1": f"{percent_of(linear, 'top1'):.1f} %",
        **({"linear, mean of classes": f"{linear['mean_class_top1']:.1f} %"} if "mean_class_top1" in linear else {}),
        **{f"k-NN, {name}{space}": f"{value:.1f} %" for name, value in list(near["percent"].items())[:1]},
    }
    return headline, [*pictures, ("skeletons.gif", "Skeletons", text)]


def unjudged(candidate: Candidate, out: Path) -> tuple[dict[str, str], list[Drawn]]:
    """(headline, pictures) of data without labels or without a validation split: nothing can be right or wrong."""
    data, split = candidate.data, shown(candidate.data)
    found = cached_features(candidate.weights, data, candidate.stream, candidate.device)[split]
    moving(data, list(range(min(ANIMATED, len(found.label)))), [""] * min(ANIMATED, len(found.label)), out / "skeletons.gif")
    pictures = [("skeletons.gif", "Skeletons", f"The first samples of the {split} split.")]
    if len(found.label) >= FEWEST:
        names = ("no label", *data.classes)
        drawn = embedding(found.feature, found.label + 1, names, out / "tsne.png")
        said = f"t-SNE of {drawn} {split} samples, frozen encoder, coloured by class where there is one."
        pictures.insert(0, ("tsne.png", "Features", said))
    return {}, pictures


def check_out(out: Path) -> None:
    """InputError where a file that would be overwritten is there and no page of ours, which is written before the pictures."""
    there = [out / name for name in (PAGE, *PICTURES) if os.path.lexists(out / name)]
    try:
        with open_regular(out / PAGE) as file:
            start = file.read(4096)
    except InputError:
        start = b""
    if there and not any(mark in start for mark in MARKS):
        raise InputError(f"{there[0]} exists already and is of no report; give another folder with --out, or move it away")


def make_report(candidate: Candidate, run: Path, out: Path) -> Path:
    """Writes out/report.html and its pictures, when all are made. Returns the path.

    k-NN and linear are evaluated when they have not been; data without labels or validation split have neither. candidate:
    the run's pretrained encoder on its data.
    """
    metrics, config = read_metrics(run), load_run_config(run)
    check_out(out)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as drawn:
        return _make_report(candidate, run, out, Path(drawn), metrics, config)


def _make_report(candidate: Candidate, run: Path, out: Path, drawn: Path, metrics: list[dict], config: PretrainConfig) -> Path:
    """`make_report`; the pictures are drawn in the folder `drawn`."""
    everything, candidate, data = candidate.folder, beside(candidate, out), candidate.data
    headline, pictures = (judged if monitored(data) else unjudged)(candidate, drawn)
    baselines = read_comparison(run, metrics[-1]["epoch"])
    curves(metrics, drawn / "curves.png", {name: p for name, p in baselines.items() if name != "pretrained encoder"})
    crossing = "; dashed across: 1-NN without pretraining" if baselines else ""
    pictures.insert(0, ("curves.png", "Pretraining", f"What every epoch left in metrics.jsonl{crossing}."))
    sizes = ", ".join(f"{len(split)} {SAMPLES.get(name, name)} samples" for name, split in data.splits.items())
    classes = f"{len(data.classes)} classes" if data.labelled else "not all labelled"
    text = Environment(autoescape=True).from_string(TEMPLATE.read_text()).render(
        run=run.name,
        data=f"{data.path.name}: {sizes}, {classes}, layout {data.layout.name}",
        stream=candidate.stream,
        headline=headline | {"epochs": str(metrics[-1]["epoch"]), "last loss": f"{metrics[-1]['loss']:.3f}"},
        comparison={f"1-NN, {name}": f"{percent:.1f} %" for name, percent in baselines.items()},
        pictures=[inlined(drawn / file, title, text) for file, title, text in pictures],
        results=all_results(everything, candidate.weights.sha256),
        config=as_plain(config),
        environment=run_folder.read_environment(run),
    )
    write_text(out / PAGE, text)
    for file, *_ in pictures:
        with replacing(out / file) as temporary:
            shutil.copyfile(drawn / file, temporary)
    return out / PAGE


def inlined(file: Path, title: str, text: str) -> dict[str, str]:
    return {"title": title, "text": text, "type": file.suffix[1:], "data": base64.b64encode(file.read_bytes()).decode()}
