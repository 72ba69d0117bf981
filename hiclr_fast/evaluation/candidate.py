"""What is evaluated: a pretrained encoder, the encoder as its run began, or the coordinates themselves; and on what data."""

import copy
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from hiclr_kernels.augment.reference import Stream
from torch import nn

from hiclr_fast.data.contract import Contract
from hiclr_fast.data.packed.dataset import Packed, Split
from hiclr_fast.distributed import ALONE, Ranks
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.features import (
    FeatureDtype,
    Features,
    cached_features,
    check_finite,
    check_statistics,
    extract,
    raw_features,
    recalibrate,
)
from hiclr_fast.evaluation.metrics import class_accuracy
from hiclr_fast.evaluation.results import Outcome, finished, may_replace, print_row, read_results, result_key, write_results
from hiclr_fast.evaluation.settings import Settings
from hiclr_fast.files.lock import Lock
from hiclr_fast.inference.classifier import CLASSIFIER, classifier_content
from hiclr_fast.machine import environment
from hiclr_fast.models.build import build_encoder, initial_encoder
from hiclr_fast.models.load import Format, Weights, check_fits, load_weights
from hiclr_fast.models.pooling import OWN, Readout

Origin = Literal["pretrained", "random", "raw"]


def train_val(data: Packed) -> tuple[Split, Split]:
    """The two splits; InputError when one is absent or a validation class has no training sample."""
    if not data.labelled:
        count = sum(split.unlabelled for split in data.splits.values())
        raise InputError(f"{data.path}: {count} samples have no label; evaluation needs labels, prepare the set with them")
    missing = {"train", "val"} - set(data.splits)
    if missing:
        raise InputError(f"{data.path} has no {min(missing)} split; the protocol needs train and val")
    train, val = data["train"], data["val"]
    unseen = np.setdiff1d(val.label, train.label)
    if len(unseen):
        raise InputError(
            f"{data.path}: class {data.classes[unseen[0]]!r} has validation samples but no training sample; "
            "prepare a split in which every validation class is trained"
        )
    return train, val


