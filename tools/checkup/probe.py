"""What only TensorFlow, PyAV and tensorflow-io can tell. Each function is called in a process of its own."""

from __future__ import annotations

import os
import pathlib
from typing import Any


def tensorflow(run_dir: str | None) -> dict[str, Any]:
    """Returns how TensorFlow is built and Keras is set, which devices there are, and what "auto" takes.

    Beside it a run's checkpoints: a name and what is wrong with it, or "".
    """
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"  # it says which CUDA libraries it misses, in a warning
    import keras
    import tensorflow as tf

    from ucf50_tfrecord.training import strategy

    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    build = tf.sysconfig.get_build_info()
    choice = strategy.fastest_precision()
    return {
        "backend": keras.config.backend(),
        "image_data_format": keras.config.image_data_format(),
        "floatx": keras.config.floatx(),
        "is_cuda_build": bool(build.get("is_cuda_build")),
        "cuda": build.get("cuda_version", ""),
        "cudnn": build.get("cudnn_version", ""),
        "gpus": [
            {
                "name": detail.get("device_name", "GPU"),
                "capability": ".".join(map(str, detail.get("compute_capability", ()))),
            }
            for detail in details
        ],
        "precision": choice.precision,
        "reason": choice.reason,
        "checkpoints": _checkpoints(run_dir) if run_dir else [],
    }


def _checkpoints(run_dir: str) -> list[tuple[str, str]]:
    from ucf50_tfrecord.errors import UserError
    from ucf50_tfrecord.training import checkpoint

    found = []
    for path in checkpoint.find(pathlib.Path(run_dir, "checkpoints", "last")):
        try:
            checkpoint.check(path)
        except UserError as error:
            found.append((pathlib.Path(path).name, " ".join(str(error).split())))
        else:
            found.append((pathlib.Path(path).name, ""))
    return found


def tensorflow_io() -> dict[str, Any]:
    """Returns the file systems that TensorFlow knows once tensorflow-io is loaded."""
    import tensorflow as tf
    import tensorflow_io  # noqa: F401  registers its file systems

    return {"tensorflow": tf.__version__, "schemes": tf.io.gfile.get_registered_schemes()}


def decoder() -> str:
    """Returns the versions of PyAV and its FFmpeg."""
    from ucf50_tfrecord.convert import decode

    return decode.decoder_version()
