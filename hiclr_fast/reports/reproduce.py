"""From a packed dataset to the paper's table: pretrain every stream and seed, evaluate every protocol, fuse, tabulate.

Every stage leaves a finished result and is skipped when it is there: a run has its encoder.safetensors, a protocol its
results.json of the same checkpoint, data and settings. A pretraining or a training that was stopped goes on where it stood.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hiclr_fast.data.packed.dataset import Packed, open_packed
from hiclr_fast.evaluation.candidate import Candidate, Origin
from hiclr_fast.evaluation.protocols.cluster import ClusterConfig, cluster
from hiclr_fast.evaluation.protocols.ensemble import WEIGHTS, ensemble
from hiclr_fast.evaluation.protocols.finetune import finetune
from hiclr_fast.evaluation.protocols.knn import KnnConfig, knn, usual_ks
from hiclr_fast.evaluation.protocols.linear import LinearConfig, linear_protocol
from hiclr_fast.evaluation.protocols.retrieval import RetrievalConfig, retrieval
from hiclr_fast.evaluation.protocols.semi import run_semi, semi_name
from hiclr_fast.evaluation.protocols.transfer import moved, run_transfer
from hiclr_fast.evaluation.results import percent_of
from hiclr_fast.evaluation.schedule import FinetuneConfig
from hiclr_fast.files.atomic import write_text
from hiclr_fast.files.json_files import may_overwrite
from hiclr_fast.machine import environment
from hiclr_fast.models.load import checkpoint_of
from hiclr_fast.models.pooling import OWN
from hiclr_fast.pretraining.run_folder import load_run_config
from hiclr_fast.reports.copies import copied, without_copies
from hiclr_fast.reports.plan import Plan
from hiclr_fast.reports.published import published
from hiclr_fast.reports.stages import pretrain_stage
from hiclr_fast.reports.tables import Measured, as_json, markdown
from hiclr_fast.skeletons import STREAMS


def _knn(plan: Plan, candidate: Candidate, seed: int) -> dict[str, float]:
    train, _ = candidate.splits()
    found = candidate.evaluate("knn", KnnConfig(usual_ks(len(train)), space=plan.space), knn, skip_finished=True)
    return {f"k-NN, {name}": value for name, value in found["percent"].items()}


def _linear(plan: Plan, candidate: Candidate, seed: int) -> dict[str, float]:
    config = LinearConfig(epochs=plan.linear_epochs, seed=seed)
    return {"linear": percent_of(candidate.evaluate("linear", config, linear_protocol, skip_finished=True), "top1")}


def _retrieval(plan: Plan, candidate: Candidate, seed: int) -> dict[str, float]:
    found = candidate.evaluate("retrieval", RetrievalConfig(space=plan.space), retrieval, skip_finished=True)
    return {"retrieval, mAP": percent_of(found, "mAP")}


def _cluster(plan: Plan, candidate: Candidate, seed: int) -> dict[str, float]:
    found = candidate.evaluate("cluster", ClusterConfig(seed=seed), cluster, skip_finished=True)
    return {f"k-means, {name}": value for name, value in found["percent"].items()}


def _semi(plan: Plan, candidate: Candidate, seed: int) -> dict[str, float]:
    config = replace(plan.semi_settings(100).training, seed=seed)
    found = run_semi(candidate, plan.semi_percent, plan.semi_repeats, config, skip_finished=True)
    return {f"semi, {p:g} %": percent_of(result, "top1") for p, result in zip(plan.semi_percent, found, strict=True)}


def _finetune(plan: Plan, candidate: Candidate, seed: int) -> dict[str, float]:
    config = replace(plan.training, epochs=plan.finetune_epochs, seed=seed)
    name = "supervised" if candidate.origin == "random" else "finetune"
    return {"finetune": percent_of(candidate.evaluate(name, config, finetune, skip_finished=True), "top1")}


def _transfer(plan: Plan, candidate: Candidate, seed: int) -> dict[str, float]:
    if plan.transfer_to is None:
        return {}
    target = open_packed(plan.transfer_to)
    head = LinearConfig(epochs=plan.linear_epochs, seed=seed)
    config = replace(plan.training, epochs=plan.finetune_epochs, seed=seed)
    found = run_transfer(moved(candidate, target), head, config, skip_finished=True)
    return {f"transfer to {target.path.name}, {name}": percent_of(result, "top1") for name, result in found.items()}


# Kinds of features as the table names them: (origin, batch-norm statistics of clean data). At its start an encoder has the
# statistics (0, 1), with which it is a weak baseline; with those of the data it is the fairer one.
KINDS: dict[str, tuple[Origin, bool]] = {
    "pretrained": ("pretrained", False),
    "random": ("random", False),
    "random, recalibrated": ("random", True),
    "raw": ("raw", False),
}
NO_COPIES = ", test without copies"
ALL, TRAINED = tuple(KINDS), ("pretrained", "random")
STAGES = {  # what needs features only, all have; what trains an encoder, only those that have one
    "knn": (_knn, ALL),
    "linear": (_linear, ALL),
    "retrieval": (_retrieval, ALL),
    "cluster": (_cluster, ALL),
    "semi": (_semi, TRAINED),
    "finetune": (_finetune, TRAINED),
    "transfer": (_transfer, TRAINED),
}


def clean_rows(plan: Plan, candidate: Candidate, protocol: str, copies: frozenset[str] | None) -> dict[str, float]:
    """{row of the table: percent} without the test samples that are copies of training samples, which have these names; none
    where no set of the plan has such."""
    if copies is None:
        return {}
    if protocol == "semi":
        folders = {f"semi, {p:g} %": candidate.folder / candidate.name_of(semi_name(p)) for p in plan.semi_percent}
        repeats = range(plan.semi_repeats)
        return {f"{row}{NO_COPIES}": without_copies([f / f"repeat{r}" for r in repeats], copies) for row, f in folders.items()}
    names = {"knn": ("knn", "k-NN, k=1"), "linear": ("linear", "linear")}
    names["finetune"] = ("supervised" if candidate.origin == "random" else "finetune", "finetune")
    if protocol not in names:
        return {}
    name, row = names[protocol]
    return {f"{row}{NO_COPIES}": without_copies([candidate.folder / candidate.name_of(name)], copies)}


def evaluate_run(plan: Plan, run: Path, data: Packed, seed: int, copies: frozenset[str] | None) -> dict[tuple[str, str], float]:
    """{(kind, row of the table): percent} of one run: all protocols, all kinds of features."""
    found: dict[tuple[str, str], float] = {}
    for kind, (origin, recalibrate) in KINDS.items():
        own = Candidate(checkpoint_of(run), data, run / "eval", plan.device, origin=origin, recalibrate=recalibrate)
        frozen = own if origin == "raw" else replace(own, readout=plan.readout)
        for protocol in plan.protocols:
            stage, kinds = STAGES[protocol]
            candidate = own if kinds is TRAINED else frozen
            if kind in kinds:
                rows = stage(plan, candidate, seed) | clean_rows(plan, candidate, protocol, copies)
                found |= {(kind, row): percent for row, percent in rows.items()}
    return found


def fuse_streams(plan: Plan, folder: Path, seed: int, copies: frozenset[str] | None) -> dict[tuple[str, str, str], float]:
    """{(kind, row, weights): percent} of what the three streams' runs in `folder` predict together."""
    found: dict[tuple[str, str, str], float] = {}

    def fuse(origin: str, row: str, protocols: Sequence[str], weights: str) -> None:
        percent, outs = [], [folder / f"fused_s{seed}" / f"{name.replace('/', '_')}_{weights}" for name in protocols]
        for protocol, out in zip(protocols, outs, strict=True):
            runs = [run_folder(folder, stream, seed) / "eval" / protocol for stream in STREAMS]
            percent.append(ensemble(runs, weights, out)["percent"]["top1"])
        found[origin, row, weights] = sum(percent) / len(percent)
        if copies is not None:
            found[origin, f"{row}{NO_COPIES}", weights] = without_copies(outs, copies)

    own = "" if plan.readout == OWN else f"_{plan.readout.name}"
    for weights in WEIGHTS:
        if "linear" in plan.protocols:
            for origin, suffix in zip(ALL, (own, f"_random{own}", f"_random_recalibrated{own}", "_raw"), strict=True):
                fuse(origin, "linear", [f"linear{suffix}"], weights)
        if "finetune" in plan.protocols:
            fuse("pretrained", "finetune", ["finetune"], weights)
            fuse("random", "finetune", ["supervised"], weights)
        if "semi" in plan.protocols:
            for percent in plan.semi_percent:
                for origin, suffix in zip(TRAINED, ("", "_random"), strict=True):
                    name = f"{semi_name(percent)}{suffix}"
                    repeats = [f"{name}/repeat{r}" for r in range(plan.semi_repeats)]
                    fuse(origin, f"semi, {percent:g} %", repeats, weights)
    return found


