"""What an encoder is and what it reads: the part of a run's settings that its weights cannot do without."""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from hiclr_fast.flags import default


@dataclass(frozen=True)
class EncoderConfig:
    """Defaults are the released NTU configuration (ST-GCN, pretext_hiclr_xsub_joint.yaml)."""

    encoder: Literal["stgcn", "dsta"] = "stgcn"
    """stgcn: ST-GCN; dsta: DSTA-Net, the Transformer of the paper."""
    stream: Literal["joint", "bone", "motion"] = "joint"
    """joint: coordinates; bone: from the parent joint; motion: from the frame before."""
    layout: Annotated[str | None, default("the data's")] = None
    """Expected joint layout."""
    frames: Annotated[int | None, default("the data's")] = None
    """Expected frames T."""
    hidden_channels: int = 16
    """stgcn: width of the first blocks; dsta: of a first attention head, whose blocks are twice as wide."""
    hidden_dim: int = 256
    """Width of the features."""
    feature_dim: int = 128
    """Width of the projection that is compared."""
    dropout: float = 0.5
    """stgcn: of every block but the first; dsta: of the temporal shortcuts (attentiondrop)."""
    graph: Literal["spatial", "distance", "uniform"] = "spatial"
    """stgcn: partition of the joints' graph."""
    pool: Literal["all", "parts", "joints"] = "all"
    """What a row's features are means over: all joints (official), each body part, each joint."""
    init: Literal["torch", "official"] = "official"
    """torch: each layer's own default, safer on small data; official: N(0, 0.02)."""
    seed: int = 0
    """Of the initialisation; a run's batches, views and dropout follow from it too."""

    def of_encoder(self) -> "EncoderConfig":
        """Only what is said here, of a run's settings too."""
        return EncoderConfig(**{field.name: getattr(self, field.name) for field in fields(EncoderConfig)})

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(field.name for field in fields(cls))
