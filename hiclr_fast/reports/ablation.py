"""The paper's own claim as an experiment: strong views in ordered branches help, applied directly they hurt.

Every variant is the plan's joint configuration with a few settings changed. The paper's ablation (linear, NTU60 cross-subject,
joint): strong views directly 56.7, two branches 74.0, three ordered branches 77.6. It does not say what the key sees in the
first; here it is the basic view, as everywhere else.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hiclr_fast.data.packed.dataset import Packed
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.candidate import Candidate
from hiclr_fast.evaluation.metrics import mean_spread
from hiclr_fast.evaluation.protocols.knn import KnnConfig, knn
from hiclr_fast.evaluation.protocols.linear import LinearConfig, linear_protocol
from hiclr_fast.evaluation.results import percent_of
from hiclr_fast.files.atomic import write_text
from hiclr_fast.files.json_files import may_overwrite
from hiclr_fast.files.settings import as_plain
from hiclr_fast.machine import environment
from hiclr_fast.models.load import checkpoint_of
from hiclr_fast.pretraining.config import PretrainConfig
from hiclr_fast.reports.copies import copied, without_copies
from hiclr_fast.reports.plan import Plan
from hiclr_fast.reports.stages import pretrain_stage

PAPER = {"strong views directly": 56.7, "two branches": 74.0, "three ordered branches": 77.6}
NO_MASK: dict[str, Any] = dict(mask_ratio=0.0)
EDGES: dict[str, Any] = dict(edge_drop=0.1, edge_add=0.05)  # rates as in the paper
ADAIN: dict[str, Any] = dict(adain="sequence")


def variants(base: PretrainConfig) -> dict[str, PretrainConfig]:
    """{name of the row: config}. base: three ordered branches, one way, mask alone, as released."""

    def strong(**augment: Any) -> PretrainConfig:
        return replace(base, augment=replace(base.augment, **augment))

    one, two = dict(weights=(1.0,)), dict(branches=("basic", "strong"), weights=(1.0, 1.0))
    if base.mining_epoch < base.epochs:
        mining = {"without mining": replace(base, mining_epoch=base.epochs)}
    else:
        mining = {"mining from half-way": replace(base, mining_epoch=max(1, base.epochs // 2))}
    return {
        "SkeletonCLR (normal views, one branch)": replace(base, branches=("normal",), key_view="normal", **one),
        "basic views, one branch": replace(base, branches=("basic",), **one),
        "strong views directly": replace(base, branches=("strong",), **one),
        "two branches": replace(base, **two),
        "three ordered branches": base,
        "three branches, two-way consistency": replace(base, consistency="two-way"),
        "no strong operation": strong(**NO_MASK),
        "SkeleAdaIN alone": strong(**NO_MASK, **ADAIN),
        "edges alone": strong(**NO_MASK, **EDGES),
        "mask, SkeleAdaIN and edges": strong(**ADAIN, **EDGES),
        **mining,
    }


def folder_of(variant: str, seed: int) -> Path:
    words = "".join(c if c.isalnum() else "_" for c in variant.lower())
    return Path(f"{words.strip('_')}_s{seed}")


def ablate(plan: Plan) -> bool:
    """Every variant x seed on the plan's first dataset: linear and 1-NN, in OUT/ablation.md and .json; False when stopped.

    Where test samples are copies of training samples, both without them too.
    """
    may_overwrite(plan.out / "ablation.json", ("data", "seeds", "percent", "paper"), [plan.out / "ablation.md"])
    plan = replace(plan, protocols=("knn", "linear"))
    data: Packed = plan.check()[0]
    copies = copied(data)
    if "joint" not in plan.configs:
        raise InputError("the ablation is of the joint stream; leave --streams out, or name joint")
    found: dict[str, dict[str, list[float]]] = {}
    configs = variants(plan.configs["joint"])
    for variant, config in configs.items():
        rows = found.setdefault(variant, {})
        for seed in plan.seeds:
            run = plan.out / "ablation" / folder_of(variant, seed)
            if not pretrain_stage(replace(config, stream="joint", seed=seed), data, run):
                return False
            candidate = Candidate(checkpoint_of(run), data, run / "eval", plan.device, readout=plan.readout)
            head = LinearConfig(epochs=plan.linear_epochs, seed=seed)
            line = candidate.evaluate("linear", head, linear_protocol, skip_finished=True)
            near = candidate.evaluate("knn", KnnConfig((1,), space=plan.space), knn, skip_finished=True)
            percent = {"linear": percent_of(line, "top1"), "1-NN": percent_of(near, "k=1")}
            for name, protocol in (("linear", "linear"), ("1-NN", "knn")) if copies else ():
                folder = candidate.folder / candidate.name_of(protocol)
                percent[f"{name}, test without copies"] = without_copies([folder], copies)
            for name, value in percent.items():
                rows.setdefault(name, []).append(value)
        facts = {"data": data.path.name, "seeds": plan.seeds, "percent": found, "paper": PAPER}
        facts["environment"] = environment(plan.device)
        facts["settings"] = {name: as_plain(configs[name]) for name in found}
        write_text(plan.out / "ablation.json", json.dumps(facts, indent=1))  # after each row: hours lie between them
        write_text(plan.out / "ablation.md", table(found, plan, data))
    print(f"\n{table(found, plan, data)}\n{plan.out / 'ablation.md'} and {plan.out / 'ablation.json'}")
    return True


def table(found: dict[str, dict[str, list[float]]], plan: Plan, data: Packed) -> str:
    """Markdown: mean and spread over the seeds, the paper's numbers beside them."""

    def cell(values: Sequence[float]) -> str:
        mean, spread = mean_spread(list(values))
        return f"{mean:.1f}" + (f" ± {spread:.1f}" if spread is not None else "")

    epochs = plan.configs["joint"].epochs
    lines = [f"{data.path.name}, joint, {epochs} epochs, seeds {', '.join(map(str, plan.seeds))}; percent, last epoch"]
    lines += [f"Readout {plan.readout.name or 'of the encoder'}; 1-NN in the space: {plan.space}", ""]
    columns = list(next(iter(found.values())))
    lines += ["| variant | " + " | ".join(columns) + " | paper (NTU60 xsub, linear) |", "| --- " * (len(columns) + 2) + "|"]
    for variant, rows in found.items():
        cells = " | ".join(cell(rows[name]) for name in columns)
        lines.append(f"| {variant} | {cells} | {PAPER.get(variant, '-')} |")
    return "\n".join(lines) + "\n"
