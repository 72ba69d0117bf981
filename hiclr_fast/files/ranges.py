"""What a number in the settings may be: one table beside every class of settings, checked before anything is done."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hiclr_fast.errors import InputError

HUGE = 1e30  # what float32 still holds, times a batch


@dataclass(frozen=True)
class Range:
    """low to high, both included where not `above` or `below`; never NaN. For a list: of each of its numbers."""

    low: float = 0
    high: float = math.inf
    above: bool = False
    """More than low."""
    below: bool = False
    """Less than high; Inf is always less than high."""

    def __contains__(self, value: Any) -> bool:
        if isinstance(value, (tuple, list)):
            return all(v in self for v in value)
        over = value > self.low if self.above else value >= self.low
        under = value < self.high if self.below or math.isinf(self.high) else value <= self.high
        return over and under

    @property
    def _end(self) -> str:
        return "" if math.isinf(self.high) else f", up to {self.high:g}"

    def __str__(self) -> str:
        if self.above and self.high >= HUGE:
            return f"a finite number above {self.low:g}{self._end}"
        low = f"more than {self.low:g}" if self.above else f"at least {self.low:g}"
        if self.high >= HUGE:
            return f"{low} and finite{self._end}"
        high = int(self.high) if float(self.high).is_integer() else self.high
        return f"{low} and {'less than' if self.below else 'at most'} {high}"


COUNT, SOME = Range(0, 10**9), Range(1, 10**9)  # whole numbers: none is allowed, at least one
FINITE, POSITIVE, SHARE = Range(0, HUGE), Range(0, HUGE, above=True), Range(0, 1)
SEED = Range(0, 2**32 - 1)
SHOWN = 60  # characters of a wrong value
LENGTH = Range(0, 10**7, above=True)  # of a training or a batch


def check_ranges(config: Any, table: Mapping[str, Range], name: str = "{}") -> None:
    """InputError for the first setting out of its range. A setting that is None is not given. name: how one is called."""
    for setting, allowed in table.items():
        value = getattr(config, setting)
        if value is not None and value not in allowed:
            many = "each " if isinstance(value, (tuple, list)) else ""
            raise InputError(f"{name.format(setting)} {str(value)[:SHOWN]}: expected {many}{allowed}")
