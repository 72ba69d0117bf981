"""Cases of the campaign about settings, configs and numbers in data."""

import dataclasses
import json
import math
import random
import re
import shutil
import typing
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from campaign_processes import Found, mixed, worst
from children import REFUSED, TINY, Place
from helpers import split

from hiclr_fast.data.packed.writer import write_packed
from hiclr_fast.evaluation.protocols.cluster import ClusterConfig
from hiclr_fast.evaluation.protocols.knn import KnnConfig
from hiclr_fast.evaluation.protocols.linear import LinearConfig
from hiclr_fast.evaluation.protocols.retrieval import RetrievalConfig
from hiclr_fast.evaluation.schedule import FinetuneConfig
from hiclr_fast.files.tensors import load_checkpoint
from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.pretraining.run_folder import read_metrics
from hiclr_fast.skeletons import LAYOUTS
from hiclr_fast.views.augment import AugmentConfig

NUMBERS = (0, -1, 1, 2, 3, 7, -8, 0.5, -0.5, 1.5, 1e-30, 1e300, 10**9, 2**31, 2**32, 2**63, 10**23, "nan", "inf", "-inf", "1e400")
PROTOCOLS = {
    "knn": KnnConfig,
    "linear": LinearConfig,
    "retrieval": RetrievalConfig,
    "cluster": ClusterConfig,
    "finetune": FinetuneConfig,
}
SHORT = {"linear": ("--epochs", 2), "finetune": ("--epochs", 1, "--batch-size", 8)}
NOT_TRIED = ("RANGES", "data", "out", "device", "compile", "no_graph")


def _numbers(config: type) -> dict[str, bool]:
    """{setting that holds a number: whether it holds several}."""
    found = {name: str(hint) for name, hint in typing.get_type_hints(config).items() if name not in NOT_TRIED}
    return {name: "tuple" in hint for name, hint in found.items() if re.search(r"\b(int|float)\b", hint)}


def _finite(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_finite, value))
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    return not isinstance(value, float) or math.isfinite(value)


def lies(run: Path) -> str | None:
    """A number that is none, in a run folder and all below it."""
    if (run / "checkpoint.pt").exists():
        state = load_checkpoint(run / "checkpoint.pt")
        if not _finite({name: value for name, value in state.items() if name != "config"}):
            return "NaN or Inf in the checkpoint"
        if not _finite(read_metrics(run)):
            return "NaN or Inf in metrics.jsonl"
    for file in run.rglob("results.json"):
        if not _finite(json.loads(file.read_text())):
            return f"NaN or Inf in {file.parent.name}/results.json"
        if bad := mixed(file.parent):
            return bad
    return None


def _without(words: Sequence[object], flags: set[str]) -> list[object]:
    """`--flag value` pairs without those of some flags."""
    return [w for pair in zip(words[::2], words[1::2], strict=True) if pair[0] not in flags for w in pair]


def settings(place: Place, rng: random.Random) -> Found:
    """A number where it makes no sense: refused before anything is there, or a run that ends well."""
    run = place.fresh("run")
    if rng.random() < 0.3:
        protocol, config = rng.choice(list(PROTOCOLS.items()))
        name, many = rng.choice(list(_numbers(config).items()))
        run = place.copy()
        shutil.rmtree(run / "eval")
        flag = f"--{name.replace('_', '-')}"
        words = ["evaluate", protocol, "--run", run, *_without(SHORT.get(protocol, ()), {flag})]
    else:
        inner = rng.random() < 0.35
        name, many = rng.choice(list(_numbers(AugmentConfig if inner else PretrainConfig).items()))
        flag = f"--{name.replace('_', '-')}"
        words = ["pretrain", "--data", place.set, "--out", run, *_without(TINY, {flag})]
        if rng.random() < 0.3:
            words += ["--mining-epoch", 0]
    values = [rng.choice(NUMBERS) for _ in range(rng.choice((1, 2, 3)) if many else 1)]
    child = place.start(*words, flag, *values, memory=3 << 30)
    ended = child.wait(25)
    shown = f"{words[0]} {flag} {' '.join(map(str, values))}"
    if ended.code is None and name in ("epochs", "starts", "repeats", "listed") and max(map(float, values)) > 1000:
        return shown, "fine", "it is at it"
    damage = lies(run) if ended.code == 0 else None
    if ended.code == 2 and words[0] == "pretrain" and run.exists() and "NaN" not in ended.text and "memory" not in ended.text:
        damage = "a run folder before the refusal"
    return worst(shown, [ended], damage)


