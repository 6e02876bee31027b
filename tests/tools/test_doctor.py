"""The doctor finds faults that are provoked for real where that is quick."""

import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

from pipelines import remedies
from tests.conftest import build, child_pids, flip_bit, run_code, run_module
from tools import doctor, pins
from tools.checkup import devices, finding, packages, sandbox, sets, speed
from tools.checkup.finding import Options, ask, fail, ok, warn
from tools.checkup.speed import Rates
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import storage, workers
from ucf50_tfrecord.sandbox import Restrictions
from ucf50_tfrecord.training import run as run_lib

SECTIONS = ["Packages", "Devices", "Sandbox", "Shards and run", "Speed"]


def shadow(folder, *modules):
    """Makes packages that fail to import; returns their PYTHONPATH."""
    for module in modules:
        (folder / module).mkdir(parents=True)
        (folder / module / "__init__.py").write_text("raise ImportError('broken on purpose')\n")
    return str(folder)


def examine(*arguments, **variables):
    """Runs the doctor; returns its status, and its findings, each as one line."""
    result = run_module("tools.doctor", *arguments, env=os.environ | variables)
    assert "Traceback" not in result.stdout + result.stderr
    assert [line for line in result.stdout.splitlines() if line in SECTIONS] == SECTIONS
    found = []
    for line in result.stdout.splitlines():
        if line.startswith(("  ok ", "  warn ", "  fail ")):
            found.append(line.strip())
        elif line.startswith("  ") and found:
            found[-1] += " " + line.strip()
        if len(line) > 80 and not line.lstrip().startswith("$ "):  # a long word
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


def test_faults_are_named_with_their_fixes(data_dir, tmp_path):
    unfinished = copy_set(data_dir, tmp_path / "unfinished")
    (unfinished / manifest_lib.MANIFEST_FILENAME).unlink()
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho 'NVIDIA H100, 570.86, 81559, 81000, Disabled'\n")
    smi.chmod(0o755)
    status, found = examine(
        f"--data={unfinished}",
        f"--run={tmp_path}",
        "--nospeed",
        PYTHONPATH=shadow(tmp_path / "shadow", "tensorflow"),
        PATH=f"{smi.parent}{os.pathsep}{os.environ['PATH']}",
        TF_ENABLE_ONEDNN_OPTS="0",
    )
    assert status == 1
    assert "fail" in one(found, "tensorflow is imported from") and "$ unset PYTHONPATH" in one(
        found, "is imported"
    )
    assert "fail" in one(found, "TensorFlow does not load")
    assert "GPU 0: NVIDIA H100, driver 570.86, 79.1 of 79.6 GiB free" in one(found, "GPU 0")
    assert one(found, "TF_ENABLE_ONEDNN_OPTS=0").endswith("$ unset TF_ENABLE_ONEDNN_OPTS")
    line = one(found, "holds no manifest.json")
    assert line.startswith("fail") and line.endswith(f"DATA={unfinished}")
    assert "fail" in one(found, "is not a run's folder")


def test_the_doctor_runs_where_every_package_is_broken(tmp_path):
    broken = shadow(tmp_path, "absl", "av", "crc32c", "google", "keras", "numpy", "PIL", "tensorflow", "tqdm")
    status, found = examine("--data=nowhere", "--speed_secs=0.1", PYTHONPATH=broken)
    assert status == 1
    for text in ("numpy is imported from", "PyAV does not load", "TensorFlow does not load"):
        assert one(found, text).startswith("fail")
    assert any("could not be checked: ImportError: broken on purpose" in line for line in found)


@pytest.mark.slow
def test_a_whole_examination_of_a_set_and_a_damaged_run(data_dir, pool_run, tmp_path):
    run_dir = shutil.copytree(pool_run, tmp_path / "run")
    (run_dir / run_lib.SUMMARY_FILENAME).unlink()
    newest = run_dir / "checkpoints" / "last" / "ckpt-2.data-00000-of-00001"
    flip_bit(newest, newest.stat().st_size // 2)
    status, found = examine(f"--data={data_dir}", f"--run={run_dir}", "--speed_secs=0.5")
    assert status == 0
    line = one(found, "ckpt-2")
    assert line.startswith("warn") and "is damaged" in line and "resumes from ckpt-1" in line
    assert one(found, "its checkpoint ckpt-1 is readable").startswith("ok")
    line = one(found, "is not finished")
    assert line.startswith("warn") and "MODEL=seed_pool" in line
    assert "30 clips of 5x16x24" in one(found, "all sizes are right")
    assert "--precision=auto is" in one(found, "precision")
    for text in ("clips/s per core", "clips/s, streamed", "(lstm, batches of 16,", "is the bottleneck"):
        assert one(found, text).startswith("ok")


def test_speed_without_shards_converts_demo_videos(tmp_path):
    decoded = ask("benchmarks.machine", "decode", None, None, str(tmp_path), 0.1, timeout_secs=100).value
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
            "the input is the bottleneck: a step waits 75%",
        ),
        (Rates(decode=100, input=1000, step=4000, fits_in_memory=True), "ok", "keeps them in memory"),
        (Rates(decode=100, input=1000, step=500, num_devices=8), "warn", "waits 75% of its time"),
        (Rates(decode=100, input=97, step=100), "ok", "the step is the bottleneck: the input is 1.0 times"),
    ],
)
def test_the_bottleneck_follows_from_the_rates(rates, level, text):
    bottleneck, conversion = speed.name_bottleneck(rates)
    assert bottleneck.level == level and text in bottleneck.text
    assert "6,681 videos takes about 67 s on 1 cores" in conversion.text


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


