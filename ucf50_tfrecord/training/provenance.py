"""Describes the environment of a run, as plain dictionaries: versions, devices and the state of the code."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import tensorflow as tf

import ucf50_tfrecord

_PACKAGES = ("keras", "numpy", "tensorboard", "av")
_PACKAGE_DIR = pathlib.Path(ucf50_tfrecord.__file__).parent
_DRIVER_FILE = pathlib.Path("/proc/driver/nvidia/version")
_CPU_FILE = pathlib.Path("/proc/cpuinfo")
_GIT_SECS = 5.0


def environment() -> dict[str, dict[str, Any]]:
    """Returns the tables "versions", "devices" and "code", which describe a run's environment, ready for JSON.

    Asks git about the code. Git usually answers within 10 ms; this function waits at most 15 s.
    """
    return {"versions": versions(), "devices": devices(), "code": code_state()}


def versions() -> dict[str, str]:
    """Returns the versions of Python and the main packages, by name; with a GPU, also of CUDA and cuDNN."""
    found = {"python": platform.python_version(), "tensorflow": tf.__version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # packages for conversion are optional
            continue
    if tf.config.list_physical_devices("GPU"):
        build = tf.sysconfig.get_build_info()
        for name in ("cuda", "cudnn"):
            if f"{name}_version" in build:
                found[f"{name} (built for)"] = str(build[f"{name}_version"])
    return found


def devices() -> dict[str, str | int]:
    """Returns a table of the processor, the cores that this process may use, the GPUs, and their driver."""
    found: dict[str, str | int] = {"platform": platform.platform(), "cpu": _cpu_name()}
    found["cpu cores"] = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    for number, gpu in enumerate(tf.config.list_physical_devices("GPU")):
        details = tf.config.experimental.get_device_details(gpu)
        capability = ".".join(map(str, details.get("compute_capability", ())))
        name = details.get("device_name", gpu.name)
        found[f"gpu {number}"] = f"{name}, compute capability {capability}" if capability else name
    if _DRIVER_FILE.exists():
        found["nvidia driver"] = _DRIVER_FILE.read_text().partition("\n")[0].removeprefix("NVRM version: ")
    return found


def code_state(package_dir: pathlib.Path = _PACKAGE_DIR) -> dict[str, str | int | bool]:
    """Returns the package's version and, if git tracks the package's files, the state of their work tree.

    Returns:
      A dictionary with these keys. The last three are absent if the package is installed outside a work tree
      that tracks it, or if git is missing, fails or does not answer in time.
        version: the package's version.
        commit: the hash of git's HEAD.
        dirty: whether any file differs from that commit or is new; ignored files do not count.
        changed_files: the number of such files.
    """
    state: dict[str, str | int | bool] = {"version": ucf50_tfrecord.__version__}
    # An installed package may lie in another project's work tree, which does not track it.
    tracked = _git(package_dir, "ls-files", "--error-unmatch", "__init__.py")
    commit = _git(package_dir, "rev-parse", "HEAD") if tracked else None
    changes = _git(package_dir, "status", "--porcelain", ":/") if commit else None
    if commit and changes is not None:
        state |= {
            "commit": commit.strip(),
            "dirty": bool(changes),
            "changed_files": len(changes.splitlines()),
        }
    return state


def _git(folder: pathlib.Path, *arguments: str) -> str | None:
    """Returns the output of a git command in `folder`, or None if the command fails or takes too long."""
    # Variables that a git hook sets would point at another work tree. Without optional locks, reading neither
    # waits for the lock of git's index nor takes it.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_GIT_SECS,
            env=variables | {"GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.decode("utf-8", "backslashreplace") if result.returncode == 0 else None


def _cpu_name() -> str:
    if _CPU_FILE.exists():
        for line in _CPU_FILE.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
