import contextlib
import errno
import json
import os
import pty
import random
import re
import shlex
import shutil
import subprocess
import sys
import termios

from tests.conftest import REPOSITORY, flip_bit, run_module
from ucf50_tfrecord import manifest, tfrecord


def problems(folder):
    loaded = manifest.load(str(folder))
    return [problem for shard in loaded.shards for problem in manifest.verify_shard(loaded, shard)]


def test_a_sound_dataset(data_dir):
    result = run_module("pipelines.verify", f"--data={data_dir}")
    assert result.returncode == 0 and "is sound: 10 shards, 30 clips" in result.stdout


def test_a_damaged_record_is_named_with_its_clip(copy):
    loaded = manifest.load(str(copy))
    path = copy / loaded.shards[4].filename
    report = manifest.load_report(str(copy), path.name)
    flip_bit(path, report.offsets[1] + 100)
    result = run_module("pipelines.verify", f"--data={copy}", "--workers=2")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    expected = (
        f"{path.name}: the record at byte {report.offsets[1]} is damaged: it has another checksum than it "
        f"says ({report.clip_ids[1]})"
    )
    assert expected in result.stderr
    assert "1 of 10 shards" in result.stdout and "To repair them: make repair" in result.stdout


def test_on_a_terminal_a_problem_has_a_line_of_its_own(copy):
    loaded = manifest.load(str(copy))
    flip_bit(copy / loaded.shards[4].filename, 100)
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 80))
    command = [sys.executable, "-m", "pipelines.verify", f"--data={copy}"]
    subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=end)
    os.close(end)
    written = b""
    with contextlib.suppress(OSError):  # how a terminal ends that no process has open
        while part := os.read(terminal, 1 << 16):
            written += part
    os.close(terminal)
    shown = written.decode()
    assert "verifying: " in shown and re.search(r"[\r\n]damaged: ", shown)


def test_any_flipped_byte_of_a_shard_or_sidecar_is_found(copy):
    loaded = manifest.load(str(copy))
    shard = loaded.shards[0]
    rng = random.Random(0)
    for path in (copy / shard.filename, copy / f"{shard.filename}.json"):
        content = path.read_bytes()
        for _ in range(100):
            damaged = bytearray(content)
            position = rng.randrange(len(content))
            damaged[position] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            found = manifest.verify_shard(loaded, shard)
            # A sidecar may change where nothing depends on it (white space): its meaning is what counts.
            assert found or _same_meaning(path, content, damaged), (path.name, position)
        path.write_bytes(content)
    assert not problems(copy)


def _same_meaning(path, content, damaged):
    return path.suffix == ".json" and json.loads(content) == json.loads(damaged)


def test_missing_cut_and_exchanged_shards_are_found(copy):
    names = [shard.filename for shard in manifest.load(str(copy)).shards]
    (copy / names[0]).unlink()
    content = (copy / names[1]).read_bytes()
    (copy / names[1]).write_bytes(content[:-10])
    shutil.copy(copy / names[3], copy / names[2])
    (copy / names[5]).write_bytes((copy / names[5]).read_bytes() + tfrecord.frame(b""))
    found = problems(copy)
    assert f"{copy / names[0]} is missing" in found[0]
    assert "is cut short" in found[1]
    assert "holds other clips than its sidecar says" in found[2]
    assert f"{copy / names[5]}: the record at byte " in found[3]
    assert "(0 bytes) is not a clip's" in found[3]
    assert len(found) == 4


def test_a_disk_that_fails_is_a_problem_of_one_shard(copy, monkeypatch):
    read_file, bad = tfrecord.read_file, manifest.load(str(copy)).shards[2].filename

    def read(path):
        if path.name == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read_file(path)

    monkeypatch.setattr(tfrecord, "read_file", read)
    assert problems(copy) == [f"{copy / bad} cannot be read: Input/output error"]


def test_what_is_found_damaged_is_repaired(videos_dir, tmp_path):
    flags = [
        f"--videos={videos_dir}",
        f"--data={tmp_path / 'data'}",
        "--name=small",
        "--size=16x24",
        "--frames=5",
    ]
    assert run_module("pipelines.convert", *flags).returncode == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    flip_bit(tmp_path / "data" / "small-fold02.tfrecord-00000-of-00001", 2000)
    verified = run_module("pipelines.verify", f"--data={tmp_path / 'data'}")
    assert verified.returncode == 1
    # The command that it names, with each of make's variables as the flag that the Makefile makes of it.
    command = shlex.split(verified.stdout.split("To repair them: ")[1])
    assert command[:2] == ["make", "repair"]
    variables = dict(word.split("=", 1) for word in command[2:])
    repair = [f"--{name.lower()}={value}" for name, value in variables.items() if name != "FLAGS"]
    repaired = run_module("pipelines.convert", "--verify", *repair, *variables["FLAGS"].split())
    assert repaired.returncode == 0 and "Converting 6 of 30 videos" in repaired.stdout
    assert run_module("pipelines.verify", f"--data={tmp_path / 'data'}").returncode == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()} == before


def test_a_url_that_nothing_reaches_is_told_in_one_line():
    """Without TensorFlow's notices, which it prints when it is loaded to look for a file system."""
    result = run_module("pipelines.verify", "--data=nowhere://bucket/set")
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("error: This TensorFlow has no file system for nowhere:// URLs")
