"""The comparison as its users run it: real processes, a real interruption."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from pyarrow import parquet
from scipy import special

from tests.conftest import REPOSITORY, child_pids
from tests.two_nodes import two_nodes
from tests.waiting import MAX_SECS, wait_for
from tests.warm import run_code, run_module
from ucf50_tfrecord import recipes

FLAGS = ("--models=frame_pool,lstm", "--cv=2", "--seeds=1", "--orders=", "--audit=frame_pool", "--epochs=1")


def command(data, folder, *flags):
    return [sys.executable, "-m", "pipelines.compare", f"--data={data}", f"--output={folder}", *FLAGS, *flags]


@pytest.fixture(scope="module")
def compared(data_dir, tmp_path_factory):
    """A comparison that was told to stop after its first training, and went on."""
    folder = tmp_path_factory.mktemp("compared")
    process = subprocess.Popen(command(data_dir, folder), cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    while len(list(folder.glob("cells/*/cell.json"))) < 1 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=500)
    stopped = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/cell.json")}
    result = run_module(*command(data_dir, folder)[2:])
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return folder, (process.returncode, output), stopped, result.stdout


@pytest.mark.slow
def test_a_stopped_comparison_says_how_to_go_on_and_trains_nothing_twice(compared):
    folder, (status, output), stopped, after = compared
    assert status == 0 and "To continue:" in output and "pipelines.compare" in output
    assert 1 <= len(stopped) < 6
    assert {path: path.stat().st_mtime_ns for path in stopped} == stopped
    assert len(list(folder.glob("cells/*/cell.json"))) == 6
    assert f"{len(stopped) + 1}/6  " in after and f"{len(stopped)}/6  " not in after


@pytest.mark.slow
def test_every_prediction_is_there(compared, data_dir):
    results = json.loads((compared[0] / "results.json").read_text())
    assert len(results["clips"]["id"]) == 30 and len(results["cells"]) == 6
    rows = parquet.read_table(compared[0] / "predictions.parquet").to_pylist()
    for split, model in (("group", "lstm"), ("group", "frame_pool"), ("video", "frame_pool")):
        wanted = (split, model, "kept", "none")
        tested = [
            row["clip"]
            for row in rows
            if (row["split"], row["model"], row["training"], row["intervention"]) == wanted
        ]
        assert sorted(tested) == sorted(results["clips"]["id"])
    names = {row["intervention"] for row in rows if row["model"] == "lstm" and row["training"] == "kept"}
    assert {"none", "shuffle1", "reverse", "background_swap", "last2", "patches", "gap"} <= names
    assert {len(row["logits"]) for row in rows} == {3}
    cell = next(c for c in results["cells"] if c["model"] == "lstm" and c["training"] == "kept")
    assert len(cell["recurrence"]["memory_gradient"]) == 5
    assert results["of_features"] is False
    for found in (
        cell for cell in results["cells"] if (cell["split"], cell["training"]) == ("group", "kept")
    ):
        check_attributions(found, results, rows)


def check_attributions(cell, results, rows):
    """Checks that the contributions of a clip's frames sum to its probability, minus that without frames."""
    assert len(cell["attributions"]) == 2
    for attribution in cell["attributions"]:
        wanted = {name: cell[name] for name in ("model", "training", "split", "part", "seed")}
        wanted |= {"clip": results["clips"]["id"][attribution["clip"]], "intervention": "none"}
        [row] = [row for row in rows if wanted.items() <= row.items()]
        likely = special.softmax(row["logits"])[row["label"]]
        assert sum(attribution["contributions"]) == pytest.approx(likely - attribution["prior"], abs=0.02)


@pytest.mark.slow
def test_the_report_says_what_was_found_and_can_be_written_again(compared, data_dir):
    folder, after = compared[0], compared[3]
    assert "Report:" in after and "Cannot tell:" in after
    verdicts = after[after.index("\nCannot tell:") :].split("\nReport:")[0]
    assert max(map(len, verdicts.splitlines())) <= 80
    assert list((folder / "tensorboard").glob("events.*"))
    names = ("report.html", "report.md", "results.json", "predictions.parquet")
    reports = {name: (folder / name).read_bytes() for name in names}
    result = run_module("pipelines.compare", f"--results={folder / 'results.json'}", f"--data={data_dir}")
    assert result.returncode == 0, result.stderr
    assert {name: (folder / name).read_bytes() for name in reports} == reports


