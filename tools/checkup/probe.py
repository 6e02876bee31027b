"""Asks TensorFlow about itself and this machine, for tools.doctor.

Runs in a process of its own, since loading TensorFlow may crash.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any


def tensorflow(run_dir: str | None) -> dict[str, Any]:
    """Describes TensorFlow's build, Keras's settings, this machine's GPUs, and a run's checkpoints.

    Returns:
      A dictionary of JSON values. `checkpoints` lists (name, problem) of each checkpoint, newest first, where
      the problem is "" if the checkpoint is readable. `precision` and `reason` are the fastest precision here
      and why.
    """
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"  # a warning names the CUDA libraries that are missing
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
        problem = ""
        try:
            checkpoint.check(path)
        except UserError as error:
            problem = " ".join(str(error).split())
        found.append((pathlib.Path(path).name, problem))
    return found
