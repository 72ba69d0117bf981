"""Settings chosen without the test set: part of the training split is left out, every setting is trained on the rest for a few
epochs and judged by what was left out, and the better part goes on with more (successive halving, Jamieson and Talwalkar, 2016).

The test split is never opened for a score. Every run that is done is kept, so that the same command continues after a stop.
"""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from tqdm import tqdm

from hiclr_fast.data.packed.dataset import Packed, Split
from hiclr_fast.distributed import ALONE
from hiclr_fast.errors import Diverged, InputError
from hiclr_fast.evaluation.features import extract
from hiclr_fast.evaluation.protocols.knn import nearest
from hiclr_fast.evaluation.protocols.linear import LinearConfig, linear
from hiclr_fast.evaluation.spaces import SPACES, in_space, inner_folds, inner_groups
from hiclr_fast.files.atomic import write_text
from hiclr_fast.files.json_files import expect, may_overwrite, read_json
from hiclr_fast.files.settings import as_plain, save_yaml
from hiclr_fast.models.load import CHECKPOINT
from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.pretraining.loop import train
from hiclr_fast.pretraining.start import resume, start
from hiclr_fast.pretraining.trainer import check_job

PRESET, EVIDENCE = "preset.yaml", "evidence.json"
MEASURES = ("1-NN", "linear")  # percent on what was left out


