"""Checks the installed packages: whether they have the tested versions, are the ones imported, and load."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import sys
from collections.abc import Iterator

from pipelines import remedies
from tools import install, pins
from tools.checkup.finding import Answer, Finding, NoAnswer, Options, ask, fail, ok, warn

_TENSORFLOW_SECS, _IMPORT_SECS = 180.0, 60.0
# Extras whose packages are checked: none ("" for the packages of every command), and those of `make train`.
_EXTRAS = ("", "train", "convert")
_SHOWN = ("tensorflow", "keras", "numpy", "av", "protobuf")


def check(options: Options) -> Iterator[Finding]:
    """Yields findings on the installed packages: their versions, their origins, and whether they load."""
    yield from check_versions(installed_versions())
    yield from _check_origins()
    yield from _check_decoder()
    yield from check_tensorflow(ask_tensorflow(options.run))


@functools.cache
def ask_tensorflow(run_dir: str | None) -> Answer | NoAnswer:
    """Returns the answer of probe.tensorflow, or why there is none. Loads TensorFlow once per run folder."""
    try:
        return ask("tools.checkup.probe", "tensorflow", run_dir, timeout_secs=_TENSORFLOW_SECS)
    except NoAnswer as error:
        return error


def installed_versions() -> dict[str, str]:
    """Returns a dictionary from the normalized name of each installed package to its version."""
    found = importlib.metadata.distributions()
    return {pins.normalize(item.name): item.version for item in found if item.name}


def install_command(extras: str = "convert,train") -> str:
    """Returns the command that installs extras; and `io` if tensorflow-io is installed, as it has other pins."""
    with_io = "tensorflow-io" in installed_versions() and "io" not in extras.split(",")
    return remedies.install_command(f"{extras},io" if with_io else extras)


def check_versions(installed: dict[str, str]) -> Iterator[Finding]:
    """Yields findings on packages that are missing or differ from the pinned (tested) version."""
    extras = ("io",) if "tensorflow-io" in installed else ()
    pinned = {name: pin.version for name, pin in pins.read_pins(pins.pins_file(extras)).items()}
    for extra in _EXTRAS:
        missing = [name for name in _requirements(extra) if name not in installed]
        if missing and extra:
            yield warn(f"missing: {', '.join(missing)}, of the extra {extra}", command=install_command())
        elif missing:
            yield fail(f"missing: {', '.join(missing)}", command=install_command())
    differing = [
        f"{name} {version} (tested: {pinned[name]})"
        for name, version in sorted(installed.items())
        if version != pinned.get(name, version)
    ]
    if differing:
        yield warn(f"versions that are not tested: {', '.join(differing)}", command=install_command())
    tested = [
        f"{name} {installed[name]}" for name in _SHOWN if installed.get(name) == pinned.get(name, "unpinned")
    ]
    if tested:
        yield ok(f"tested versions: Python {platform.python_version()}, {', '.join(tested)}")


def _requirements(extra: str) -> list[str]:
    """Returns the normalized names of an extra's packages in setup.cfg; "" means without extras."""
    lines = install.read_extras()[extra] if extra else install.read_dependencies()
    return [install.package_name(line) for line in lines]


def _check_origins() -> Iterator[Finding]:
    """Yields failures for modules in PYTHONPATH or the current folder that hide installed packages."""
    required = {name for extra in _EXTRAS for name in _requirements(extra)} | {"keras"}
    for module, packages in importlib.metadata.packages_distributions().items():
        package = next((name for name in packages if pins.normalize(name) in required), None)
        if package is None or not module.isidentifier():  # not importable, such as a folder of scripts
            continue
        spec = importlib.util.find_spec(module)
        home = pathlib.Path(str(importlib.metadata.distribution(package).locate_file(""))).resolve()
        origin = pathlib.Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is None or origin.is_relative_to(home):
            continue
        folders = set(map(os.path.realpath, sys.path))
        folder = next((path for path in origin.parents if str(path) in folders), origin)
        in_variable = str(folder) in map(os.path.realpath, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        yield fail(
            f"{module} is imported from {origin}, not from the environment",
            "" if in_variable else f"move it out of {folder}",
            command="unset PYTHONPATH" if in_variable else "",
        )


def _check_decoder() -> Iterator[Finding]:
    """Yields a finding on whether PyAV loads, or nothing if PyAV is not installed."""
    if importlib.util.find_spec("av") is None:
        return
    try:
        yield ok(ask("ucf50_tfrecord.convert.decode", "decoder_version", timeout_secs=_IMPORT_SECS).value)
    except NoAnswer as error:
        yield fail(f"PyAV does not load: {error}", command=f"{install_command()} --reinstall=av")


def check_tensorflow(answer: Answer | NoAnswer) -> Iterator[Finding]:
    """Yields failures if TensorFlow does not load or Keras has other settings than this project needs."""
    if isinstance(answer, NoAnswer):
        yield fail(
            f"TensorFlow does not load: {answer}",
            "fix the other failures first; then",
            command=f"{install_command()} --reinstall=tensorflow",
        )
        return
    found = answer.value
    if found["backend"] != "tensorflow":
        yield fail(
            f"Keras computes with {found['backend']}, not TensorFlow",
            command="export KERAS_BACKEND=tensorflow",
        )
    if found["image_data_format"] != "channels_last" or found["floatx"] != "float32":
        folder = os.environ.get("KERAS_HOME") or "~/.keras"
        yield fail(
            f"Keras is set to {found['image_data_format']} and {found['floatx']}",
            f'set "image_data_format": "channels_last" and "floatx": "float32" in {folder}/keras.json',
        )