@pytest.mark.slow
def test_existing_runs_say_what_they_said_when_they_were_trained(compared, tmp_path):
    folder = compared[0]
    names = ("frame_pool-part1-seed0", "lstm-part1-seed0")
    runs = ",".join(str(folder / "cells" / name) for name in names)
    result = run_module("pipelines.compare", f"--runs={runs}", f"--output={tmp_path / 'again'}")
    assert result.returncode == 0, result.stderr
    found = parquet.read_table(tmp_path / "again" / "predictions.parquet").to_pylist()
    before = [
        row
        for name in names
        for row in parquet.read_table(folder / "cells" / name / "predictions.parquet").to_pylist()
    ]
    for row, earlier in zip(found, before, strict=True):
        np.testing.assert_allclose(row.pop("logits"), earlier.pop("logits"), atol=1e-4)
        assert row == earlier


def without_costs(text):
    """Returns a report, as Markdown or HTML, without the section on costs, which differ between processes."""
    return re.sub(r"\n(## |<h2[^>]*>)Costs\b.*?(?=\n(## |<h2))", "", text, flags=re.DOTALL)


def check_same(folder, expected):
    """Checks that two folders of comparisons hold the same predictions and reports, apart from paths and costs."""
    cells = [path.relative_to(expected) for path in expected.glob("cells/*/cell.json")]
    assert len(cells) == 6
    for path in [*cells, "results.json", "report.md", "report.html"]:
        found, wanted = ((root / path).read_text().replace(str(root), "") for root in (folder, expected))
        assert without_costs(found) == without_costs(wanted), path
    for path in [*(path.with_name("predictions.parquet") for path in cells), "predictions.parquet"]:
        assert (folder / path).read_bytes() == (expected / path).read_bytes(), path


@pytest.mark.slow
def test_any_number_of_processes_and_tasks_finds_the_same(compared, data_dir, tmp_path):
    """Two jobs ran in `compared`. Here, one does; and four tasks, of which one is killed and run again."""
    folders = {"jobs": compared[0], "serial": tmp_path / "serial", "tasks": tmp_path / "tasks"}
    result = run_module(*command(data_dir, folders["serial"], "--jobs=1")[2:])
    assert result.returncode == 0, result.stderr

    def task(index):
        flags = (f"--task_index={index}", "--task_count=4", "--jobs=1")
        return subprocess.Popen(
            command(data_dir, folders["tasks"], *flags), cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        )

    tasks = [task(index) for index in range(4)]
    while not list(folders["tasks"].glob("cells/*/checkpoints")) and tasks[0].poll() is None:
        time.sleep(0.01)
    tasks[0].kill()
    tasks[0].communicate()
    tasks[0] = task(0)
    outputs = [process.communicate(timeout=500)[0] for process in tasks]
    assert [process.returncode for process in tasks] == [0] * 4
    assert any("Report:" in output for output in outputs)
    assert all(
        "Report:" in output or "last process to finish writes the report" in output for output in outputs
    )
    for name in ("serial", "tasks"):
        check_same(folders[name], folders["jobs"])
    finalized = run_module(*command(data_dir, folders["tasks"], "--finalize")[2:])
    assert finalized.returncode == 0 and "Report:" in finalized.stdout, finalized.stderr


@pytest.mark.slow
@pytest.mark.timeout(3 * MAX_SECS)
def test_a_ray_cluster_that_loses_a_node_finds_the_same(compared, data_dir, tmp_path):
    with two_nodes() as nodes:
        flags = ("--engine=ray", f"--ray_address={nodes.address}")
        process = subprocess.Popen(
            command(data_dir, tmp_path / "ray", *flags), cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        )
        wait_for(lambda: any(map(runs_cell, nodes.descendants(0))) or process.poll() is not None)
        nodes.kill(0)
        output, _ = process.communicate(timeout=MAX_SECS)
    assert process.returncode == 0 and "Report:" in output, output
    assert "Ray holds 2 trainings at a time" in output and "6/6  " in output, output
    check_same(tmp_path / "ray", compared[0])


