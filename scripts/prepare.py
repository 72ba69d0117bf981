"""Makes packed datasets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hiclr_fast.data.files import read_npz
from hiclr_fast.data.official import pack_official
from hiclr_fast.data.packed import open_packed
from hiclr_fast.data.preprocess import Preprocess
from hiclr_fast.data.sequences import pack_sequences, train_rows
from hiclr_fast.data.synthetic import pack_synthetic
from hiclr_fast.errors import InputError, run_script
from hiclr_fast.skeletons import get_layout


@dataclass(frozen=True)
class Synthetic:
    """Parametric 25-joint actors; needs no download."""

    preprocess: tyro.conf.OmitArgPrefixes[Preprocess]
    out: Path = Path("data/synthetic")
    subjects: int = 12
    repeats: int = 3
    views: int = 2
    two_person: bool = False
    """Adds two-person classes; every sample then has two bodies, the second mostly absent."""
    seed: int = 0

    def pack(self) -> None:
        sizes = dict(subjects=self.subjects, repeats=self.repeats, views=self.views)
        if min(sizes.values()) < 1 or self.subjects < 3:
            raise InputError(f"synthetic {sizes}: expected at least 3 subjects, 1 repeat and 1 view")
        pack_synthetic(self.out, self.preprocess, **sizes, two_person=self.two_person, seed=self.seed)


@dataclass(frozen=True)
class Sequences:
    """Any dataset as ragged sequences in one .npz (hiclr_fast/data/sequences.py documents the arrays)."""

    file: tyro.conf.Positional[Path]
    out: Path
    train_by: str
    """subject=1,3,5 or view=1,2 or a file with one training name a line; the rest is validation."""
    preprocess: tyro.conf.OmitArgPrefixes[Preprocess]
    drop_duplicates: bool = False
    """Drops sequences whose frames equal an earlier one's exactly."""

    def pack(self) -> None:
        def train(arrays):
            return train_rows(arrays, self.train_by, str(self.file))

        pack_sequences(
            read_npz(self.file),
            self.out,
            self.preprocess,
            train=train,
            drop_duplicates=self.drop_duplicates,
            source=self.file.name,
        )


@dataclass(frozen=True)
class Official:
    """The *_position.npy and *_label.pkl that users of HiCLR, AimCLR and CrosSCLR already have."""

    data: Path
    labels: Path
    out: Path
    val_data: Path | None = None
    val_labels: Path | None = None
    layout: str = "ntu25"

    def pack(self) -> None:
        files = {"train": (self.data, self.labels)}
        if (self.val_data is None) != (self.val_labels is None):
            raise InputError("--val-data and --val-labels belong together; give both or neither")
        if self.val_data is not None:
            files["val"] = (self.val_data, self.val_labels)
        pack_official(self.out, files, get_layout(self.layout))


def main() -> None:
    args = tyro.cli(
        Annotated[Synthetic, tyro.conf.subcommand("synthetic")]
        | Annotated[Sequences, tyro.conf.subcommand("sequences")]
        | Annotated[Official, tyro.conf.subcommand("official")],
        description=__doc__,
    )
    args.pack()
    data = open_packed(args.out)
    sizes = ", ".join(f"{split} {len(s)}" for split, s in data.splits.items())
    print(f"{args.out}: {sizes} samples of {data.shape}, {len(data.classes)} classes, layout {data.layout.name}")


if __name__ == "__main__":
    run_script(main)
