"""Installs this project with extras, and checks the hash of each file.

  python -m tools.install convert,train

The arguments are names of extras in setup.cfg. Versions and hashes come from
constraints.txt, or from constraints-io.txt if io is one of the extras. The
installation fails if a file has another hash or a package has no pin. pip and
the build requirements, such as setuptools, are installed in their pinned
versions first.
"""

# Runs in an empty environment, so it imports only the standard library and modules that do the same.
from __future__ import annotations

import configparser
import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence

from pipelines import terminal
from tools.pins import REPOSITORY, normalize, pins_file, read_pins

_PIP = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")


def main() -> None:
    parser = terminal.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extras", help="names of extras, separated by commas")
    parser.add_argument("--reinstall", metavar="PACKAGE", help="a broken package to install again")
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
    """Installs the dependencies of the project and of the given extras, then the project itself.

    The project is installed by a separate call of pip. A call that requires hashes would require one for the
    project's folder, too, and a folder has no hash. The project and the packages without a wheel are built with the
    pinned setuptools, since pip does not check the downloads of an isolated build.

    Raises:
      ValueError: if the constraints file is malformed or lacks a pin.
    """
    pins = pins_file(extras)
    install_alone(["pip", *build_requirements()], pins)
    table = read_extras()
    dependencies = dict.fromkeys(read_dependencies() + [line for name in extras for line in table[name]])
    _pip("--require-hashes", "--constraint", str(pins), "--no-build-isolation", *dependencies)
    # With _PIP's, the second --quiet: setuptools warns of every editable installation.
    _pip("--quiet", "--no-deps", "--no-build-isolation", "--editable", str(REPOSITORY))


def install_alone(names: Sequence[str], path: pathlib.Path, *options: str) -> None:
    """Installs packages, by their normalized names, as the constraints file `path` pins them.

    Their dependencies are not installed. The hashes are passed to pip in a requirements file, since older
    versions of pip take none from constraints.

    Raises:
      ValueError: if a package has no pin.
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
    """Returns the normalized names of the packages that build the project, from pyproject.toml."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    return [package_name(line) for line in project["build-system"]["requires"]]


def read_dependencies() -> list[str]:
    """Returns the project's dependencies without extras, as requirement lines of setup.cfg."""
    return _setup()["options"]["install_requires"].split("\n")[1:]


def read_extras() -> dict[str, list[str]]:
    """Returns a dictionary from the name of each extra to its requirement lines in setup.cfg."""
    return {name: lines.split("\n")[1:] for name, lines in _setup()["options.extras_require"].items()}


def package_name(requirement: str) -> str:
    """Returns the normalized name of the package in a requirement line: moto for "moto[server]>=5"."""
    return normalize(re.match(r"[\w.-]+", requirement)[0])


def _setup() -> configparser.ConfigParser:
    setup = configparser.ConfigParser(interpolation=None)
    setup.read_string((REPOSITORY / "setup.cfg").read_text(encoding="utf-8"))
    return setup


def _pip(*arguments: str) -> None:
    """Runs `pip install` with arguments. If it fails, exits with pip's status; pip prints the reason."""
    status = subprocess.run([*_PIP, *arguments]).returncode
    if status:
        sys.exit(status)


if __name__ == "__main__":
    main()
