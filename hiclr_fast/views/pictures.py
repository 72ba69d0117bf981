"""Pictures of what the encoder sees: a raw skeleton and its views, with their draws in words."""

import numpy as np
import torch
from hiclr_kernels.augment import apply_views
from hiclr_kernels.augment.draw import BLUR, FLIP, MATRIX, NOISE, REVERSE, SHIFT, TAPS
from hiclr_kernels.augment.reference import Stream, to_stream

from hiclr_fast.data.packed.dataset import Packed
from hiclr_fast.drawing import Picture
from hiclr_fast.errors import InputError
from hiclr_fast.skeletons import METRES, Space
from hiclr_fast.views.augment import AugmentConfig, draw

KINDS = ("basic", "normal", "strong", "basic")
TITLES = ("basic", "normal", "strong", "key (basic)")


def describe(row: np.ndarray, space: Space = METRES) -> str:
    """The draws of one view in a few words. row: (32,) of `Draws.rows`."""
    words = [f"crop {int(row[SHIFT]):+d} frames"]
    hidden = [name for axis, name in enumerate("xyz") if not row[MATRIX + 3 * axis : MATRIX + 3 * axis + 3].any()]
    words += ["flipped"] * bool(row[FLIP]) + ["time reversed"] * bool(row[REVERSE])
    if row[NOISE : NOISE + 3].any():
        words.append(f"noise {1000 * row[NOISE : NOISE + 3].max() / space.metre:.0f} mm" + " of a person" * (space.unit != "m"))
    if row[BLUR]:
        words.append(f"blur, gain {row[TAPS:SHIFT].sum():.1f}")
    return "\n".join(words + [f"{name} hidden" for name in hidden])


def pictures(data: Packed, split: str, index: int, stream: Stream, config: AugmentConfig, seed: int) -> list[Picture]:
    """The raw sample and its four views, as the first step of a run with that seed makes them."""
    if any(config.pose_swap) or config.adain != AugmentConfig().adain:
        raise InputError("pictures are of one sample alone; leave --augment.pose-swap and --augment.adain out, they mix two")
    samples = data[split]
    if not 0 <= index < len(samples):
        raise InputError(f"index {index}: {data.path} has {len(samples)} {split} samples, 0 to {len(samples) - 1}")
    x = torch.from_numpy(np.array(samples.x[index : index + 1]))
    _, frames, joints, _ = data.shape
    sizes = dict(seed=seed, frames=frames, joints=joints)
    draws = draw(KINDS, config, data.space, torch.tensor([index]), torch.tensor(0), **sizes)
    tables = dict(mirror=data.layout.mirror, parents=data.layout.parents, stream=stream)
    views = apply_views(x, torch.zeros(1, dtype=torch.int64), draws, **tables)
    raw = to_stream(x, stream, data.layout.parents)[0].numpy()
    nothing = np.zeros((frames, joints), bool)
    found = [Picture("raw", f"{data.class_name(samples.label[index])}\n{samples.name[index]}", raw, nothing, data.space)]
    for w, view in enumerate(views):
        masked = draws.keep[w, 0].numpy() == 0 if draws.masked[w] else nothing
        words = describe(draws.rows[0, w].numpy(), data.space) + "\nmasked joints in red" * bool(masked.any())
        found.append(Picture(TITLES[w], words, view[0].numpy(), masked, data.space))
    return found
