"""The doctor: traps are provoked for real where that is quick, in processes of their own."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

from tests.conftest import build, child_pids, flip_bit, run_code, run_module
from tools import doctor
from tools.checkup import devices, environment, finding, host, packages, sets, speed
from tools.checkup.finding import Options, ask, fail, ok, warn
from tools.checkup.speed import Rates
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import storage, texts, workers
from ucf50_tfrecord.sandbox import Sandbox
from ucf50_tfrecord.training import run as run_lib

SECTIONS = ["Packages", "Devices", "Environment", "Room", "Shards and runs", "Speed"]


def shadow(folder, *modules):
    """Makes packages that do not import; returns a PYTHONPATH with them."""
    for module in modules:
        (folder / module).mkdir(parents=True)
        (folder / module / "__init__.py").write_text("raise ImportError('broken on purpose')\n")
    return str(folder)


def examine(*arguments, **variables):
    """Runs the doctor; returns its status, and its findings as lists of lines without line breaks."""
    result = run_module("tools.doctor", *arguments, env=os.environ | variables)
    assert "Traceback" not in result.stdout + result.stderr
    assert [line for line in result.stdout.splitlines() if line in SECTIONS] == SECTIONS
    found = []
    for line in result.stdout.splitlines():
        if line.startswith(("  ok ", "  warn ", "  fail ")):
            found.append(line.strip())
        elif line.startswith("  ") and found:
            found[-1] += " " + line.strip()
        if len(line) > 80:  # a word that has no place to break
            assert len(line.split()) <= 2 or any(len(word) > 60 for word in line.split()), line
    return result.returncode, found


def one(found, text):
    [line] = [line for line in found if text in line]
    return line


def levels(findings):
    return [item.level for item in findings]


def copy_set(data_dir, folder):
    shutil.copytree(data_dir, folder)
    return folder


def test_traps_are_named_with_their_mends(data_dir, tmp_path):
    unfinished = copy_set(data_dir, tmp_path / "unfinished")
    (unfinished / manifest_lib.MANIFEST_FILENAME).unlink()
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho 'NVIDIA H100, 570.86, 81559, 81000, Disabled'\n")
    smi.chmod(0o755)
    workers = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    status, found = examine(
        f"--data={unfinished}",
        f"--run={tmp_path}",
        "--nospeed",
        PYTHONPATH=shadow(tmp_path / "shadow", "tensorflow"),
        PATH=f"{smi.parent}{os.pathsep}{os.environ['PATH']}",
        TF_CONFIG=json.dumps(workers),
        KERAS_BACKEND="jax",
        S3_ENDPOINT="localhost:9000",
    )
    assert status == 1
    assert "fail" in one(found, "tensorflow is imported from") and "$ unset PYTHONPATH" in one(
        found, "is imported"
    )
    assert "fail" in one(found, "TensorFlow does not load")
    assert "GPU 0: NVIDIA H100, driver 570.86, 79.1 of 79.6 GiB free" in one(found, "GPU 0")
    assert "warn" in one(found, "TF_CONFIG names 2 workers") and "unset TF_CONFIG" in one(found, "TF_CONFIG")
    assert one(found, "KERAS_BACKEND=jax").endswith("$ unset KERAS_BACKEND")
    assert one(found, "S3_ENDPOINT").endswith("$ export S3_ENDPOINT=http://localhost:9000")
    line = one(found, "is not finished: it holds")
    assert line.startswith("fail") and f"DATA={unfinished}" in line.replace(" \\ ", "")
    assert "fail" in one(found, "is not a run's folder")


def test_it_speaks_where_nothing_works(tmp_path):
    broken = shadow(tmp_path, "absl", "av", "crc32c", "google", "keras", "numpy", "PIL", "tensorflow", "tqdm")
    status, found = examine("--data=nowhere", "--speed_secs=0.1", PYTHONPATH=broken, TF_CONFIG="{")
    assert status == 1
    for text in ("numpy is imported from", "PyAV does not load", "TensorFlow does not load"):
        assert one(found, text).startswith("fail")
    assert any("could not be checked: ImportError: broken on purpose" in line for line in found)


@pytest.mark.slow
def test_a_whole_examination(data_dir, pool_run, tmp_path):
    run_dir = shutil.copytree(pool_run, tmp_path / "run")
    (run_dir / run_lib.SUMMARY_FILENAME).unlink()
    newest = run_dir / "checkpoints" / "last" / "ckpt-2.data-00000-of-00001"
    flip_bit(newest, newest.stat().st_size // 2)
    status, found = examine(f"--data={data_dir}", f"--run={run_dir}", "--speed_secs=0.5")
    assert status == 0
    line = one(found, "ckpt-2")
    assert line.startswith("warn") and "is damaged" in line and "goes on from ckpt-1" in line
    assert one(found, "its checkpoint ckpt-1 is sound").startswith("ok")
    line = one(found, "is not finished")
    assert line.startswith("warn") and "MODEL=seed_pool" in line
    assert "30 clips of 5x16x24" in one(found, "all sizes are right")
    assert "--precision=auto is" in one(found, "precision")
    for text in ("clips/s a core", "clips/s, streamed", "(lstm, batches of 16,", "is the bottleneck"):
        assert one(found, text).startswith("ok")


def test_clips_are_made_where_there_are_none(tmp_path):
    decoded = ask("tools.checkup.speed", "decode", None, None, str(tmp_path), 0.1, timeout_secs=100).value
    assert decoded["rate"] > 0 and decoded["what"] == "16 demo videos"
    assert manifest_lib.load(decoded["data"]).num_clips == 16


@pytest.mark.parametrize(
    "rates, level, text",
    [
        (
            Rates(decode=100, input=5000, step=50),
            "ok",
            "the step is the bottleneck: the input is 100.0 times",
        ),
        (
            Rates(decode=100, input=1000, step=4000),
            "warn",
            "the input is the bottleneck: a step would wait 75%",
        ),
        (Rates(decode=100, input=1000, step=4000, fits_in_memory=True), "ok", "keeps them in memory"),
        (Rates(decode=100, input=1000, step=500, num_devices=8), "warn", "wait 75% of its time"),
        (Rates(decode=100, input=97, step=100), "ok", "the step is the bottleneck: the input is 1.0 times"),
    ],
)
def test_the_bottleneck_follows_from_the_rates(rates, level, text):
    bottleneck, conversion = speed.name_bottleneck(rates)
    assert bottleneck.level == level and text in bottleneck.text
    assert "6,681 videos take about 67 s on 1 cores" in conversion.text


def test_an_answer_comes_from_a_process_that_may_break(tmp_path):
    assert ask("math", "sqrt", 4.0, timeout_secs=20).value == 2.0
    with pytest.raises(finding.NoAnswer, match="crashed with SIGABRT"):
        ask("os", "abort", timeout_secs=20)
    with pytest.raises(finding.NoAnswer, match="no answer within 1 s"):
        ask("time", "sleep", 60, timeout_secs=1)
    with pytest.raises(finding.NoAnswer, match="ModuleNotFoundError: No module named 'nothing'"):
        ask("nothing", "at_all", timeout_secs=20)
    (tmp_path / "aborts.py").write_text(
        "import atexit, os\natexit.register(os.abort)\ndef one():\n    return 1\n"
    )
    code = "from tools.checkup.finding import ask; print(ask('aborts', 'one', timeout_secs=20).value)"
    result = run_code(code, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert result.stdout == "1\n"


def test_what_cannot_be_killed_is_not_waited_for(monkeypatch):
    """A process that a broken GPU or disk holds in the kernel."""
    monkeypatch.setattr(finding, "_END_SECS", 0.2)
    before, started = set(child_pids(os.getpid())), time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(subprocess.Popen, "kill", lambda process: None)
        with pytest.raises(finding.NoAnswer, match="no answer within 1 s"):
            ask("time", "sleep", 60, timeout_secs=1)
    assert time.monotonic() - started < 20
    for pid in set(child_pids(os.getpid())) - before:
        os.kill(pid, signal.SIGKILL)


def test_a_sound_set_is_told_so(data_dir):
    shards, contents = sets.check_set(str(data_dir))
    assert shards.level == contents.level == "ok"
    assert "make verify DATA=" in shards.text and "hold all classes" in contents.text


@pytest.mark.parametrize("damage", ["bit", "cut", "missing", "sidecar"])
def test_damage_is_found_with_its_repair(data_dir, tmp_path, damage):
    folder = copy_set(data_dir, tmp_path / "set")
    manifest = manifest_lib.load(str(folder))
    path = folder / manifest.shards[0].filename
    if damage == "bit":
        flip_bit(path, path.stat().st_size // 2)
    elif damage == "cut":
        os.truncate(path, path.stat().st_size - 1)
    elif damage == "missing":
        path.unlink()
    else:
        pathlib.Path(f"{path}.json").unlink()
    first = next(sets.check_set(str(folder)))
    assert first.level == "fail" and path.name in first.text
    assert first.command == manifest_lib.repair_command(manifest)


def test_a_manifest_is_looked_at_once(data_dir, monkeypatch):
    loads = []
    load = manifest_lib.load
    monkeypatch.setattr(manifest_lib, "load", lambda folder: loads.append(folder) or load(folder))
    sets.load_manifest.cache_clear()
    options = Options(data=str(data_dir))
    found = [*host.check(options), *sets.check(options)]
    assert sets.sound_manifests(options) and levels(found).count("ok") > 3 and loads == [str(data_dir)]


def test_what_a_set_is_bad_for_is_told(videos_dir, tmp_path):
    [missing] = sets.check_set(str(tmp_path / "nowhere"))
    assert missing.level == "fail" and missing.text.endswith("nowhere is not there")
    (tmp_path / "other" / manifest_lib.MANIFEST_FILENAME).parent.mkdir()
    (tmp_path / "other" / manifest_lib.MANIFEST_FILENAME).write_text("{}")
    assert levels(sets.check_set(str(tmp_path / "other"))) == ["fail"]
    videos = tmp_path / "videos"
    shutil.copytree(videos_dir, videos)
    (videos / "Left" / "v_Left_g01_c09.avi").write_bytes(b"no video")
    for path in (videos / "Right").glob("*_g0[1-4]_*"):  # what is left cannot be spared
        path.unlink()
    build(videos, tmp_path / "by_group")
    build(videos, tmp_path / "by_video", fold_by="video")
    texts = [item.text for item in sets.check_set(str(tmp_path / "by_group")) if item.level == "warn"]
    assert len(texts) == 2 and "1 of 23 videos (4.3%) gave no clip" in texts[0]
    assert "hold no clip of 1 classes (Right)" in texts[1]
    leak = [
        item
        for item in sets.check_set(str(tmp_path / "by_video"))
        if "recordings are on both sides" in item.text
    ]
    assert levels(leak) == ["warn"] and "--fold_by=video" in leak[0].mend


def test_videos_are_looked_at(videos_dir, tmp_path):
    assert [item.text for item in sets.check_videos(str(videos_dir))] == [
        f"{videos_dir}: 30 videos, 3 classes, 5 groups"
    ]
    assert levels(sets.check_videos(str(tmp_path / "nowhere"))) == ["fail"]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(next(videos_dir.rglob("*.avi")), tmp_path / name / "video.avi")
    assert levels(sets.check_videos(str(tmp_path))) == ["ok", "warn"]


def test_a_folder_that_is_being_written_is_left_to_it(data_dir, tmp_path):
    folder = copy_set(data_dir, tmp_path / "set")
    (folder / manifest_lib.MANIFEST_FILENAME).unlink()
    with storage.folder_lock(folder):
        assert [item.text for item in sets.check_set(str(folder))] == [f"{folder} is being converted"]
    assert levels(sets.check_set(str(folder))) == ["fail"]


def test_variables_that_do_harm():
    def found(has_gpu=False, **variables):
        return [*environment.check_variables(variables, has_gpu=has_gpu, num_cores=4)]

    assert (
        found()
        == found(KERAS_BACKEND="tensorflow", S3_ENDPOINT="http://host:9000", TF_ENABLE_ONEDNN_OPTS="1")
        == []
    )
    assert levels(found(KERAS_BACKEND="torch", TF_ENABLE_ONEDNN_OPTS="0")) == ["fail", "warn"]
    assert found(AWS_ENDPOINT_URL="h:1")[0].command == "export AWS_ENDPOINT_URL=http://h:1"
    assert levels(found(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="4")) == ["warn"]
    assert levels(found(TF_XLA_FLAGS="--tf_xla_auto_jit=2")) == ["warn"]
    assert found(TF_FORCE_GPU_ALLOW_GROWTH="false") == []
    assert levels(found(True, TF_FORCE_GPU_ALLOW_GROWTH="false")) == ["warn"]


@pytest.mark.parametrize(
    "sandbox, level, text",
    [
        (Sandbox(landlock_abi=7, seccomp=True), "ok", "by Landlock, version 7 (files) and seccomp (sockets"),
        (Sandbox(seccomp=True), "warn", "restricted by seccomp"),
        (Sandbox(), "warn", "restricted by nothing"),
    ],
)
def test_the_sandbox_in_force_is_told(monkeypatch, sandbox, level, text):
    monkeypatch.setattr(workers.IsolatedPool, "start", lambda pool: sandbox)
    finding = environment.check_sandbox()
    assert finding.level == level and text in finding.text


def test_versions_are_compared_with_those_tested():
    tested = packages.tested_versions()
    same = {name: tested.get(name) for name in packages.installed_versions()} | {packages.IO: None}
    assert levels(packages.check_versions(tested, same)) == ["ok"]
    [other, rest] = packages.check_versions(tested, same | {"numpy": "1.0"})
    assert other.level == "warn" and f"numpy 1.0 (tested: {tested['numpy']})" in other.text
    assert other.command.endswith("-m tools.install convert,train") and "numpy" not in rest.text
    assert levels(packages.check_versions(tested, same | {"tensorflow": None, "av": None})) == [
        "fail",
        "warn",
        "ok",
    ]
    assert levels(packages.check_versions(tested, same | packages.IO_PINS)) == ["ok"]
    [other_tensorflow] = packages.check_versions(tested, same | {packages.IO: "0.37.1"})
    assert other_tensorflow.level == "warn"
    assert other_tensorflow.command.endswith("-m tools.install convert,train,io")


def test_keras_must_be_set_as_the_models_want_it(monkeypatch):
    def found(**settings):
        value = {
            "backend": "tensorflow",
            "image_data_format": "channels_last",
            "floatx": "float32",
        } | settings
        monkeypatch.setattr(packages, "ask_tensorflow", lambda run_dir: finding.Answer(value, ""))
        return [*packages.check_tensorflow(Options())]

    assert found() == []
    assert levels(found(backend="jax")) == ["fail"]
    assert "keras.json" in found(image_data_format="channels_first")[0].mend


def test_devices_are_told():
    row = {
        "name": "A",
        "driver_version": "1",
        "memory.total": "1024",
        "memory.free": "1000",
        "mig.mode.current": "[N/A]",
    }
    rows = [
        row,
        row | {"memory.free": "100"},
        row | {"mig.mode.current": "Enabled"},
        row | {"memory.total": "[N/A]"},
    ]
    free, busy, mig, unknown = devices.check_gpus(rows)
    assert levels([free, busy, mig, unknown]) == ["ok", "warn", "warn", "ok"]
    assert "others use it" in busy.text and "CUDA_VISIBLE_DEVICES=MIG" in mig.command
    assert [*devices.check_cores(8, 16, None)] == [ok("8 of 16 CPU cores")]
    [limited] = devices.check_cores(16, 16, 2.5)
    assert limited.level == "warn" and "--cpu-list 0-1" in limited.command
    assert levels(devices.check_driver("470.57.02", "12.5.1")) == ["fail"]
    assert [*devices.check_driver("570.86", "12.5.1")] == [*devices.check_driver("[N/A]", "")] == []
    assert levels(host.check_open_files(256, 1000)) == ["warn"]
    assert levels(host.check_open_files(1024, 1)) == ["ok"]


def test_a_cpu_quota_is_that_of_the_tightest_group(tmp_path, monkeypatch):
    from ucf50_tfrecord.dataset import memory

    (tmp_path / "job").mkdir()
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "job" / "cpu.max").write_text("150000 100000\n")
    monkeypatch.setattr(memory, "cgroup_folders", lambda controller: iter([tmp_path / "job", tmp_path]))
    assert devices.cpu_quota() == 1.5
    (tmp_path / "job" / "cpu.max").write_text("max 100000\n")
    assert devices.cpu_quota() is None


def test_findings_fit_80_columns_and_commands_can_be_pasted(tmp_path):
    words = [f"word  {number}, it's" + "\x1b" * (number % 2) for number in range(30)]
    command = f"printf '%s;' {texts.shell_command(words)}"
    lines = doctor.format_finding(warn("a text " * 40, "do " * 40, command=command))
    assert max(map(len, lines)) <= 80 and lines[0].startswith("  warn a text")
    first = next(number for number, line in enumerate(lines) if line.lstrip().startswith("$"))
    script = "\n".join(lines[first:]).replace("$ ", "", 1)
    pasted = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    assert pasted == "".join(f"{word};" for word in words)


def test_a_check_that_breaks_is_a_line(monkeypatch):
    def check(options):
        yield ok("first")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(host, "check", check)
    assert [*finding.run_check("host", Options())] == [
        ok("first"),
        fail("this could not be checked: OSError: [Errno 28] No space left on device"),
    ]


def test_wrong_flags_are_named():
    for flags in (["--speed_secs=0"], ["--dta=x"]):
        result = run_module("tools.doctor", *flags)
        assert result.returncode == 2 and "Traceback" not in result.stderr
