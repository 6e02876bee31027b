"""The command `ucf50 fetch`, in processes of its own that are interrupted and killed."""

import contextlib
import os
import pty
import random
import re
import signal
import ssl
import subprocess
import sys
import termios

import pytest

from tests.conftest import REPOSITORY, is_running, run_module
from tests.fetching import rar
from tests.fetching.helpers import PLACES, VIDEOS, make_zip
from tests.fetching.server import Answer, serving
from tests.waiting import MAX_SECS, wait_for

LARGE = VIDEOS | {"UCF50/Biking/v_Biking_g03_c01.avi": random.Random(0).randbytes(3 << 20)}
QUICK = ("--stall_secs=60", "--num_tries=2", "--wait_secs=0")


@pytest.fixture
def server():
    with serving(make_zip(LARGE)) as running:
        yield running


@pytest.fixture
def output(tmp_path):
    return tmp_path / "sets" / "UCF50"


def arguments(server, output, *more):
    return ["pipelines.fetch", "ucf50", f"--url={server.url}", f"--output={output}", *QUICK, *more]


def fails(text, *command, **options):
    result = run_module(*command, **options)
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    assert re.search(text, result.stderr), result.stderr
    return result


def part_of(output):
    return output.with_name("UCF50-download") / "UCF50.zip.part"


def test_a_set_is_fetched_then_checked(server, output):
    result = run_module(*arguments(server, output))
    assert result.returncode == 0, result.stderr
    assert "must not be" in result.stdout and "https://www.crcv.ucf.edu/data/UCF50.php" in result.stdout
    found = "5 videos in 2 classes"
    assert f"{output}: {found}, 3.2 MB; their sha256: {output}/SHA256SUMS" in result.stdout
    assert f"To train on them: make train VIDEOS={output}" in result.stdout
    assert result.stderr == f"warning: UCF50 has 6681 videos in 50 classes, but this archive had {found}\n"
    result = run_module(*arguments(server, output))
    assert result.returncode == 0 and f"{found}, 3.2 MB; compared with their sha256" in result.stdout
    assert len(server.ranges) == 1


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_download_that_is_ended_resumes_with_the_same_command(server, output, signum):
    server.answers = [Answer(after=1 << 20, stalls=True)]
    command = [sys.executable, "-m", *arguments(server, output)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: part_of(output).exists() and part_of(output).stat().st_size == 1 << 20, process=process)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=MAX_SECS)
    if signum == signal.SIGKILL:
        assert process.returncode == -signum
    else:
        assert process.returncode == 130 and errors == "interrupted\n"
    assert not output.exists()
    result = run_module(*arguments(server, output))
    assert result.returncode == 0 and "1.0 MB of them already here" in result.stdout
    assert server.ranges == ["", f"bytes={1 << 20}-"]
    large = "v_Biking_g03_c01.avi"
    assert (output / "Biking" / large).read_bytes() == LARGE[f"UCF50/Biking/{large}"]
    assert [path.name for path in output.parent.iterdir()] == ["UCF50"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_unpacking_that_is_ended_leaves_no_half_a_set(tmp_path, output, signum):
    archive = tmp_path / "set.rar"
    archive.write_bytes(rar.write_rar4(VIDEOS | {"a.txt": b""}, methods={"a.txt": rar.COMPRESSED}))
    (tmp_path / "first").write_bytes(next(iter(VIDEOS.values())))
    program = tmp_path / "bin" / "unrar"  # it writes the first video, notes its process, and hangs
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\n[ "$2" = "-?" ] && exit 0\n[ -e {tmp_path}/go ] && exec cat {tmp_path}/all\n'
        f'exec {sys.executable} -c \'import sys, time; data = open("{tmp_path}/first", "rb").read();'
        " sys.stdout.buffer.write(data * 30); sys.stdout.flush(); time.sleep(600)'\n"
    )
    program.chmod(0o755)
    env = os.environ | {"PATH": f"{program.parent}:/bin"}
    command = ["pipelines.fetch", "ucf50", f"--archive={archive}", f"--output={output}"]
    unpacked = output.with_name("UCF50-download") / "unpacked"
    process = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=REPOSITORY, env=env, stderr=subprocess.PIPE
    )
    wait_for(lambda: unpacked.is_dir() and any(unpacked.rglob("*.avi")), process=process)
    process.send_signal(signum)
    process.communicate(timeout=MAX_SECS)
    assert not output.exists() and unpacked.exists() == (signum == signal.SIGKILL)
    (tmp_path / "all").write_bytes(b"".join(VIDEOS.values()))
    (tmp_path / "go").touch()
    result = run_module(*command, env=env)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in output.rglob("*.avi")} == {name.rpartition("/")[2] for name in PLACES}
    assert [path.name for path in output.parent.iterdir()] == ["UCF50"]


