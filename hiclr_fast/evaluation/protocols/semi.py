"""Semi-supervised evaluation: finetuning on a class-balanced part of the labels, repeated over stored subsets.

Sources: official Feeder_semieval (round(percent * n_c) samples of every class; an epoch has the length of the full set) and
the {gcn,transformer}_ntu60/semi YAMLs. Here a class never gets less than one sample, and repeat r draws with seed r, so that
all runs, streams and repeats on a dataset use the same subsets and can be fused.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.metrics import mean_spread
from hiclr_fast.evaluation.protocols.finetune import train_candidate
from hiclr_fast.evaluation.results import (
    RESULTS,
    Outcome,
    check_own,
    percent_of,
    print_row,
    read_facts,
    read_results,
    read_scores,
    take_place,
)
from hiclr_fast.evaluation.schedule import FinetuneConfig, official
from hiclr_fast.evaluation.settings import Settings
from hiclr_fast.files.ranges import SEED, Range

COMING = ".coming"  # in a semi folder: repeats of an evaluation that replaces a whole result, until all of them are there


@dataclass(frozen=True)
class SemiConfig(Settings):
    """One percentage; training: settings of every repeat, whose seed is the repeat's."""

    shared = True
    percent: float = 1.0
    repeats: int = 5
    training: FinetuneConfig = field(default_factory=FinetuneConfig)

    def official(self, kind: str) -> "SemiConfig":
        return replace(self, training=official(self.training, "semi", kind))

    RANGES: ClassVar = {"percent": Range(0, 100, above=True), "repeats": Range(1, 10**4)}

    def check(self) -> None:
        super().check()
        self.training.check()
        last = replace(self.training, seed=self.training.seed + self.repeats - 1)
        last.check()  # seeds of the repeats follow each other


@dataclass(frozen=True)
class RepeatConfig(Settings):
    shared = True
    percent: float
    subset_seed: int
    training: FinetuneConfig

    RANGES: ClassVar = {"percent": SemiConfig.RANGES["percent"], "subset_seed": SEED}

    def check(self) -> None:
        super().check()
        self.training.check()


def draw_subset(label: np.ndarray, percent: float, seed: int) -> np.ndarray:
    """(n,) sorted rows: round(percent / 100 * n_c), at least one, of every class. label: (N,) int64."""
    rng = np.random.default_rng(seed)
    chosen = []
    for c in np.unique(label):
        rows = np.flatnonzero(label == c)
        chosen.append(rng.choice(rows, max(1, round(percent / 100 * len(rows))), replace=False))
    return np.sort(np.concatenate(chosen))


def _repeat(candidate, settings: RepeatConfig, folder: Path, key: str) -> Outcome:
    train, _ = candidate.splits()
    rows = draw_subset(train.label, settings.percent, settings.subset_seed)
    outcome = train_candidate(candidate, settings.training, rows, folder, key)
    outcome.more["subset"] = train.name[rows].tolist()
    return outcome


def _home(candidate, folder: Path):
    """The candidate whose results are the repeats. Where a whole result stands in `folder`, they grow in COMING, so that it stays
    whole; else in their places, together with what an exchange that was stopped has left in COMING."""
    try:
        whole = read_results(folder) is not None
    except InputError:
        whole = False
    candidate.ranks.wait()  # until all have looked
    if whole:
        return candidate.into(folder / COMING)
    if candidate.ranks.rank == 0:
        for file in sorted((folder / COMING).rglob(RESULTS)):
            take_place(file.parent, folder / file.parent.name)
    candidate.ranks.wait()
    return candidate


def semi(candidate, settings: SemiConfig, folder: Path, key: str) -> Outcome:
    """Mean and spread over the repeats; every repeat has its own folder with its scores and its sample names. Those of a call
    that was stopped are taken."""
    name, home, found = semi_name(settings.percent), _home(candidate, folder), []
    places = [home.folder / home.name_of(name) / f"repeat{r}" for r in range(settings.repeats)]
    for own in (folder / f"repeat{r}" for r in range(settings.repeats)):
        check_own(own, read_facts(own))
    for r in range(settings.repeats):
        training = replace(settings.training, seed=settings.training.seed + r)
        one = RepeatConfig(settings.percent, r, training)
        found.append(home.evaluate(f"{name}/repeat{r}", one, _repeat, skip_finished=True, quiet=True))
    tops = [percent_of(result, "top1") for result in found]
    mean, spread = mean_spread(tops)
    first = read_scores(places[0])
    more = {
        "headline": "last epoch, mean over repeats",
        "top1_of_repeats": tops,
        "top1_spread": spread,
        "labelled_samples": len(found[0]["subset"]),
        "schedule": found[0]["schedule"],
    }
    if all("mean_class_top1" in result for result in found):
        more["mean_class_top1"] = mean_spread([result["mean_class_top1"] for result in found])[0]
    percent = {"top1": mean, "top5": mean_spread([percent_of(result, "top5") for result in found])[0]}
    parts = {place.name: place for place in places}  # the scores are those of the repeats
    return Outcome(percent, first["name"], first["label"], {}, more, parts=parts)


def semi_name(percent: float) -> str:
    return f"semi_{percent:g}"


def run_semi(candidate, percents: tuple[float, ...], repeats: int, training: FinetuneConfig, skip_finished=False) -> list[dict]:
    """Every percentage, all of which are checked first; prints mean and spread."""
    for percent in percents:
        SemiConfig(percent, repeats, training).official(candidate.kind).check()
    found = []
    for percent in percents:
        settings = SemiConfig(percent, repeats, training)
        found.append(candidate.evaluate(semi_name(percent), settings, semi, skip_finished=skip_finished, quiet=True))
        spread = found[-1]["top1_spread"]
        setting = f"{candidate.stream}, {candidate.origin}, {found[-1]['labelled_samples']} labels, n = {repeats}"
        known = {} if spread is None else {"spread": spread}
        if candidate.ranks.rank == 0:
            print_row(f"semi {percent:g} %", setting, {"top1": percent_of(found[-1], "top1"), **known})
    return found
