"""Names the actions in recordings, with a classifier that `hiclr evaluate linear` or `finetune` trained.

    hiclr predict clips/ --run runs/ucla --out predictions.csv
"""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from hiclr_fast.cli.clips import Reading, in_batches
from hiclr_fast.errors import InputError
from hiclr_fast.files.atomic import new_file, write_text
from hiclr_fast.flags import default
from hiclr_fast.inference.classifier import load_classifier

SHOWN = 40  # rows of the table on the terminal


@dataclass(frozen=True)
class Args:
    clips: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Recordings: .skeleton, .json, .txt, .pkl, .npz or .npy as `hiclr prepare` reads them, packed datasets, folders of these."""
    reading: tyro.conf.OmitArgPrefixes[Reading]
    run: Annotated[Path | None, default("none")] = None
    """Run folder whose classifier is meant; or give --classifier."""
    head: Annotated[str | None, default("linear, else finetune")] = None
    """Which classifier of the run: linear, finetune, supervised, semi_1/repeat0, ..."""
    classifier: Annotated[Path | None, default("that of --run")] = None
    """A classifier.safetensors, or a result folder that holds one."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is a GPU."""
    out: Annotated[Path | None, default("the table alone")] = None
    """File to write, .csv or .json, with the probabilities of all classes; must not exist."""


def as_csv(names: list[str], guesses: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...]) -> str:
    """One row a clip: name, class, its probability, then that of every class."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["name", "class", "probability", *classes])
    for name, guess, p in zip(names, guesses, probabilities, strict=True):
        rows.writerow([name, guess, f"{p.max():.6f}", *(f"{v:.6f}" for v in p)])
    return text.getvalue()


def as_json(names: list[str], guesses: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...]) -> str:
    """{classes: [...], clips: [{name, class, probability, probabilities: in the order of classes}]}."""
    clips = [
        {"name": name, "class": str(guess), "probability": float(p.max()), "probabilities": p.astype(float).tolist()}
        for name, guess, p in zip(names, guesses, probabilities, strict=True)
    ]
    return json.dumps({"classes": classes, "clips": clips}, indent=1, ensure_ascii=False) + "\n"


def table(names: list[str], guesses: np.ndarray, probabilities: np.ndarray) -> str:
    """Aligned columns: name, class, probability in percent."""
    shown = [*zip(names, guesses.tolist(), probabilities.max(1), strict=True)][:SHOWN]
    wide, wider = (max(map(len, column)) for column in list(zip(*shown, strict=True))[:2])
    lines = [f"{name:{wide}}  {guess:{wider}}  {100 * p:5.1f} %" for name, guess, p in shown]
    return "\n".join(lines + [f"... and {len(names) - SHOWN} more"] * (len(names) > SHOWN))


def main() -> None:
    args = tyro.cli(Args, description=__doc__)
    if (args.run is None) == (args.classifier is None):
        raise InputError("give either --run RUN or --classifier FILE")
    if args.head and args.classifier:
        raise InputError("--head chooses among the classifiers of --run; leave it out with --classifier")
    new_file(args.out, (".csv", ".json"))
    found = load_classifier(args.run or args.classifier, head=args.head, device=args.device)
    names, parts = [], []
    for batch, rows in in_batches(args.clips, found.encoder.contract, args.reading):
        names += batch
        parts.append(found.classify(rows))
    probabilities = np.concatenate(parts)
    guesses = np.array(found.classes)[probabilities.argmax(1)]
    print(f"{found.protocol} classifier, {len(found.classes)} classes, {found.encoder.contract.stream} stream")
    print(table(names, guesses, probabilities))
    if args.out:
        write = as_csv if args.out.suffix == ".csv" else as_json
        write_text(args.out, write(names, guesses, probabilities, found.classes))
        print(f"{args.out}: {len(names)} clips")
