"""Flags with several values, separated by commas or spaces."""

from typing import Annotated

from tyro.constructors import PrimitiveConstructorSpec


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
