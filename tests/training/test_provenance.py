import json
import os
import platform
import shutil
import subprocess

import pytest
import tensorflow as tf

import ucf50_tfrecord
from ucf50_tfrecord.training import provenance

VERSION = {"version": ucf50_tfrecord.__version__}


@pytest.fixture
def package(tmp_path):
    """A package in a git work tree of its own."""
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    folder = tmp_path / "project" / "package"
    folder.mkdir(parents=True)
    folder.joinpath("__init__.py").touch()
    folder.joinpath(".gitignore").write_text("data/\n")
    git(folder.parent, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=first")
    return folder


def git(folder, *arguments):
    options = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", str(folder), *options, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_environment_is_plain_data():
    found = provenance.environment()
    assert set(found) == {"versions", "devices", "code"}
    assert json.loads(json.dumps(found)) == found
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["tensorflow"] == tf.__version__
    assert {"keras", "numpy", "tensorboard"} <= set(found["versions"])
    assert found["devices"]["cpu cores"] >= 1 and found["devices"]["cpu"]
    assert found["code"]["version"] == ucf50_tfrecord.__version__


def test_a_gpu_is_named_with_its_libraries(monkeypatch):
    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    details = {"device_name": "NVIDIA H100", "compute_capability": (9, 0)}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [gpu])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details)
    monkeypatch.setattr(
        tf.sysconfig, "get_build_info", lambda: {"cuda_version": "12.5.1", "cudnn_version": "9"}
    )
    assert provenance.devices()["gpu 0"] == "NVIDIA H100, compute capability 9.0"
    assert provenance.versions()["cuda (built for)"] == "12.5.1"
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: {})
    assert provenance.devices()["gpu 0"] == gpu.name


def test_a_work_tree_is_named_by_its_commit(package, monkeypatch):
    clean = VERSION | {"commit": git(package, "rev-parse", "HEAD"), "dirty": False, "changed_files": 0}
    assert provenance.code_state(package) == clean
    package.joinpath("data").mkdir()
    package.joinpath("data", "ignored").touch()
    assert provenance.code_state(package) == clean
    package.joinpath("__init__.py").write_text("changed")
    package.parent.joinpath("new.py").touch()  # beside the package
    assert provenance.code_state(package) == clean | {"dirty": True, "changed_files": 2}
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as within a hook
    assert provenance.code_state(package)["commit"] == clean["commit"]


def test_an_installed_package_is_named_by_its_version(package, tmp_path):
    assert provenance.code_state(tmp_path) == VERSION
    installed = package / "data" / "site-packages"  # in a work tree that does not track it
    installed.mkdir(parents=True)
    installed.joinpath("__init__.py").touch()
    assert provenance.code_state(installed) == VERSION


def test_git_may_be_absent_or_hang(package, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "_GIT_SECS", 0.2)
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    assert provenance.code_state(package) == VERSION
    programs.joinpath("git").write_text(f"#!/bin/sh\nexec {shutil.which('sleep', path=os.defpath)} 60\n")
    programs.joinpath("git").chmod(0o755)
    assert provenance.code_state(package) == VERSION
