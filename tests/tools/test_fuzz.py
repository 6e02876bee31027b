"""The fuzz campaign runs, repeats its mutants, and each of its counters can fire."""

import contextlib
import json
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import time

import av
import numpy as np
import pytest

from tests.conftest import is_running, run_code, run_module
from tests.tools import fuzz_answers
from tools.fuzzing import documents, hostile, jsons, judge, mutate, seeds, videos, watched
from tools.fuzzing.findings import Counter, Findings, Problem, Stage
from tools.fuzzing.readers import Program, Reader
from tools.fuzzing.reference import digest
from ucf50_tfrecord.convert import decode
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import ClipFormat


@pytest.mark.slow
def test_a_short_campaign_finds_nothing(tmp_path):
    """Tries videos and JSON in the real programs."""
    result = run_module("tools.fuzz", "--videos=60", "--json=150", "--secs=200", f"--output={tmp_path}")
    assert "60 videos, 150 JSON files" in result.stdout and "all mutants tried" in result.stdout, result
    assert not [path.read_text() for path in tmp_path.rglob("problem.json")]
    assert result.returncode == 0, result
    notes = dict(line.rsplit(maxsplit=1) for line in result.stdout.splitlines() if line[-1:].isdigit())
    for note in ("videos converted", "videos quarantined: contents", judge.SAME):
        assert int(notes[note]) >= 10, result.stdout
    assert int(notes["programs run on damaged JSON"]) == 1


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return seeds.make_seeds(tmp_path_factory.mktemp("seeds"))


@pytest.fixture
def setting(tmp_path, sound):
    """The setting of rounds of videos, without `predict`."""
    with videos.open_setting(
        seed=3,
        sound=sound,
        seeds=sound,
        findings=Findings(tmp_path / "failures"),
        work=tmp_path,
        workers=1,
        run_dir=None,
    ) as setting:
        yield setting


def found(findings):
    return {counter for (_, counter), count in findings.counts.items() if count}


# --- The same mutants each time


def test_seeds_decode_and_are_the_same_each_time(tmp_path, sound):
    assert sound == seeds.make_seeds(tmp_path)
    for path in tmp_path.iterdir():
        [clip] = decode.decode_file(path, ClipFormat(num_frames=5, height=24, width=32))
        assert len({digest(frame) for frame in clip.frames}) == 5, path


def test_a_seed_gives_the_same_mutants_wherever_a_campaign_starts(setting):
    def written(numbers):
        made = videos.Round(setting, numbers, "")
        made._write()
        contents = {
            mutant.path: (made.videos / mutant.path).read_bytes()
            for mutant in made.mutants.values()
            if mutant.number >= 0
        }
        shutil.rmtree(made.folder)
        return contents

    whole = written(range(200, 280))
    assert len(whole) == 80 and len(set(whole.values())) > 75
    assert written(range(240, 260)).items() <= whole.items()


def test_all_mutations_occur_and_mutants_stay_small(sound):
    drawn = set()
    for number in range(500):
        content, suffix, how = mutate.damage_video(sound, random.Random(number))
        assert len(content) < 300_000 and suffix.startswith(".")
        drawn |= {name for name in how.partition(": ")[2].split(", ")}
    assert {mutation.__name__ for mutation in mutate._MUTATIONS} | {"splice"} <= drawn


def test_damaged_documents_are_mostly_json_still():
    text = json.dumps({"name": "x", "shards": [{"filename": "a", "num_bytes": 3}] * 3}).encode()
    damaged = [
        documents.damage(text, random.Random(i), ["../../victim/data"], lambda v: v) for i in range(500)
    ]
    assert len(set(damaged)) > 250 and any(b"../../victim/data" in content for content in damaged)
    assert sum(_is_json(content) for content in damaged) > 300


def _is_json(content):
    try:
        json.loads(content)
    except (RecursionError, ValueError):
        return False
    return True


# --- Processes


@pytest.mark.parametrize(
    "code, counter",
    [
        ("", None),
        ("raise KeyError('x')", Counter.TRACEBACK),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", Counter.CRASH),
        ("import time; time.sleep(60)", Counter.HANG),
        ("raise SystemExit(3)", Counter.STATUS),
        ("print('\\x1b[31mred')", Counter.CONTROL),
        ("print('\\x9b31m')", Counter.CONTROL),
        (
            "import subprocess; print(subprocess.Popen(['sleep', '60'], start_new_session=True).pid)",
            Counter.PROCESS,
        ),
        ("import tempfile; tempfile.mkdtemp()", Counter.TEMPORARY),
    ],
)
def test_faults_of_a_process_are_counted(tmp_path, monkeypatch, code, counter):
    monkeypatch.setattr(watched, "_GRACE_SECS", 0.3)
    ended = watched.run([sys.executable, "-c", code], tmp_path, limit_secs=3.0)
    assert [problem.counter for problem in watched.problems_of(ended, (0,))] == [counter] * (
        counter is not None
    )
    for pid in map(int, (tmp_path / "stdout").read_text().split() if counter is Counter.PROCESS else ()):
        deadline = time.monotonic() + 5
        while is_running(pid):  # it was killed
            assert time.monotonic() < deadline


