"""Cases of the campaign in which processes meet, are stopped or are killed."""

import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from children import REFUSED, TINY, WRONG, Ended, Place, same
from faults import at_change, die, no_space

from hiclr_fast.evaluation.results import read_results, read_scores
from hiclr_fast.files.tensors import load_checkpoint
from hiclr_fast.pretraining.run_folder import load_run_config, read_metrics

TIMING = {"seconds", "samples_per_s"}
OFTEN = ("--save-minutes", "0", "--keep-every", "2")
JOBS = ("pretrain", "pretrain", "resume", "finetune", "linear", "retrieval", "prepare", "export", "report")
TUNE = ("--epochs", "4", "--batch-size", "8")
Found = tuple[str, str, str]  # name, outcome, why


def worst(name: str, ended: list[Ended], damage: str | None = None) -> Found:
    """One outcome of several processes and of what they left behind."""
    found = [one.judge() for one in ended]
    for outcome, why in found:
        if outcome == WRONG:
            return name, WRONG, why
    if damage:
        return name, WRONG, f"{damage}; {[why for _, why in found]}"
    outcome, why = next((one for one in found if one[0] == REFUSED), found[0])
    return name, outcome, why


def damaged_run(run: Path, epochs: int | None = None, straight: Path | None = None) -> str | None:
    """What is wrong with a run folder, if anything. epochs: how many it has; straight: a run that it must equal."""
    config, state = load_run_config(run), load_checkpoint(run / "checkpoint.pt")
    lines = read_metrics(run)
    if state["config"]["seed"] != config.seed:
        return f"seed {config.seed} in config.yaml, {state['config']['seed']} in the checkpoint"
    if [line["epoch"] for line in lines] != list(range(1, len(lines) + 1)) or not len(lines) >= state["epoch"] - 1:
        return f"metrics of epochs {[line['epoch'] for line in lines]}, checkpoint at {state['epoch']}"
    if epochs is not None and (len(lines), state["epoch"], config.epochs) != (epochs, epochs + 1, epochs):
        return f"{len(lines)} lines, checkpoint at {state['epoch']}, config {config.epochs}, expected {epochs} epochs"
    if straight is not None:
        want = load_checkpoint(straight / "checkpoint.pt")
        differ = [name for name in want if name != "config" and not same(want[name], state.get(name))]
        plain = [[{k: v for k, v in line.items() if k not in TIMING} for line in read_metrics(r)] for r in (straight, run)]
        if differ or plain[0] != plain[1]:
            return f"differs from a straight run in {differ or 'metrics'}"
    left = [p.name for p in run.glob(".*")]
    return f"left behind: {left}" if left else None


def mixed(folder: Path) -> str | None:
    """Results are whole, of one evaluation, and their numbers those of their scores."""
    found, scores = read_results(folder), read_scores(folder)
    if "scores" in scores and "top1" in found["percent"]:
        top1 = 100 * float((scores["scores"].argmax(1) == scores["label"]).mean())
        if abs(top1 - found["percent"]["top1"]) > 1e-4:
            return f"results.json says {found['percent']['top1']}, the scores {top1}"
    return None


def two_at_once(place: Place, rng: random.Random) -> Found:
    kind = rng.choice(("out", "out", "resume", "resume", "epochs", "training", "linear", "finetune", "retrieval", "other data",
                       "features", "export", "prepare"))  # fmt: skip
    delay, epochs, damage = rng.random() * 0.3, 6, None
    evaluate = ("evaluate", kind, "--run")
    if kind == "out":
        run = place.fresh("run")
        both = [("pretrain", "--data", place.set, "--out", run, *TINY, "--seed", seed) for seed in (1, 2)]
    elif kind in ("resume", "epochs"):
        run = place.copy()
        both = [("pretrain", "--resume", run, "--epochs", e, *OFTEN[:2]) for e in (epochs, epochs if kind == "resume" else 4)]
    elif kind == "training":
        run, delay = place.fresh("run"), 0.3 + rng.random()
        both = [("pretrain", "--data", place.set, "--out", run, *TINY, "--epochs", epochs), ("pretrain", "--resume", run)]
    elif kind == "prepare":
        run = place.fresh("new")
        both = [("prepare", "synthetic", "--subjects", 3, "--repeats", 1, "--views", 1, "--out", run)] * 2
    elif kind == "export":
        run = place.fresh("e" + rng.choice((".safetensors", ".pt")))
        both = [("export", "--run", place.run, "--out", run)] * 2
    elif kind == "other data":
        run = place.copy()
        both = [("evaluate", "knn", "--run", run, "--k", 1, "--data", data) for data in (place.set, place.other)]
    else:
        run = place.copy()
        shutil.rmtree(run / "eval")
        more = {
            "linear": (("--epochs", 3), ("--epochs", 3, "--lr", 1e-5)),
            "finetune": ((*TUNE, "--lr", 0.01), (*TUNE, "--lr", rng.choice((0.01, 1e-6)))),
            "retrieval": (("--listed", 1), ("--listed", 3)),
            "features": ((), ()),
        }[kind]
        both = [(*evaluate, run, *words) for words in more]
    a = place.start(*both[0])
    time.sleep(delay)
    ended = [child.wait() for child in (a, place.start(*both[1]))]
    if kind in ("out", "resume", "epochs", "training"):
        damage = damaged_run(run, {"out": 3, "epochs": None}.get(kind, epochs)) if run.exists() else "no run"
        if kind in ("out",) and sorted(one.code for one in ended) != [0, 2]:
            damage = f"codes {[one.code for one in ended]}"
    elif kind in ("linear", "finetune", "retrieval"):
        damage = mixed(run / "eval" / kind)
    elif kind == "other data":
        found = read_results(run / "eval" / "knn")
        damage = None if sorted(one.code for one in ended) == [0, 2] else f"both wrote, {found['data']} stayed"
    elif not run.exists():
        damage = "nothing was written"
    return worst(f"{kind}, {delay:.2f} s apart", ended, damage)