@dataclass(frozen=True)
class Candidate:
    """checkpoint: also where origin is not `pretrained`, for its config. folder: results go to folder/{protocol}.

    feature_dtype: in which frozen features are computed; they are float32 then. readout: what frozen features are means over.
    ranks: with several, every rank has this Candidate, on its own device. no_graph: trainings run step by step on CUDA, too; no
    result depends on it.
    """

    checkpoint: Path
    data: Packed
    folder: Path
    device: torch.device
    format: Format = "hiclr_fast"
    stream: Stream | None = None
    origin: Origin = "pretrained"
    recalibrate: bool = False
    feature_dtype: FeatureDtype = "float32"
    readout: Readout = OWN
    ranks: Ranks = ALONE
    no_graph: bool = False

    def __post_init__(self):
        theirs, contract = self.weights.config.layout, self.weights.contract
        if contract is not None:
            contract.check_layout(self.data.layout, str(self.data.path), str(self.checkpoint))
            contract.check_space(self.data.space, str(self.data.path), str(self.checkpoint))
        elif theirs not in (None, self.data.layout.name):
            raise InputError(
                f"{self.checkpoint} was trained on layout {theirs}, {self.data.path} has {self.data.layout.name}; the graph "
                "of an encoder belongs to its joints: pretrain on that layout, or prepare the data with the same joints"
            )
        check_fits(self.weights.encoder, self.data, str(self.checkpoint))
        if self.recalibrate and self.origin == "raw":
            raise InputError("raw coordinates have no batch-norm statistics to recalibrate; leave --recalibrate out")
        self.readout.check()
        if self.readout != OWN and self.origin == "raw":
            raise InputError("raw coordinates are not pooled; leave --readout and --segments out")
        if self.feature_dtype != "float32" and self.origin == "raw":
            raise InputError(f"raw coordinates are not computed; leave --feature-dtype {self.feature_dtype} out")
        object.__setattr__(self, "stream", self.stream or self.weights.config.stream)

    @cached_property
    def weights(self) -> Weights:
        return load_weights(self.checkpoint, self.format)

    @property
    def kind(self) -> Literal["stgcn", "dsta"]:
        """Which of the two encoders of the paper it is: their official schedules differ."""
        return self.weights.config.encoder

    def splits(self) -> tuple[Split, Split]:
        """(train, val), checked."""
        return train_val(self.data)

    @cached_property
    def features(self) -> tuple[Features, Features]:
        """(train, val) features (N, D), all finite."""
        train, val = self.splits()
        if self.origin == "pretrained":
            how = self.recalibrate, self.feature_dtype, self.readout
            found = cached_features(self.weights, self.data, self.stream, self.device, *how)
            return found["train"], found["val"]
        if self.origin == "raw":
            both = tuple(raw_features(split, self.data.layout, self.stream) for split in (train, val))
        else:
            place = self.data.layout, self.stream, self.device
            encoder = self.frozen()
            both = tuple(extract(encoder, split, *place, dtype=self.feature_dtype) for split in (train, val))
            check_statistics(encoder, f"{self.data.path}, {self.origin}")
        check_finite(both, f"{self.data.path}, {self.origin}")
        return both

    def frozen(self) -> nn.Module:
        """The encoder whose `features` they are, in eval mode on the device."""
        encoder = copy.deepcopy(self.weights.encoder) if self.origin == "pretrained" else self.encoder()
        encoder.to(self.device, memory_format=torch.channels_last)
        self.readout.set(encoder, self.data.layout)
        if self.recalibrate:
            recalibrate(encoder, self.data["train"], self.data.layout, self.stream, self.device)
        return encoder.eval()

    def into(self, folder: Path) -> "Candidate":
        """The same, with the weights and features that were read already, whose results go to another folder."""
        other = copy.copy(self)
        object.__setattr__(other, "folder", folder)
        return other

    def keep_classifier(self, encoder: nn.Module, head: nn.Linear, folder: Path, key: str) -> dict[str, bytes]:
        """{classifier.safetensors: content}, a file of the result in that folder: the network that predicted, to be used on
        other recordings. Rank 0 keeps it."""
        if self.ranks.rank > 0:
            return {}
        config = replace(self.weights.config, layout=self.data.layout.name, stream=self.stream)
        facts = {"protocol": folder.relative_to(self.folder).as_posix(), "key": key, "checkpoint_sha256": self.weights.sha256}
        if self.readout != OWN:  # the file holds the network as it was trained, and how it is read out
            encoder.set_pooling(self.weights.encoder.pooling)
            facts["readout"] = json.dumps(asdict(self.readout))
        contract = Contract.of(self.data, self.stream)
        return {CLASSIFIER: classifier_content(encoder, head, config, contract, self.data.classes, facts)}

    def encoder(self, **config) -> nn.Module:
        """A new encoder with the candidate's weights. config: settings that replace those of the run (dropout)."""
        if self.origin == "raw":
            raise InputError("raw features have no weights to train; choose pretrained or random")
        base = self.weights.config
        if self.origin == "random":
            return initial_encoder(replace(base, **config), self.data.layout)
        encoder = build_encoder(replace(base, **config), self.data.layout)
        try:
            encoder.load_state_dict(self.weights.encoder.state_dict())
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{self.checkpoint}: its weights do not fit {self.data.path} ({reason})") from None
        return encoder

    def facts(self) -> dict[str, Any]:
        """What a result depends on, beside the protocol's settings."""
        return {
            "checkpoint": str(self.checkpoint),
            "checkpoint_sha256": self.weights.sha256,
            "data": str(self.data.path),
            "data_checksum": self.data.checksum,
            "stream": self.stream,
            "origin": self.origin,
            "recalibrated": self.recalibrate,
            **({} if self.feature_dtype == "float32" else {"feature_dtype": self.feature_dtype}),
            **({} if self.readout == OWN else {"readout": self.readout.name}),
        }

    def name_of(self, protocol: str) -> str:
        """Folder of a protocol's results, with what differs from the usual: linear, linear_random, linear_recalibrated.

        Official checkpoints do not tell their stream, so it is no part of the name.
        """
        words = [self.origin] * (self.origin != "pretrained" and protocol != "supervised")
        words += ["recalibrated"] * self.recalibrate
        words += [self.readout.name] * (self.readout != OWN)
        words += [self.feature_dtype] * (self.feature_dtype != "float32")
        words += [self.stream] * (self.format == "hiclr_fast" and self.stream != self.weights.config.stream)
        return "_".join([protocol, *words])

    def evaluate(
        self,
        protocol: str,
        settings: Settings,
        compute: Callable[["Candidate", Any, Path, str], Outcome],
        *,
        skip_finished: bool = False,
        quiet: bool = False,
    ) -> dict[str, Any]:
        """Runs compute(candidate, settings, folder, key), writes results.json and scores.npz, prints a row.

        skip_finished: a finished result of the same checkpoint, data and settings is returned as it is. A result on other
        data or of other weights is not overwritten, and no two processes work in one folder: InputError. Rank 0 writes and
        prints; all return what it wrote.
        """
        settings = settings.official(self.kind)
        settings.check()
        head, *rest = protocol.split("/")
        folder = self.folder.joinpath(self.name_of(head), *rest)
        facts = {"protocol": protocol, "settings": asdict(settings), **self.facts()}
        key = result_key({name: value for name, value in facts.items() if name not in ("checkpoint", "data")})
        found = finished(folder, key) if skip_finished else None
        if found is None:
            may_replace(folder, facts)
        first = self.ranks.rank == 0
        self.ranks.wait()  # until all have looked
        if found is None:
            with Lock(folder) if first else nullcontext():
                if first:
                    may_replace(folder, facts)  # another process may have been here meanwhile
                about = {**facts, "key": key, "environment": environment(self.device), "classes": list(self.data.classes)}
                outcome = compute(self, settings, folder, key) if first or settings.shared else None
                if first:
                    if "scores" in outcome.samples:
                        about |= class_accuracy(outcome.samples["scores"], outcome.label, self.data.classes)
                    found = write_results(folder, about, outcome)
                self.ranks.wait()
                found = found if first else read_results(folder)
        if first and not quiet:
            print_row(protocol, f"{self.stream}, {self.origin}", found["percent"])
        return found

    def finished(self, protocol: str) -> dict[str, Any] | None:
        """The protocol's result, whatever its settings, if it is of this very checkpoint and data."""
        found = read_results(self.folder / self.name_of(protocol))
        same = found is not None and all(found.get(name) == self.facts()[name] for name in ("checkpoint_sha256", "data_checksum"))
        return found if same else None
