"""Which devices train, and in which precision."""

from __future__ import annotations

import pathlib

import tensorflow as tf

from ucf50_tfrecord.specs import PRECISIONS, STRATEGIES, expect


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Builds the strategy: "one" device, "mirrored" over all GPUs (or all CPU devices if
    there is none), or "auto", which mirrors where there is more than one GPU.

    Raises:
      UserError: if the name is not known.
    """
    expect(name in STRATEGIES, f"a strategy out of {STRATEGIES}", strategy=name)
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)  # leave room for others on a shared GPU
    gpus = tf.config.list_logical_devices("GPU")
    devices = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        return tf.distribute.MirroredStrategy(devices)
    return tf.distribute.OneDeviceStrategy(devices[0])


def device_type() -> str:
    """Returns "GPU" where TensorFlow sees one, else "CPU"."""
    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


def choose_precision(precision: str) -> str:
    """Resolves "auto" to a precision that the devices are fast in; others stay as they are.

    "auto" takes bfloat16 where the device computes in it (GPUs of compute capability 8.0
    and newer; CPUs with AVX512_BF16 or AMX), float16 on GPUs from 7.0, else float32.
    """
    expect(precision in PRECISIONS, f"a precision out of {PRECISIONS}", precision=precision)
    return _fastest_precision() if precision == "auto" else precision


def keras_policy(precision: str) -> str:
    """Returns the Keras dtype policy: computation in `precision`, variables in float32."""
    expect(precision in PRECISIONS[1:], f"a precision out of {PRECISIONS[1:]}", precision=precision)
    return precision if precision == "float32" else f"mixed_{precision}"


def _fastest_precision() -> str:
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return "bfloat16" if _cpu_flags() & {"avx512_bf16", "amx_bf16"} else "float32"
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    capability = min(detail.get("compute_capability", (0, 0)) for detail in details)
    return "bfloat16" if capability >= (8, 0) else "float16" if capability >= (7, 0) else "float32"


def _cpu_flags() -> set[str]:
    """Returns the CPU's feature flags, or none where the system does not list them (not Linux)."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((set(line.split(":")[1].split()) for line in lines if line.startswith("flags")), set())
