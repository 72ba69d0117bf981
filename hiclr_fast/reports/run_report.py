"""report.html of a run: one file that holds everything (images inlined), and the PNGs beside it."""

import base64
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from hiclr_kernels.augment.reference import to_stream
from jinja2 import Environment

from hiclr_fast.drawing import Picture, animation
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.candidate import Candidate
from hiclr_fast.evaluation.protocols.knn import KnnConfig, knn, usual_ks
from hiclr_fast.evaluation.protocols.linear import LinearConfig, linear_protocol
from hiclr_fast.evaluation.results import RESULTS, read_facts, read_results, read_scores
from hiclr_fast.files.atomic import write_text
from hiclr_fast.files.json_files import expect, read_json
from hiclr_fast.files.settings import as_plain
from hiclr_fast.pretraining import run_folder
from hiclr_fast.pretraining.monitor import COMPARISON
from hiclr_fast.pretraining.run_folder import load_run_config
from hiclr_fast.reports.figures import confusion, curves, embedding, per_class

FEWEST = 4  # samples that t-SNE can lay out
ANIMATED = 4  # classes of which one sample moves
TEMPLATE = Path(__file__).with_name("run_report.html")


def read_metrics(run: Path) -> list[dict]:
    """The lines of metrics.jsonl, at least one."""
    lines = run_folder.read_metrics(run)
    if not lines:
        raise InputError(f"{run} has no metrics: it has not finished an epoch, train it first")
    return lines


def read_comparison(run: Path, epoch: int) -> dict[str, float]:
    """1-NN percent of coordinates, random and pretrained encoder at the end of the run; empty where there is none of that
    epoch (the run goes on, or is of an older version)."""
    if not (run / COMPARISON).is_file():
        return {}
    found = read_json(run / COMPARISON)
    names = {"raw": "raw coordinates", "random": "random encoder", "pretrained": "pretrained encoder"}
    percent = {text: expect(found.get(name), float, str(run / COMPARISON), name) for name, text in names.items()}
    return percent if found.get("epoch") == epoch else {}


def moving(candidate: Candidate, scores: np.ndarray, path: Path) -> None:
    """GIF of one validation sample of each of the first classes, with what the linear classifier says."""
    val, classes = candidate.data["val"], candidate.data.classes
    rows = [int(np.flatnonzero(val.label == c)[0]) for c in np.unique(val.label)[:ANIMATED]]
    x = to_stream(torch.from_numpy(val.x[rows]), "joint", candidate.data.layout.parents).numpy()
    still = np.zeros(x.shape[2:4], bool)
    found = []
    for row, sample in zip(rows, x, strict=True):
        guess = int(scores[row].argmax())
        verdict = "✓ right" if guess == val.label[row] else f"✗ wrong, predicted:\n{_wrapped(classes[guess])}"
        found.append(Picture(_wrapped(classes[val.label[row]]), verdict, sample, still, candidate.data.space))
    animation(found, candidate.data.layout.bones, path)


def _wrapped(name: str) -> str:
    """At most two lines; a dollar sign would start a formula."""
    return textwrap.fill(name, 24, max_lines=2, placeholder=" …").replace("$", r"\$")


def all_results(folder: Path, checkpoint: str) -> list[dict]:
    """results.json of every protocol below a run's eval folder, by path; percentages as text. checkpoint: its hash now."""
    found = []
    for file in sorted(folder.rglob(RESULTS)):
        results = read_results(file.parent)
        percent = {name: f"{value:.2f}" for name, value in results.get("percent", {}).items()}
        if "mean_class_top1" in results:
            percent["mean class top1"] = f"{results['mean_class_top1']:.2f}"
        stale = results.get("checkpoint_sha256", checkpoint) != checkpoint
        found.append({"where": str(file.parent.relative_to(folder)), "percent": percent, "stale": stale})
    return found


