"""What the settings of all protocols have in common."""

from dataclasses import dataclass
from typing import ClassVar, Self

from hiclr_fast.errors import InputError


@dataclass(frozen=True)
class Settings:
    """Base of every protocol's settings. A result is identified by its settings with every field filled.

    shared: with several ranks, all compute the result together; else rank 0 does, and the others wait.
    """

    shared: ClassVar[bool] = False

    def official(self, kind: str) -> Self:
        """With the official values of that encoder (stgcn or dsta) where nothing is given."""
        return self

    def check(self) -> None:
        """InputError where a value makes no sense."""


def require(**wanted: tuple[bool, object, str]) -> None:
    """InputError for the first name whose (condition, value, what is expected) does not hold."""
    for name, (holds, value, expected) in wanted.items():
        if not holds:
            raise InputError(f"{name.replace('_', '-')} {value}: expected {expected}")
