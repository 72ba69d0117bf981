"""What every reader gives: one performance of one action, as it was recorded."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import open_regular

LARGEST = 1 << 30  # bytes of one text or JSON recording; the largest real ones have tens of megabytes

MOST_FRAMES = 1 << 17  # of one recording: over an hour at 30 a second


@dataclass(frozen=True)
class Recording:
    """frames: (F, V, 3, M) float32 in space or (F, V, 2, M) pixels in an image, absent bodies zero; label: class 0..C-1 or its
    name; -1 where label, subject, view or setup is unknown. subject: a number or a name.

    split: train or val, where the dataset's own list says so. score: (F, V, M) float32 of the detection, where there is one.
    image: width and height of the image in pixels, where they are known.
    """

    name: str
    frames: np.ndarray
    label: int | str = -1
    subject: int | str = -1
    view: int = -1
    setup: int = -1
    split: str | None = None
    score: np.ndarray | None = None
    image: tuple[float, float] | None = None


def check_length(frames: int, where: str) -> None:
    if frames > MOST_FRAMES:
        raise InputError(f"{where}: {frames} frames, a recording has at most {MOST_FRAMES}; cut it into its actions")


def read_padded(path: Path, pad: int) -> np.ndarray:
    """A whole file and `pad` zero bytes after it, uint8; InputError when it is missing, no regular file, unreadable or larger
    than LARGEST."""
    with open_regular(path, buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST:
            raise InputError(f"{path}: {size} bytes, at most {LARGEST} are read; split the file")
        out = np.empty(size + pad, dtype=np.uint8)
        try:
            got = file.readinto(memoryview(out)[:size])
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}); check the disk") from None
    out[got:] = 0
    return out[: got + pad]


def read_bytes(path: Path) -> bytes:
    """A whole file, with the errors of `read_padded`."""
    return read_padded(path, 0).tobytes()


def repaired(recording: Recording) -> tuple[np.ndarray, str]:
    """(frames, what was done to them; empty: nothing). Where at most half of the frames hold NaN or Inf, those coordinates are
    interpolated in time from the frames around them; InputError where it is more."""
    x = recording.frames
    if np.isfinite(x).all():
        return x, ""
    bad = ~np.isfinite(x)
    frames = bad.reshape(len(x), -1).any(axis=1).sum()
    if 2 * frames > len(x):
        raise InputError(f"{recording.name}: NaN or Inf in {frames} of {len(x)} frames, too many to interpolate; drop the file")
    flat, wrong = x.reshape(len(x), -1).copy(), bad.reshape(len(x), -1)
    at = np.arange(len(x))
    for c in np.flatnonzero(wrong.any(axis=0)):
        sound = ~wrong[:, c]
        flat[~sound, c] = np.interp(at[~sound], at[sound], flat[sound, c])
    return flat.reshape(x.shape), f"NaN or Inf in {frames} of {len(x)} frames, interpolated"
