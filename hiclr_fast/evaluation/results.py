"""What a protocol leaves behind: a folder with results.json, scores.npz and what else belongs to it, all of one evaluation.

results.json is written last and holds the SHA-256 of the other files; both it and scores.npz hold the key. Whoever reads
results compares them, so that what a killed process left half exchanged is never taken for a result.
"""

import hashlib
import io
import json
import math
import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hiclr_fast.errors import InputError, writing
from hiclr_fast.files.archives import read_npz, sha256
from hiclr_fast.files.atomic import replacing
from hiclr_fast.files.json_files import read_json
from hiclr_fast.files.tensors import load_weights_file
from hiclr_fast.inference.classifier import CLASSIFIER

RESULTS, SCORES, NEIGHBOURS = "results.json", "scores.npz", "neighbours.csv"
MOST_PERCENT = 100.01  # a sum of shares may be a rounding above 100
UNFINISHED = "training.pt"  # state of a training that was stopped; gone when the results are there


@dataclass(frozen=True)
class Outcome:
    """What a protocol found.

    percent: the numbers of its row. name, label: (N,) of the validation split. samples: per-sample arrays (N, ...), by
    convention `scores` (N, C) where a class is predicted. more: whatever else belongs into results.json. texts: further
    files, by name. parts: the results that this one is a mean of, {name of a folder below: where it lies until the exchange}.
    trained: whether UNFINISHED is of this evaluation.
    """

    percent: dict[str, float]
    name: np.ndarray
    label: np.ndarray
    samples: dict[str, np.ndarray]
    more: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, str | bytes] = field(default_factory=dict)
    parts: dict[str, Path] = field(default_factory=dict)
    trained: bool = False

    def check(self, where: Path) -> None:
        """InputError where a number is NaN or Inf."""
        bad = [name for name, value in self.percent.items() if not math.isfinite(value)]
        bad += [name for name, x in self.samples.items() if x.dtype.kind == "f" and not np.isfinite(x).all()]
        if bad:
            raise InputError(f"{where}: {bad[0]} came out as NaN or Inf, so nothing is written; look at the data and the weights")


def result_key(facts: dict[str, Any]) -> str:
    """Identifies a result by everything that it depends on; another key is another result."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def write_results(folder: Path, facts: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
    """Writes everything beside its place, then exchanges one file after the other, results.json last. Returns what that holds."""
    outcome.check(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:  # what is entered first takes its place last
        results = stack.enter_context(replacing(folder / RESULTS))
        files = {f"{name}/{RESULTS}": sha256(place / RESULTS) for name, place in outcome.parts.items()}
        scores = io.BytesIO()
        np.savez(scores, name=outcome.name, label=outcome.label, key=facts["key"], **outcome.samples)
        for name, content in {**outcome.texts, SCORES: scores.getvalue()}.items():
            content = content.encode(errors="backslashreplace") if isinstance(content, str) else content
            _write(stack.enter_context(replacing(folder / name)), content)
            files[name] = hashlib.sha256(content).hexdigest()
        found = {**facts, "percent": outcome.percent, **outcome.more, "files": files}
        _write(results, json.dumps(found, indent=1, default=str, allow_nan=False).encode())
        for name, place in outcome.parts.items():  # now all is on the disk: what stood here was whole until now
            take_place(place, folder / name)
    if outcome.trained:
        (folder / UNFINISHED).unlink(missing_ok=True)
    return found


def _write(file: Path, content: bytes) -> None:
    with open(file, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def take_place(source: Path, place: Path) -> None:
    """The files of the result in one folder into another, results.json last; what else stands there stays."""
    if source == place:
        return
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
        for file in sorted(source.iterdir(), key=lambda file: file.name == RESULTS):
            os.replace(file, place / file.name)
    with suppress(OSError):  # the folders that are empty now
        os.removedirs(source)


def read_facts(folder: Path) -> dict[str, Any] | None:
    """results.json alone, whose other files may be of another evaluation; None when there is none."""
    file = Path(folder) / RESULTS
    if not file.exists():
        return None
    try:
        found = read_json(file)
        if not all(isinstance(found[name], str) for name in ("protocol", "key")):
            raise ValueError("protocol and key are no text")
        numbers = [*found["percent"].values(), found.get("mean_class_top1", 0), found.get("top1_spread") or 0]
        if not all(type(value) in (int, float) and -100 <= value <= MOST_PERCENT for value in numbers):
            raise ValueError("a percentage is none")
        classes = found.get("classes", [])
        if type(classes) is not list or not all(isinstance(name, str) for name in (*classes, found.get("space", ""))):
            raise ValueError("classes or space are no text")
        for name, digest in found.get("files", {}).items():
            if not isinstance(digest, str) or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError("its list of files is damaged")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())[:150]
        raise InputError(f"{file}: not readable results ({reason}); remove it and evaluate again") from None
    return found


def read_results(folder: Path) -> dict[str, Any] | None:
    """results.json of a finished protocol; None when there is none. InputError where the files are not of one evaluation."""
    found = read_facts(folder)
    for name, digest in (found or {}).get("files", {}).items():
        file = Path(folder) / name
        if not file.is_file() or sha256(file) != digest:
            raise InputError(f"{folder}: {name} is not of the same evaluation as {RESULTS}; evaluate again")
    return found


def percent_of(found: dict[str, Any], name: str) -> float:
    """A number of a result's row; InputError where the file has lost it."""
    if name not in found["percent"]:
        raise InputError(f"a result of {found['protocol']} has no {name}; remove its {RESULTS} and evaluate again")
    return found["percent"][name]


