import hashlib
import json
import os
import re
import sys
import zipfile

import pytest

from pipelines import remedies
from tests.conftest import REPOSITORY, run_code, run_module
from tools import audit_pins, install, pins

# Packages that the Makefile and the tools install by name.
ALONE = ["pip", "uv", "tf-models-official", "mediapipe"]


def names_of(*extras):
    table = install.read_extras()
    lines = install.read_dependencies() + [line for name in extras for line in table[name]]
    return {install.package_name(line) for line in lines}


@pytest.mark.parametrize("path", [pins.PINS, pins.IO_PINS], ids=lambda path: path.name)
def test_every_pin_is_an_exact_version_with_hashes(path):
    table = pins.read_pins(path)
    assert len(table) > 100
    for name, pin in table.items():
        assert pin.hashes and re.fullmatch(r"\d+(\.\d+)*(\.post\d+)?", pin.version), name


@pytest.mark.parametrize("path", [pins.PINS, pins.IO_PINS], ids=lambda path: path.name)
def test_pins_name_no_package_index(path):
    text = path.read_text()
    assert not re.search(r"index-url|find-links|trusted-host|://| @ ", text)
    assert list(pins.read_pins(path)) == sorted(pins.read_pins(path))


def test_every_dependency_has_a_pin():
    extras = set(install.read_extras()) - {"io"}
    assert names_of(*extras) | {*install.build_requirements(), *ALONE} <= set(pins.read_pins(pins.PINS))
    with_io = names_of("convert", "train", "io", "stores")
    assert with_io | {"pip", *install.build_requirements()} <= set(pins.read_pins(pins.IO_PINS))


def test_the_project_is_built_with_the_pinned_version():
    text = (REPOSITORY / "pyproject.toml").read_text()
    for path in (pins.PINS, pins.IO_PINS):
        assert f'requires = ["setuptools=={pins.read_pins(path)["setuptools"].version}"]' in text


@pytest.mark.parametrize(
    "line", ["tqdm", "tqdm>=4", "tqdm==4.70.1 --hash=md5:00", "https://host/tqdm.whl", "-r x"]
)
def test_a_pin_without_an_exact_version_is_an_error(line, tmp_path):
    path = tmp_path / "pins.txt"
    path.write_text(f"# A comment\nnumpy==1.0 \\\n    --hash=sha256:{'0' * 64}\n")
    assert pins.read_pins(path) == {"numpy": pins.Pin("1.0", (f"--hash=sha256:{'0' * 64}",))}
    path.write_text(path.read_text() + line)
    with pytest.raises(ValueError, match=f"pins.txt: expected name==version with hashes. Found: '{line}"):
        pins.read_pins(path)


def test_everything_but_the_project_is_installed_with_hashes(monkeypatch):
    calls = []
    monkeypatch.setattr(install, "_pip", lambda *arguments: calls.append(arguments))
    install.install(["convert", "stores"])
    first, dependencies, project = calls
    assert first[:3] == ("--no-deps", "--require-hashes", "--requirement")
    assert dependencies[:4] == ("--require-hashes", "--constraint", str(pins.PINS), "--no-build-isolation")
    assert {"numpy", "av", "moto[server]"} <= set(dependencies) and "tensorflow" not in dependencies
    assert project == ("--quiet", "--no-deps", "--no-build-isolation", "--editable", str(REPOSITORY))
    calls.clear()
    install.install(["io"])
    assert str(pins.IO_PINS) in calls[1] and "tensorflow==2.17.1" in calls[1]


def test_the_makefile_installs_nothing_without_hashes():
    recipes = (REPOSITORY / "Makefile").read_text().replace("\\\n", "")
    for line in re.findall(r".*\bpip install\b.*", recipes):
        assert "--require-hashes" in line and "--constraint constraints.txt" in line


def write_wheel(path):
    """Writes a minimal wheel."""
    name, version = path.name.split("-")[:2]
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def test_a_file_with_another_hash_is_not_installed(tmp_path):
    wheel, path, target = (tmp_path / name for name in ("sample-1.0-py3-none-any.whl", "pins.txt", "target"))
    write_wheel(wheel)
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    code = (
        "import pathlib, sys; from tools import install; "
        "install.install_alone(['sample'], pathlib.Path(sys.argv[1]), '--target', sys.argv[2])"
    )
    env = os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    path.write_text(f"sample==1.0 --hash=sha256:{'0' * 64}\n")
    refused = run_code(code, path, target, env=env)
    assert refused.returncode == 1 and "DO NOT MATCH THE HASHES" in refused.stderr and not target.exists()
    path.write_text(f"sample==1.0 \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{sha256}\n")
    assert run_code(code, path, target, env=env).returncode == 0
    assert (target / "sample.py").exists()


def test_an_unknown_extra_is_reported_in_one_line():
    unknown = run_module("tools.install", "convert,nope")
    assert unknown.returncode == 2 and "there is no extra 'nope'; extras are: convert, beam" in unknown.stderr


def test_the_command_for_an_extra_runs_from_the_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "executable", str(REPOSITORY / ".venv" / "bin" / "python"))
    assert remedies.install_command("convert,train") == ".venv/bin/python -m tools.install convert,train"
    monkeypatch.setattr(sys, "executable", "/a folder/python")
    assert remedies.install_command("io") == "'/a folder/python' -m tools.install io"


def advisories(*packages):
    return json.dumps({"dependencies": packages, "fixes": []})


SOUND = {"name": "tqdm", "version": "4.70.1", "vulns": []}
UNKNOWN = {"name": "av", "skip_reason": "Dependency not found on PyPI and could not be audited: av (18.1.0)"}
VULNERABILITY = {"id": "PYSEC-1", "fix_versions": ["9"], "aliases": ["CVE-2026-1"], "description": "d"}
VULNERABLE = {"name": "numpy", "version": "2.4.6", "vulns": [VULNERABILITY]}
UNREACHABLE = (
    "Traceback (most recent call last):\nrequests.exceptions.ConnectionError: HTTPSConnectionPool(…)\n"
)


@pytest.mark.parametrize(
    "stdout, stderr, status, line",
    [
        (
            advisories(SOUND),
            "No known vulnerabilities found",
            0,
            "p.txt: 0 known vulnerabilities in 1 packages",
        ),
        (advisories(SOUND, VULNERABLE), "", 1, "numpy 2.4.6: PYSEC-1, CVE-2026-1; fixed in 9"),
        (
            advisories(SOUND, UNKNOWN),
            "",
            3,
            "error: the advisory database does not know 1 packages of p.txt: av",
        ),
        (
            "",
            UNREACHABLE,
            3,
            "error: the advisory database (OSV) cannot be reached from here, so p.txt was not audited",
        ),
        (
            "",
            "ERROR: no such file\n",
            3,
            "error: pip-audit failed (ERROR: no such file), so p.txt was not audited",
        ),
        ("", "", 3, "error: pip-audit failed (no output), so p.txt was not audited"),
    ],
    ids=["sound", "vulnerable", "unknown", "unreachable", "failed", "silent"],
)
def test_a_failed_audit_is_neither_success_nor_a_finding(stdout, stderr, status, line):
    outcome = audit_pins.read_outcome("p.txt", stdout, stderr)
    assert outcome.status == status and outcome.lines[0] == line
