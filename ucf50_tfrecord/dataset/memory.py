"""Measures the free memory of this host, within the limits of control groups, and of its GPUs."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

# Largest fraction of the free memory that kept clips may take; training a model needs the rest.
AUTO_FRACTION = 0.5
_CGROUPS = pathlib.Path("/sys/fs/cgroup")
# Version 1 of control groups writes a huge number where there is no limit.
_NO_LIMIT = 1 << 60


def available_host_bytes() -> int | None:
    """Returns the bytes of host memory that this process can still use without swapping, or None if unknown.

    The number is MemAvailable of Linux's /proc/meminfo, or less if a control group (of a container or of a
    job in a batch system) limits this process.
    """
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None  # not Linux
    fields = dict(line.split(":") for line in lines)
    return max(0, min([1024 * int(fields["MemAvailable"].split()[0]), *_cgroups_free()]))


def available_device_bytes() -> int | None:
    """Returns the free bytes of the GPU with the least free memory; None without GPUs. Loads TensorFlow."""
    import tensorflow as tf
    from tensorflow.python.client import device_lib  # the only way to ask TensorFlow for a GPU's memory

    if not tf.config.list_logical_devices("GPU"):
        return None
    devices = device_lib.list_local_devices()
    return min(device.memory_limit for device in devices if device.device_type == "GPU")


def cgroup_folders(controller: str) -> Iterator[pathlib.Path]:
    """Yields the folders of this process's control groups and their parents, innermost first.

    Args:
      controller: the kind of resource that the groups limit, such as "memory" or "cpu".
    """
    try:
        entries = pathlib.Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for entry in entries:
        _, controllers, path = entry.split(":", 2)
        if controllers and controller not in controllers.split(","):  # version 2 names no controllers
            continue
        root = _CGROUPS / controllers
        group = root / path.lstrip("/")
        yield from [group, *(parent for parent in group.parents if parent.is_relative_to(root))]


def _cgroups_free() -> list[int]:
    """Returns the bytes that this process may still use under each control group that has a limit."""
    folders = cgroup_folders("memory")
    return [free for folder in folders if (free := _cgroup_free(folder)) is not None]


def _cgroup_free(folder: pathlib.Path) -> int | None:
    """Returns a control group's memory limit minus the memory in use, or None if the group has no limit."""
    for limit_file, use_file, inactive in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            limit = (folder / limit_file).read_text().strip()
            used = int((folder / use_file).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except OSError:
            continue  # the files are of the other version, or the group is the root, which has no limit
        if limit != "max" and int(limit) < _NO_LIMIT:
            # The kernel frees file pages that were not used lately when memory is short.
            return int(limit) - used + int(stat[inactive])
    return None
