"""JSON that somebody else may have written or cut: results, descriptions, metrics, recordings.

Limits: what Python makes of it, by its brackets, commas and quotes, is at most twice the file and SPARE bytes; a key stands once.
Except in recordings, NaN, Infinity, what rounds to it and whole numbers of more than MOST_DIGITS digits are no numbers, texts
hold whole characters, and nothing is nested more than DEEPEST times. Types are checked by `expect`: the few fields of each file
are named where it is read, so that a schema language would be a second description of them.
"""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import UNREADABLE, is_text, read_whole, reason_of

LARGEST, SPARE = 1 << 30, 64 << 20
DEEPEST, MOST_DIGITS = 100, 40
COST = {b"[": 88, b"{": 88, b",": 36, b'"': 28}  # bytes that Python takes


def read_json(path: Path, kind: type = dict) -> Any:
    """What the file holds; InputError when it is not readable JSON of that kind."""
    return expect(parse_json(read_whole(path, LARGEST), str(path)), kind, str(path))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """One object a line. A last line without a line break is what a killed process left, and is no line yet."""
    *lines, _ = read_whole(path, LARGEST).split(b"\n")
    return [expect(parse_json(line, f"{path}, line {n}"), dict, f"{path}, line {n}") for n, line in enumerate(lines, 1)]


def may_overwrite(mark: Path, names: Iterable[str], beside: Iterable[Path]) -> None:
    """InputError where `mark` or one of the files beside it is there, and `mark` is no JSON object of ours, with these names."""
    there = [file for file in (mark, *beside) if os.path.lexists(file)]
    try:
        ours = not there or set(names) <= set(read_json(mark))
    except InputError:
        ours = False
    if not ours:
        raise InputError(f"{there[0]} exists already and was not made by this command; choose another --out, or move it away")


def parse_json(text: bytes, where: str, finite: bool = True) -> Any:
    """The values in a text; InputError beyond the limits of this module."""
    if sum(text.count(sign) * cost for sign, cost in COST.items()) > 2 * len(text) + SPARE:
        raise InputError(f"{where}: {len(text)} bytes that are nearly all brackets or commas; it is no data")
    strict = dict(parse_constant=_no_number, parse_float=_finite, parse_int=_whole)
    try:
        found = json.loads(text, object_pairs_hook=_once, **(strict if finite else dict(parse_constant=float)))
        if finite:
            _check_values(found)
        return found
    except UNREADABLE as error:
        raise InputError(f"{where}: not readable JSON ({reason_of(error)}); replace or remove it") from None


def expect(value: Any, kind: type, where: str, name: str = "") -> Any:
    """`value`, if it is of that kind (a bool is no number); else InputError."""
    right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not right:
        what = f"{name} is" if name else "holds"
        raise InputError(f"{where}: {what} {_WORDS.get(type(value), type(value).__name__)}, expected {_WORDS.get(kind, kind)}")
    return value


_WORDS = {
    **{type(None): "null", dict: "an object", list: "a list", str: "text"},
    **{int: "a whole number", float: "a number", bool: "true or false"},
}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_number(word: str) -> float:
    raise ValueError(f"{word[:MOST_DIGITS]} is no number")


def _finite(word: str) -> float:
    return value if math.isfinite(value := float(word)) else _no_number(word)


def _whole(word: str) -> int:
    if len(word) > MOST_DIGITS:
        raise ValueError(f"a whole number of {len(word)} digits")
    return int(word)


def _check_values(value: Any) -> None:
    depth, level = 0, [value]
    while level := [v for x in level if isinstance(x, (list, dict)) for v in (*x, *(x.values() if isinstance(x, dict) else ()))]:
        depth += 1
        if not all(is_text(text) for text in level if isinstance(text, str)):
            raise ValueError("half a character in a text")
        if depth > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} times")
