"""Packages: their versions against those that are tested, and where they come from."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import sys
from collections.abc import Iterator

from tools import pins
from tools.checkup.finding import Answer, Finding, NoAnswer, Options, ask, fail, ok, warn
from ucf50_tfrecord import texts

TENSORFLOW_SECS, _IMPORT_SECS = 180.0, 60.0
_PYTHONS = ((3, 11), (3, 13))
# Packages by the name that is imported, without which nothing runs; and those of one side.
_NEEDED = {
    "absl": "absl-py",
    "crc32c": "crc32c",
    "google.protobuf": "protobuf",
    "keras": "keras",
    "numpy": "numpy",
    "PIL": "pillow",
    "tensorboard": "tensorboard",
    "tensorflow": "tensorflow",
    "tqdm": "tqdm",
}
_OPTIONAL = {
    "av": "av",
    "jinja2": "jinja2",
    "matplotlib": "matplotlib",
    "plotext": "plotext",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
}
_PURPOSES = {
    "av": "converting videos",
    "jinja2": "comparing models",
    "plotext": "make inspect",
    "scipy": "comparing models",
}  # else training
_NAMED = ("tensorflow", "keras", "numpy", "av", "protobuf")
IO, IO_PINS = "tensorflow-io", {"tensorflow": "2.17.1", "tensorflow-io": "0.37.1"}  # the extra [io]
# What loads tensorflow-io 0.37.1's file systems.
_IO_TENSORFLOWS = ("2.16.", "2.17.")


def check(options: Options) -> Iterator[Finding]:
    yield _check_python()
    yield from check_versions(tested_versions(), installed_versions())
    yield from _check_origins()
    yield from _check_decoder()
    yield from check_tensorflow(options)
    yield from _check_io()


@functools.cache
def ask_tensorflow(run_dir: str | None) -> Answer | NoAnswer:
    """Returns what probe.tensorflow tells; asks once."""
    try:
        return ask("tools.checkup.probe", "tensorflow", run_dir, timeout_secs=TENSORFLOW_SECS)
    except NoAnswer as error:
        return error


def install_command(extras: str = "convert,train") -> str:
    """Returns the command that brings this environment to the tested versions."""
    # With tensorflow-io the versions are others.
    with_io = installed_versions()[IO] and "io" not in extras.split(",")
    return texts.install_command(f"{extras},io" if with_io else extras)


def _reinstall_command(package: str) -> str:
    """Returns the command for a package whose version is right, and which is broken nevertheless."""
    return f"{install_command()} --reinstall={package}"


def tested_versions() -> dict[str, str]:
    """Returns the versions in constraints.txt, by package."""
    return {name: pin.version for name, pin in pins.read_pins(pins.PINS).items()}


def installed_versions() -> dict[str, str | None]:
    """Returns the versions of the packages that this project wants, or may have; None where one is missing."""
    found: dict[str, str | None] = {}
    for name in (*_NEEDED.values(), *_OPTIONAL.values(), IO):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def check_versions(tested: dict[str, str], installed: dict[str, str | None]) -> Iterator[Finding]:
    """Compares versions by package; None is a package that is missing."""
    if installed.get(IO):
        yield from _check_io_pins(installed)
        return
    missing = [name for name in _NEEDED.values() if not installed[name]]
    if missing:
        yield fail(f"missing: {', '.join(missing)}", command=install_command())
    for name in _OPTIONAL.values():
        if not installed[name]:
            purpose = _PURPOSES.get(name, "training")
            yield warn(f"missing: {name}, which {purpose} wants", command=install_command())
    other = {name: v for name, v in installed.items() if v and name in tested and v != tested[name]}
    if other:
        told = ", ".join(f"{name} {version} (tested: {tested[name]})" for name, version in other.items())
        yield warn(f"other versions than tested: {told}", command=install_command())
    same = [f"{name} {installed[name]}" for name in _NAMED if installed[name] and name not in other]
    if same:
        yield ok(f"as tested: {', '.join(same)}")


def _check_io_pins(installed: dict[str, str | None]) -> Iterator[Finding]:
    other = [f"{name} {installed[name]}" for name, version in IO_PINS.items() if installed[name] != version]
    wanted = " and ".join(f"{name} {version}" for name, version in IO_PINS.items())
    if other:
        yield warn(
            f"{', '.join(other)}: the extra [io] is tested with {wanted}",
            command=install_command("convert,train,io"),
        )
    else:
        yield ok(f"as the extra [io] is tested: {wanted}")


def _check_python() -> Finding:
    text = f"Python {platform.python_version()}"
    if _PYTHONS[0] <= sys.version_info[:2] <= _PYTHONS[1]:
        return ok(f"{text}, {sys.executable}")
    return fail(
        f"{text}: tested are 3.11 to 3.13",
        "remove .venv, and set BASE_PYTHON to such a Python",
        command="rm -r .venv && make doctor BASE_PYTHON=python3.13",
    )


def _check_origins() -> Iterator[Finding]:
    """Finds modules that stand before the installed packages, in PYTHONPATH or in the current folder."""
    for module, package in (_NEEDED | _OPTIONAL).items():
        try:
            spec = importlib.util.find_spec(module)
            home = pathlib.Path(importlib.metadata.distribution(package).locate_file("")).resolve()
        except (ImportError, ValueError):  # PackageNotFoundError is an ImportError: that has its own line
            continue
        origin = pathlib.Path(spec.origin).resolve() if spec and spec.origin else None
        if origin is None or origin.is_relative_to(home):
            continue
        folder = next(
            (path for path in origin.parents if str(path) in map(os.path.realpath, sys.path)), origin
        )
        in_variable = str(folder) in map(os.path.realpath, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        yield fail(
            f"{module} is imported from {origin}, not from the environment",
            "" if in_variable else f"move it away from {folder}",
            command="unset PYTHONPATH" if in_variable else "",
        )


def _check_decoder() -> Iterator[Finding]:
    if importlib.util.find_spec("av") is None:
        return
    try:
        version = ask("tools.checkup.probe", "decoder", timeout_secs=_IMPORT_SECS).value
    except NoAnswer as error:
        yield fail(f"PyAV does not load: {error}", command=_reinstall_command("av"))
    else:
        yield ok(version)


def check_tensorflow(options: Options) -> Iterator[Finding]:
    answer = ask_tensorflow(options.run)
    if isinstance(answer, NoAnswer):
        yield fail(
            f"TensorFlow does not load: {answer}",
            "first what else fails here, such as a variable; then",
            command=_reinstall_command("tensorflow"),
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
            f'"image_data_format": "channels_last" and "floatx": "float32" in {folder}/keras.json',
        )


def _check_io() -> Iterator[Finding]:
    ways = (
        f"the extra [io] (TensorFlow {IO_PINS['tensorflow']}, {IO} {IO_PINS[IO]}) in an environment of its own, or "
        "[remote] (fsspec, s3fs) on any TensorFlow"
    )
    if installed_versions()[IO] is None:
        yield ok(f"{IO} is not installed; only shards on s3:// and the like want it, or the extra [remote]")
        return
    try:
        found = ask("tools.checkup.probe", "tensorflow_io", timeout_secs=TENSORFLOW_SECS).value
    except NoAnswer as error:
        yield fail(f"tensorflow-io does not load: {error}", ways)
        return
    if "s3" in found["schemes"]:
        yield ok(f"tensorflow-io's file systems: {', '.join(sorted(filter(None, found['schemes'])))}")
        return
    fits = found["tensorflow"].startswith(_IO_TENSORFLOWS)
    why = "" if fits else f"; it does on {' and '.join(f'{v}x' for v in _IO_TENSORFLOWS)} only"
    yield warn(f"tensorflow-io's file systems do not load on TensorFlow {found['tensorflow']}{why}", ways)