def _value(rng: random.Random, depth: int = 0) -> object:
    """Anything that YAML can say."""
    kind = rng.randrange(12 if depth < 4 else 8)
    if kind < 8:
        return rng.choice((None, True, -1, 0, 7, 1.5, math.nan, math.inf, 10**30, "", "a\0b", "x" * 500, "1e3", b"\xff", "nan"))
    some = [_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return some if kind < 10 else {str(rng.choice(("lr", "epochs", "x", 1, None))): v for v in some}


def configs(place: Place, rng: random.Random) -> Found:
    """YAML of any structure under known and unknown keys, sometimes cut or with a byte changed."""
    names = [f.name for f in dataclasses.fields(PretrainConfig)]
    names += ["augment", "augment", "lerning_rate", ""]
    content = {rng.choice(names): _value(rng) for _ in range(rng.choice((1, 1, 2, 4)))}
    text = bytearray(yaml.safe_dump(rng.choice((content, content, content, _value(rng))), allow_unicode=False).encode())
    if rng.random() < 0.4 and text:
        at = rng.randrange(len(text))
        odd = (b"", b"\0", b"\t", b"{", b"[", b"&a ", b"*a", b": ", b"\xff", b"!!python/name:os.system ", b"- ")
        text[at : at + 1] = rng.choice(odd)
    if rng.random() < 0.1:
        text = bytearray(b"lr: " + b"[" * 3000 + b"]" * 3000)
    run = place.fresh("run")
    file = run.parent / "c.yaml"
    file.write_bytes(text)
    given = _without(TINY, {f"--{name.replace('_', '-')}" for name in content})
    ended = place.start("pretrain", "--config", file, "--data", place.set, "--out", run, *given, memory=3 << 30).wait(25)
    damage = "over 300 characters" if ended.code == 2 and len(ended.judge()[1]) > 299 + len(str(run.parent)) else None
    if ended.code is None and "--epochs" not in given:
        return "long training", "fine", ""
    return worst(f"{bytes(text[:80])!r}", [ended], damage or (lies(run) if ended.code == 0 else None))


def extremes(place: Place, rng: random.Random) -> Found:
    """Samples of any size: what is written afterwards are numbers."""
    power, which = rng.uniform(-40, 38), rng.choice(("one", "all", "val"))
    parts = {"train": split(32), "val": split(12, seed=1)}
    x = parts["val" if which == "val" else "train"].x
    with np.errstate(all="ignore"):
        x[rng.randrange(len(x)) if which == "one" else slice(None)] *= np.float32(10.0**power)
    run = place.fresh("run")
    data, name = run.parent / "set", f"{which} x 1e{power:.0f}"
    try:
        write_packed(data, parts, LAYOUTS["ntu25"], ["a", "b", "c"], source="test", preprocessing={})
    except ValueError as error:
        return name, REFUSED, str(error)
    stream = rng.choice(("joint", "bone", "motion"))
    ended = [place.start("pretrain", "--data", data, "--out", run, *TINY, "--stream", stream).wait()]
    if run.exists():
        protocol = rng.choice(list(PROTOCOLS))
        ks = ("--k", 1, 5) if protocol == "knn" else ()
        origin = ("--origin", "raw") if rng.random() < 0.3 and protocol != "finetune" else ()
        words = ("evaluate", protocol, "--run", run, *ks, *SHORT.get(protocol, ()), *origin)
        name += f", {protocol} {origin[1:]}"
        ended.append(place.start(*words).wait())
    return worst(name, ended, lies(run) if run.exists() else None)


CASES = {
    "settings": settings,
    "YAML": configs,
    "numeric extremes": extremes,
}