def test_opened_canaries_and_calls_are_counted(setting):
    assert (setting.opened.take(), setting.listener.count()) == ([], 0)
    subprocess.run(["cat", setting.canaries.path(".ts")], check=True, stdout=subprocess.DEVNULL)
    socket.create_connection(("127.0.0.1", setting.listener.port)).close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
        caller.sendto(b"x", ("127.0.0.1", setting.listener.port))
    deadline = time.monotonic() + 5
    called = 0
    while called < 2 and time.monotonic() < deadline:
        called += setting.listener.count()
    assert (setting.opened.take(), called) == ([setting.canaries.path(".ts")], 2)


def test_plain_pyav_opens_canaries_and_calls_the_listener(setting):
    """So a converter that does neither is proven safe by the same files."""
    folder = setting.work / "hostile"
    folder.mkdir()
    for number in range(150):
        attack = hostile.write_attack(folder, f"m{number}", setting.canaries, random.Random(number))
        for beside in attack.watched:
            setting.opened.watch(beside)
        if attack.how.startswith(("sdp", "redirection")):  # which wait for packets that never come
            continue
        setting.opened.take()
        with contextlib.suppress(av.error.FFmpegError, UnicodeDecodeError, OSError):
            av.open(str(attack.path), timeout=1.0).close()
        if setting.opened.take():
            break
    else:
        pytest.fail("no hostile file had a canary opened")
    with contextlib.suppress(av.error.FFmpegError, OSError):
        av.open(os.path.join("http:", setting.canaries.host, "x.avi"), timeout=1.0).close()
    deadline = time.monotonic() + 20
    while not (called := setting.listener.count()) and time.monotonic() < deadline:
        time.sleep(0.01)  # it counts in a thread
    assert called


# --- Videos


def test_videos_are_accounted_for_once():
    clips = {"a": [1, 2], "both": [1, 2], "one clip": [1], "stranger": [1, 2]}
    quarantined = {"b": ["contents"], "both": ["contents"], "twice": ["contents"] * 2}
    videos_ = ["a", "b", "both", "neither", "one clip", "twice"]
    problems = judge.account(videos_, clips, quarantined, clips_per_video=2)
    assert sorted(problems) == ["both", "neither", "one clip", "stranger", "twice"]
    assert {problem.counter for problem in problems.values()} == {Counter.ACCOUNT}


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "x.avi"
    seeds.encode(path, seeds.RECIPES[0], seeds.moving_noise(48, 64, seed=1))
    return str(path)


@pytest.mark.parametrize("clip_format", videos.FORMATS, ids=str)
def test_pixels_that_differ_from_the_reference_are_counted(tmp_path, video, clip_format):
    clips = [clip.frames for clip in decode.decode_file(video, clip_format)]
    with contextlib.closing(judge.Reference(tmp_path)) as reference:
        assert reference.judge(video, clip_format, [digest(frames) for frames in clips]) == judge.SAME
        clips[-1] = clips[-1].copy()
        clips[-1][3, 5, 7, 1] ^= 1
        problem = reference.judge(video, clip_format, [digest(frames) for frames in clips])
        assert problem.counter is Counter.PIXELS
        pathlib.Path(video).write_bytes(b"RIFF")
        problem = reference.judge(video, clip_format, ["pixels of nothing"])
        assert problem.counter is Counter.PIXELS


def test_pixels_count_only_where_two_ordered_passes_agree(tmp_path, video, monkeypatch):
    def ask(helper, limit_secs, path, clip_format, hold):
        return [str(hold)]

    monkeypatch.setattr(watched.Helper, "ask", ask)
    with contextlib.closing(judge.Reference(tmp_path)) as reference:
        assert reference.judge(video, videos.FORMATS[0], ["other"]) == judge.UNSTABLE

    def be_silent(*_):
        raise watched.Silent("it crashed", timed_out=False)

    monkeypatch.setattr(watched.Helper, "ask", be_silent)
    with contextlib.closing(judge.Reference(tmp_path)) as reference:
        assert reference.judge(video, videos.FORMATS[0], ["other"]) == judge.UNKNOWN


