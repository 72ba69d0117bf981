"""How a frozen encoder is read out: what its features are means over. Any checkpoint can be read out in any of these ways."""

from dataclasses import dataclass
from typing import Literal

from hiclr_fast.errors import InputError
from hiclr_fast.models.build import Encoder
from hiclr_fast.models.pooling import pooling_matrix
from hiclr_fast.skeletons import Layout


@dataclass(frozen=True)
class Readout:
    """pool: none is the encoder's own. segments: equal spans of time, each with its own means."""

    pool: Literal["all", "parts", "joints"] | None = None
    segments: int = 1

    def check(self) -> None:
        if self.segments < 1:
            raise InputError(f"segments {self.segments}: expected at least 1")

    @property
    def name(self) -> str:
        """Part of a result folder's name; empty for the encoder's own way."""
        return (self.pool or "") + (f"{'' if self.pool else 'segments'}{self.segments}" if self.segments > 1 else "")

    def set(self, encoder: Encoder, layout: Layout) -> None:
        """The encoder's features are read out in this way from now on."""
        if self.pool is not None:
            device = next(encoder.parameters()).device
            encoder.set_pooling(None if self.pool == "all" else pooling_matrix(layout, self.pool).to(device))
        encoder.segments = self.segments


OWN = Readout()