def test_a_certificate_is_verified_and_one_may_be_trusted_besides(certificate, output):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(f"{certificate}.crt", certificate)
    with serving(make_zip(VIDEOS), tls=tls) as server:
        text = r"certificate cannot be verified \(self.signed certificate\). Nothing was downloaded.*--ca_file=….*--archive=…"
        fails(text, *arguments(server, output))
        assert not server.ranges
        result = run_module(*arguments(server, output, f"--ca_file={certificate}.crt"))
        assert result.returncode == 0, result.stderr
        server.url = server.url.replace("localhost", "127.0.0.1")  # not the certificate's name
        fails(
            "IP address mismatch",
            *arguments(server, output.with_name("other"), f"--ca_file={certificate}.crt"),
        )
    fails(
        "Cannot read certificates from",
        *arguments(server, output.with_name("other"), f"--ca_file={certificate}"),
    )


def test_errors_of_the_user_are_one_line(server, output, tmp_path):
    fails(
        r"^error: Expected a video set out of \('ucf50', 'ucf101', 'hmdb51'\). Received: 'ucf5'$",
        *("pipelines.fetch", "ucf5"),
    )
    fails(r"^error: Expected flags and 1 argument: the set \(ucf50, ucf101, hmdb51\)", "pipelines.fetch")
    fails("^error: Expected the file of an archive", *arguments(server, output, f"--archive={tmp_path}/gone"))
    fails(
        "^error: Expected a URL|^error: Expected a url|begins with https",
        "pipelines.fetch",
        "ucf50",
        "--url=http://x/y",
    )
    fails("^error: Expected num_tries from 1", *arguments(server, output, "--num_tries=0"))
    fails(
        r"^error: Expected http\S+ to have 7 bytes.*accept its size: --archive_bytes=0",
        *arguments(server, output, "--archive_bytes=7"),
    )
    server.answers = [Answer(kind="text/html")]
    fails("^error: Cannot download .*: the server sent a web page", *arguments(server, output))
    assert not output.exists()


def test_new_tries_are_told(server, output):
    server.answers = [Answer(after=1 << 20), Answer(ignores_range=True)]
    result = run_module(*arguments(server, output))
    assert result.returncode == 0
    first, second, _ = result.stderr.splitlines()
    assert re.fullmatch(
        r"the download stopped: the connection ended after 1048576 of \d+ bytes; next try in 0 s", first
    )
    assert second == "the download begins again: the server sent the file from its first byte"


def test_a_terminal_shows_bars(server, output):
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 100))
    command = [sys.executable, "-m", *arguments(server, output)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=end)
    os.close(end)
    written = b""
    with contextlib.suppress(OSError):  # how a terminal ends that no process has open
        while chunk := os.read(terminal, 1 << 16):
            written += chunk
    os.close(terminal)
    assert process.wait(MAX_SECS) == 0
    shown = written.decode()
    assert re.search(r"downloading: [\d.]+[kM]?/3\.\d+M \|", shown) and "unpacking: " in shown


def test_a_fetched_set_is_converted_without_a_warning(videos_dir, tmp_path, output):
    files = {f"set/{path.relative_to(videos_dir)}": path.read_bytes() for path in videos_dir.rglob("*.avi")}
    (tmp_path / "set.zip").write_bytes(make_zip(files))
    result = run_module("pipelines.fetch", "ucf50", f"--archive={tmp_path / 'set.zip'}", f"--output={output}")
    assert result.returncode == 0 and "30 videos in 3 classes" in result.stdout
    data = tmp_path / "data"
    result = run_module(
        "pipelines.convert", f"--videos={output}", f"--data={data}", "--size=16", "--frames=3", "--workers=1"
    )
    assert result.returncode == 0 and "(30 videos, 30 clips, 0 quarantined, 3 classes" in result.stdout
    assert result.stderr == ""


def test_a_process_that_ends_leaves_no_unpacker(tmp_path, output):
    archive = tmp_path / "set.rar"
    archive.write_bytes(rar.write_rar4(VIDEOS | {"a.txt": b""}, methods={"a.txt": rar.COMPRESSED}))
    (tmp_path / "unrar").write_text('#!/bin/sh\n[ "$2" = "-?" ] && exit 0\nexec sleep 600\n')
    (tmp_path / "unrar").chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:/bin"}
    command = [sys.executable, "-m", "pipelines.fetch", "ucf50", f"--archive={archive}", f"--output={output}"]
    process = subprocess.Popen(command, cwd=REPOSITORY, env=env)
    children = f"/proc/{process.pid}/task/{process.pid}/children"

    def unpacker():
        pids = [int(pid) for pid in open(children).read().split()]
        return next(
            (pid for pid in pids if b"sleep\x00600" in open(f"/proc/{pid}/cmdline", "rb").read()), None
        )

    pid = wait_for(unpacker, process=process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(MAX_SECS) == 130 and not is_running(pid)