def _end_of(place: Place, run: Path, straight: Path) -> tuple[list[Ended], str | None]:
    """Continues a run until its end, or starts it where there is none; what is wrong with it then."""
    new = ("--data", place.set, "--out", run, *TINY, *OFTEN)
    ended = place.start("pretrain", *(("--resume", run) if run.exists() else new)).wait()
    return [ended], damaged_run(run, 3, straight) if ended.code == 0 else f"the next start: {ended.judge()[1]}"


class Straight:
    """The run, and results, that nothing disturbed; made once."""

    def __init__(self, place: Place):
        self.run = place.folder / "straight"
        words = ("pretrain", "--data", place.set, "--out", self.run, *TINY, *OFTEN)
        ended = place.start(*words).wait()
        assert ended.code == 0, ended.text
        self.seconds = ended.seconds


def _straight(place: Place) -> Straight:
    if not hasattr(place, "straight"):
        place.straight = Straight(place)
    return place.straight


def signals(place: Place, rng: random.Random) -> Found:
    """SIGTERM or SIGINT at any moment, once or twice: one line, and all continues as if nothing had been."""
    straight, number = _straight(place), rng.choice((signal.SIGTERM, signal.SIGINT))
    kind, twice = rng.choice(JOBS), rng.random() < 0.3
    words, check = _job(place, kind)
    child = place.start(*words)
    moment = rng.random() * straight.seconds * {"pretrain": 1.1, "resume": 0.8, "report": 1}.get(kind, 0.25)
    for _ in range(1 + twice):
        time.sleep(moment)
        child.signal(number)
        moment = rng.random() * 0.05
    ended = child.wait()
    more, damage = check()
    if ended.code == -number and not ended.text:  # before its first line of code
        ended.code = 0
    if ended.code not in (0, 2) and ended.code != 128 + number:
        damage = damage or f"code {ended.code}"
    return worst(f"{number.name} in {kind}{' twice' * twice} after {ended.seconds:.2f} s", [ended, *more], damage)


def kills(place: Place, rng: random.Random) -> Found:
    """kill -9 at a moment, or just before a change of files."""
    straight = _straight(place)
    kind = rng.choice(JOBS)
    words, check = _job(place, kind)
    if rng.random() < 0.5:
        n = rng.randrange(1, 40)
        ended = place.start(*words, fault=at_change(n, place.folder, die)).wait()
        where = f"at change {n}"
    else:
        moment = rng.random() * straight.seconds * (1 if kind in ("pretrain", "resume", "report") else 0.3)
        child = place.start(*words)
        time.sleep(moment)
        child.signal(signal.SIGKILL)  # it is not waited for yet, so the number is still its own
        ended, where = child.wait(), f"after {moment:.2f} s"
    more, damage = check()
    return worst(f"kill -9 in {kind} {where}", more if ended.code == -9 else [ended, *more], damage)


def full_disk(place: Place, rng: random.Random) -> Found:
    """No space at a change of files, or a limit on the size of files: one sentence, and all continues."""
    kind = rng.choice(JOBS)
    words, check = _job(place, kind)
    if rng.random() < 0.6:
        n = rng.randrange(1, 40)
        how, name = dict(fault=at_change(n, place.folder, no_space)), f"no space at change {n}"
    else:
        limit = int(10 ** rng.uniform(1.5, 5.5))
        how, name = dict(file_size=limit), f"files up to {limit} bytes"
    ended = place.start(*words, **how).wait()
    more, damage = check()
    return worst(f"{kind}, {name}", [ended, *more], damage)


def _job(place: Place, kind: str) -> tuple[tuple, Callable[[], tuple[list[Ended], str | None]]]:
    """(words of a program, what runs it to its end afterwards: (processes, what is wrong))."""
    straight = _straight(place)
    if kind in ("pretrain", "resume"):
        run = place.fresh("run")
        if kind == "resume":
            shutil.copytree(straight.run, run)
            shutil.copy(run / "checkpoint_epoch2.pt", run / "checkpoint.pt")
            return ("pretrain", "--resume", run), lambda: _end_of(place, run, straight.run)
        return ("pretrain", "--data", place.set, "--out", run, *TINY, *OFTEN), lambda: _end_of(place, run, straight.run)
    if kind in ("finetune", "linear", "retrieval", "report"):
        run = place.copy()
        if kind == "report":
            words = ("report", "run", run)
            return words, lambda: (
                [place.start(*words).wait()],
                None if (run / "report/report.html").exists() else "no report",
            )
        more = {"finetune": TUNE, "linear": ("--epochs", 2, "--lr", 1e-5), "retrieval": ("--listed", 3)}[kind]
        words = ("evaluate", kind, "--run", run, *more)
        return words, lambda: ([place.start(*words).wait()], mixed(run / "eval" / kind))
    if kind == "prepare":
        out = place.fresh("new")
        words = ("prepare", "synthetic", "--subjects", 3, "--repeats", 1, "--views", 1, "--out", out)
    else:
        out = place.fresh("e.safetensors")
        words = ("export", "--run", place.run, "--out", out)
    return words, lambda: (
        [] if out.exists() else [place.start(*words).wait()],
        f"left {left}" if (left := [p.name for p in out.parent.iterdir() if p != out]) else None,
    )


CASES = {
    "two at once": two_at_once,
    "SIGTERM, SIGINT": signals,
    "kill -9": kills,
    "disk full": full_disk,
}
