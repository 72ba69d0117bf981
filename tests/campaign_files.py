"""Cases of the campaign about files: those of others, and our own with fields, kinds, shapes and bytes changed."""

import copy
import json
import math
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import fuzz_inputs
import fuzz_structures as structures
import numpy as np
import torch
import yaml
from campaign_processes import Found, worst
from campaign_settings import lies
from children import FINE, REFUSED, TINY, WRONG, Place
from faults import at_change, die

from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import sha256

ROOM = 1 << 30  # bytes of address space that reading a small file may take
NUMBERS = (-1, 0, 12345.0, 10**8, 2**63, 2**70, 10**400, math.nan, math.inf)
HOSTILE = (None, True, *NUMBERS, "", "x" * 300, "\0", "\ud800", b"\xff", [], {}, [1] * 70, json.loads("[" * 600 + "]" * 600))


def _tensor(x: torch.Tensor, rng: random.Random) -> Any:
    """Another tensor in its place: shape, strides, dtype or values."""
    wide = torch.zeros(1).expand(10**8)
    odd = [x.flatten()[:-1], x[None], wide, x.bool(), x.to(torch.complex64), x.double(), torch.empty(0), torch.zeros(()), [1]]
    odd += [torch.full_like(x, v) for v in ((math.nan, math.inf, -1) if x.is_floating_point() else (2**62, -1))]
    return rng.choice(odd)


def changed(value: Any, rng: random.Random) -> Any:
    """A copy of nested values with one of them replaced, removed or added."""
    value = copy.deepcopy(value)
    places: list[tuple[Any, Any]] = []

    def look(x: Any) -> None:
        for key, inner in x.items() if isinstance(x, dict) else enumerate(x) if isinstance(x, list) else ():
            places.append((x, key))
            look(inner)

    look(value)
    if not places or rng.random() < 0.03:
        return rng.choice(HOSTILE)
    depth = rng.random() < 0.5  # one of the outer fields as often as one of the many inside
    outer = [place for place in places if place[0] is value]
    holder, key = rng.choice(outer if depth and outer else places)
    what = rng.randrange(5)
    if what == 0:
        del holder[key]
    elif what == 1 and isinstance(holder, dict):
        holder[rng.choice(("x", 5, None))] = holder.pop(key)
    elif isinstance(holder[key], torch.Tensor) and rng.random() < 0.8:
        holder[key] = _tensor(holder[key], rng)
    else:
        holder[key] = rng.choice(HOSTILE)
    return value


def _arrays(found: dict[str, np.ndarray], rng: random.Random) -> dict[str, np.ndarray]:
    name = rng.choice(list(found))
    x = found[name]
    odd = [x[None], x.astype("S"), x.astype("U"), x.astype("O"), np.zeros(0), np.array(5), *([x[:-1], x[::-1]] if x.ndim else [])]
    if x.dtype.kind in "iuf":
        odd.append(x.astype(">f8"))
    if x.ndim and x.nbytes < 10**5:
        odd.append(np.broadcast_to(x[:1], (10**6, *x.shape[1:])))
    if x.dtype.kind == "f":
        odd += [np.full_like(x, math.nan), np.where(np.arange(x.size).reshape(x.shape) == 0, np.inf, x)]
    found[name] = rng.choice(odd)
    if rng.random() < 0.2:
        del found[name]
    return found


HOSTILE_FILES = {
    ".json": structures.hostile_json,
    ".yaml": structures.hostile_yaml,
    ".pkl": structures.hostile_pickle,
    ".npz": structures.hostile_npz,
    ".pt": structures.hostile_torch,
    ".safetensors": structures.hostile_safetensors,
}


def disturb(file: Path, rng: random.Random, marker: Path) -> str:
    """Changes a file and says how: its fields, its format, or its bytes."""
    how = rng.choice(("fields", "format", "bytes"))
    with suppress(RecursionError):  # PyYAML writes nothing so deep
        if how == "fields" and by_structure(file, rng):
            return how
    if how != "bytes" and file.suffix in HOSTILE_FILES:
        with suppress(TypeError, ValueError, KeyError, AttributeError, IndexError):  # not every change fits every content
            file.write_bytes(HOSTILE_FILES[file.suffix](file.read_bytes(), rng))
            return "format"
    file.write_bytes(fuzz_inputs.mutate(file.read_bytes(), rng, marker))
    return "bytes"


def by_structure(file: Path, rng: random.Random) -> bool:
    """Changes a file of ours through its own format; False where it has none."""
    if file.suffix == ".pt":
        torch.save(changed(torch.load(file, weights_only=True), rng), file)
    elif file.suffix == ".json":
        try:
            text = json.dumps(changed(json.loads(file.read_text()), rng), default=repr)
            file.write_text(text.replace("Infinity", "1e999") if rng.random() < 0.5 else text)
        except TypeError:  # a key that JSON cannot have
            file.write_text("[" * 5000)
    elif file.suffix == ".yaml":
        file.write_text(yaml.safe_dump(changed(yaml.safe_load(file.read_text()), rng)))
    elif file.suffix == ".jsonl":
        lines = [json.dumps(changed(json.loads(x), rng), default=repr, skipkeys=True) for x in file.read_text().splitlines()]
        file.write_text("\n".join(lines) + rng.choice(("\n", "", "\n\0\0\0\n", "\n\n", '\n{"epoch": 9')))
    elif file.suffix == ".npz":
        with np.load(file) as arrays:
            found = dict(arrays)
        np.savez(file, **_arrays(found, rng))
    else:
        return False
    return True


