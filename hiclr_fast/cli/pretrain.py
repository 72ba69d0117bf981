"""Pretrains HiCLR.

With no --data, --config, --preset or --resume: a small synthetic dataset (made in data/synthetic) and its preset.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from hiclr_fast.data.formats.synthetic import pack_synthetic
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.data.preprocess import Preprocess
from hiclr_fast.distributed import Ranks, join, leaving
from hiclr_fast.errors import InputError
from hiclr_fast.flags import default
from hiclr_fast.machine import pick_device
from hiclr_fast.pretraining.config import PretrainConfig, load_yaml
from hiclr_fast.pretraining.loop import train
from hiclr_fast.pretraining.monitor import compare, compared_in, monitored
from hiclr_fast.pretraining.presets import preset
from hiclr_fast.pretraining.profile import profile
from hiclr_fast.pretraining.run_folder import free_name, load_run_config
from hiclr_fast.pretraining.start import finish, resume, start
from hiclr_fast.pretraining.trainer import Pretrainer


@dataclass(frozen=True)
class Source:
    """Where the settings start from; every other flag goes on top."""

    config: Annotated[Path | None, default("none")] = None
    """YAML of a run, see configs/."""
    preset: Annotated[str | None, default("none")] = None
    """dataset/stream/encoder, as ntu60_xsub/bone/dsta; hiclr_fast/pretraining/presets.py holds the table."""
    resume: Annotated[Path | None, default("none")] = None
    """Run folder to continue, in place."""
    profile: int = 0
    """Instead of training: time this many steps, print where the time goes, write a Chrome trace under runs/."""


@dataclass(frozen=True)
class Args:
    source: tyro.conf.OmitArgPrefixes[Source]
    run: tyro.conf.OmitArgPrefixes[PretrainConfig]


def base_config(argv: list[str]) -> tuple[Source, PretrainConfig]:
    """The settings below the flags: the resumed run's, the YAML's, the named or the synthetic preset's, or the defaults."""
    source, rest = tyro.cli(Source, args=argv, return_unknown_args=True, add_help=False)
    if source.resume:
        return source, replace(load_run_config(source.resume), out=source.resume)
    if source.config and source.preset:
        raise InputError("give either --config or --preset")
    if source.config:
        return source, load_yaml(source.config)
    if source.preset:
        return source, preset(source.preset)
    if not any(arg.split("=")[0] == "--data" for arg in rest):
        return source, preset("synthetic/joint/stgcn")
    return source, PretrainConfig()


def main() -> int:
    source, base = base_config(sys.argv[1:])
    config = tyro.cli(Args, default=Args(source, base), description=__doc__).run
    with leaving():
        return pretrain(source, config, join(pick_device(config.device)))


def pretrain(source: Source, config: PretrainConfig, ranks: Ranks) -> int:
    config.check()
    if source.profile < 0:
        raise InputError(f"--profile {source.profile}: expected a number of steps, at least 1")
    data_dir = config.data
    if data_dir is None:
        data_dir = Path("data/synthetic")
    if data_dir == Path("data/synthetic"):
        if not data_dir.exists() and ranks.rank == 0:
            pack_synthetic(data_dir, Preprocess())
        ranks.wait()
    data = open_packed(data_dir)
    if source.profile:
        trace = free_name(Path("runs"), "profile") / "trace.json"
        print(profile(Pretrainer(config, data, ranks), source.profile, trace), f"trace: {trace}", sep="\n")
        return 0
    if source.resume:
        trainer, out = resume(config, data, source.resume, ranks), source.resume
    else:
        out = config.out or free_name(Path("runs"), f"{data_dir.name}_{config.stream}_{config.encoder}")
        trainer = start(replace(config, data=data_dir, out=out), data, out, ranks)
    say = print if ranks.rank == 0 else lambda _: None
    where = f"{trainer.device}" if ranks.world == 1 else f"{ranks.world} ranks"
    say(f"run {out}: {len(data['train'])} samples, {trainer.loader.steps} steps an epoch, on {where}")
    if not train(trainer, out):
        say(f"stopped in epoch {trainer.epoch} after step {trainer.step}; continue with --resume {out}")
        return 0
    if ranks.rank > 0:
        return 0
    finish(trainer, out)
    if monitored(data):
        found = compare(trainer, out)
        sides = {"random-init encoder": "random", "pretrained encoder": "pretrained", "raw features": "raw"}
        said = ", ".join(f"{text} {found[side]:.1f} % ({compared_in(found, side)})" for text, side in sides.items())
        print(f"1-NN accuracy (cosine) on {found['validation_samples']} validation samples: {said}")
        if found["chosen"]:
            print("in brackets: what is best for each inside the training split")
    protocol = "linear" if monitored(data) else "features --out features.npz"
    print(f"evaluate with: hiclr evaluate {protocol} --run {out}")
    return 0
