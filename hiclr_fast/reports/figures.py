"""The figures of a run's report: curves, confusion matrix, per-class accuracy, t-SNE."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hiclr_fast.drawing import new_figure

BLUE, ORANGE, GREY = "#1f5fa8", "#d9822b", "#666666"
DASHES = ("-", "--", ":", "-.")
LONGEST = 28  # characters of a class name that are drawn


def _plain(texts) -> None:
    """Names come from files: a dollar sign is not the start of a formula."""
    for text in texts:
        text.set_parse_math(False)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def _bare(axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def curves(metrics: Sequence[dict], path: Path, baselines: dict[str, float] | None = None) -> None:
    """Everything that metrics.jsonl holds of every epoch. metrics: its lines; baselines: 1-NN percent by name, drawn as lines
    across."""
    figure = new_figure(12, 9)
    panels = figure.subplots(3, 3)
    loss, consistency, nearest, spread, cosine, entropy, rank, rate, speed = panels.flat
    consistencies = [name for name in metrics[-1] if name.startswith("consistency_")]
    _lines(loss, metrics, {"loss": "total", "info_nce": "InfoNCE"}, "loss")
    _lines(consistency, metrics, {n: f"branch {n[-1]} to branch {int(n[-1]) - 1}" for n in consistencies}, "consistency")
    _lines(nearest, metrics, {"knn1": "pretrained encoder (plain)"}, "1-NN accuracy, validation (%)")
    for number, (name, percent) in enumerate((baselines or {}).items()):
        nearest.axhline(percent, color=GREY, lw=1.2, ls=DASHES[1 + number % 3], label=name)
    _lines(spread, metrics, {"spread": "queries"}, "spread: 1 all directions, 0 collapsed")
    spread.set_ylim(0, 1.05)
    near = {"positive": "query and its own key", "age_gap": "fresh keys less queue"}
    _lines(cosine, metrics, near, "cosine: positive pairs, age gap")
    entropies = {name: f"branch {name[-1]}" for name in metrics[-1] if name.startswith("entropy_")}
    _lines(entropy, metrics, entropies, "entropy of similarities (nats)")
    _lines(rank, metrics, {"rank": "queue"}, "effective rank of the queue")
    _lines(rate, metrics, {"lr": "learning rate"}, "learning rate, start of the epoch")
    _lines(speed, metrics, {"samples_per_s": "training"}, "samples a second")
    speed.set_ylim(bottom=0)
    for axes in panels.flat:
        axes.set_xlim(*_around(metrics[0]["epoch"], metrics[-1]["epoch"]))
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
        axes.xaxis.get_major_locator().set_params(integer=True)
        _bare(axes)
        if len(axes.get_legend_handles_labels()[0]) > 1:
            axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def _around(first: int, last: int) -> tuple[float, float]:
    margin = max(0.5, 0.04 * (last - first))
    return first - margin, last + margin


def _lines(axes, metrics: Sequence[dict], names: dict[str, str], title: str) -> None:
    """A line for each of the names that the metrics have, told apart by dashes too."""
    seen = False
    for number, (name, label) in enumerate(names.items()):
        known = [(line["epoch"], float(line[name])) for line in metrics if name in line]
        if known:
            look = dict(color=(BLUE, ORANGE, GREY)[number % 3], ls=DASHES[number % len(DASHES)], lw=1.6)
            axes.plot(*zip(*known, strict=True), marker="o" * (len(known) <= 30), ms=3.5, label=label, **look)
            seen = True
    axes.set_title(title if seen else f"{title}: not measured", fontsize=11)


def confusion(label: np.ndarray, guess: np.ndarray, classes: Sequence[str], path: Path) -> np.ndarray:
    """Draws and returns counts (C, C), row = true class. Colours are shares of the row."""
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (label, guess), 1)
    share = counts / np.maximum(1, counts.sum(1, keepdims=True))
    few = len(classes) <= 20
    size = max(5.0, min(14.0, 0.55 * len(classes)))
    figure = new_figure(size + 2, size)
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if few:
        for i, j in np.argwhere(counts):
            axes.text(j, i, counts[i, j], ha="center", va="center", fontsize=8, color="white" if share[i, j] > 0.55 else "black")
    names, small = [_short(name) for name in classes], 8 if few else 6 if len(classes) <= 70 else 4.5
    axes.set_xticks(range(len(classes)), names, rotation=40 if few else 90, ha="right" if few else "center", fontsize=small)
    axes.set_yticks(range(len(classes)), names, fontsize=small)
    for label_text in axes.get_xticklabels() + axes.get_yticklabels():
        label_text.set_rotation_mode("anchor" if few else "default")
    _plain(axes.get_xticklabels() + axes.get_yticklabels())
    axes.set(xlabel="predicted", ylabel="true")
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class")
    figure.savefig(path, dpi=110)
    return counts


def per_class(counts: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Accuracy of every class that has samples, best first. counts: (C, C) of `confusion`."""
    total = counts.sum(1)
    tested = np.flatnonzero(total)
    accuracy = 100 * np.diag(counts)[tested] / total[tested]
    order = np.argsort(accuracy, kind="stable")
    figure = new_figure(8, max(2.0, 0.27 * len(tested) + 0.8))
    axes = figure.subplots()
    axes.barh(range(len(tested)), accuracy[order], color=BLUE, height=0.7)
    axes.set_yticks(range(len(tested)), [_short(classes[c]) for c in tested[order]], fontsize=8)
    _plain(axes.get_yticklabels())
    for place, c in enumerate(order):
        axes.text(accuracy[c] + 1, place, f"{accuracy[c]:.0f} %, {total[tested[c]]} samples", va="center", fontsize=7, color=GREY)
    axes.set(xlim=(0, 118), xlabel="accuracy (%)", xticks=range(0, 101, 20))
    axes.margins(y=0.01)
    _bare(axes)
    figure.savefig(path, dpi=110)


def embedding(feature: np.ndarray, label: np.ndarray, classes: Sequence[str], path: Path, most: int = 2000) -> int:
    """t-SNE (cosine, PCA start, seed 0) of up to `most` samples, coloured by class; returns how many were drawn.

    feature: (N, D); label: (N,).
    """
    from matplotlib import colormaps
    from sklearn.manifold import TSNE

    rows = np.sort(np.random.default_rng(0).permutation(len(label))[:most])
    perplexity = min(30.0, max(2.0, (len(rows) - 1) / 3))
    points = TSNE(metric="cosine", init="pca", perplexity=perplexity, random_state=0).fit_transform(feature[rows])
    figure = new_figure(9.5, 6)
    axes = figure.subplots()
    shown = np.unique(label[rows])
    colours = colormaps["tab10"].colors if len(shown) <= 10 else colormaps["turbo"](np.linspace(0.02, 0.98, len(shown)))
    for colour, c in zip(colours, shown, strict=False):
        mine = points[label[rows] == c]
        axes.scatter(*mine.T, s=16, color=colour, label=_short(classes[c]), linewidths=0)
        axes.annotate(str(c), np.median(mine, 0), fontsize=9, weight="bold", ha="center", va="center")
    legend = axes.legend(
        [_short(f"{c} {classes[c]}") for c in shown],
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        fontsize=8 if len(shown) <= 24 else 6,
        ncols=1 + len(shown) // 31,
        markerscale=1.6,
    )
    _plain(legend.get_texts())
    axes.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=110)
    return len(rows)
