"""Settings as YAML and JSON hold them: into a dataclass and back. Unknown keys are refused with the nearest valid name."""

import dataclasses
import difflib
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from hiclr_fast.errors import InputError
from hiclr_fast.files.atomic import write_text
from hiclr_fast.files.ranges import SHOWN
from hiclr_fast.files.yaml_files import dump_yaml

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


def _fits(value: Any, hint: Any) -> Any:
    """`value` from YAML as the annotated type; ValueError when it is something else."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in args:
            raise ValueError(f"expected one of {', '.join(map(str, args))}")
        return value
    if origin in (types.UnionType, typing.Union):  # the latter where one of them is a Literal
        if value is None and type(None) in args:
            return None
        return _fits(value, next(a for a in args if a is not type(None)))
    if origin is tuple:
        if not isinstance(value, list) or (args[-1] is not Ellipsis and len(value) != len(args)):
            raise ValueError("expected a list" + ("" if args[-1] is Ellipsis else f" of {len(args)}"))
        try:
            return tuple(_fits(v, args[0]) for v in value)
        except ValueError as error:
            raise ValueError(f"{error} for each") from None
    if hint is Path and isinstance(value, str) and _is_path(value):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise ValueError(f"expected {_WORDS.get(hint, hint.__name__)}")
    return value


def _is_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _shown(value: Any) -> str:
    """A wrong value in a sentence."""
    if isinstance(value, str):
        return repr(value[:SHOWN])
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)[:SHOWN]
    return f"a {type(value).__name__}"


def update(config: Any, values: Mapping[str, Any], where: str) -> Any:
    """A copy of a config dataclass with `values` (nested mappings) put in; InputError on unknown keys and wrong types."""
    hints, new = typing.get_type_hints(type(config)), {}
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: expected a mapping of settings, got {type(values).__name__}")
    for key, value in values.items():
        if key not in hints:
            word = str(key)[:SHOWN] if isinstance(key, (str, int, float)) else type(key).__name__
            close = difflib.get_close_matches(word, hints, n=1, cutoff=0)
            raise InputError(f"{where}: unknown key {word!r}; the nearest valid one is {close[0]!r}")
        if dataclasses.is_dataclass(hints[key]):
            new[key] = update(getattr(config, key), value, f"{where} {key}")
            continue
        try:
            new[key] = _fits(value, hints[key])
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(f"{where}: {key} is {_shown(value)}, {error}") from None
    return dataclasses.replace(config, **new)


def as_plain(config: Any) -> dict[str, Any]:
    """The config as YAML and JSON can hold it."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    return plain(dataclasses.asdict(config))


def save_yaml(config: Any, path: Path) -> None:
    """A config dataclass; the file is whole or as it was."""
    write_text(path, dump_yaml(as_plain(config)))
