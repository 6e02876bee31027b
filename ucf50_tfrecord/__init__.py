"""Streaming TFRecord training for video action recognition.

    import ucf50_tfrecord as ucf

    clips = ucf.open_clips("data/ucf50-15x64x64", folds="6-25")
    run = ucf.train("data/ucf50-15x64x64", recipe="lstm", run_dir="runs/first", epochs=5)

Importing this package does no work and loads nothing heavy: each of its names is imported from `api` at its
first use. The write side (`convert`, which makes shards from videos) never loads TensorFlow. The read side,
which trains and evaluates on shards, never loads PyAV.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ucf50_tfrecord.api import Run, UserError, build_model, open_clips, predict, train

__version__ = "0.1.0"
__all__ = ["Run", "UserError", "build_model", "open_clips", "predict", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("ucf50_tfrecord.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
