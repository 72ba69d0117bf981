"""The commands of `hiclr prepare` for public datasets: one dataclass a dataset, its fields are the flags. Others: `own.py`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from hiclr_fast.data.class_names import NTU120, PKU51
from hiclr_fast.data.convert import Conversion, Report, convert, summary
from hiclr_fast.data.formats import ntu, pku, ucla
from hiclr_fast.data.formats.official import pack_official
from hiclr_fast.data.formats.pyskl import Annotations
from hiclr_fast.data.formats.recording import Recording
from hiclr_fast.data.formats.sequences import ALL, train_rows
from hiclr_fast.data.labels import read_names
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.data.packed.leaks import about_size
from hiclr_fast.data.preprocess import Preprocess
from hiclr_fast.errors import InputError
from hiclr_fast.flags import default
from hiclr_fast.skeletons import get_layout

Preprocessing = tyro.conf.OmitArgPrefixes[Preprocess]
Options = tyro.conf.OmitArgPrefixes[Conversion]
Given = Annotated[Path, tyro.conf.Positional]
USUAL = Conversion()
AUTO = Preprocess(rotate="auto", gaps="auto", unit="auto", scale="auto")


def tell(out: Path, report: Report = ()) -> None:
    """What was made, in a few lines."""
    data = open_packed(out)
    sizes = ", ".join(f"{split} {len(s)}" for split, s in data.splits.items())
    print(f"{out}: {sizes} samples of {data.shape}, {len(data.classes)} classes, layout {data.layout.name}")
    print(about_size(data))
    without = sum(split.unlabelled for split in data.splits.values())
    if without:
        print(f"{without} samples have no label: pretraining does not need them, evaluation does")
    if report:
        print(f"{summary(report)}; reasons in {out / 'report.csv'}")


def official(how: Preprocess) -> Preprocess:
    """For the data of the official chain: metres, and a gap cuts the tail."""
    return replace(how, gaps="cut" if how.gaps == "auto" else how.gaps, unit="m" if how.unit == "auto" else how.unit)


@dataclass(frozen=True)
class Ntu:
    """Folders of NTU RGB+D 60 or 120 `.skeleton` files."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    out: Path
    """Folder of the packed dataset; must not exist."""
    split: str = ALL
    """ntu60_xsub, ntu60_xview, ntu120_xsub or ntu120_xset (official lists); or, for other data in this format, subject=1,2 or
    view=1,2 of the training part, a file with one training name a line, or all: everything trains."""
    preprocess: Preprocessing = AUTO
    options: Options = USUAL
    missing: Annotated[Path | None, default("none")] = None
    """Text file of sample names to leave out, as the published list of samples with missing skeletons."""
    bodies: Literal["first", "denoised"] = "first"
    """first: the first two bodies of each frame (official chain); denoised: two bodies chosen by length, spread and motion."""
    classes: Annotated[Path | None, default("NTU's names with an official split, else A001, ...")] = None
    """Text file with the name of action A001, A002, ... in each line."""

    def run(self) -> None:
        listed = self.split in ntu.SPLITS
        actions = ntu.CLASSES[self.split.split("_")[0]] if listed else None
        names = read_names(self.classes) if self.classes else NTU120[:actions] if listed else None

        def read(path: Path) -> list[Recording]:
            recording = ntu.read_ntu(path, self.bodies, named=listed)
            if actions and recording.label >= actions:
                raise InputError(f"{path}: action {recording.label + 1}, {self.split} has {actions}")
            if names is None and recording.label >= 0:
                recording = replace(recording, label=f"A{recording.label + 1:03d}")
            return [recording]

        def train(columns: dict[str, np.ndarray]) -> np.ndarray:
            if listed:
                return ntu.in_training(self.split, *(columns[c] for c in ("subject", "view", "setup")))
            return train_rows(columns, self.split, "the recordings")

        report = convert(
            ntu.find_files(list(self.folders), self.missing),
            read,
            self.out,
            get_layout("ntu25"),
            official(self.preprocess) if listed else self.preprocess,
            self.options,
            train=train,
            classes=names,
            source=f"ntu {self.split} {self.bodies}",
            content=f"{actions} {names is None} {self.bodies}",
        )
        tell(self.out, report)


