"""An encoder from its config: as torch initialises it, and as a run begins with it."""

import torch

from hiclr_fast.models.config import EncoderConfig
from hiclr_fast.models.dsta import DSTA
from hiclr_fast.models.pooling import pooling_matrix
from hiclr_fast.models.stgcn import STGCN, init_official
from hiclr_fast.skeletons import Layout, adjacency

Encoder = STGCN | DSTA


def build_encoder(config: EncoderConfig, layout: Layout) -> Encoder:
    """The encoder of a config, as torch initialises it."""
    pooling = None if config.pool == "all" else pooling_matrix(layout, config.pool)
    sizes = (3, config.hidden_channels, config.hidden_dim, config.feature_dim, config.dropout, pooling)
    if config.encoder == "dsta":
        return DSTA(layout.num_joints, *sizes)
    return STGCN(torch.from_numpy(adjacency(layout, config.graph)), *sizes)


def initial_encoder(config: EncoderConfig, layout: Layout) -> Encoder:
    """The encoder as a run with this config begins: same seed, same initialisation. Sets torch's generators to the seed."""
    torch.manual_seed(config.seed)
    encoder = build_encoder(config, layout)
    if config.init == "official":
        init_official(encoder)
    return encoder