def own_files(place: Place, rng: random.Random) -> Found:
    """Any file of a run, changed, and a program that reads it."""
    run = _unfinished(place)
    files = [p for p in run.rglob("*") if p.is_file() and "tensorboard" not in p.parts and not p.name.startswith("checkpoint_")]
    file = rng.choice([*files, run / "checkpoint.pt"])
    how = disturb(file, rng, run / "executed")
    words = rng.choice(_readers(file, run, place))
    ended = place.start(*words, memory=2 * ROOM).wait(90)
    damage = "a command in the file was executed" if (run / "executed").exists() else None
    if ended.code == 0 and not damage:
        damage = _lies_after(run, file, how, words, place)
    return worst(f"{how} of {file.relative_to(run)}, {' '.join(map(str, words[:2]))}", [ended], damage)


def _lies_after(run: Path, file: Path, how: str, words: tuple, place: Place) -> str | None:
    """Wrong numbers where a program read the changed file without a word. What it did not read may lie on."""
    if file.name in ("results.json", "scores.npz", "metrics.jsonl") and words[0] != "evaluate":
        return None
    if words[:2] == ("evaluate", "knn"):
        percent = json.loads((run / "eval/knn/results.json").read_text())["percent"]
        if how == "bytes" and percent != place.percent:
            return f"another accuracy, {percent} for {place.percent}"
    (run / "eval" / "linear" / "results.json").unlink(missing_ok=True)
    return lies(run) if words[0] == "pretrain" else None


def _readers(file: Path, run: Path, place: Place) -> list[tuple]:
    """Programs that read the file."""
    knn, resume = ("evaluate", "knn", "--run", run, "--k", 1), ("pretrain", "--resume", run, "--epochs", 4)
    fuse, report = ("evaluate", "ensemble", run, run, run), ("report", "run", run)
    return {
        "checkpoint.pt": [knn, resume, resume, ("export", "--run", run, "--out", run / "e.pt")],
        "config.yaml": [knn, resume],
        "environment.json": [resume, report],
        "metrics.jsonl": [resume, report],
        "encoder.safetensors": [("evaluate", "knn", "--checkpoint", file, "--data", place.set, "--k", 1)],
        "training.pt": [("evaluate", "finetune", "--run", run, "--epochs", 4, "--batch-size", 8)],
        "results.json": [fuse, report, ("evaluate", file.parent.name, "--run", run)],
        "scores.npz": [fuse, report],
    }.get(file.name, [knn])


def _unfinished(place: Place) -> Path:
    """A copy of the run in which a finetuning was killed; the first call notes the accuracy of the sound run."""
    if not hasattr(place, "percent"):
        knn = ("evaluate", "knn", "--run", place.copy(), "--k", 1)
        place.start(*knn).wait()
        place.percent = json.loads((knn[3] / "eval/knn/results.json").read_text())["percent"]
        run = place.folder / "unfinished"
        shutil.copytree(place.run, run)
        shutil.rmtree(run / "eval/finetune")
        words = ("evaluate", "finetune", "--run", run, "--epochs", 4, "--batch-size", 8)
        for n in range(3, 40):
            if (run / "eval/finetune/training.pt").exists():
                break
            place.start(*words, fault=at_change(n, run, die)).wait()
    return shutil.copytree(place.folder / "unfinished", place.fresh("run"))


def packed_files(place: Place, rng: random.Random) -> Found:
    """Any file of a packed set, changed; half the time its checksum is made right again, as whoever changed it could."""
    data = shutil.copytree(place.set, place.fresh("set"))
    file, again = rng.choice([p for p in data.iterdir() if p.is_file()]), rng.random() < 0.5
    disturb(file, rng, data / "executed")
    meta = data / "meta.json"
    if again and file != meta:
        facts = json.loads(meta.read_text())
        for described in facts["splits"].values():
            if file.name in described["files"]:
                described["files"][file.name] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
        meta.write_text(json.dumps(facts))
    run = data.parent / "run"
    words = rng.choice((("pretrain", "--data", data, "--out", run, *TINY), ("prepare", "check", data)))
    ended = place.start(*words, memory=2 * ROOM).wait(90)
    if words[0] == "prepare" and ended.code == 1 and "LEAK" in ended.text:
        ended.code = 0
    damage = "a command in the file was executed" if (data / "executed").exists() else None
    return worst(f"{file.name}{', signed' * again}, {words[0]}", [ended], damage or (lies(run) if run.exists() else None))


def other_files(place: Place, rng: random.Random) -> Found:
    """Every kind of `fuzz_inputs`, through the function that reads it."""
    kind = rng.choice(list(fuzz_inputs.KINDS))
    folder = place.folder / "kinds" / kind
    if not folder.exists():
        folder.mkdir(parents=True)
        place.kinds[kind] = *fuzz_inputs.KINDS[kind](folder), {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    file, read, structure, sound = place.kinds[kind]
    if structure and rng.random() < 0.6:
        file.write_bytes(structure(sound[file], rng))
    else:
        file.write_bytes(fuzz_inputs.mutate(sound[file], rng, folder / "executed"))
    ended = place.call(_one_line(read, file), memory=ROOM).wait(20)
    executed = (folder / "executed").exists()
    (folder / "executed").unlink(missing_ok=True)
    for p, content in sound.items():
        p.write_bytes(content)
    if executed:
        return kind, WRONG, "a command in the file was executed"
    if ended.code == 0:
        return kind, REFUSED if ended.text.startswith("error: ") else FINE, ended.text.strip()[:200]
    return kind, WRONG, f"code {ended.code}: {ended.text.strip()[-300:]}"


def _one_line(read: Callable, file: Path) -> Callable[[], None]:
    def call() -> None:
        try:
            read(file)
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 1500
            print(f"error: {error}")

    return call


CASES = {
    "files of others": other_files,
    "packed set": packed_files,
    "files of a run": own_files,
}
