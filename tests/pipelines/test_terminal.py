"""Names from files and flags that steer terminals, through all entry points: nothing but plain lines comes out."""

import contextlib
import dataclasses
import json
import os
import pty
import shlex
import shutil
import subprocess
import sys
import termios

import pytest

from pipelines import console, remedies, terminal
from tests.conftest import flip_bit, write_numbered_video
from tests.warm import run_module
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord.errors import UserError

# Red, a line of its own, back to the line's start, a beep, writing from right to left.
EVIL = "\x1b[31m\nFORGED: all is well\r\x07\u202e"
SHOWN = r"\x1b[31m\nFORGED: all is well\r\x07\u202e"


def check(*outputs, shows=SHOWN):
    """Asserts that output is plain lines, none of them made by a name, and that the name was shown at all."""
    text = "\n".join(outputs)
    assert not {character for character in text if not character.isprintable() and character != "\n"}
    assert not any(line.lstrip().startswith("FORGED") for line in text.split("\n"))
    assert "Traceback" not in text
    # Lines are wrapped, and columns are cut.
    squeezed = " ".join(text.split())
    assert shows in squeezed, text


def run(module, *arguments, status=2, shows=SHOWN, **options):
    """Runs an entry point; returns what it printed, which is checked."""
    result = run_module(module, *arguments, errors="surrogateescape", **options)
    assert result.returncode == status, result.stderr
    check(result.stdout, result.stderr, shows=shows)
    return result


def run_several(module, *commands):
    """Runs an entry point with each command line; returns what each printed."""
    return ["\n".join((done.stdout, done.stderr)) for done in (run_module(module, *c) for c in commands)]


@pytest.fixture(scope="module")
def evil_videos(tmp_path_factory):
    """Two classes of two recording groups, an empty class, a stray file and a broken video."""
    folder = tmp_path_factory.mktemp("evil") / f"videos{EVIL}"
    for group in range(1, 6):
        for name in ("A", "B"):
            path = folder / f"{name}{EVIL}" / f"v_{EVIL}_g{group:02d}_c01.avi"
            write_numbered_video(path, 6, height=16, width=24)
    (folder / f"empty{EVIL}").mkdir()
    (folder / f"A{EVIL}" / f"notes{EVIL}.txt").touch()
    (folder / f"B{EVIL}" / f"broken{EVIL}.avi").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def converted(evil_videos):
    """The conversion of evil_videos; returns its folder and the process."""
    data = evil_videos.parent / f"data{EVIL}"
    flags = ["--frames=5", "--size=16x24", "--name=evil", "--workers=1", "--skip_empty_classes"]
    result = run(
        "pipelines.convert",
        f"--videos={evil_videos}",
        f"--data={data}",
        *flags,
        "--max_quarantined=1",
        status=0,
    )
    return data, result


@pytest.fixture(scope="module")
def evil_run(converted):
    from tests.untrained import write_run

    return write_run(converted[0].parent / f"run{EVIL}", converted[0])


def test_a_conversion_of_such_names(converted):
    _, result = converted
    for text in ("left out: empty", "no videos: A", "quarantined: B", "Shards: ", "Converting 11 of 11"):
        assert text in result.stdout + result.stderr


def test_mistakes_of_a_conversion(tmp_path, evil_videos, converted):
    copy = tmp_path / f"copy{EVIL}"
    copy.symlink_to(evil_videos)
    assert "hold no video: empty" in run("pipelines.convert", f"--videos={copy}").stderr
    assert "Cannot read the videos' folder" in run("pipelines.convert", f"--videos=/nowhere{EVIL}").stderr
    data = converted[0]
    flags = ["--frames=4", f"--data={data}", "--skip_empty_classes"]
    assert "shards of another format" in run("pipelines.convert", f"--videos={copy}", *flags).stderr
    doubles = tmp_path / f"doubles{EVIL}"
    for name in ("A", "B"):
        (doubles / f"{name}{EVIL}").mkdir(parents=True)
        for suffix in ("avi", "mp4"):
            (doubles / f"{name}{EVIL}" / f"x{EVIL}.{suffix}").touch()
    assert (
        "2 video ids belong to more than one file" in run("pipelines.convert", f"--videos={doubles}").stderr
    )