def finished(folder: Path, key: str) -> dict[str, Any] | None:
    """The results with that key, if they are there and whole."""
    found = read_facts(folder)
    try:
        return read_results(folder) if found is not None and found["key"] == key else None
    except InputError:
        return None


def read_scores(folder: Path) -> dict[str, np.ndarray]:
    """Per-sample arrays of a finished protocol, checked: name (N,), label (N,), scores (N, C), ..."""
    results, file = read_results(folder), Path(folder) / SCORES
    if results is None:
        raise InputError(f"{folder} holds no results; evaluate first")
    found = read_npz(file)
    key = str(found.pop("key", results["key"]))  # older files have none
    if key != results["key"]:
        raise InputError(f"{folder}: {SCORES} is not of the same evaluation as {RESULTS}; evaluate again")
    kinds = {"name": ("U", 1), "label": ("iu", 1), **({"scores": ("f", 2)} if "scores" in found else {})}
    wrong = [n for n, (kind, ndim) in kinds.items() if n not in found or found[n].dtype.kind not in kind or found[n].ndim != ndim]
    wrong += [name for name, x in found.items() if x.ndim == 0 or len(x) != found["name"].size] if not wrong else []
    wrong += [name for name, x in found.items() if x.dtype.kind == "f" and not np.isfinite(x).all()]
    if not wrong and "scores" in found:
        label, columns = found["label"], found["scores"].shape[1]
        wrong += ["scores"] if not 1 <= columns <= len(results.get("classes") or range(columns)) else []
        wrong += ["label"] if len(label) and not 0 <= label.min() <= label.max() < columns else []
    if wrong:
        raise InputError(f"{file}: {wrong[0]} is absent, of another length or kind, or not finite; evaluate again")
    return found


def result_folders(root: Path) -> list[Path]:
    """Every folder below that holds a result; not those whose name begins with a dot, of evaluations that go on."""
    found = sorted(file.parent for file in root.rglob(RESULTS))
    return [folder for folder in found if not any(part.startswith(".") for part in folder.relative_to(root).parts)]


def may_replace(folder: Path, facts: dict[str, Any]) -> None:
    """InputError where `folder` holds results on other data, of other weights or another protocol, or files of others."""
    found = read_facts(folder)
    check_own(folder, found)
    if found is None:
        return
    same_inputs = "input_keys" in facts and found.get("input_keys") == facts["input_keys"]
    for content, what, name in (
        ("data_checksum", "dataset", "data"),
        ("checkpoint_sha256", "checkpoint", "checkpoint"),
        ("protocol", "protocol", "protocol"),
    ):
        if found.get(content) != facts[content] and not same_inputs:
            raise InputError(
                f"{folder} holds results of another {what}, {found.get(name, 'unknown')}; give another folder with --out, "
                "or move those away"
            )


def check_own(folder: Path, found: dict[str, Any] | None) -> None:
    """InputError where a file by the name of one of ours is there that no evaluation has made. found: `read_facts` of the folder;
    without, the files may be those of an evaluation that was killed while it exchanged them, scores.npz first."""
    for name in (SCORES, CLASSIFIER, NEIGHBOURS):
        if not os.path.lexists(folder / name) or (found is not None and name in found.get("files", {name: ""})):  # older: no list
            continue
        killed = (found is None or name == SCORES) and _is_scores(folder / SCORES)
        if not (killed or _is_classifier(folder / name)):
            raise InputError(f"{folder / name} is not of an evaluation; give another folder with --out, or move it away")


def _is_scores(file: Path) -> bool:
    try:
        return {"name", "label"} <= set(read_npz(file))
    except InputError:
        return False


def _is_classifier(file: Path) -> bool:
    try:
        return {"protocol", "key", "classes"} <= set(load_weights_file(file)[1])
    except InputError:
        return False


def print_row(protocol: str, setting: str, percent: dict[str, float]) -> None:
    print(f"| {protocol} | {setting} | " + " | ".join(f"{name} {value:.2f} %" for name, value in percent.items()) + " |")
