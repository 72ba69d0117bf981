"""The settings that are compared: lists of values, every combination of which is tried; as a YAML

    momentum: [0.99, 0.997]
    pool: [all, parts]
    augment:
      flip_p: [0.0, 0.5]

which is also what is tried where no file is given.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hiclr_fast.errors import InputError
from hiclr_fast.files.settings import update
from hiclr_fast.files.yaml_files import read_yaml
from hiclr_fast.pretraining.config import PretrainConfig

MOST = 64  # combinations
# What mattered most on small sets: the age of the queue's keys, what features are means over, whether left and right are one.
USUAL = {"momentum": [0.99, 0.997], "pool": ["all", "parts"], "augment": {"flip_p": [0.0, 0.5]}}


def _leaves(values: Mapping[str, Any], where: str, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, where, (*path, str(name)))
        elif isinstance(value, list) and value:
            yield (*path, str(name)), value
        else:
            raise InputError(f"{where}: {'.'.join((*path, str(name)))} is {repr(value)[:60]}, expected a list of values to try")


def _nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    return {path[0]: value if len(path) == 1 else _nested(path[1:], value)}


def _merged(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    both = {name: _merged(a[name], b[name]) for name in a.keys() & b.keys()}
    return a | b | both


def read_grid(path: Path | None, base: PretrainConfig) -> list[tuple[str, PretrainConfig]]:
    """[(what differs from the base, config)] of every combination of the file's (None: the usual) values; all are checked.

    InputError names what does not fit.
    """
    where, values = str(path or "the usual grid"), read_yaml(path) if path else USUAL
    if not isinstance(values, Mapping) or not values:
        raise InputError(f"{where}: expected a mapping from settings to lists of values to try")
    leaves = list(_leaves(values, where))
    if any(path == ("epochs",) for path, _ in leaves):
        raise InputError(f"{where}: epochs are those of the rounds, given by --epochs; leave them out")
    count = math.prod(len(options) for _, options in leaves)
    if count > MOST:
        raise InputError(f"{where}: {count} combinations, at most {MOST}; try fewer values at a time")
    found = []
    for combination in itertools.product(*(options for _, options in leaves)):
        change: dict[str, Any] = {}
        for (name, _), value in zip(leaves, combination, strict=True):
            change = _merged(change, _nested(name, value))
        config = update(base, change, where)
        config.check()
        said = ", ".join(f"{'.'.join(name)} {value}" for (name, _), value in zip(leaves, combination, strict=True))
        found.append((said, config))
    return found