def test_a_process_that_cannot_be_killed_is_not_waited_for(monkeypatch):
    """Such as one that waits for a broken GPU or disk within the kernel."""
    monkeypatch.setattr(finding, "_KILL_SECS", 0.2)
    before, started = set(child_pids(os.getpid())), time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(subprocess.Popen, "kill", lambda process: None)
        with pytest.raises(finding.NoAnswer, match="no answer within 1 s"):
            ask("time", "sleep", 60, timeout_secs=1)
    assert time.monotonic() - started < 20
    for pid in set(child_pids(os.getpid())) - before:
        os.kill(pid, signal.SIGKILL)


def test_an_intact_set_is_ok(data_dir):
    [shards] = sets.check_set(str(data_dir))
    assert shards.level == "ok" and "2 shards read; all: make verify DATA=" in shards.text


@pytest.mark.parametrize("damage", ["bit", "cut", "missing", "sidecar"])
def test_damage_is_found_with_its_repair_command(data_dir, tmp_path, damage):
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
    assert first.command == remedies.command(manifest_lib.repair_remedy(manifest))


def test_speed_reads_the_set_that_was_checked_once(data_dir, monkeypatch):
    loads = []
    load = manifest_lib.load
    monkeypatch.setattr(manifest_lib, "load", lambda folder: loads.append(folder) or load(folder))
    sets.load_manifest.cache_clear()
    asked = []
    monkeypatch.setattr(speed, "_ask", lambda name, *arguments: asked.append(arguments) or {"data": "data"})
    options = Options(data=str(data_dir), speed_secs=1.0)
    assert levels(sets.check(options)) == ["ok"]
    speed._measure(options)
    assert asked[0][1] == str(data_dir) and asked[1][0] == "data" and loads == [str(data_dir)]


def test_missing_foreign_and_leaking_sets_are_reported(videos_dir, tmp_path):
    [missing] = sets.check_set(str(tmp_path / "nowhere"))
    assert missing.level == "fail" and "nowhere holds no manifest.json" in missing.text
    (tmp_path / "other" / manifest_lib.MANIFEST_FILENAME).parent.mkdir()
    (tmp_path / "other" / manifest_lib.MANIFEST_FILENAME).write_text("{}")
    assert levels(sets.check_set(str(tmp_path / "other"))) == ["fail"]
    build(videos_dir, tmp_path / "by_video", fold_by="video")
    _, leak = sets.check_set(str(tmp_path / "by_video"))
    assert leak.level == "warn" and "share recordings" in leak.text and "--fold_by=video" in leak.fix


def test_a_set_that_is_being_converted_is_no_failure(data_dir, tmp_path):
    folder = copy_set(data_dir, tmp_path / "set")
    (folder / manifest_lib.MANIFEST_FILENAME).unlink()
    with storage.folder_lock(folder):
        assert [item.text for item in sets.check_set(str(folder))] == [f"{folder} is being converted"]
    assert levels(sets.check_set(str(folder))) == ["fail"]


def test_harmful_variables_are_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(4))
    (tmp_path / "libcudart.so.12").touch()

    def found(**variables):
        return [item.command for item in devices.check_variables(variables)]

    harmless = {"TF_ENABLE_ONEDNN_OPTS": "1", "TF_NUM_INTEROP_THREADS": "4", "LD_LIBRARY_PATH": "/nowhere:"}
    assert found() == found(**harmless) == []
    harmful = {
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "TF_XLA_FLAGS": "--tf_xla_auto_jit=2",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_FORCE_GPU_ALLOW_GROWTH": "false",
        "LD_LIBRARY_PATH": f"/nowhere:{tmp_path}",
    }
    assert found(**harmful) == [f"unset {name}" for name in harmful]