@dataclass(frozen=True)
class Halving:
    """How long settings are tried, and how many go on."""

    epochs: int = 8
    """Of the first round; multiplied by `factor` in each further one."""
    factor: int = 2
    """One in so many settings goes on."""
    rounds: int = 3
    """How often the better part goes on."""
    folds: int = 1
    """How many of the parts that can be left out are, the largest first; 0: all."""

    def check(self) -> None:
        for name, least in (("epochs", 1), ("factor", 2), ("rounds", 1), ("folds", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} {getattr(self, name)}: expected at least {least}")


@dataclass(frozen=True)
class Scored:
    """One setting in one round. by_fold: {what was left out: {"1-NN", "linear"}}; percent: their means over the folds; score: the
    mean of the two, by which settings compete."""

    said: str
    config: PretrainConfig
    by_fold: dict[str, dict[str, float]]

    @property
    def percent(self) -> dict[str, float]:
        return {name: float(np.mean([p[name] for p in self.by_fold.values()])) for name in MEASURES}

    @property
    def score(self) -> float:
        return (self.percent["1-NN"] + self.percent["linear"]) / 2


def inner_sets(data: Packed, folds: int) -> list[tuple[str, Packed]]:
    """[(what is left out, the training split without it as `train`, it as `val`)], the largest first."""
    train_split = data["train"]
    what, group = inner_groups(train_split, data.splits.get("val"))
    found = []
    for learn, judge in sorted(inner_folds(group, train_split.label), key=lambda fold: -len(fold[1])):
        name = f"{what}_{group[judge[0]]}"
        splits = {split: _rows(train_split, rows) for split, rows in (("train", learn), ("val", judge))}
        digest = sha256(f"{data.checksum} without {name}".encode()).hexdigest()
        found.append((name, replace(data, splits=splits, checksum=digest)))
    return found[: folds or None]


def _rows(split: Split, rows: np.ndarray) -> Split:
    return Split(split.x.take(rows), *(np.asarray(getattr(split, name))[rows] for name in ("label", "name", "subject", "view")))


def judge(trainer, data: Packed) -> dict[str, float]:
    """Percent on the part that was left out: 1-NN in the best space, and the linear protocol."""
    encoder = trainer.model.encoder_q
    sides = [extract(encoder, data[split], data.layout, trainer.config.stream, trainer.device) for split in ("train", "val")]
    near = {space: nearest(*in_space(*sides, space)) for space in SPACES}
    settings = LinearConfig().official(trainer.config.encoder)
    return {"1-NN": max(near.values()), "linear": linear(*sides, settings, trainer.device).top1}


def score_one(config: PretrainConfig, data: Packed, run: Path) -> dict[str, float] | None:
    """Trains to the end and judges; None when a signal stopped it. What is done already is not done again.

    {"1-NN", "linear"}; both are 0 where the training or the linear classifier diverged, and the reason is printed.
    """
    file = run / "inner.json"
    if file.is_file():
        done = read_json(file)
        return {name: expect(done.get(name), float, str(file), name) for name in MEASURES}
    config = replace(config, out=run, data=data.path, knn_every=0)
    trainer = resume(config, data, run) if (run / CHECKPOINT).is_file() else start(config, data, run)
    try:
        if not train(trainer, run):
            return None
        percent = judge(trainer, data)
    except Diverged as error:
        tqdm.write(f"note: {run.name}: {error}")
        percent = dict.fromkeys(MEASURES, 0.0)
    finally:
        trainer.release()
    write_text(file, json.dumps(percent))
    return percent


def scaled(config: PretrainConfig, epochs: int) -> PretrainConfig:
    """The same schedule in another number of epochs."""
    share = epochs / config.epochs
    return replace(
        config,
        epochs=epochs,
        mining_epoch=round(config.mining_epoch * share),
        warmup_epochs=max(1, round(config.warmup_epochs * share)) if config.warmup_epochs else 0,
        drops=tuple(round(drop * share) for drop in config.drops),
    )


def check(settings: Sequence[tuple[str, PretrainConfig]], data: Packed, sets: Sequence[tuple[str, Packed]]) -> None:
    """InputError for whatever would stop the comparison only after hours."""
    if not data.labelled:
        raise InputError(f"{data.path} has samples without a label; settings are judged by labels, prepare the set with them")
    for (said, config), (name, inner) in itertools.product(settings, sets):
        check_job(config, inner, ALONE)
        if config.batch_size > len(inner["train"]):
            here = f"{len(inner['train'])} training samples without {name}"
            raise InputError(f"{said}: {here} are fewer than batch_size {config.batch_size}; make it smaller")


def halve(
    settings: Sequence[tuple[str, PretrainConfig]], data: Packed, out: Path, plan: Halving
) -> tuple[list[list[Scored]], list[str]] | None:
    """([every round, best first], what was left out); None when a signal stopped it. Writes the preset and the evidence."""
    plan.check()
    may_overwrite(out / EVIDENCE, ("rounds",), [out / PRESET])
    sets = inner_sets(data, plan.folds)
    check(settings, data, sets)
    rounds: list[list[Scored]] = []
    going = list(settings)
    for number in range(plan.rounds):
        epochs, scored = plan.epochs * plan.factor**number, []
        for said, config in going:
            by_fold: dict[str, dict[str, float]] = {}
            for name, inner in sets:
                one = replace(scaled(config, epochs), out=None, data=None)
                key = sha256(json.dumps([as_plain(one), inner.checksum], sort_keys=True).encode()).hexdigest()[:10]
                percent = score_one(one, inner, out / f"{epochs}_epochs" / f"{key}_{name}")
                if percent is None:
                    return None
                by_fold[name] = percent
            scored.append(Scored(said, config, by_fold))
            tqdm.write(f"{epochs} epochs, {said}: " + ", ".join(f"{k} {value:.1f}" for k, value in scored[-1].percent.items()))
        rounds.append(sorted(scored, key=lambda s: -s.score))
        going = [(s.said, s.config) for s in rounds[-1][: math.ceil(len(scored) / plan.factor)]]
    write_text(out / EVIDENCE, json.dumps(evidence(rounds, data, plan), indent=1))  # first: it says whose the preset is
    save_yaml(replace(rounds[-1][0].config, data=None, out=None), out / PRESET)
    return rounds, [name for name, _ in sets]


def evidence(rounds: Sequence[Sequence[Scored]], data: Packed, plan: Halving) -> dict:
    return {
        "data": data.path.name,
        "data_checksum": data.checksum,
        "rounds": [
            {
                "epochs": plan.epochs * plan.factor**number,
                "settings": [{"setting": s.said, "score": s.score, "without": s.by_fold} for s in scored],
            }
            for number, scored in enumerate(rounds)
        ],
        "best": as_plain(replace(rounds[-1][0].config, data=None, out=None)),
    }
