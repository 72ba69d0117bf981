"""The commands of `hiclr prepare`: one dataclass a dataset, its fields are the flags."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from hiclr_fast.data.convert import Conversion, convert, summary
from hiclr_fast.data.formats import ntu, pku, ucla
from hiclr_fast.data.formats.official import pack_official
from hiclr_fast.data.formats.pyskl import Annotations
from hiclr_fast.data.formats.sequences import pack_sequences, train_rows
from hiclr_fast.data.formats.synthetic import pack_synthetic
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.data.packed.leaks import check_dataset
from hiclr_fast.data.preprocess import Preprocess
from hiclr_fast.errors import InputError
from hiclr_fast.files.archives import read_npz
from hiclr_fast.skeletons import get_layout

Preprocessing = tyro.conf.OmitArgPrefixes[Preprocess]
Options = tyro.conf.OmitArgPrefixes[Conversion]
Given = Annotated[Path, tyro.conf.Positional]


def tell(out: Path, report: list[tuple[str, str, str]] | None = None) -> None:
    """What was made, in one or two lines."""
    data = open_packed(out)
    sizes = ", ".join(f"{split} {len(s)}" for split, s in data.splits.items())
    print(f"{out}: {sizes} samples of {data.shape}, {len(data.classes)} classes, layout {data.layout.name}")
    if report:
        print(f"{summary(report)}; reasons in {out / 'report.csv'}")


@dataclass(frozen=True)
class Ntu:
    """Folders of NTU RGB+D 60 or 120 `.skeleton` files."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    out: Path
    split: str
    """ntu60_xsub, ntu60_xview, ntu120_xsub or ntu120_xset (official lists); or, for other data in this format, subject=1,2 or
    view=1,2 of the training part, or a file with one training name a line."""
    preprocess: Preprocessing
    options: Options
    missing: Path | None = None
    """Text file of sample names to leave out, as the published list of samples with missing skeletons."""
    bodies: Literal["first", "denoised"] = "first"
    """first: the first two bodies of each frame (official chain); denoised: two bodies chosen by length, spread and motion."""

    def run(self) -> None:
        official = self.split in ntu.SPLITS
        actions = ntu.CLASSES[self.split.split("_")[0]] if official else None

        def read(path: Path) -> list:
            recording = ntu.read_ntu(path, self.bodies)
            if actions and recording.label >= actions:
                raise InputError(f"{path}: action {recording.label + 1}, {self.split} has {actions}")
            return [recording]

        def train(columns: dict[str, np.ndarray]) -> np.ndarray:
            if official:
                return ntu.in_training(self.split, *(columns[c] for c in ("subject", "view", "setup")))
            return train_rows(columns, self.split, "the recordings")

        report = convert(
            ntu.find_files(list(self.folders), self.missing),
            read,
            self.out,
            get_layout("ntu25"),
            self.preprocess,
            self.options,
            train=train,
            classes=[f"A{a + 1:03d}" for a in range(actions)] if actions else None,
            source=f"ntu {self.split} {self.bodies}",
        )
        tell(self.out, report)


@dataclass(frozen=True)
class Pku:
    """PKU-MMD, part I or II: a folder of skeleton files, a folder of label files with the same names, a split file."""

    skeletons: Given
    labels: Path
    split: Path
    """The dataset's cross-subject.txt or cross-view.txt."""
    out: Path
    preprocess: Preprocessing
    options: Options

    def run(self) -> None:
        splits = pku.read_split(self.split)
        report = convert(
            pku.find_pku(self.skeletons, self.labels, splits),
            lambda path: pku.read_pku(path, self.labels, splits),
            self.out,
            get_layout("ntu25"),
            self.preprocess,
            self.options,
            train=lambda columns: columns["split"] == "train",
            classes=[str(c + 1) for c in range(pku.CLASSES)],
            source=f"pku {self.split.name}",
            depends=[self.split, *sorted(self.labels.glob("*.txt"))],
        )
        tell(self.out, report)