def run_folder(folder: Path, stream: str, seed: int) -> Path:
    return folder / f"{stream}_s{seed}"


OVERRIDES = ("linear_epochs", "finetune_epochs", "semi_epochs", "semi_percent", "semi_repeats")


def caption(plan: Plan, sets: Sequence[Packed], folders: Sequence[Path], encoder: str) -> list[str]:
    """What a reader has to know to judge the table, with everything in which it is not the official protocol."""
    runs = [load_run_config(run_folder(f, s, seed)) for f in folders for s in plan.streams for seed in plan.seeds]
    epochs = " or ".join(map(str, sorted({config.epochs for config in runs})))
    samples = ", ".join(f"{data.path.name} {len(data['train'])} / {len(data['val'])}" for data in sets)
    usual = {name: Plan.__dataclass_fields__[name].default for name in OVERRIDES}
    changed = {name.replace("_", " "): getattr(plan, name) for name in OVERRIDES if getattr(plan, name) != usual[name]}
    changed |= {"readout": plan.readout.name} if plan.readout != OWN else {}
    changed |= {"space of k-NN and retrieval": plan.space} if plan.space != "plain" else {}
    changed |= {name: value for name, value in vars(plan.training).items() if value != getattr(FinetuneConfig(), name)}
    changed = {name: "/".join(f"{v:g}" for v in x) if isinstance(x, tuple) else x for name, x in changed.items()}
    folds = f" over seeds of the mean over {len(sets)} folds" if len(sets) > 1 else ""
    return [
        f"{plan.dataset} {plan.split}, {encoder}; percent, top-1 of the last epoch where nothing else is said.",
        f"Training / test samples: {samples}. Seeds {', '.join(map(str, plan.seeds))}: mean ± standard deviation{folds}.",
        f"Pretrained for {epochs} epochs. Changed from the official protocols: "
        + (", ".join(f"{name} {value}" for name, value in changed.items()) or "nothing")
        + ".",
    ]