def runs_cell(pid, cell="[^/]+"):
    """Tells whether a process holds the lock of a cell's folder; `cell` is a pattern of the cell's name."""
    for file in pathlib.Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):  # it has just been closed
            if re.search(rf"/cells/{cell}/\.lock$", os.readlink(file)):
                return True
    return False


FAILING = "lstm-part2-seed0"


def kill_twice(process, cell):
    """Kills the processes that run a cell of a comparison, as often as it is tried."""
    killed = set()
    while len(killed) < 2 and process.poll() is None:
        for pid in child_pids(process.pid):
            if pid not in killed and runs_cell(pid, cell):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        time.sleep(0.005)
    assert len(killed) == 2


def run_and_kill(cell, data, folder, *flags):
    """Runs a comparison whose processes are killed when they run a cell; returns its exit status and output."""
    process = subprocess.Popen(
        command(data, folder, "--jobs=2", *flags),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    kill_twice(process, cell)
    return (*process.communicate(timeout=500), process.returncode)


@pytest.fixture(scope="module")
def failed(data_dir, tmp_path_factory):
    """A comparison of which one training failed: its processes were killed, both times."""
    folder = tmp_path_factory.mktemp("failed")
    return folder, *run_and_kill(FAILING, data_dir, folder)


def reports(folder):
    names = ("report.html", "report.md", "results.json", "predictions.parquet")
    return {name: (folder / name).read_bytes() for name in names}


REASON = "its process was killed by SIGKILL"


@pytest.mark.slow
def test_a_training_that_fails_twice_is_named_and_the_others_are_reported(failed):
    folder, output, errors, status = failed
    assert status == 1 and "Traceback" not in errors
    assert f"warning: {FAILING}: {REASON}; it is tried again" in errors
    assert f"warning: {FAILING} failed twice: {REASON}. The other trainings go on" in errors
    assert (
        f"error: 1 of 6 trainings failed twice. The report leaves out their seeds:\n  {FAILING}: {REASON}\n"
        in errors
    )
    again = errors[errors.index("To try them again:") :].splitlines()[1]
    assert "pipelines.compare" in again and f"--output={folder}" in again
    assert "Report:" in output
    finished = {path.parent.name for path in folder.glob("cells/*/cell.json")}
    assert len(finished) == 5 and FAILING not in finished
    results = json.loads((folder / "results.json").read_text())
    [lost] = results["failed"]
    assert (lost["model"], lost["part"], lost["reason"]) == ("lstm", 1, REASON)
    assert [(cell["model"], cell["part"]) for cell in results["left_out"]] == [("lstm", 0)]
    assert {cell["model"] for cell in results["cells"]} == {"frame_pool"}
    report = (folder / "report.md").read_text()
    assert "1 of its 6 trainings failed twice" in report.split("\n\n")[1]
    assert f"- {FAILING}: {REASON}" in report.split("\n\n")[2]


@pytest.mark.slow
def test_there_is_no_report_if_no_seed_is_left(data_dir, tmp_path):
    _, errors, status = run_and_kill(FAILING, data_dir, tmp_path, "--models=lstm", "--audit=none")
    assert status == 1 and "Traceback" not in errors
    assert "There is no report: in each seed, a training has failed." in errors
    assert (
        f"error: 1 of 2 trainings failed twice. The report leaves out their seeds:\n  {FAILING}: {REASON}\n"
        in errors
    )
    assert [path.parent.name for path in tmp_path.glob("cells/*/cell.json")] == ["lstm-part1-seed0"]
    assert not {"report.html", "report.md", "results.json"} & {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_a_report_without_failed_trainings_can_be_written_again(failed, data_dir):
    """By --finalize, which tells them again, and from its results alone."""
    folder, before = failed[0], reports(failed[0])
    result = run_module(*command(data_dir, folder, "--finalize")[2:])
    assert result.returncode == 1 and "Report:" in result.stdout
    assert f"  {FAILING}: {REASON}\nTo try them again:\n" in result.stderr
    assert "--finalize" not in result.stderr and f"--output={folder}" in result.stderr
    assert reports(folder) == before
    result = run_module("pipelines.compare", f"--results={folder / 'results.json'}", f"--data={data_dir}")
    assert result.returncode == 0, result.stderr
    assert reports(folder) == before


@pytest.mark.slow
def test_finalizing_tells_failed_trainings_from_those_that_never_ran(failed, data_dir):
    folder, before = failed[0], reports(failed[0])
    result = run_module(*command(data_dir, folder, "--finalize", "--seeds=2")[2:])
    assert result.returncode == 2 and "Report:" not in result.stdout
    assert f"  {FAILING}: {REASON}\nTo try them again:\n" in result.stderr
    assert (
        "Expected that all trainings are finished. Received: unfinished='frame_pool-part1-seed1, "
        in result.stderr
    )
    assert FAILING not in result.stderr[result.stderr.index("Expected that") :]
    assert reports(folder) == before


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_same_command_tries_failed_trainings_again(failed, compared, data_dir):
    """The last test of that comparison, as it completes it."""
    folder = failed[0]
    result = run_module(*command(data_dir, folder)[2:])
    assert result.returncode == 0, result.stderr
    assert "6/6  " in result.stdout and "5/6  " not in result.stdout
    check_same(folder, compared[0])
    assert not list((folder / "failed").iterdir())


def dry_run(data, output, scratch, *flags):
    """Returns what a dry run prints. `scratch` is the folder for its temporary files."""
    scratch.mkdir(exist_ok=True)
    arguments = command(data, output, "--dry_run", "--models=frame_pool", *flags)[2:]
    result = run_module(*arguments, env=os.environ | {"TMPDIR": str(scratch)})
    assert result.returncode == 0, result.stderr
    assert not list(scratch.iterdir())
    return result.stdout


@pytest.mark.slow
def test_a_dry_run_estimates_what_is_left_and_writes_nothing(compared, data_dir, tmp_path):
    folder, scratch = compared[0], tmp_path / "scratch"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    shown = dry_run(data_dir, folder, scratch, "--seeds=2", "--jobs=2")
    counts = {
        match[1]: tuple(map(int, match.groups()[1:]))
        for match in re.finditer(r"^  (\w[\w ]*?) {2,}(\d+) +(\d+) +(\d+)", shown, re.MULTILINE)
    }
    assert counts == {"usual": (4, 2, 2), "by video": (4, 2, 2), "in all": (8, 4, 4)}
    assert "Processes: 2 processes on " in shown
    assert float(re.search(r"^About ([0-9.]+) min with 2 processes", shown, re.MULTILINE)[1]) > 0
    assert re.search(r"^  frame_pool +[0-9,]+ +[0-9.]+ +[0-9.]+ +4$", shown, re.MULTILINE)
    assert re.search(r"^Memory: about .* GB, of .* free$", shown, re.MULTILINE)
    assert re.search(r"^Disk:   about .* MB, of .* free$", shown, re.MULTILINE)
    assert "All trainings are finished" in dry_run(data_dir, folder, scratch)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.slow
def test_a_dry_run_of_a_task_makes_no_folder(data_dir, tmp_path):
    flags = ("--jobs=1", "--task_index=1", "--task_count=3")
    shown = dry_run(data_dir, tmp_path / "new", tmp_path / "scratch", *flags)
    assert "Processes: this process; task 1 of 3" in shown and "with 1 process in each of 3 tasks" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]


JOBS = [
    ("2,3,5", [], ["2", "3", "5"]),
    ("2,3,5", ["--jobs=2"], ["2", "3"]),
    ("2,5", ["--jobs_per_gpu=2"], ["2", "5", "2", "5"]),
    ("7", [], []),  # in this process
    ("2,5", ["--jobs=1"], []),
    ("2,5", ["--strategy=mirrored"], []),
    ("-1", ["--threads_per_job=3"], [None, None]),
    ("-1", [], [None, None, None]),  # as many as the memory allows
    ("-1", ["--jobs=5"], [None] * 5),
    (
        "0",
        ["--jobs=3", "--jobs_per_gpu=2"],
        "Expected at most 2 jobs on 1 GPUs with --jobs_per_gpu=2. Received: jobs=3",
    ),
]
# In a process of its own, as the flags of two entry points exclude each other.
SHOW_GPUS = """
import json, os, sys
from absl import flags
from absl.testing import flagsaver
from pipelines import comparison_jobs
from ucf50_tfrecord.dataset import memory
from ucf50_tfrecord.errors import UserError

os.sched_getaffinity = lambda pid: set(range(8))
memory.available_host_bytes = lambda: 7 << 30
found = []
for gpus, given in json.loads(sys.argv[1]):
    os.environ |= {"CUDA_VISIBLE_DEVICES": gpus}
    with flagsaver.flagsaver():
        flags.FLAGS(["compare", *given])
        try:
            environments = comparison_jobs.job_environments()
            found.append([environment.get("CUDA_VISIBLE_DEVICES") for environment in environments])
        except UserError as error:
            found.append(str(error))
print(json.dumps(found))
"""


def test_each_job_gets_a_gpu_or_its_part_of_the_cores():
    result = run_code(SHOW_GPUS, json.dumps([(gpus, given) for gpus, given, _ in JOBS]))
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [expected for *_, expected in JOBS]


SHOW_RAY_ENVIRONMENTS = """
import json, os, sys
from absl import flags
from pipelines import comparison_jobs

flags.FLAGS(["compare", "--threads_per_job=2"])
os.environ |= {"TF_SOMETHING": "1", "OTHER": "2"}
os.environ.pop("TF_NUM_INTRAOP_THREADS", None)
found = [comparison_jobs.ray_environment(num_cpus=3.5, num_gpus=gpus) for gpus in (0, 0.5)]
print(json.dumps([{name: env.get(name) for name in sys.argv[1:]} for env in found]))
"""


def test_a_training_on_ray_gets_its_threads_and_no_gpu_that_it_has_not_reserved():
    names = ("TF_NUM_INTRAOP_THREADS", "CUDA_VISIBLE_DEVICES", "TF_SOMETHING", "OTHER")
    result = run_code(SHOW_RAY_ENVIRONMENTS, *names)
    assert result.returncode == 0, result.stderr
    without_gpu, with_gpu = (tuple(found.values()) for found in json.loads(result.stdout))
    assert without_gpu == ("2", "-1", "1", None)
    assert with_gpu == ("3", None, "1", None)


MISTAKES = {
    "--models=nothing": "each model to be one of",
    "--models=nothing.flags": "Cannot read the recipe nothing.flags",
    "--models=my-own.flags": "each recipe file to be named after a model: a letter, then letters, digits or _",
    "--models=lstm,other/lstm.flags": "recipes with different names",
    "--cv=9": "at most 5 parts, because only 5 folds hold clips",
    "--cv=some": "--cv=<a number from 2 on> or --cv=logo",
    "--cv=1": "--cv=<a number from 2 on> or --cv=logo",
    "--seed=3": "no --seed: the comparison chooses it",
    "--teachers=runs/a": "no teachers in a comparison: its trainings hold out different clips",
    "--cv=2 --val_folds=1": "either --cv or --val_folds",
    "--orders=backwards": "each order to be one of",
    "--val_folds=4,77": "folds out of 1-5",
    "--val_folds=1 --audit=lstm": "--cv, not --val_folds, with --audit",
    "--audit=conv3d": "only compared models",
    "--runs=a --results=b": "either --runs or --results",
    "--jobs=0": "--jobs=auto or --jobs=<a number from 1 on>",
    "--jobs=2 --strategy=mirrored": "--jobs=1 with --strategy=mirrored",
    "--engine=ray --strategy=mirrored": "one device per training, not --strategy, with --engine=ray",
    "--engine=ray --jobs_per_gpu=2": "--gpus_per_job, not --jobs_per_gpu, with --engine=ray",
    "--gpus_per_job=1": "--engine=ray with --gpus_per_job",
    "--engine=beam --ray_address=auto": "--engine=ray with --ray_address",
    "--task_index=2 --task_count=2": "a task_index from 0 to task_count - 1",
    "--task_index=0": "--task_index and --task_count together",
    "--task_index=0 --task_count=2 --videos=v": "--data=<folder of finished shards> instead of --videos",
    "--task_index=0 --task_count=2 --features=f": "--data=<folder of finished features> instead of",
    "--dry_run --finalize": "--dry_run without --runs, --results and --finalize",
    "--finalize": "that all trainings are finished. Received: unfinished='frame_pool-part1-seed0, ",
}
# All in one process, which takes seconds to start.
TRY_EACH = """
import json, sys
from absl import flags
from absl.testing import flagsaver
from pipelines import compare
from ucf50_tfrecord.errors import UserError

said = {}
mistakes, given = json.loads(sys.argv[1]), sys.argv[2:]
for mistake in mistakes:
    sys.argv = ["compare", *given, *mistake.split()]
    with flagsaver.flagsaver():
        flags.FLAGS(sys.argv)
        try:
            compare.main()
        except UserError as error:
            said[mistake] = str(error)
print(json.dumps(said))
"""


# Of these nothing needs to be converted to know.
EARLY_MISTAKES = (
    "--models=nothing",
    "--cv=1",
    "--batch_size=0",
    "--orders=backwards",
    "--audit=conv3d",
    "--teachers=runs/a",
    "--val_folds=3-1",
)


def test_mistakes_show_before_anything_is_converted(videos_dir, tmp_path):
    arguments = [json.dumps(EARLY_MISTAKES), f"--videos={videos_dir}", f"--data={tmp_path / 'set'}"]
    result = run_code(TRY_EACH, *arguments)
    assert result.returncode == 0, result.stderr
    assert sorted(json.loads(result.stdout.splitlines()[-1])) == sorted(EARLY_MISTAKES)
    assert not (tmp_path / "set").exists()


def test_mistakes_are_told_in_a_line(data_dir, tmp_path):
    arguments = [json.dumps(list(MISTAKES)), f"--data={data_dir}", f"--output={tmp_path / 'out'}"]
    result = run_code(TRY_EACH, *arguments)
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout.splitlines()[-1])
    for mistake, message in MISTAKES.items():
        assert message in said[mistake], mistake
    assert not (tmp_path / "out").exists()


