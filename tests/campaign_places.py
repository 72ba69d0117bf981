"""Cases of the campaign about rights, memory, the clock, pipes, and what may overwrite what."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch
from campaign_processes import Found, damaged_run, worst
from campaign_settings import lies
from children import TINY, WRONG, Place

from hiclr_fast.pretraining.run_folder import read_metrics

PRETRAIN = Path(__file__).parent.parent / "scripts" / "pretrain.py"


def separation(place: Place, rng: random.Random) -> Found:
    """What is there already stays: results on other data or weights, and every file that is not the program's own."""
    run = place.copy()
    kind = rng.choice(("data", "weights", "features", "export", "ensemble", "prepare", "pretrain", "foreign"))
    results, keep = run / "eval" / "linear", None
    if kind == "data":
        named = shutil.copytree(place.other, run.parent / "set")  # another dataset of the same name
        words = ("evaluate", "linear", "--run", run, "--data", named, "--epochs", 2)
    elif kind == "weights":
        state = torch.load(run / "checkpoint.pt", weights_only=True)
        state["model"]["encoder_q.blocks.1.conv.weight"].neg_()
        torch.save(state, run / "checkpoint.pt")
        words = ("evaluate", "linear", "--run", run, "--epochs", 2)
    elif kind in ("features", "export"):
        keep = rng.choice([p for p in run.rglob("*") if p.is_file() and "features" not in p.parts])
        words = (*(("evaluate", "features") if kind == "features" else ("export",)), "--run", run, "--out", keep)
    elif kind == "foreign":
        return foreign(place, run, rng)
    elif kind == "ensemble":
        words = ("evaluate", "ensemble", run, run, run, "--out", results)
    elif kind == "prepare":
        words = ("prepare", "synthetic", "--subjects", 3, "--repeats", 1, "--views", 1, "--out", run)
    else:
        words = ("pretrain", "--data", place.set, "--out", run, *TINY)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and (keep is None or p == keep)}
    ended = place.start(*words).wait()
    changed = [p.name for p, content in before.items() if not p.exists() or p.read_bytes() != content]
    damage = f"changed {changed}" if changed else "done all the same" if ended.code == 0 else None
    return worst(f"{kind} {keep.name if keep else ''}", [ended], damage)


def foreign(place: Place, run: Path, rng: random.Random) -> Found:
    """Somebody's files lie where results go, under names that we use too: none changes, whether the program refuses or not."""
    out = run.parent / "mine"
    protocol = rng.choice(("knn", "linear", "retrieval", "finetune", "report"))
    folder = out if protocol == "report" else out / protocol
    own = ("scores.npz", "neighbours.csv", "classifier.safetensors", "training.pt", "report.html", "curves.png", "tsne.png")
    temporary = (".thesis.tmp", ".vault.tmp.bak", ".results.mine.tmp.json", ".scores.1.tmp.npz")
    before = {folder / name: rng.randbytes(rng.choice((0, 40))) for name in rng.sample((*own, *temporary), 4)}
    folder.mkdir(parents=True)
    for file, content in before.items():
        file.write_bytes(content)
    short = {"linear": ("--epochs", 2), "finetune": ("--epochs", 1, "--batch-size", 8)}.get(protocol, ())
    words = ("report", "run", run) if protocol == "report" else ("evaluate", protocol, "--run", run, *short)
    ended = place.start(*words, "--out", out).wait()
    changed = [p.name for p, content in before.items() if not p.exists() or p.read_bytes() != content]
    return worst(f"foreign files in {protocol}", [ended], f"changed {changed}" if changed else None)


def rights(place: Place, rng: random.Random) -> Found:
    """As nobody, with a folder that may not be written or read."""
    run = place.copy()
    for p in (place.folder, run.parent, *run.rglob("*"), run):
        p.chmod(0o755 if p.is_dir() else 0o644)
    target = rng.choice([run, *run.rglob("*")])
    target.chmod(rng.choice((0o000, 0o444, 0o111)))
    open_all = rng.random() < 0.5
    if open_all:
        for p in (run.parent, *run.rglob("*"), run):
            os.chown(p, 65534, 65534)
    words = rng.choice(
        (
            ("pretrain", "--resume", run, "--epochs", 4),
            ("evaluate", "knn", "--run", run, "--k", 1),
            ("evaluate", "linear", "--run", run, "--epochs", 2),
            ("report", "run", run),
            ("export", "--run", run, "--out", run / "e.safetensors"),
            ("pretrain", "--data", place.set, "--out", run / "new", *TINY),
            ("prepare", "synthetic", "--subjects", 3, "--repeats", 1, "--views", 1, "--out", run / "new"),
        )
    )
    os.chmod(place.here, 0o777)
    ended = place.start(*words, user=65534 if os.getuid() == 0 else None, cwd=place.folder).wait()
    return worst(f"{' '.join(map(str, words[:2]))}, {oct(target.stat().st_mode)[-3:]} {target.name}", [ended], None)