def test_clips_with_a_canarys_pixels_are_counted(setting):
    made = videos.Round(setting, range(1), "again")
    made.videos.mkdir(parents=True)
    (made.videos / "x.avi").write_text("ffconcat")
    made.mutants = {"x.avi": videos.Mutant(0, "x.avi", "ffconcat", is_hostile=True)}
    [sound] = decode.decode_file(setting.canaries.folder.parent / "canaries" / "canary.mp4", made.format)
    made._compare({"x.avi": [np.zeros_like(sound.frames)]}, {})
    assert not found(setting.findings)
    made._compare({"x.avi": [np.concatenate([np.zeros_like(sound.frames), sound.frames[:1]])]}, {})
    assert found(setting.findings) == {Counter.CANARY_PIXELS}


def test_planted_faults_of_a_converter_are_counted(setting, monkeypatch):
    """It swaps a clip's pixels, loses a video, opens a canary, and leaves a file."""
    made = videos.Round(setting, range(6), "again")
    monkeypatch.setattr(videos, "_HOSTILE_FRACTION", 0.0)
    made._write()
    sound = next(path for path, mutant in made.mutants.items() if mutant.how == "sound")
    convert = made._convert

    def convert_wrongly():
        clips = convert()
        clips[sound][0] = clips[sound][0][::-1].copy()
        return clips

    made.mutants["clips/lost.avi"] = videos.Mutant(9, "clips/lost.avi", "lost")
    run = watched.run

    def run_wrongly(command, scratch, *arguments, **options):
        subprocess.run(
            [sys.executable, "-c", "open(__import__('sys').argv[1], 'rb')", setting.canaries.path(".avi")]
        )
        (scratch / "tmp").mkdir(exist_ok=True)
        (scratch / "tmp" / "left").touch()
        return run(command, scratch, *arguments, **options)

    monkeypatch.setattr(watched, "run", run_wrongly)
    made._compare(convert_wrongly(), {})
    assert found(setting.findings) == {Counter.PIXELS, Counter.ACCOUNT, Counter.OPENED, Counter.TEMPORARY}


# --- JSON


def documents_of(files):
    """Returns a context with jsons.Documents of a folder of samples."""
    for name in ("pristine-samples", "pristine-victim"):
        shutil.rmtree(files / name)
    findings = Findings(files / "failures")
    return contextlib.closing(jsons.Documents(seed=0, findings=findings, work=files, command="again"))


