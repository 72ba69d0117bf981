"""Pictures of data and views, and the report of a run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from hiclr_fast.data.packed.dataset import open_packed
from hiclr_fast.errors import InputError
from hiclr_fast.evaluation.candidate import Candidate
from hiclr_fast.machine import pick_device
from hiclr_fast.models.load import checkpoint_of
from hiclr_fast.pretraining.run_folder import load_run_config
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
    split: str = "train"
    stream: Literal["joint", "bone", "motion"] = "joint"
    seed: int = 0
    """Another seed, other draws."""
    out: Path = Path("reports")
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def make(self) -> None:
        need_pictures()
        from hiclr_fast.drawing import animation, contact_sheet
        from hiclr_fast.views.pictures import pictures

        data = open_packed(self.data)
        found = pictures(data, self.split, self.index, self.stream, self.augment, self.seed)
        self.out.mkdir(parents=True, exist_ok=True)
        stem = self.out / f"views_{self.split}_{self.index}_{self.stream}"
        contact_sheet(found, data.layout.bones, stem.with_suffix(".png"))
        animation(found, data.layout.bones, stem.with_suffix(".gif"))
        print(f"{stem.with_suffix('.png')} and {stem.with_suffix('.gif')}")


@dataclass(frozen=True)
class Run:
    """One self-contained report.html of a pretraining run, and its pictures."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    data: Path | None = None
    """Packed dataset; default: the one it was trained on."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    out: Path | None = None
    """Default: RUN/report."""

    def make(self) -> None:
        need_pictures()
        from hiclr_fast.reports.run_report import make_report

        config = load_run_config(self.run)
        data = self.data or config.data
        if data is None:
            raise InputError(f"{self.run} does not say what it was trained on; give --data DIR")
        candidate = Candidate(checkpoint_of(self.run), open_packed(data), self.run / "eval", pick_device(self.device))
        print(make_report(candidate, self.run, self.out or self.run / "report"))


def main() -> None:
    tyro.extras.subcommand_cli_from_dict({"run": Run, "views": Views}, description=__doc__).make()
