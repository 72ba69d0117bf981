"""hiclr_fast: HiCLR pretraining and evaluation for skeleton-based action recognition.

Use what was trained:

    encoder = hiclr_fast.load_encoder("runs/ucla")       # a run, checkpoint.pt, encoder.safetensors or an official .pt
    features = encoder.features(x, layout="kinect20")    # x: metres, an array (N, 3, T, V, M) or a list of (F, V, 3[, M])
    classifier = hiclr_fast.load_classifier("runs/ucla") # after `hiclr evaluate linear` or `finetune`
    names, probabilities = classifier.predict(x)

A momentum-contrast loop of your own:

    queue = hiclr_fast.Queue(32768, 128)
    config, kinds = hiclr_fast.AugmentConfig(), ("basic", "normal", "strong", "basic")
    *views, key_view = hiclr_fast.make_views(x, index, sample, kinds, config, layout, seed=0, step=step)
    loss, terms = hiclr_fast.hierarchical_contrast(q, key, queue)    # q (3, N, D) of the views, key (N, D) of the key view
    loss.backward()
    queue.enqueue(key)

Bad input is an `InputError` (a ValueError) of one sentence. What is named in `__all__` is imported when it is first used, so
that `import hiclr_fast` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "load_encoder": "hiclr_fast.inference.encoder",
    "PretrainedEncoder": "hiclr_fast.inference.encoder",
    "load_classifier": "hiclr_fast.inference.classifier",
    "ActionClassifier": "hiclr_fast.inference.classifier",
    "hierarchical_contrast": "hiclr_fast.models.queue",
    "make_views": "hiclr_fast.views.augment",
    "AugmentConfig": "hiclr_fast.views.augment",
    "Queue": "hiclr_fast.models.queue",
    "LAYOUTS": "hiclr_fast.skeletons",
    "Layout": "hiclr_fast.skeletons",
    "InputError": "hiclr_fast.errors",
}
__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:  # for editors and type checkers, which do not follow __getattr__
    from hiclr_fast.errors import InputError as InputError
    from hiclr_fast.inference.classifier import ActionClassifier as ActionClassifier
    from hiclr_fast.inference.classifier import load_classifier as load_classifier
    from hiclr_fast.inference.encoder import PretrainedEncoder as PretrainedEncoder
    from hiclr_fast.inference.encoder import load_encoder as load_encoder
    from hiclr_fast.models.queue import Queue as Queue
    from hiclr_fast.models.queue import hierarchical_contrast as hierarchical_contrast
    from hiclr_fast.skeletons import LAYOUTS as LAYOUTS
    from hiclr_fast.skeletons import Layout as Layout
    from hiclr_fast.views.augment import AugmentConfig as AugmentConfig
    from hiclr_fast.views.augment import make_views as make_views


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'hiclr_fast' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
