"""The ablation: every variant trains, and the table names the paper's numbers."""

import json

from helpers import packed, tiny

from hiclr_fast.reports.ablation import PAPER, ablate, variants
from hiclr_fast.reports.plan import Plan


def test_every_variant_is_one_change_that_trains(tmp_path, monkeypatch):
    base = tiny(epochs=1, knn_every=0)
    configs = variants(base)
    for config in configs.values():
        config.check()
    assert set(PAPER) <= set(configs) and configs["three ordered branches"] == base
    keep = ("SkeletonCLR (normal views, one branch)", "three branches, two-way consistency", "three ordered branches")
    monkeypatch.setattr("hiclr_fast.reports.ablation.variants", lambda _: {name: configs[name] for name in keep})
    plan = Plan("x", "y", (packed(tmp_path / "set"),), tmp_path / "out", {"joint": base}, seeds=(0,), linear_epochs=1)
    assert ablate(plan)
    found = json.loads((tmp_path / "out" / "ablation.json").read_text())["percent"]
    assert list(found) == list(keep) and all(len(row["linear"]) == 1 for row in found.values())
    text = (tmp_path / "out" / "ablation.md").read_text()
    assert "| three ordered branches |" in text and "77.6" in text
