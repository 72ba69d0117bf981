"""Checks that a run killed at random moments and resumed ends as a straight run does: same metrics, same weights, bit for bit.

Trains a small model on synthetic actors, in processes of their own, ended by kill -9. Exit code 1 when anything differs.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from tqdm import tqdm

from hiclr_fast.data.formats.synthetic import pack_synthetic
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.data.preprocess import Preprocess
from hiclr_fast.errors import run_script
from hiclr_fast.files.tensors import load_checkpoint
from hiclr_fast.models.load import CHECKPOINT

PRETRAIN = Path(__file__).parent / "pretrain.py"
TIMING = {"seconds", "samples_per_s"}  # of metrics, the only ones that may differ
MODEL = (
    "--device cpu --threads 1 --hidden-channels 4 --hidden-dim 32 --feature-dim 16 --queue-size 64 --batch-size 8 --init torch "
    "--lr 0.01 --momentum 0.9 --save-minutes 0.002 --amp"
).split()


@dataclass(frozen=True)
class Args:
    epochs: int = 12
    kills: int = 10
    seed: int = 0
    """Of the moments of the kills."""


def train(folder: Path, name: str, epochs: int) -> subprocess.Popen:
    """Starts the run, or continues it where it has its folder."""
    flags = ["--resume", name] if (folder / name).exists() else ["--data", "set", "--out", name, *MODEL]
    flags += ["--epochs", str(epochs), "--mining-epoch", str(epochs // 2), "--knn-every", "3"]
    command = [sys.executable, str(PRETRAIN), *flags]
    one = dict(OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1")  # more would wait actively for each other on a busy machine
    return subprocess.Popen(command, cwd=folder, env=os.environ | one, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"pretraining ended with code {process.returncode}: {errors.decode().splitlines()[-1]}")


def progress(run: Path) -> tuple[int, int]:
    """(epoch, step) of the checkpoint on disk."""
    state = load_checkpoint(run / CHECKPOINT)
    return state["epoch"], state["step"]


def metrics(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMING} for line in lines]


def kill_often(folder: Path, args: Args) -> int:
    """Kills the run `killed` at moments spread over its length; how many kills left it inside an epoch."""
    moments, run, inside = random.Random(args.seed), folder / "killed", 0
    for kill in tqdm(range(args.kills), desc="kills"):
        process = train(folder, "killed", args.epochs)
        wanted = 1 + int((kill + moments.random()) * args.epochs / args.kills)  # the epoch to get to
        while process.poll() is None and (not run.exists() or progress(run)[0] < wanted):
            time.sleep(0.02)
        time.sleep(moments.random())
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        inside += progress(run)[1] > 0
    finish(train(folder, "killed", args.epochs))
    return inside


def main() -> int:
    args = tyro.cli(Args, description=__doc__)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pack_synthetic(folder / "set", Preprocess(), subjects=6, repeats=2, views=1)
        count = len(open_packed(folder / "set")["train"])
        finish(train(folder, "straight", args.epochs))
        inside = kill_often(folder, args)
        want, got = metrics(folder / "straight"), metrics(folder / "killed")
        states = [load_checkpoint(folder / name / CHECKPOINT) for name in ("straight", "killed")]
    different = [name for name, value in states[0]["model"].items() if not torch.equal(value, states[1]["model"][name])]
    print(
        f"{args.epochs} epochs of {count} samples, {args.kills} kills, {inside} of them left a checkpoint inside an epoch; "
        f"metrics {'equal' if want == got else 'DIFFER'}; {len(states[0]['model'])} tensors, {len(different)} differ {different}"
    )
    return 0 if want == got and not different else 1


if __name__ == "__main__":
    run_script(main)