@pytest.mark.parametrize(
    "flag, status, shows",
    [
        (f"--size={EVIL}", 2, r"\x1b[31m\nFORGED"),
        (f"--frames={EVIL}", 1, SHOWN),
        (f"--encoding={EVIL}", 1, SHOWN),
        (f"--flagfile=/nowhere{EVIL}", 1, SHOWN),
        (f"--{EVIL}=1", 1, r"\x1b[31m"),
        (f"--beam_args='{EVIL}", 2, r"\x1b[31m\nFORGED"),
        (EVIL, 2, r"\x1b[31m\nFORGED"),
    ],
)
def test_flags(flag, status, shows):
    run("pipelines.convert", "--videos=x", "--engine=beam", flag, status=status, shows=shows)


def test_damaged_shards(tmp_path, converted):
    data = shutil.copytree(converted[0], tmp_path / f"data{EVIL}")
    loaded = manifest_lib.load(str(data))
    report = manifest_lib.load_report(str(data), loaded.shards[0].filename)
    flip_bit(data / report.filename, report.offsets[0] + 100)
    (data / loaded.shards[1].filename).unlink()
    result = run("pipelines.verify", f"--data={data}", status=1)
    assert "is damaged: it has another checksum" in result.stderr and "make repair" in result.stdout
    assert "make repair" in run("tools.inspect_data", f"--data={data}").stderr
    (data / "manifest.json").write_text("{")
    assert "not valid JSON" in run("pipelines.verify", f"--data={data}").stderr
    run("pipelines.verify", f"--data=/nowhere{EVIL}")


def test_inspect(tmp_path, converted, evil_run):
    data = converted[0]
    result = run("tools.inspect_data", f"--data={data}", f"--run={evil_run}", status=0)
    assert "quarantined: B" in result.stdout and "Contact sheet: " in result.stdout
    result = run("tools.inspect_data", f"--data={data}", f"--sheet=/proc/{EVIL}.png")
    assert "Cannot make the folder" in result.stderr or "Cannot write" in result.stderr


def test_predictions(tmp_path, evil_videos, evil_run):
    """With --json the table goes to standard error, and the document is JSON whatever it names."""
    flags = [f"--run={evil_run}", f"--output={tmp_path / EVIL}", "--json"]
    result = run("pipelines.predict", f"--video={evil_videos}", *flags, status=1)
    for text in ("not predicted: ", "ignored, no videos: ", "Results: "):
        assert text in result.stderr
    document = json.loads(result.stdout)
    assert all(EVIL in video["path"] for video in document["videos"]) and len(document["videos"]) == 11
    assert document["classes"] == [f"A{EVIL}", f"B{EVIL}"]
    nowhere = run("pipelines.predict", f"--video=/nowhere{EVIL}", f"--run={evil_run}")
    assert "There is no video or folder" in nowhere.stderr


def test_evaluations(tmp_path, evil_run, converted):
    found, elsewhere, nowhere, folds = run_several(
        "pipelines.evaluate",
        [f"--run={evil_run}", f"--output={tmp_path / EVIL}"],
        [f"--run={evil_run}", f"--data=/nowhere{EVIL}"],
        [f"--run=/nowhere{EVIL}"],
        [f"--run={evil_run}", "--folds=77"],
    )
    for text in (found, elsewhere, nowhere, folds):
        check(text)
    assert "Results: " in found


def test_comparisons(tmp_path, evil_run):
    results = tmp_path / f"{EVIL}.json"
    results.write_text("{}")
    commands = [
        [f"--models={EVIL}"],
        [f"--runs={evil_run},/nowhere{EVIL}"],
        [f"--results={results}"],
        [f"--results=/nowhere{EVIL}"],
        [f"--orders={EVIL}", "--models=lstm"],
        [f"--cv={EVIL}"],
    ]
    for text in run_several("pipelines.compare", *commands):
        check(text, shows=r"\x1b[31m\nFORGED")


def test_exports_and_trainings(tmp_path, evil_run, converted):
    exported, nowhere = run_several(
        "pipelines.export",
        [f"--run={evil_run}", f"--output={tmp_path / EVIL}", "--formats=keras"],
        [f"--run=/nowhere{EVIL}"],
    )
    check(exported)
    check(nowhere)
    data = f"--data={converted[0]}"
    commands = [
        [data, f"--model={EVIL}"],
        [data, f"--run={evil_run}", "--model=seed_pool"],
        [data, "--val_folds=77"],
        [f"--data=/nowhere{EVIL}"],
        [data, f"--train_folds={EVIL}"],
        [data, "--model=seed_pool", "--val_folds=1", "--epochs=1", f"--run={tmp_path / f'new{EVIL}'}"],
    ]
    for text in run_several("pipelines.train", *commands):
        check(text, shows=r"\x1b[31m\nFORGED")


