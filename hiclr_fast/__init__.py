"""hiclr_fast: HiCLR pretraining and evaluation for skeleton-based action recognition."""

__version__ = "0.1.0"
