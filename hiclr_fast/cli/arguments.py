"""What the commands have in common: subcommands, and flags with several values."""

import difflib
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from hiclr_fast.errors import InputError


def nearest(word: str, known: Mapping[str, Any], program: str) -> None:
    """InputError, with the nearest command, when `word` is none of the program's."""
    if word not in known:
        close = difflib.get_close_matches(word, known, n=1, cutoff=0)[0]
        raise InputError(f"{program} has no command {word!r}; the nearest is {close!r} (one of {', '.join(known)})")


def choose(commands: Mapping[str, type], description: str) -> Any:
    """The command that the command line names, with its flags: an instance of one of the dataclasses."""
    words = sys.argv[1:]
    if words and not words[0].startswith("-"):
        nearest(words[0], commands, sys.argv[0].rsplit("/", 1)[-1])
    return tyro.extras.subcommand_cli_from_dict(dict(commands), description=description)


def _numbers(words: list[str]) -> tuple[float, ...]:
    found = tuple(float(part) for word in words for part in word.split(",") if part)
    if not found:
        raise ValueError("expected at least one number")
    return found


def _counts(words: list[str]) -> tuple[int, ...]:
    found = tuple(int(part) for word in words for part in word.split(",") if part)
    if not found:
        raise ValueError("expected at least one whole number")
    return found


def _words(words: list[str]) -> tuple[str, ...]:
    return tuple(part for word in words for part in word.split(",") if part)


def _is_tuple(value: object) -> bool:
    return isinstance(value, tuple)


def _separated(parse, metavar: str) -> PrimitiveConstructorSpec:
    """Values separated by commas or spaces: `--seeds 0,1,2` and `--seeds 0 1 2`."""
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=metavar,
        instance_from_str=parse,
        is_instance=_is_tuple,
        str_from_instance=lambda values: [",".join(f"{v:g}" if isinstance(v, (int, float)) else v for v in values)],
    )


Numbers = Annotated[tuple[float, ...], _separated(_numbers, "N,N,...")]
Counts = Annotated[tuple[int, ...], _separated(_counts, "N,N,...")]
Words = Annotated[tuple[str, ...], _separated(_words, "NAME,NAME,...")]