@dataclass(frozen=True)
class Pku:
    """PKU-MMD, part I or II: a folder of skeleton files, a folder of label files with the same names, a split file."""

    skeletons: Given
    labels: Path
    """Folder of the label files."""
    split: Path
    """The dataset's cross-subject.txt or cross-view.txt."""
    out: Path
    """Folder of the packed dataset; must not exist."""
    preprocess: Preprocessing = AUTO
    options: Options = USUAL

    def run(self) -> None:
        splits = pku.read_split(self.split)
        report = convert(
            pku.find_pku(self.skeletons, self.labels, splits),
            lambda path: pku.read_pku(path, self.labels, splits),
            self.out,
            get_layout("ntu25"),
            official(self.preprocess),
            self.options,
            train=lambda columns: columns["split"] == "train",
            classes=PKU51,
            source=f"pku {self.split.name}",
            depends=[self.split, *sorted(self.labels.glob("*.txt"))],
        )
        tell(self.out, report)


@dataclass(frozen=True)
class Ucla:
    """The JSON folder of NW-UCLA. Its official cross-view split repeats 95 training sequences in the test set."""

    folder: Given
    out: Path
    """Folder of the packed dataset; must not exist."""
    preprocess: Preprocessing = AUTO
    options: Options = USUAL
    split: str = "view=1,2"
    """view=1,2 (official), subject=1,3,5,7,9, a file with one training name a line, or all."""

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
    """The annotation pickle of pyskl, with skeletons in space or poses in images (HRNet)."""

    file: Given
    out: Path
    """Folder of the packed dataset; must not exist."""
    preprocess: Preprocessing = AUTO
    options: Options = USUAL
    train: str | None = "xsub_train"
    """Name of a split inside the pickle; None: every annotation trains."""
    val: str | None = "xsub_val"
    """Name of another; None: no validation."""
    layout: Annotated[str | None, default("by the number of joints")] = None
    """Name of a known layout, or a .json file."""
    classes: Annotated[Path | None, default("the numbers that occur")] = None
    """Text file with the name of class 0, 1, ... in each line."""

    def run(self) -> None:
        annotations = Annotations(self.file, self.train, self.val if self.train else None)
        report = convert(
            range(len(annotations)),
            annotations.read,
            self.out,
            get_layout(self.layout or annotations.layout_name()),
            self.preprocess,
            self.options,
            train=lambda columns: columns["split"] == "train",
            classes=read_names(self.classes) if self.classes else None,
            source=f"pyskl {self.file.name} {self.train} {self.val}",
            depends=[self.file],
            content=f"{self.train} {self.val}",
        )
        tell(self.out, report)


@dataclass(frozen=True)
class Official:
    """The *_position.npy and *_label.pkl that users of HiCLR, AimCLR and CrosSCLR already have."""

    data: Path
    """The training *_position.npy."""
    out: Path
    """Folder of the packed dataset; must not exist."""
    labels: Annotated[Path | None, default("no sample has a label")] = None
    """Its *_label.pkl."""
    val_data: Annotated[Path | None, default("none")] = None
    """The validation *_position.npy."""
    val_labels: Annotated[Path | None, default("none")] = None
    """Its *_label.pkl."""
    layout: str = "ntu25"
    """Name of a known layout, or a .json file."""
    classes: Annotated[Path | None, default("their numbers")] = None
    """Text file with the name of class 0, 1, ... in each line."""

    def run(self) -> None:
        files = {"train": (self.data, self.labels)}
        if self.val_data is None and self.val_labels is not None:
            raise InputError("--val-labels belongs to --val-data; give both or neither")
        if self.val_data is not None:
            files["val"] = (self.val_data, self.val_labels)
        names = read_names(self.classes) if self.classes else ()
        pack_official(self.out, files, get_layout(self.layout), names)
        tell(self.out)