def test_the_doctor(tmp_path, converted, evil_run):
    data = shutil.copytree(converted[0], tmp_path / f"data{EVIL}")
    [path, *_] = sorted(data.glob("*.tfrecord-?????-of-?????"))
    path.write_bytes(b"")
    arguments = [f"--data={data}", f"--run={evil_run}", f"--videos=/nowhere{EVIL}", "--nospeed"]
    result = run("tools.doctor", *arguments, status=1)
    assert "make repair" in result.stdout
    run("tools.doctor", f"--{EVIL}")
    run("pipelines.launch", f"--workers={EVIL}")


def test_shown_commands_hold_the_names_as_they_are(converted):
    """Pasted into a shell, and from there through make where a name has no line break."""
    words = ["a b", EVIL, "$HOME", "it's", "na\udcefve\x1b", "\\n\x07'"]
    command = remedies.shell_command(
        [sys.executable, "-c", "import os, sys; os.write(1, ascii(sys.argv).encode())"]
    )
    shown = f"{command} {remedies.shell_command(words)}"
    assert shown.isprintable()
    done = subprocess.run(["bash", "-c", shown], stdout=subprocess.PIPE, check=True)
    assert done.stdout.decode() == ascii(["-c", *words])
    makefile = "show:\n\t@printf %s '$(subst ','\\'',$(X))'\n"
    for word in ("a b", "\x1b$HOME\r\u202e'", "$(shell false)"):
        shown = f"make -s -f /dev/stdin {remedies.make_variable('X', word)}"
        done = subprocess.run(
            ["bash", "-c", shown], input=makefile.encode(), stdout=subprocess.PIPE, check=True
        )
        assert done.stdout == os.fsencode(word)


def test_the_repair_hint_names_the_set_and_gives_the_shell_nothing_else(converted):
    loaded = manifest_lib.load(str(converted[0]))
    shown = remedies.command(manifest_lib.repair_remedy(loaded))
    assert shown.isprintable()
    listed = subprocess.run(
        ["bash", "-c", f"make() {{ printf '%s\\0' \"$@\"; }}; {shown}"], stdout=subprocess.PIPE, check=True
    )
    repair, videos, data, *_ = listed.stdout.decode().split("\0")
    assert (repair, videos) == ("repair", f"VIDEOS={loaded.videos_dir}")
    assert data == f"DATA={loaded.data_dir}" == f"DATA={converted[0]}"
    hostile = dataclasses.replace(loaded, name="x; touch forged")
    [flags] = [word for word in shlex.split(shown_words(hostile)) if word.startswith("FLAGS=")]
    assert "--name=x; touch forged" in shlex.split(flags.removeprefix("FLAGS="))


def shown_words(manifest):
    """The repair command with plain names in place of the folders' own."""
    plain = dataclasses.replace(manifest, videos_dir="/v", data_dir="/d")
    return remedies.command(manifest_lib.repair_remedy(plain))


def test_a_bar_shows_one_line(monkeypatch):
    reader, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 200))
    with open(end, "w", encoding="utf-8") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        with console.progress_bar(3, "run", EVIL) as bar:
            bar.set_postfix_str(EVIL)
            bar.set_description(EVIL)
            terminal.warn(EVIL)
    written = b""
    with contextlib.suppress(OSError):  # which ends the output of a terminal whose other end is closed
        while True:
            written += os.read(reader, 1 << 16)
    os.close(reader)
    written = written.decode()
    assert not {c for c in written if not c.isprintable()} - set("\r\n")
    assert written.count(SHOWN) >= 3
    assert written.count("\n") == 1  # after the warning


def test_an_error_of_ours_shows_no_lines_that_a_name_made(capsys):
    try:
        raise RuntimeError(EVIL) from UserError(EVIL)
    except RuntimeError as error:
        terminal.note_exception(error)
    printed = capsys.readouterr().err
    assert printed.startswith("ucf50_tfrecord.errors.UserError") and "Traceback" in printed
    assert not {c for c in printed if not c.isprintable()} - {"\n"}
    assert not any(line.startswith("FORGED") for line in printed.split("\n"))
