"""Temporary files of processes that are killed, and of those that end by themselves."""

import concurrent.futures
import contextlib
import os
import signal
import subprocess
import sys

import pytest

from pipelines import scratch
from tests.conftest import REPOSITORY, run_code
from tests.warm import run_script

# AutoGraph writes a module of what it traces; tempfile is what all other parts use.
TRACING = """
import os, signal, sys, tempfile
from pipelines import console
from ucf50_tfrecord.errors import UserError

def main():
    console.load_tensorflow()
    import tensorflow as tf

    @tf.function
    def traced(x):
        if x > 0:
            return x
        return -x

    traced(tf.constant(1))
    tempfile.mkdtemp()
    tempfile.NamedTemporaryFile(delete=False).write(b"x")
    print(os.listdir(tempfile.gettempdir()), flush=True)
    {ending}

console.run(main)
"""
WAITING = """
import sys
from pipelines import console

def main():
    open(console.tempfile.gettempdir() + "/kept", "w").close()
    print("ready", flush=True)
    sys.stdin.read()

console.run(main)
"""


def trace_in(folder, ending):
    """Runs TRACING, from a file as AutoGraph reads its source, with a folder for temporary files."""
    script = folder.parent / "script.py"
    script.write_text(TRACING.format(ending=ending))
    return run_script(script, env=os.environ | {"TMPDIR": str(folder)})


def wait_in(folder, *, before=""):
    """Runs WAITING to its end, after other code, with a folder for temporary files."""
    return run_code(before + WAITING, env=os.environ | {"TMPDIR": str(folder)}, input="")


@pytest.fixture
def tmp(tmp_path):
    """A folder for temporary files."""
    (tmp_path / "tmp").mkdir()
    return tmp_path / "tmp"


@pytest.mark.parametrize(
    "ending, status",
    [
        ("return 0", 0),
        ("raise UserError('no')", 2),
        ("raise RuntimeError('a mistake of ours')", 1),
        ("os.kill(os.getpid(), signal.SIGTERM)", 130),
    ],
)
def test_a_process_leaves_no_temporary_files(tmp, ending, status):
    done = trace_in(tmp, ending)
    assert done.returncode == status and "__autograph_generated_file" in done.stdout, done.stderr
    assert not list(tmp.iterdir())


def test_what_a_killed_process_left_goes_with_the_next(tmp):
    done = trace_in(tmp, "os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == -signal.SIGKILL
    [folder] = tmp.iterdir()
    assert any(path.name.startswith("__autograph_generated_file") for path in folder.iterdir())
    assert folder.stat().st_mode & 0o777 == 0o700
    assert wait_in(tmp).returncode == 0
    assert not list(tmp.iterdir())


def test_a_process_that_lives_keeps_its_folder(tmp):
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING],
        cwd=REPOSITORY,
        env=os.environ | {"TMPDIR": str(tmp)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    [folder] = tmp.iterdir()
    assert wait_in(tmp).returncode == 0
    assert list(tmp.iterdir()) == [folder] and (folder / "kept").exists()
    process.communicate("")
    assert process.returncode == 0 and not list(tmp.iterdir())


def test_nothing_of_others_is_removed(tmp, tmp_path):
    """Folders of other names, files and links of such a name, folders that others may write in."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (elsewhere / "kept").touch()
    for name in ("ucf50-training", "ucf50-scratch-0123", "ucf50-scratch-0123456789abcdef-mine"):
        (tmp / name).mkdir(mode=0o700)
    (tmp / "ucf50-scratch-00000000000000aa").symlink_to(elsewhere)
    (tmp / "ucf50-scratch-00000000000000bb").touch(mode=0o700)
    (tmp / "ucf50-scratch-00000000000000cc").mkdir(mode=0o755)
    if os.geteuid() == 0:
        (tmp / "ucf50-scratch-00000000000000dd").mkdir(mode=0o700)
        os.chown(tmp / "ucf50-scratch-00000000000000dd", 12345, -1)
    before = sorted(tmp.iterdir())
    (tmp / "ucf50-scratch-00000000000000ee").mkdir(mode=0o700)  # killed before it took the lock
    assert wait_in(tmp).returncode == 0
    assert sorted(tmp.iterdir()) == before and [path.name for path in elsewhere.iterdir()] == ["kept"]


def test_processes_that_start_at_once_take_no_folder_from_each_other(tmp):
    """Making folders races with removing those that nobody has locked yet."""
    num_each = 200

    def make(_):
        with contextlib.ExitStack() as stack:
            made = []
            for _ in range(num_each):
                folder = scratch._make_locked(str(tmp), stack)
                if folder is not None:
                    made.append(folder)
            return [os.path.isfile(os.path.join(folder, ".lock")) for folder in made]

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        makers = [threads.submit(make, index) for index in range(2)]
        while not all(maker.done() for maker in makers):
            scratch._remove_abandoned(str(tmp))
    assert all(all(maker.result()) for maker in makers)
    scratch._remove_abandoned(str(tmp))
    assert not list(tmp.iterdir())


def test_a_folder_that_cannot_be_made_is_a_mistake_to_fix(tmp):
    """tempfile looks for another folder where it cannot write; what fails after that is named."""
    done = wait_in(tmp, before="import tempfile; tempfile.tempdir = '/proc'\n")
    assert done.returncode == 2
    assert done.stderr.startswith("error: Cannot make a temporary folder in /proc (TMPDIR): ")