def beside(candidate: Candidate, out: Path) -> Candidate:
    """The candidate; where its folder holds k-NN or linear results of other weights or data, those of the report go to `out`."""
    mine = candidate.facts()
    for protocol in ("knn", "linear"):
        found = read_facts(candidate.folder / candidate.name_of(protocol))
        if found and any(found.get(name) != mine[name] for name in ("checkpoint_sha256", "data_checksum")):
            return replace(candidate, folder=out / f"eval_{mine['checkpoint_sha256'][:8]}_{mine['data_checksum'][:8]}")
    return candidate


def make_report(candidate: Candidate, run: Path, out: Path) -> Path:
    """Writes out/report.html and its pictures; k-NN and linear are evaluated when they have not been. Returns the path.

    candidate: the run's pretrained encoder on its data.
    """
    metrics, config = read_metrics(run), load_run_config(run)
    everything, candidate = candidate.folder, beside(candidate, out)
    ks = KnnConfig(usual_ks(len(candidate.splits()[0])))
    near = candidate.finished("knn") or candidate.evaluate("knn", ks, knn, quiet=True)
    linear = candidate.finished("linear") or candidate.evaluate("linear", LinearConfig(), linear_protocol, quiet=True)
    scores = read_scores(candidate.folder / candidate.name_of("linear"))
    classes = candidate.data.classes
    out.mkdir(parents=True, exist_ok=True)
    baselines = read_comparison(run, metrics[-1]["epoch"])
    curves(metrics, out / "curves.png", {name: p for name, p in baselines.items() if name != "pretrained encoder"})
    counts = confusion(scores["label"], scores["scores"].argmax(1), classes, out / "confusion.png")
    per_class(counts, classes, out / "per_class.png")
    _, val = candidate.features
    drawn = embedding(val.feature, val.label, classes, out / "tsne.png") if len(val.label) >= FEWEST else 0
    moving(candidate, scores["scores"], out / "skeletons.gif")
    pictures = [
        ("curves.png", "Pretraining", "What every epoch left in metrics.jsonl; dashed across: 1-NN without pretraining."),
        ("confusion.png", "Confusion matrix", "Linear protocol, last epoch, validation samples; numbers are counts."),
        ("per_class.png", "Accuracy of each class", "Linear protocol, last epoch."),
        *[("tsne.png", "Features", f"t-SNE of {drawn} validation samples, frozen encoder, coloured by class.")] * bool(drawn),
        ("skeletons.gif", "Skeletons", "One validation sample of each of the first classes, and the linear classifier's answer."),
    ]
    inlined = [
        {
            "title": title,
            "text": text,
            "type": file.rsplit(".", 1)[1],
            "data": base64.b64encode((out / file).read_bytes()).decode(),
        }
        for file, title, text in pictures
    ]
    headline = {
        "linear, top-1": f"{linear['percent']['top1']:.1f} %",
        **({"linear, mean of classes": f"{linear['mean_class_top1']:.1f} %"} if "mean_class_top1" in linear else {}),
        **{f"k-NN, {name}": f"{value:.1f} %" for name, value in list(near["percent"].items())[:1]},
        "epochs": str(metrics[-1]["epoch"]),
        "last loss": f"{metrics[-1]['loss']:.3f}",
    }
    page = Environment(autoescape=True).from_string(TEMPLATE.read_text())
    environment = run_folder.read_environment(run)
    text = page.render(
        run=run.name,
        data=f"{candidate.data.path.name}: {len(candidate.data['train'])} training, {len(val.label)} validation samples, "
        f"{len(classes)} classes, layout {candidate.data.layout.name}",
        stream=candidate.stream,
        headline=headline,
        comparison={f"1-NN, {name}": f"{percent:.1f} %" for name, percent in baselines.items()},
        pictures=inlined,
        results=all_results(everything, candidate.weights.sha256),
        config=as_plain(config),
        environment=environment,
    )
    write_text(out / "report.html", text)
    return out / "report.html"
