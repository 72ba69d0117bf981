"""A network with a class head in one file, and used: coordinates in, class names and probabilities out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from hiclr_fast.data.contract import Contract
from hiclr_fast.errors import InputError
from hiclr_fast.files.json_files import expect, parse_json
from hiclr_fast.files.settings import update
from hiclr_fast.files.tensors import load_weights_file, weights_content
from hiclr_fast.inference.encoder import PretrainedEncoder
from hiclr_fast.inference.rows import BATCH, Samples, batches
from hiclr_fast.machine import pick_device
from hiclr_fast.models.config import EncoderConfig
from hiclr_fast.models.load import encoder_from_state, export_facts
from hiclr_fast.models.pooling import OWN
from hiclr_fast.skeletons import Layout

CLASSIFIER = "classifier.safetensors"  # in a result folder
RESULTS = "eval"  # folder of a run's result folders
USUAL = ("linear", "finetune")  # the head that is taken where none is named


class Predictions(NamedTuple):
    """names: (N,) unicode, the likeliest class of every sample. probabilities: (N, C) float32, columns as `classes`."""

    names: np.ndarray
    probabilities: np.ndarray


class ActionClassifier:
    """What `load_classifier` gives.

    encoder: a `PretrainedEncoder`, whose contract says what is read. head: torch Linear. classes: (C,) names. protocol: the
    evaluation that trained it (linear, finetune, semi_1/repeat0, ...).
    """

    def __init__(self, encoder: PretrainedEncoder, head: nn.Linear, classes: tuple[str, ...], protocol: str):
        self.encoder, self.head, self.classes, self.protocol = encoder, head.eval().to(encoder.device), classes, protocol

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.protocol}, {len(self.classes)} classes, {self.encoder!r})"

    def predict(
        self,
        x: Any,
        layout: str | Layout | None = None,
        *,
        preprocessed: bool | None = None,
        image: tuple[float, float] | None = None,
        batch_size: int = BATCH,
    ) -> Predictions:
        """(names (N,), probabilities (N, C)) of skeleton sequences, in the order of x.

        Arguments and errors are those of `PretrainedEncoder.features`: one array (N, 3, T', V, M'), or a list of ragged
        (F, V, 3[, M']), metres, preprocessed as the training data were.
        """
        samples = Samples(x, self.encoder.contract, layout, preprocessed, image)
        parts = [self.classify(samples.rows(*ends)) for ends in batches(samples, batch_size)]
        probabilities = np.concatenate(parts) if parts else np.empty((0, len(self.classes)), np.float32)
        return Predictions(np.array(self.classes)[probabilities.argmax(1)], probabilities)

    @torch.no_grad()
    def classify(self, rows: np.ndarray) -> np.ndarray:
        """(n, C) float32 probabilities of rows (n, 3, T, V, M) float32 that are in the network's form already."""
        scores = self.head(torch.from_numpy(self.encoder.encode(rows)).to(self.encoder.device))
        return scores.softmax(1).cpu().numpy()


def classifier_content(
    encoder: nn.Module,
    head: nn.Linear,
    config: EncoderConfig,
    contract: Contract,
    classes: tuple[str, ...],
    facts: dict[str, str],
) -> bytes:
    """The whole network as a safetensors file; metadata: as of an exported encoder, class names and `facts` (protocol, ...)."""
    state = {f"encoder.{name}": t for name, t in encoder.state_dict().items()}
    state |= {f"head.{name}": t for name, t in head.state_dict().items()}
    return weights_content(state, export_facts(config, contract) | {"classes": json.dumps(classes[: head.out_features])} | facts)


def classifier_of(path: Path, head: str | None = None) -> Path:
    """The classifier file that is meant by a file, a result folder, or a run folder and the name of a protocol."""
    path = Path(path)
    if path.is_file() or (not head and (path / CLASSIFIER).is_file()):
        return path if path.is_file() else path / CLASSIFIER
    if not path.is_dir():
        raise InputError(f"{path} does not exist; give a run folder, a result folder or a {CLASSIFIER}")
    results = path / RESULTS
    found = sorted(f.parent.relative_to(results).as_posix() for f in results.rglob(CLASSIFIER))
    found = [name for name in found if "/." not in f"/{name}"]  # what begins with a dot is of an evaluation that goes on
    if not found:
        raise InputError(f"{path} holds no classifier; make one: hiclr evaluate linear --run {path} (or finetune)")
    name = head or next((usual for usual in USUAL if usual in found), found[0] if len(found) == 1 else None)
    if name not in found:
        wanted = f"no classifier of {name}" if name else "several classifiers, none of linear or finetune"
        raise InputError(f"{path} holds {wanted}; choose one with --head: {', '.join(found)}")
    return results / name / CLASSIFIER


def load_classifier(
    path: str | Path, *, head: str | None = None, device: Literal["auto", "cpu", "cuda"] = "auto"
) -> ActionClassifier:
    """A trained classifier, ready for `predict`.

    path: a run folder, a result folder of `hiclr evaluate`, or a classifier.safetensors. head: of a run, the protocol whose
    classifier is meant (linear, finetune, supervised, semi_1/repeat0, transfer_ucla/linear, ...); none: linear where the run
    has it, else finetune, else the only one.

    Raises InputError (a ValueError) on what is no such file. Nothing in a file is executed.
    """
    file = classifier_of(Path(path), head)
    state, facts = load_weights_file(file)
    try:
        said = {name: parse_json(facts[name].encode(), f"{file} {name}") for name in ("config", "classes", "input")}
        values = expect(said["config"], dict, str(file), "config")
        classes = tuple(expect(name, str, str(file), "a class") for name in said["classes"])
        contract = Contract.from_dict(said["input"], str(file))
        weight, bias = state["head.weight"], state["head.bias"]
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.load_state_dict({"weight": weight, "bias": bias})
        if len(classes) != len(bias):
            raise ValueError(f"{len(classes)} class names for {len(bias)} scores")
    except (KeyError, ValueError, IndexError, RuntimeError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: not a classifier of hiclr_fast ({' '.join(str(error).split())[:200]})") from None
    known = {name: values[name] for name in EncoderConfig.names() if name in values}
    config = replace(update(EncoderConfig(), known, f"{file} config"), layout=contract.layout.name, stream=contract.stream)
    weights = {name.removeprefix("encoder."): t for name, t in state.items() if name.startswith("encoder.")}
    module, sizes = encoder_from_state(weights, str(file), dropout=config.dropout)
    config, readout = replace(config, **sizes), OWN
    if "readout" in facts:
        said = expect(parse_json(facts["readout"].encode(), f"{file} readout"), dict, str(file), "readout")
        readout = update(OWN, said, f"{file} readout")
        readout.check()
    readout.set(module, contract.layout)
    encoder = PretrainedEncoder(module, config, contract, pick_device(device))
    if (contract.layout.num_joints, linear.in_features) != (module.num_joints, encoder.dim):
        raise InputError(f"{file}: head, network and layout do not fit each other; evaluate again to make the file anew")
    return ActionClassifier(encoder, linear, classes, facts.get("protocol", "unknown"))
