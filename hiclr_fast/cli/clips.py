"""What `hiclr predict` and `hiclr embed` have in common: the clips, a batch at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from tqdm import tqdm

from hiclr_fast.data.contract import Contract
from hiclr_fast.errors import InputError
from hiclr_fast.flags import default
from hiclr_fast.inference.clips import BodyChoice, ClipReader
from hiclr_fast.inference.rows import BATCH
from hiclr_fast.skeletons import get_layout


@dataclass(frozen=True)
class Reading:
    """How recordings are read."""

    layout: Annotated[str | None, default("the network's")] = None
    """Skeleton of arrays, which do not say theirs: a name or a .json file."""
    bodies: Annotated[BodyChoice | None, default("as the network's data were prepared")] = None
    """Which two bodies of a .skeleton file, as in `hiclr prepare ntu`."""
    strict: bool = False
    """Stop at the first recording that cannot be used, instead of leaving it out with a note."""


def in_batches(paths: Sequence[Path], contract: Contract, how: Reading) -> Iterator[tuple[list[str], np.ndarray]]:
    """(names, rows (n, 3, T, V, M)) until all clips are read. What cannot be used is left out and said; InputError where nothing
    is left."""
    reader = ClipReader(contract, get_layout(how.layout) if how.layout else None, how.bodies)
    names, rows, used, left_out = [], [], 0, 0
    for clip in tqdm(reader.clips(paths), desc="reading", unit="clip", leave=False):
        try:
            rows.append(clip.read())
        except InputError as error:
            if how.strict:
                raise
            tqdm.write(f"left out: {error}")
            left_out += 1
            continue
        names.append(clip.name)
        if len(rows) == BATCH:
            yield names, np.stack(rows)
            names, rows, used = [], [], used + BATCH
    if rows:
        yield names, np.stack(rows)
    elif not used:
        raise InputError(f"none of {left_out} recordings could be used; the reasons stand above")