@pytest.mark.parametrize(
    "in_force, level, text",
    [
        (
            Restrictions(landlock_abi=7, seccomp=True),
            "ok",
            "by Landlock, version 7 (files) and seccomp (sockets",
        ),
        (Restrictions(seccomp=True), "warn", "restricted by seccomp"),
        (Restrictions(), "warn", "restricted by nothing"),
    ],
)
def test_the_sandbox_in_force_is_named(monkeypatch, in_force, level, text):
    monkeypatch.setattr(workers.IsolatedPool, "start", lambda pool: in_force)
    [found] = sandbox.check(Options())
    assert found.level == level and text in found.text


def test_versions_are_compared_with_the_pins(monkeypatch):
    pinned = {name: pin.version for name, pin in pins.read_pins(pins.PINS).items()}
    assert levels(packages.check_versions(pinned)) == ["ok"]
    other, rest = packages.check_versions(pinned | {"numpy": "1.0"})
    assert other.level == "warn" and f"numpy 1.0 (tested: {pinned['numpy']})" in other.text
    assert other.command.endswith("-m tools.install convert,train") and "numpy" not in rest.text
    incomplete = {name: version for name, version in pinned.items() if name not in ("tensorflow", "av")}
    assert [item.text for item in packages.check_versions(incomplete)][:2] == [
        "missing: tensorflow, of the extra train",
        "missing: av, of the extra convert",
    ]
    without_numpy = {name: version for name, version in pinned.items() if name != "numpy"}
    assert levels(packages.check_versions(without_numpy)) == ["fail", "ok"]
    io_pinned = {name: pin.version for name, pin in pins.read_pins(pins.IO_PINS).items()}
    assert levels(packages.check_versions(io_pinned)) == ["ok"]
    mixed = pinned | {"tensorflow-io": io_pinned["tensorflow-io"]}
    monkeypatch.setattr(packages, "installed_versions", lambda: mixed)
    other, *_ = packages.check_versions(mixed)
    assert other.level == "warn" and "tensorflow" in other.text
    assert other.command.endswith("-m tools.install convert,train,io")


def test_keras_settings_that_the_models_need():
    def found(**settings):
        value = {
            "backend": "tensorflow",
            "image_data_format": "channels_last",
            "floatx": "float32",
        } | settings
        return [*packages.check_tensorflow(finding.Answer(value, ""))]

    assert found() == []
    assert levels(found(backend="jax")) == ["fail"]
    assert "keras.json" in found(image_data_format="channels_first")[0].fix


def test_gpus_and_cores_are_reported():
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
    assert "other processes use it" in busy.text and "CUDA_VISIBLE_DEVICES=MIG" in mig.command
    assert [*devices.check_cores(8, 16, None)] == [ok("8 of 16 CPU cores")]
    [limited] = devices.check_cores(16, 16, 2.5)
    assert limited.level == "warn" and "--cpu-list 0-1" in limited.command


def test_a_cpu_quota_is_that_of_the_tightest_group(tmp_path, monkeypatch):
    from ucf50_tfrecord.dataset import memory

    (tmp_path / "job").mkdir()
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "job" / "cpu.max").write_text("150000 100000\n")
    monkeypatch.setattr(memory, "cgroup_folders", lambda controller: iter([tmp_path / "job", tmp_path]))
    assert devices.cpu_quota() == 1.5
    (tmp_path / "job" / "cpu.max").write_text("max 100000\n")
    assert devices.cpu_quota() is None


def test_findings_fit_80_columns_and_commands_can_be_pasted():
    words = [f"word  {number}, it's" + "\x1b" * (number % 2) for number in range(30)]
    command = f"printf '%s;' {remedies.shell_command(words)}"
    *lines, last = doctor.format_finding(warn("a text " * 40, "do " * 40, command=command))
    assert max(map(len, lines)) <= 80 and lines[0].startswith("  warn a text")
    script = last.replace("$ ", "", 1)
    pasted = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    assert pasted == "".join(f"{word};" for word in words)


def test_a_check_that_raises_becomes_a_failure(monkeypatch):
    def check(options):
        yield ok("first")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sets, "check", check)
    assert [*finding.run_check("sets", Options())] == [
        ok("first"),
        fail("this could not be checked: OSError: [Errno 28] No space left on device"),
    ]


def test_wrong_flags_are_named():
    for flags in (["--speed_secs=0"], ["--dta=x"]):
        result = run_module("tools.doctor", *flags)
        assert result.returncode == 2 and "Traceback" not in result.stderr
