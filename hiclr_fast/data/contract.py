"""What a network reads: the skeleton, how recordings were made into inputs, their shape, and the stream.

It comes from the packed set that a network was trained on, and goes with its weights into every file: checkpoint.pt (`input`),
.safetensors and ONNX (metadata `input`, as JSON), so that whoever has the file knows how to feed it.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hiclr_kernels.augment.reference import Stream

from hiclr_fast.data.packed.dataset import MOST_NUMBERS, Packed
from hiclr_fast.data.preprocess import Preprocess, preprocess
from hiclr_fast.errors import InputError
from hiclr_fast.files.json_files import expect
from hiclr_fast.skeletons import METRES, STREAMS, Layout, Space, difference

EMPTY_BODIES = "zeros; features are the mean over all bodies of the shape, absent ones included"
MINE = ("layout", "space", "shape", "stream", "empty_bodies")  # of what a file says; the rest are facts
ASSUMED = "assumed"  # a key of facts: no file says so


@dataclass(frozen=True)
class Contract:
    """layout: the whole skeleton. shape: (3, T, V, M) of an input. stream: what the network takes the joints to.
    space: what the three numbers of a joint are. facts: whatever else the packed set's meta.json says, `preprocessing` and
    `classes` among it; not the names of subjects."""

    layout: Layout
    shape: tuple[int, int, int, int]
    stream: Stream
    space: Space = METRES
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Packed, stream: Stream) -> "Contract":
        """Of a network that is trained on that set."""
        facts = {name: value for name, value in data.facts.items() if name not in ("space", "subjects")}
        return cls(data.layout, tuple(data.shape), stream, data.space, facts)

    @classmethod
    def assumed(cls, layout: Layout, stream: Stream, frames: int | None = None) -> "Contract":
        """For weights that do not say: the official chain, 50 frames, two bodies."""
        how = Preprocess(**({"frames": frames} if frames else {}))
        facts = {"preprocessing": how.as_dict(), ASSUMED: "the file does not say how its network was fed"}
        return cls(layout, (3, how.frames, layout.num_joints, 2), stream, METRES, facts)

    @property
    def is_assumed(self) -> bool:
        return ASSUMED in self.facts

    @property
    def how(self) -> Preprocess:
        """The preprocessing; what the set does not say is as in the official chain."""
        said = self.facts.get("preprocessing", {})
        return replace(Preprocess.from_dict(said, "preprocessing of the network"), frames=self.shape[1])

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

    def check_space(self, space: Space, where: str, what: str) -> None:
        """InputError when the three numbers of a joint mean something else in `where`; sizes may differ."""
        mine, theirs = ((s.unit, s.third) for s in (self.space, space))
        if mine != theirs:
            raise InputError(
                f"{what} was trained on coordinates with unit {mine[0]} and third {mine[1]}, {where} has {theirs[0]} and "
                f"{theirs[1]}; prepare the data in the same way, or pretrain on it"
            )

    def row(
        self, frames: np.ndarray, where: str, score: np.ndarray | None = None, image: tuple[float, float] | None = None
    ) -> np.ndarray:
        """(F, V, C, M') -> (3, T, V, M) float32, the same that `hiclr prepare` makes of it."""
        frames, score = self.with_bodies(frames, score, where)
        return preprocess(frames, self.layout, self.how, where, score, image)

    def with_bodies(self, frames: np.ndarray, score: np.ndarray | None, where: str) -> tuple[np.ndarray, np.ndarray | None]:
        """frames (F, V, C, M') and score (F, V, M') with M bodies: those that are missing are empty; more than M are refused,
        unless those are empty."""
        bodies = self.shape[3]
        if frames.shape[-1] > bodies and frames[..., bodies:].any():
            raise InputError(f"{where}: {frames.shape[-1]} bodies, the network was trained with {bodies}; choose some")

        def fitted(x: np.ndarray) -> np.ndarray:
            out = np.zeros((*x.shape[:-1], bodies), x.dtype)
            out[..., : x.shape[-1]] = x[..., :bodies]
            return out

        return fitted(frames), None if score is None else fitted(score)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON holds them."""
        mine = {"layout": self.layout.as_dict(), "space": self.space.as_dict(), "shape": self.shape}
        mine |= {"stream": self.stream, "empty_bodies": EMPTY_BODIES}
        return json.loads(json.dumps({**self.facts, **mine}))

    @classmethod
    def from_dict(cls, values: Any, where: str) -> "Contract":
        """What `as_dict` gave; InputError on anything else."""
        try:
            facts = {name: v for name, v in values.items() if name not in MINE}
            layout, space = Layout.from_dict(values["layout"], where), Space.from_dict(values.get("space"), where)
            shape, stream = tuple(expect(s, int, where, "a length") for s in values["shape"]), values["stream"]
            if len(shape) != 4 or min(shape) < 1 or shape[2] != layout.num_joints or stream not in STREAMS:
                raise ValueError(f"{len(shape)} lengths for {layout.num_joints} joints and one of {', '.join(STREAMS)}")
            how = expect(facts.get("preprocessing", {}), dict, where, "preprocessing")
            Preprocess.from_dict(how, "preprocessing")
            if how.get("frames", shape[1]) != shape[1] or math.prod(shape) > MOST_NUMBERS:
                raise ValueError(f"{shape[1]} frames are not those of the preprocessing, or too many")
            expect(facts.get("classes", []), list, where, "classes")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{where}: not a description of a network's input ({error}); export the network again") from None
        return cls(layout, shape, stream, space, facts)
