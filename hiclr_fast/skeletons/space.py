"""What the three numbers of a joint are: coordinates in space, or in a plane with a zero or a score as the third."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from hiclr_fast.errors import InputError

Unit = Literal["m", "body", "image"]
Third = Literal["depth", "zero", "score"]
PERSON = 1.45  # metres, the size of a body (median over all frames: NW-UCLA 1.52, IRDS 1.38)


@dataclass(frozen=True)
class Space:
    """unit: metres; the body's size, see `preprocess.body_size`; or half of the image's longer side.
    third: `depth` in space; in a plane (x to the right, y up) nothing, or the score of the detection.
    size: median size of a body over the set, in that unit; none: not known.
    """

    unit: Unit = "m"
    third: Third = "depth"
    size: float | None = None

    @property
    def flat(self) -> bool:
        """Whether joints lie in a plane."""
        return self.third != "depth"

    @property
    def dimensions(self) -> Literal[2, 3]:
        return 2 if self.flat else 3

    @property
    def metre(self) -> float:
        """How many units are one metre of a person, so that what is meant in metres (noise) means the same everywhere."""
        return 1.0 if self.unit == "m" or not self.size else self.size / PERSON

    def as_dict(self) -> dict[str, Any]:
        return {"dimensions": self.dimensions, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | None, where: str) -> "Space":
        """What `as_dict` gave; None (sets from before there was a choice): metres in space."""
        if values is None:
            return cls()
        try:
            unit, third, size = values["unit"], values["third"], values["size"]
            size = None if size is None else float(size)
            if unit not in get_args(Unit) or third not in get_args(Third) or (size is not None and not 0 < size < math.inf):
                raise ValueError(f"unit {unit!r}, third {third!r}, size {size}")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"{where}: not a description of coordinates ({error}); prepare the set again") from None
        return cls(unit, third, size)


METRES = Space()  # of every set that does not say otherwise
