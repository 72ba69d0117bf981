"""Pictures of data and views, and the report of a run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from hiclr_fast.cli.arguments import choose
from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.candidate import Candidate
from hiclr_fast.files.atomic import new_file, write_text
from hiclr_fast.flags import default
from hiclr_fast.machine import pick_device
from hiclr_fast.models.load import checkpoint_of
from hiclr_fast.pretraining.run_folder import load_run_config
from hiclr_fast.reports.compare import ENDINGS, WRITERS, TableFormat, collect
from hiclr_fast.views.augment import AugmentConfig


def need_pictures() -> None:
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError as error:
        raise InputError(f'reports need {error.name}: pip install "hiclr_fast[report]"') from None


@dataclass(frozen=True)
class Views:
    """A raw skeleton and its four views: contact sheet (PNG) and animation (GIF)."""

    data: Path
    """Packed dataset."""
    index: int = 0
    """Which sample of the split."""
    split: str = "train"
    """Which split."""
    stream: Literal["joint", "bone", "motion"] = "joint"
    """What the joints are taken to."""
    seed: int = 0
    """Another seed, other draws."""
    out: Path = Path("reports")
    """Folder for the two pictures."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def make(self) -> None:
        need_pictures()
        from hiclr_fast.drawing import animation, contact_sheet
        from hiclr_fast.views.pictures import pictures

        self.augment.check()
        data = open_packed(self.data)
        found = pictures(data, self.split, self.index, self.stream, self.augment, self.seed)
        stem = self.out / f"views_{self.split}_{self.index}_{self.stream}"
        sheet, moving = (stem.with_suffix(ending) for ending in (".png", ".gif"))
        new_file(sheet, (".png",))
        new_file(moving, (".gif",))
        contact_sheet(found, data.layout.bones, sheet)
        animation(found, data.layout.bones, moving)
        print(f"{sheet} and {moving}")


@dataclass(frozen=True)
class Run:
    """One self-contained report.html of a pretraining run, and its pictures."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    data: Annotated[Path | None, default("the one it was trained on")] = None
    """Packed dataset."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is a GPU."""
    out: Annotated[Path | None, default("RUN/report")] = None
    """Folder for the page and its pictures."""

    def make(self) -> None:
        need_pictures()
        from hiclr_fast.reports.run_report import make_report

        config = load_run_config(self.run)
        data = self.data or config.data
        if data is None:
            raise InputError(f"{self.run} does not say what it was trained on; give --data DIR")
        candidate = Candidate(checkpoint_of(self.run), open_packed(data), self.run / "eval", pick_device(self.device))
        print(make_report(candidate, self.run, self.out or self.run / "report"))


@dataclass(frozen=True)
class Compare:
    """One table of runs and protocols."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders that have been evaluated."""
    format: Annotated[TableFormat | None, default("by the ending of --out, else markdown")] = None
    """Of the table."""
    out: Annotated[Path | None, default("the terminal")] = None
    """File to write, .md, .csv or .tex; must not exist."""

    def make(self) -> None:
        if not self.runs:
            raise InputError("no runs to compare: give one or more run folders")
        new_file(self.out, tuple(ENDINGS))
        text = WRITERS[self.format or (ENDINGS[self.out.suffix] if self.out else "markdown")](collect(self.runs))
        if self.out:
            write_text(self.out, text)
        print(self.out or text.rstrip())


COMMANDS = {"run": Run, "views": Views, "compare": Compare}


def main() -> None:
    choose(COMMANDS, __doc__).make()