def reproduce(plan: Plan) -> bool:
    """Everything; writes table.json and table.md. False when a signal stopped a pretraining."""
    may_overwrite(plan.out / "table.json", ("caption", "rows", "published"), [plan.out / "table.md"])
    sets = plan.check()
    folders = [plan.out / data.path.name if len(sets) > 1 else plan.out for data in sets]
    measured, leaks = Measured(), [copied(data) for data in sets]
    for data, folder, names in zip(sets, folders, leaks, strict=True):
        copies = names if any(leaks) else None
        for seed in plan.seeds:
            for stream in plan.streams:
                run = run_folder(folder, stream, seed)
                if not pretrain_stage(replace(plan.configs[stream], stream=stream, seed=seed), data, run):
                    return False
                for (origin, row), percent in evaluate_run(plan, run, data, seed, copies).items():
                    measured.add(origin, row, stream, seed, percent)
            if set(STREAMS) <= set(plan.streams):
                for (origin, row, weights), percent in fuse_streams(plan, folder, seed, copies).items():
                    measured.add(origin, row, weights, seed, percent)
    any_run = run_folder(folders[0], plan.streams[0], plan.seeds[0])
    kind = Candidate(checkpoint_of(any_run), sets[0], any_run, plan.device).kind
    known, head = published(plan.dataset, plan.split), caption(plan, sets, folders, kind)
    table = markdown(measured, known, kind, head)
    facts = {**as_json(measured, known, head), "environment": environment(plan.device)}
    write_text(plan.out / "table.json", json.dumps(facts, indent=1))  # first: it says whose the other is
    write_text(plan.out / "table.md", table)
    print(f"\n{table}\n{plan.out / 'table.md'} and {plan.out / 'table.json'}")
    return True