OF_FEATURES = """
import json, sys
from absl import flags
from pipelines import comparison_flags
flags.FLAGS([sys.argv[0], "--epochs=3"])
print(json.dumps([comparison_flags.read_settings(name, of_features=of) for name in ("lstm", "conv3d") for of in (False, True)]))
"""


def test_clips_stored_as_features_are_trained_by_the_recipe_for_features():
    result = run_code(OF_FEATURES)
    assert result.returncode == 0, result.stderr
    lstm, lstm_of_features, *conv3d = json.loads(result.stdout.splitlines()[-1])
    expected = recipes.load("features_lstm") | {"epochs": 3}
    assert lstm_of_features.items() >= expected.items() and lstm["horizontal_flip"]
    assert not lstm_of_features.get("horizontal_flip")
    assert conv3d[0] == conv3d[1]  # there is no recipe of it for features


NAMED = """
import json, sys
from absl import flags
from pipelines import comparison_flags

flags.FLAGS(sys.argv)
named = comparison_flags.name_recipes()
print(json.dumps({name: comparison_flags.read_settings(recipe, of_features=True) for name, recipe in named.items()}))
"""


def test_a_recipe_of_ones_own_is_compared_under_the_name_of_its_file(tmp_path):
    (tmp_path / "big_lstm.flags").write_text("--model=lstm\n--epochs=40\n")
    result = run_code(NAMED, f"--models=lstm,{tmp_path}/big_lstm.flags", "--dropout=0.5")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert list(found) == ["lstm", "big_lstm"]
    assert found["big_lstm"].items() >= {"model": "lstm", "epochs": 40, "dropout": 0.5}.items()
    assert found["lstm"]["epochs"] == 20 and found["lstm"]["dropout"] == 0.5


@pytest.mark.parametrize("output", ["run", "data", "mine"])
def test_a_folder_of_something_else_is_no_comparison(data_dir, pool_run, tmp_path, output):
    """A run's curves lay below the folder that a comparison clears."""
    shutil.copytree(pool_run, tmp_path / "run")
    (tmp_path / "run" / "tensorboard").mkdir()
    (tmp_path / "run" / "tensorboard" / "events.out.tfevents.1.host").write_text("curves")
    shutil.copytree(data_dir, tmp_path / "data")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "results.json").touch()
    (tmp_path / "mine" / "thesis.tex").touch()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for given in (
        [f"--data={data_dir}", "--models=frame_pool"],
        [f"--data={data_dir}", f"--runs={pool_run}"],
    ):
        result = run_module("pipelines.compare", *given, f"--output={tmp_path / output}")
        assert result.returncode == 2, result.stderr
        assert "error: Expected a folder for a comparison: new, empty or written as such" in result.stderr
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
