"""Installs this project and extras of it, each file checked against its hash.

  python -m tools.install convert,train

The extras are those of setup.cfg, the versions and hashes those of
constraints.txt; with the extra io, those of constraints-io.txt. A file with
another hash, or a package without a pin, ends the installation. pip and
setuptools are brought to the pinned versions first.
"""

# Runs in an empty environment, so it imports the standard library alone.
from __future__ import annotations

import argparse
import configparser
import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence

from tools.pins import REPOSITORY, normalize, pins_file, read_pins

_PIP = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extras", help="names of extras, with commas")
    parser.add_argument("--reinstall", metavar="PACKAGE", help="a package to install again, as it is broken")
    arguments = parser.parse_args()
    extras = arguments.extras.split(",")
    known = read_extras()
    unknown = [name for name in extras if name not in known]
    if unknown:
        parser.error(f"there is no extra {', '.join(map(repr, unknown))}; extras are: {', '.join(known)}")
    try:
        install(extras)
        if arguments.reinstall:
            install_alone([normalize(arguments.reinstall)], pins_file(extras), "--force-reinstall")
    except ValueError as error:
        sys.exit(f"error: {error}")


def install(extras: Sequence[str]) -> None:
    """Installs the dependencies of the project and of extras, then the project itself.

    pip wants a hash of everything as soon as it is told one, and a folder has none: so the project comes
    by itself. It is built with the pinned setuptools, and so is a package that has no wheel: pip does not
    check what it downloads for a build in isolation.

    Raises:
      ValueError: if a line of the pins is malformed, or one that is needed first is missing.
    """
    pins = pins_file(extras)
    install_alone(["pip", *build_requirements()], pins)
    table = read_extras()
    dependencies = dict.fromkeys(read_dependencies() + [line for name in extras for line in table[name]])
    _pip("--require-hashes", "--constraint", str(pins), "--no-build-isolation", *dependencies)
    # Errors alone: setuptools warns of every editable installation.
    _pip("--quiet", "--no-deps", "--no-build-isolation", "--editable", str(REPOSITORY))


def install_alone(names: Sequence[str], path: pathlib.Path, *options: str) -> None:
    """Installs the pinned versions of packages, without what these depend on; options are pip's.

    Not every pip takes hashes from constraints; all take them from requirements.

    Raises:
      ValueError: if one has no pin.
    """
    pins = read_pins(path)
    missing = [name for name in names if name not in pins]
    if missing:
        raise ValueError(f"{path}: expected a pin of {', '.join(missing)}. Found none")
    with tempfile.TemporaryDirectory() as folder:
        requirements = pathlib.Path(folder) / "requirements.txt"
        lines = [" ".join([f"{name}=={pins[name].version}", *pins[name].hashes]) for name in names]
        requirements.write_text("\n".join(lines), encoding="utf-8")
        _pip(*options, "--no-deps", "--require-hashes", "--requirement", str(requirements))


def build_requirements() -> list[str]:
    """Returns the names of the packages that build the project."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    return [package_name(line) for line in project["build-system"]["requires"]]


def read_dependencies() -> list[str]:
    """Returns the project's own dependencies, as setup.cfg has them."""
    return _setup()["options"]["install_requires"].split("\n")[1:]


def read_extras() -> dict[str, list[str]]:
    """Returns the dependencies of each extra, as setup.cfg has them."""
    return {name: lines.split("\n")[1:] for name, lines in _setup()["options.extras_require"].items()}


def package_name(requirement: str) -> str:
    """Returns the normalized name of the package that a requirement names: of "moto[server]>=5" moto."""
    return normalize(re.match(r"[\w.-]+", requirement)[0])


def _setup() -> configparser.ConfigParser:
    setup = configparser.ConfigParser(interpolation=None)
    setup.read_string((REPOSITORY / "setup.cfg").read_text(encoding="utf-8"))
    return setup


def _pip(*arguments: str) -> None:
    """Runs pip install; ends this process with its status if it fails, which it explains itself."""
    status = subprocess.run([*_PIP, *arguments]).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