def memory(place: Place, rng: random.Random) -> Found:
    """A limit on the address space: one sentence where Python can say one, and the state is whole."""
    run = place.copy()
    words = rng.choice(
        (
            ("pretrain", "--resume", run, "--epochs", 5),
            ("pretrain", "--data", place.set, "--out", run.parent / "new", *TINY, "--queue-size", 2**22),
            ("evaluate", "knn", "--run", run, "--k", 1),
            ("evaluate", "finetune", "--run", run, "--epochs", 1),
            ("prepare", "synthetic", "--subjects", 3, "--repeats", 1, "--views", 1, "--out", run.parent / "new"),
        )
    )
    room = int(10 ** rng.uniform(5.5, 8.7))
    ended = place.start(*words, memory=room).wait()
    if ended.code in (-6, -11, 127) or (ended.code == 1 and "Traceback" not in ended.text):
        ended.code, ended.text = 2, "error: a library ended it"  # out of Python's hands
    return worst(f"{words[0]} {words[1]} in {room >> 20} MB", [ended], damaged_run(run))


def clock(place: Place, rng: random.Random) -> Found:
    """The clock jumps back while it trains."""
    run, jump, real = place.fresh("run"), rng.uniform(1, 1e9), time.time

    def fault() -> None:
        time.time = lambda: real() - jump * (real() % 2 > 1)

    ended = place.start("pretrain", "--data", place.set, "--out", run, *TINY, fault=fault).wait()
    return worst(f"{jump:.0f} s", [ended], damaged_run(run, 3) if run.exists() else "no run")


def closed_pipe(place: Place, rng: random.Random) -> Found:
    """Nobody reads what it prints."""
    run = place.copy()
    shutil.rmtree(run / "eval")
    evaluation = ("evaluate", "linear", "--run", run, "--epochs", 2)
    words = rng.choice((("pretrain", "--resume", run, "--epochs", 4), evaluation, ("report", "run", run)))

    def fault() -> None:
        r, w = os.pipe()
        os.dup2(w, 1)
        os.close(r)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    ended = place.start(*words, fault=fault).wait()
    if ended.code == 0:
        return words[0], WRONG, "the closed pipe was not said"
    return worst(words[0], [ended], damaged_run(run) or lies(run))


def torchrun(place: Place, rng: random.Random) -> Found | None:
    """Two ranks: one is asked to stop, or killed, in epochs shorter than a reading; the run goes on alone. One case in ten."""
    if rng.random() > 0.1:
        return None
    run, kill = place.fresh("run"), rng.random() < 0.3
    words = ("--data", place.set, "--out", run, *TINY, "--epochs", "100000", "--knn-every", "0", "--read-every", "1000")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with open(run.parent / "log", "w") as log:
        began, command = time.monotonic(), (*start, PRETRAIN, *words)
        job = subprocess.Popen(list(map(str, command)), cwd=run.parent, stdout=log, stderr=log, env=environment)
        try:
            while not (run / "metrics.jsonl").exists() and time.monotonic() - began < 120 and job.poll() is None:
                time.sleep(0.05)
            time.sleep(rng.random())
            ranks = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
            os.kill(int(rng.choice(ranks)), signal.SIGKILL if kill else signal.SIGTERM)
            code = job.wait(60)
        except (OSError, IndexError, subprocess.TimeoutExpired) as error:
            job.kill()
            job.wait()
            code = f"{type(error).__name__}"
    text, name = (run.parent / "log").read_text(errors="replace"), f"two ranks, one {'killed' if kill else 'asked to stop'}"
    if (code == 0) is kill or ("stopped in epoch" in text) is kill or (kill and "start again with --resume" not in text):
        return name, WRONG, f"code {code}: {text[-300:]}"
    epochs = len(read_metrics(run))
    ended = place.start("pretrain", "--resume", run, "--epochs", epochs + 1).wait()
    return worst(name, [ended], damaged_run(run, epochs + 1) if ended.code == 0 else None)


CASES = {
    "result separation": separation,
    "permissions": rights,
    "address space": memory,
    "clock backwards": clock,
    "closed pipe": closed_pipe,
    "torchrun": torchrun,
}
