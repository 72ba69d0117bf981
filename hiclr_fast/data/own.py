"""The commands of `hiclr prepare` for data and skeletons of one's own, for synthetic data, and for looking at what is there."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from hiclr_fast.data.convert import convert
from hiclr_fast.data.formats.clips import Channels, Clips, find_clips, most_bodies, read_table
from hiclr_fast.data.formats.sequences import ALL, pack_sequences, train_rows
from hiclr_fast.data.formats.synthetic import pack_synthetic
from hiclr_fast.data.labels import read_names
from hiclr_fast.data.packed.leaks import check_dataset
from hiclr_fast.data.prepare import AUTO, USUAL, Given, Options, Preprocessing, tell
from hiclr_fast.drawing import draw_layout
from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import read_npz
from hiclr_fast.files.atomic import new_file
from hiclr_fast.files.ranges import SEED, Range, check_ranges
from hiclr_fast.flags import default
from hiclr_fast.skeletons import get_layout


@dataclass(frozen=True)
class OwnClips:
    """A folder of clips, one .npy or .npz (frames, joints, 2 or 3[, bodies]) a clip, of any skeleton; labels are optional."""

    folder: Given
    layout: str
    """Name of a known layout, or a .json file (see `hiclr prepare layout`)."""
    out: Path
    """Folder of the packed dataset; must not exist."""
    labels: Annotated[Path | None, default("none")] = None
    """CSV with a header: name (path below the folder, without ending), and any of label, subject, view, split (train, val)."""
    train_by: Annotated[str | None, default("all train")] = None
    """subject=ann,ben or view=1,2 or a file with one training name a line, where the CSV has no split."""
    channels: Channels = "auto"
    """What a joint's numbers are: xyz, xy (pixels, y down), or xys with a score; auto: xy or xyz by how many there are."""
    bodies: Annotated[int | None, default("the most of any clip")] = None
    """Bodies of a sample."""
    classes: Annotated[Path | None, default("the labels that occur")] = None
    """Text file with one class name a line."""
    preprocess: Preprocessing = AUTO
    options: Options = USUAL

    def run(self) -> None:
        check_ranges(self, {"bodies": Range(1, 100)}, "--{}")
        layout, files = get_layout(self.layout), find_clips(self.folder)
        table = read_table(self.labels) if self.labels else {}
        clips = Clips(self.folder, layout, self.channels, self.bodies or most_bodies(files), table)
        left = sorted(set(table) - {clips.name(path) for path in files})
        if left:
            raise InputError(f"{self.labels}: {len(left)} names are no clip below {self.folder}, as {left[0]!r}; correct them")
        listed = any("split" in said for said in table.values())
        if listed and self.train_by:
            raise InputError(f"{self.labels} has a split column; leave --train-by out, or the column")
        rule = self.train_by or ALL

        def train(columns: dict[str, np.ndarray]) -> np.ndarray:
            return columns["split"] != "val" if listed else train_rows(columns, rule, str(self.folder))

        report = convert(
            files,
            clips.read,
            self.out,
            layout,
            self.preprocess,
            self.options,
            train=train,
            classes=read_names(self.classes) if self.classes else None,
            source=f"clips {self.folder.name}",
            depends=[self.labels] if self.labels else [],
            content=f"{self.channels} {clips.bodies}",
        )
        tell(self.out, report)


@dataclass(frozen=True)
class Sequences:
    """Any dataset as ragged sequences in one .npz (hiclr_fast/data/formats/sequences.py documents the arrays)."""

    file: Given
    out: Path
    """Folder of the packed dataset; must not exist."""
    train_by: str = ALL
    """subject=1,3,5 or view=1,2 or a file with one training name a line, the rest is validation; all: everything trains."""
    layout: Annotated[str | None, default("what the file says")] = None
    """Name of a known layout, or a .json file."""
    preprocess: Preprocessing = AUTO
    options: Options = USUAL
    drop_duplicates: bool = False
    """Drops sequences whose frames equal an earlier one's exactly."""

    def run(self) -> None:
        report = pack_sequences(
            read_npz(self.file),
            self.out,
            self.preprocess,
            train=lambda columns: train_rows(columns, self.train_by, str(self.file)),
            drop_duplicates=self.drop_duplicates,
            source=self.file.name,
            layout=get_layout(self.layout) if self.layout else None,
            options=self.options,
        )
        tell(self.out, report)


@dataclass(frozen=True)
class Synthetic:
    """Parametric 25-joint actors; needs no download."""

    preprocess: Preprocessing = AUTO
    out: Path = Path("data/synthetic")
    """Folder of the packed dataset; must not exist."""
    subjects: int = 12
    """Actors, three or more; every third is validation."""
    repeats: int = 3
    """Times that each does each action."""
    views: int = 2
    """Cameras."""
    two_person: bool = False
    """Adds two-person classes; every sample then has two bodies, the second mostly absent."""
    seed: int = 0
    """Of all that is drawn."""

    def run(self) -> None:
        sizes = dict(subjects=self.subjects, repeats=self.repeats, views=self.views)
        if min(sizes.values()) < 1 or self.subjects < 3:
            raise InputError(f"synthetic {sizes}: expected at least 3 subjects, 1 repeat and 1 view")
        most = Range(1, 10**4)
        check_ranges(self, {"subjects": most, "repeats": most, "views": most, "seed": SEED}, "--{}")
        pack_synthetic(self.out, self.preprocess, **sizes, two_person=self.two_person, seed=self.seed)
        tell(self.out)


@dataclass(frozen=True)
class Layout:
    """Shows a layout: a known one by name, or a .json file of your own, which is checked.

    The .json: an object with `parents` (a joint for each joint, the root is its own), and any of `name`, `joint_names`, `center`,
    `left`, `right` (mirror pairs), `shoulders` (right, left), `parts` (name: joints). Joints are numbers from 0, or names.
    """

    layout: Annotated[str, tyro.conf.Positional]
    picture: Annotated[Path | None, default("none")] = None
    """PNG to draw: the tree with numbers, names, mirror pairs and parts."""

    def run(self) -> None:
        layout = get_layout(self.layout)
        if self.picture:
            new_file(self.picture, (".png",))
            draw_layout(layout, self.picture)
            print(f"picture: {self.picture}")
            return
        values = layout.as_dict()
        values["parts"] = dict(values["parts"])
        lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in values.items()]
        print("{\n" + ",\n".join(lines) + "\n}")


@dataclass(frozen=True)
class Check:
    """Verifies a packed dataset: checksums, values, class balance, subjects and views in both splits, exact duplicates."""

    folder: Given
    picture: Annotated[Path | None, default("none")] = None
    """PNG to draw: the first training sample of every class."""

    def run(self) -> int:
        new_file(self.picture, (".png",))
        return check_dataset(self.folder, self.picture)
