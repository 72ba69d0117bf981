"""What the settings of all protocols have in common."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from hiclr_fast.errors import InputError
from hiclr_fast.files.ranges import Range, check_ranges


@dataclass(frozen=True)
class Settings:
    """Base of every protocol's settings. A result is identified by its settings with every field filled.

    shared: with several ranks, all compute the result together; else rank 0 does, and the others wait.
    """

    shared: ClassVar[bool] = False

    RANGES: ClassVar[Mapping[str, Range]] = {}

    def official(self, kind: str) -> Self:
        """With the official values of that encoder (stgcn or dsta) where nothing is given."""
        return self

    def check(self) -> None:
        """InputError where a value makes no sense."""
        for setting, allowed in self.RANGES.items():
            check_ranges(self, {setting: allowed}, setting.replace("_", "-"))


def require(**wanted: tuple[Any, object, str]) -> None:
    """InputError for the first name whose (condition, value, what is expected) does not hold."""
    for name, (holds, value, expected) in wanted.items():
        if not holds:
            raise InputError(f"{name.replace('_', '-')} {value}: expected {expected}")
