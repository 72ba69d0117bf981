"""What a network reads: the skeleton, how recordings were made into inputs, their shape, and the stream.

It comes from the packed set that a network was trained on, and goes with its weights into every file: checkpoint.pt (`input`),
.safetensors and ONNX (metadata `input`, as JSON), so that whoever has the file knows how to feed it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hiclr_kernels.augment.reference import Stream

from hiclr_fast.data.packed.dataset import Packed
from hiclr_fast.data.preprocess import Preprocess, preprocess
from hiclr_fast.errors import InputError
from hiclr_fast.files.settings import update
from hiclr_fast.skeletons import STREAMS, Layout, difference

EMPTY_BODIES = "zeros; features are the mean over all bodies of the shape, absent ones included"
ASSUMED = "assumed"  # a key of facts: no file says so


@dataclass(frozen=True)
class Contract:
    """layout: the whole skeleton. shape: (3, T, V, M) of an input. stream: what the network takes the joints to.
    facts: whatever else the packed set's meta.json says, `preprocessing` and `classes` among it."""

    layout: Layout
    shape: tuple[int, int, int, int]
    stream: Stream
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Packed, stream: Stream) -> "Contract":
        """Of a network that is trained on that set."""
        return cls(data.layout, tuple(data.shape), stream, data.facts)

    @classmethod
    def assumed(cls, layout: Layout, stream: Stream, frames: int | None = None) -> "Contract":
        """For weights that do not say: the official chain, 50 frames, two bodies."""
        how = Preprocess(**({"frames": frames} if frames else {}))
        facts = {"preprocessing": how.as_dict(), ASSUMED: "the file does not say how its network was fed"}
        return cls(layout, (3, how.frames, layout.num_joints, 2), stream, facts)

    @property
    def is_assumed(self) -> bool:
        return ASSUMED in self.facts

    @property
    def how(self) -> Preprocess:
        """The preprocessing; what the set does not say is as in the official chain."""
        said = {name: value for name, value in self.facts.get("preprocessing", {}).items() if name != "chain"}
        return update(Preprocess(frames=self.shape[1]), said, "preprocessing of the network")

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.facts.get("classes", ()))

    def check_layout(self, layout: Layout, where: str, what: str) -> None:
        """InputError when `where` has another skeleton than the one that `what` was trained on."""
        if how := difference(layout, self.layout):
            raise InputError(
                f"{what} was trained on layout {self.layout.name}, {where} has {layout.name}, another skeleton ({how}); the "
                "graph of a network belongs to its joints: pretrain on that skeleton, or prepare the data with the same joints"
            )

    def row(self, frames: np.ndarray, where: str) -> np.ndarray:
        """(F, V, 3, M') metres -> (3, T, V, M) float32, the same that `hiclr prepare` makes of it. Bodies that are missing are
        empty; more than M are refused, unless those are empty."""
        bodies = self.shape[3]
        if frames.ndim == 4 and frames.shape[3] != bodies:
            if frames[..., bodies:].any():
                raise InputError(f"{where}: {frames.shape[3]} bodies, the network was trained with {bodies}; choose some")
            have = frames[..., :bodies]
            frames = np.zeros((*frames.shape[:3], bodies), frames.dtype)
            frames[..., : have.shape[3]] = have
        return preprocess(frames, self.layout, self.how, where)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON holds them."""
        mine = {"layout": self.layout.as_dict(), "shape": self.shape, "stream": self.stream, "empty_bodies": EMPTY_BODIES}
        return json.loads(json.dumps({**self.facts, **mine}))

    @classmethod
    def from_dict(cls, values: Any, where: str) -> "Contract":
        """What `as_dict` gave; InputError on anything else."""
        try:
            facts = {name: v for name, v in values.items() if name not in ("layout", "shape", "stream", "empty_bodies")}
            layout = Layout.from_dict(values["layout"], where)
            shape, stream = tuple(int(s) for s in values["shape"]), values["stream"]
            if len(shape) != 4 or min(shape) < 1 or shape[2] != layout.num_joints or stream not in STREAMS:
                raise ValueError(f"shape {shape}, {layout.num_joints} joints, stream {stream!r}")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{where}: not a description of a network's input ({error}); export the network again") from None
        return cls(layout, shape, stream, facts)
