"""Pictures of data and views."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from hiclr_fast.augment import AugmentConfig
from hiclr_fast.data.packed import open_packed
from hiclr_fast.errors import InputError, run_script


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
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            raise InputError('pictures need matplotlib: pip install "hiclr_fast[report]"') from None
        from hiclr_fast.report import animation, contact_sheet, pictures

        data = open_packed(self.data)
        found = pictures(data, self.split, self.index, self.stream, self.augment, self.seed)
        self.out.mkdir(parents=True, exist_ok=True)
        stem = self.out / f"views_{self.split}_{self.index}_{self.stream}"
        contact_sheet(found, data.layout.bones, stem.with_suffix(".png"))
        animation(found, data.layout.bones, stem.with_suffix(".gif"))
        print(f"{stem.with_suffix('.png')} and {stem.with_suffix('.gif')}")


def main() -> None:
    tyro.extras.subcommand_cli_from_dict({"views": Views}, description=__doc__).make()


if __name__ == "__main__":
    run_script(main)
