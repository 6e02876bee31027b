"""The console script `ucf50`, as an installation of the wheel provides it."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from pipelines.main import COMMANDS
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, built and installed without its dependencies, which come from the tests' environment."""
    folder = tmp_path_factory.mktemp("install")
    source = folder / "source"
    for name in ("ucf50_tfrecord", "pipelines"):
        shutil.copytree(
            REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    target = folder / "target"
    subprocess.run([*pip, "install", *options, f"--target={target}", str(source)], check=True)
    return target


def ucf50(target: pathlib.Path, *arguments, cwd: pathlib.Path) -> subprocess.CompletedProcess:
    """Runs the installed command outside of the repository."""
    return subprocess.run(
        [sys.executable, str(target / "bin" / "ucf50"), *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(target)},
        text=True,
        capture_output=True,
        timeout=250,
    )


def test_help_lists_the_commands(installed, tmp_path):
    for arguments in ([], ["--help"]):
        result = ucf50(installed, *arguments, cwd=tmp_path)
        assert result.returncode == 0 and not result.stderr
        assert max(map(len, result.stdout.splitlines())) <= 80
        for command in COMMANDS:
            assert f"\n  {command} " in result.stdout
    result = ucf50(installed, "tarin", cwd=tmp_path)
    assert result.returncode == 2 and result.stderr.startswith("error: Expected a command out of fetch, ")


def test_a_command_has_its_own_help_and_flags(installed, tmp_path):
    result = ucf50(installed, "evaluate", "--helpshort", cwd=tmp_path)
    assert "Evaluates a finished run again" in result.stdout and "--folds" in result.stdout
    result = ucf50(installed, "launch", "--help", cwd=tmp_path)
    assert result.stdout.startswith("usage: ucf50 launch ")


def test_commands_convert_verify_and_train_by_a_recipe(installed, videos_dir, tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    flags = (f"--videos={videos_dir}", "--size=16", "--frames=3")
    result = ucf50(installed, "convert", *flags, f"--data={data}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    result = ucf50(installed, "verify", f"--data={data}", cwd=tmp_path)
    assert result.returncode == 0 and "is sound" in result.stdout
    result = ucf50(
        installed, "train", f"--data={data}", "--recipe=seed_pool", "--epochs=1", f"--run={run}", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert (run / "summary.json").exists()
    result = ucf50(installed, "train", f"--data={data}", "--epoch=1", cwd=tmp_path)
    assert result.returncode == 1 and "Unknown command line flag 'epoch'" in result.stderr
    assert "Traceback" not in result.stderr
