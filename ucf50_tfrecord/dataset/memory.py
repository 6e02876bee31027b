"""How much memory is free: this host's, within what its control group allows, and its GPUs'."""

from __future__ import annotations

import pathlib

import tensorflow as tf
from tensorflow.python.client import device_lib  # the only way to ask TensorFlow for a GPU's memory

_CGROUPS = pathlib.Path("/sys/fs/cgroup")


def available_host_bytes() -> int:
    """Returns what this process can still use without swapping.

    That is MemAvailable of Linux's /proc/meminfo, or less where a control group (a container, a
    batch system's job) sets a limit. Elsewhere than on Linux it is 0: unknown.
    """
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    fields = dict(line.split(":") for line in lines)
    return min([1024 * int(fields["MemAvailable"].split()[0]), *_cgroup_rooms()])


def available_device_bytes() -> int | None:
    """Returns the free memory of the GPU that has the least, or None without GPUs.

    It is what was free when TensorFlow first looked, less what this process has taken since.
    """
    limits = [
        device.memory_limit for device in device_lib.list_local_devices() if device.device_type == "GPU"
    ]
    gpus = tf.config.list_logical_devices("GPU")
    if not gpus:
        return None
    used = [tf.config.experimental.get_memory_info(gpu.name)["current"] for gpu in gpus]
    return min(limit - taken for limit, taken in zip(limits, used, strict=True))


def _cgroup_rooms() -> list[int]:
    """Returns what each limiting control group (version 2) around this process still allows, in bytes."""
    try:
        entries = pathlib.Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    own = next((entry[len("0::/") :] for entry in entries if entry.startswith("0::/")), None)
    if own is None:
        return []
    group = _CGROUPS / own
    return [room for folder in (group, *group.parents) if (room := _cgroup_room(folder)) is not None]


def _cgroup_room(folder: pathlib.Path) -> int | None:
    """Returns a control group's limit less its use, or None where it has no limit."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return None  # not a control group, or the root, which has no limit
    # File pages that nobody has used lately are given up when memory is short.
    return None if limit == "max" else int(limit) - used + int(stat["inactive_file"])
