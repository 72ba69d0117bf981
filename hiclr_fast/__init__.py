"""hiclr_fast: HiCLR pretraining and evaluation for skeleton-based action recognition.

    encoder = hiclr_fast.load_encoder("runs/ucla")
    features = encoder.features(x)
    loss, terms = hiclr_fast.hierarchical_contrast(q, key, queue.rows)

What is named in `__all__` is imported when it is first used, so that `import hiclr_fast` costs nothing.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOME = {
    "hierarchical_contrast": "hiclr_kernels.contrast",
    "make_views": "hiclr_fast.views.augment",
    "AugmentConfig": "hiclr_fast.views.augment",
    "Queue": "hiclr_fast.models.queue",
    "LAYOUTS": "hiclr_fast.skeletons",
    "Layout": "hiclr_fast.skeletons",
    "InputError": "hiclr_fast.errors",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'hiclr_fast' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