@pytest.fixture
def files(tmp_path):
    """A folder of samples, a victim folder, and pristine copies of both."""
    for name in ("samples", "pristine-samples"):
        (tmp_path / name / "set").mkdir(parents=True)
        (tmp_path / name / "set" / "x.json").write_text("{}")
        (tmp_path / name / "mine.txt").write_text("mine")
    for name in ("victim", "pristine-victim"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").write_text("somebody else's")
    return tmp_path


def eat_memory(folder):
    np.ones(jsons.MEMORY_BYTES + (64 << 20), np.uint8)


def come_and_go(folder):
    (folder / ".." / "victim" / "new").touch()
    (folder / ".." / "victim" / "new").unlink()


def raise_(error):
    def read(folder):
        raise error

    return read


@pytest.mark.parametrize(
    "read, counter",
    [
        (lambda folder: json.loads((folder / "set" / "x.json").read_bytes()), None),
        (raise_(UserError("set/x.json is damaged")), None),
        (raise_(UserError("something is damaged")), Counter.UNNAMED),
        (raise_(KeyError("name")), Counter.EXCEPTION),
        (raise_(SystemExit(0)), Counter.EXCEPTION),
        (raise_(MemoryError()), Counter.MEMORY),
        (eat_memory, Counter.MEMORY),
        (lambda folder: (folder / ".." / "victim" / "data").unlink(), Counter.OUTSIDE),
        (lambda folder: (folder / ".." / "victim" / "new").touch(), Counter.OUTSIDE),
        (come_and_go, Counter.OUTSIDE),
        (lambda folder: (folder / "mine.txt").write_text("yours"), Counter.OUTSIDE),
        (lambda folder: (folder / "set" / "out.txt").touch(), None),
    ],
)
def test_faults_of_a_reader_are_counted_and_undone(files, read, counter):
    reader = Reader(name="planted", path="set/x.json", read=read, writes="set/out.*")
    problems = jsons.try_reader(reader, b'{"name": 1}', files / "samples", files / "pristine-samples")
    # A file that comes or goes changes its folder too.
    assert {problem.counter for problem in problems} == ({counter} if counter else set())
    for name in ("samples", "victim"):
        left = {path.relative_to(files / name): path.read_text() for path in (files / name).rglob("*.*")}
        was = files / f"pristine-{name}"
        assert left == {path.relative_to(was): path.read_text() for path in was.rglob("*.*")}
    assert not (files / "victim" / "new").exists() and (files / "victim" / "data").read_text()


def test_readers_that_crash_or_hang_are_counted(files, monkeypatch):
    monkeypatch.setattr(jsons, "_READER_SECS", 3.0)
    reader = Reader(name="planted", path="set/x.json", read=lambda folder: None)
    monkeypatch.setattr(jsons.readers, "make_mutant", lambda *_: (reader, b"{}"))
    monkeypatch.setattr(jsons, "answer", fuzz_answers.answer)
    with documents_of(files) as tried:
        assert tried.run(range(1, 4)) == 3
    findings = tried._findings
    assert findings.counts == {(Stage.READER, Counter.CRASH): 1, (Stage.READER, Counter.HANG): 1}
    kept = sorted(files.glob("failures/*/problem.json"))
    assert [json.loads(path.read_text())["command"] for path in kept] == [
        "again --first_json=1 --json=1 --videos=0",
        "again --first_json=2 --json=1 --videos=0",
    ]
    assert (kept[0].parent / "x.json").read_text() == "{}"


@pytest.mark.parametrize(
    "content, target, counter",
    [
        (b"{}", "{}/set/out.json", None),
        (b"{}", "{}/../victim/data", Counter.OUTSIDE),
        (b"{", "{}/set/out.json", Counter.STATUS),
    ],
)
def test_faults_of_a_program_are_counted(files, content, target, counter):
    """json.tool copies a file to any path, and exits with status 1 if it cannot."""
    program = Program(
        path="set/x.json", module="json.tool", arguments=("{}/set/x.json", target), writes="set/out.*"
    )
    with documents_of(files) as tried:
        problems = tried.try_program(program, content)
    assert [problem.counter for problem in problems] == [counter] * (counter is not None)


# --- The campaign


def test_the_first_inputs_of_a_kind_are_kept(tmp_path):
    (tmp_path / "x.avi").write_text("x")
    findings = Findings(tmp_path / "failures")
    for number in range(10):
        problem = Problem(Counter.PIXELS, "other pixels", "same kind")
        inputs = [tmp_path / "x.avi"]
        findings.add([problem], Stage.CONVERT, number=number, command="again", inputs=inputs)
    assert findings.total == 10 and "10 x convert: clips unlike" in "\n".join(findings.table())
    kept = list((tmp_path / "failures").iterdir())
    assert len(kept) == 3 and all((folder / "x.avi").read_text() == "x" for folder in kept)


PLANTED = """
import contextlib, sys
from pipelines import console
from tools import fuzz
from tools.fuzzing.findings import Counter, Problem, Stage

@contextlib.contextmanager
def campaign(findings):
    def try_videos(numbers):
        if "interrupt" in {plant!r}:
            raise KeyboardInterrupt
        if "fault" in {plant!r}:
            findings.add([Problem(Counter.PIXELS, "planted")], Stage.CONVERT, number=0, command="x")
    yield try_videos, lambda numbers, until: len(numbers)

fuzz.campaign = campaign
fuzz.define_flags()
console.run(fuzz.main)
"""


@pytest.mark.parametrize(
    "plant, secs, status, ending",
    [
        ("", 60, 0, "900 videos, 150 JSON files, 0 s: all mutants tried"),
        ("fault", 60, 1, "900 videos, 150 JSON files, 0 s: all mutants tried"),
        ("interrupt", 60, 130, "0 videos, 100 JSON files, 0 s: interrupted"),
        ("", 0, 0, "0 videos, 0 JSON files, 0 s: stopped after --secs=0"),
    ],
)
def test_the_status_and_the_table_report_problems(tmp_path, plant, secs, status, ending):
    flags = ["--videos=900", "--json=150", f"--secs={secs}", f"--output={tmp_path}"]
    result = run_code(PLANTED.format(plant=plant), *flags)
    assert result.returncode == status, result.stderr
    assert result.stdout.splitlines()[0] == ending
    [row] = [line for line in result.stdout.splitlines() if line.startswith(Counter.PIXELS)]
    assert row.split()[-4:] == [str(5 * (plant == "fault")), "0", "0", "0"]


def test_wrong_flags_fail_before_anything_is_written(tmp_path):
    result = run_module("tools.fuzz", f"--seeds={tmp_path}", f"--output={tmp_path / 'out'}", "--json=0")
    assert (result.returncode, result.stdout) == (2, "")
    assert (
        result.stderr.startswith("error: Expected --seeds=<a folder with videos")
        and "\n" not in result.stderr[:-1]
    )
    assert not os.listdir(tmp_path)