@dataclass(frozen=True)
class Ucla:
    """The JSON folder of NW-UCLA. Its official cross-view split repeats 95 training sequences in the test set."""

    folder: Given
    out: Path
    preprocess: Preprocessing
    options: Options
    split: str = "view=1,2"
    """view=1,2 (official) or subject=1,3,5,7,9 or a file with one training name a line."""

    def run(self) -> None:
        report = convert(
            ucla.find_ucla(self.folder),
            lambda path: [ucla.read_ucla(path)],
            self.out,
            get_layout("kinect20"),
            self.preprocess,
            self.options,
            train=lambda columns: train_rows(columns, self.split, "the recordings"),
            classes=ucla.CLASSES,
            source=f"ucla {self.split}",
        )
        tell(self.out, report)


@dataclass(frozen=True)
class Pyskl:
    """The annotation pickle of pyskl with 3D skeletons."""

    file: Given
    out: Path
    preprocess: Preprocessing
    options: Options
    train: str = "xsub_train"
    val: str = "xsub_val"
    """Names of the two splits inside the pickle."""
    layout: str = "ntu25"

    def run(self) -> None:
        layout = get_layout(self.layout)
        annotations = Annotations(self.file, self.train, self.val, layout.num_joints)
        report = convert(
            range(len(annotations)),
            annotations.read,
            self.out,
            layout,
            self.preprocess,
            self.options,
            train=lambda columns: columns["split"] == "train",
            classes=None,
            source=f"pyskl {self.file.name} {self.train} {self.val}",
            depends=[self.file],
        )
        tell(self.out, report)


@dataclass(frozen=True)
class Official:
    """The *_position.npy and *_label.pkl that users of HiCLR, AimCLR and CrosSCLR already have."""

    data: Path
    labels: Path
    out: Path
    val_data: Path | None = None
    val_labels: Path | None = None
    layout: str = "ntu25"

    def run(self) -> None:
        files = {"train": (self.data, self.labels)}
        if (self.val_data is None) != (self.val_labels is None):
            raise InputError("--val-data and --val-labels belong together; give both or neither")
        if self.val_data is not None:
            files["val"] = (self.val_data, self.val_labels)
        pack_official(self.out, files, get_layout(self.layout))
        tell(self.out)


@dataclass(frozen=True)
class Sequences:
    """Any dataset as ragged sequences in one .npz (hiclr_fast/data/sequences.py documents the arrays)."""

    file: Given
    out: Path
    train_by: str
    """subject=1,3,5 or view=1,2 or a file with one training name a line; the rest is validation."""
    preprocess: Preprocessing
    drop_duplicates: bool = False
    """Drops sequences whose frames equal an earlier one's exactly."""

    def run(self) -> None:
        pack_sequences(
            read_npz(self.file),
            self.out,
            self.preprocess,
            train=lambda arrays: train_rows(arrays, self.train_by, str(self.file)),
            drop_duplicates=self.drop_duplicates,
            source=self.file.name,
        )
        tell(self.out)


@dataclass(frozen=True)
class Synthetic:
    """Parametric 25-joint actors; needs no download."""

    preprocess: Preprocessing
    out: Path = Path("data/synthetic")
    subjects: int = 12
    repeats: int = 3
    views: int = 2
    two_person: bool = False
    """Adds two-person classes; every sample then has two bodies, the second mostly absent."""
    seed: int = 0

    def run(self) -> None:
        sizes = dict(subjects=self.subjects, repeats=self.repeats, views=self.views)
        if min(sizes.values()) < 1 or self.subjects < 3:
            raise InputError(f"synthetic {sizes}: expected at least 3 subjects, 1 repeat and 1 view")
        pack_synthetic(self.out, self.preprocess, **sizes, two_person=self.two_person, seed=self.seed)
        tell(self.out)


@dataclass(frozen=True)
class Check:
    """Verifies a packed dataset: checksums, values, class balance, subjects and views in both splits, exact duplicates."""

    folder: Given
    picture: Path | None = None
    """PNG to draw: the first training sample of every class."""

    def run(self) -> int:
        return check_dataset(self.folder, self.picture)
