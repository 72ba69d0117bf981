"""The ablation: every variant trains, and the table names the paper's numbers."""

import json
from dataclasses import replace

from helpers import packed, tiny

from hiclr_fast.reports.ablation import PAPER, ablate, variants
from hiclr_fast.reports.plan import Plan


def test_every_variant_is_one_change_that_trains(tmp_path, monkeypatch):
    base = tiny(epochs=2, knn_every=0)
    configs = variants(base)
    for config in configs.values():
        config.check()
    assert set(PAPER) <= set(configs) and configs["three ordered branches"] == base
    seen = [replace(config, mining_epoch=min(config.mining_epoch, base.epochs)) for config in configs.values()]
    assert len({repr(config) for config in seen}) == len(seen) == 11  # no two train the same
    mines, never = (variants(replace(base, epochs=9, mining_epoch=epoch)) for epoch in (3, 9))
    assert mines["without mining"].mining_epoch == 9 and never["mining from half-way"].mining_epoch == 4
    keep = ("SkeletonCLR (normal views, one branch)", "three branches, two-way consistency", "three ordered branches")
    monkeypatch.setattr("hiclr_fast.reports.ablation.variants", lambda _: {name: configs[name] for name in keep})
    plan = Plan("x", "y", (packed(tmp_path / "set"),), tmp_path / "out", {"joint": base}, seeds=(0,), linear_epochs=1)
    assert ablate(plan)
    found = json.loads((tmp_path / "out" / "ablation.json").read_text())["percent"]
    assert list(found) == list(keep) and all(len(row["linear"]) == len(row["1-NN"]) == 1 for row in found.values())
    text = (tmp_path / "out" / "ablation.md").read_text()
    assert "| three ordered branches |" in text and "77.6" in text
