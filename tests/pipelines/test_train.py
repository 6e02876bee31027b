"""Training as users run it: real processes, real interruptions."""

import dataclasses
import json
import re
import shutil
import signal
import types

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from pipelines import train
from tests.conftest import REPOSITORY
from tests.waiting import wait_for
from tests.warm import run_module, start_module
from ucf50_tfrecord import manifest, recipes, storage
from ucf50_tfrecord.training import run


def train_flags(data_dir, run_dir, *extra):
    return [
        "pipelines.train",
        f"--data={data_dir}",
        f"--run={run_dir}",
        "--model=seed_pool",
        "--batch_size=2",
        "--precision=float32",
        "--epochs=3",
        "--val_folds=1,2",
        *extra,
    ]


def final_weights(run_dir):
    import tensorflow as tf

    from ucf50_tfrecord.training import checkpoint

    reader = tf.train.load_checkpoint(checkpoint.find(run_dir / "checkpoints" / "last")[0])
    # The file format's own entries and the counters of saves are no weights.
    names = [
        name for name in reader.get_variable_to_shape_map() if name.startswith(("model", "optimizer", "step"))
    ]
    assert len(names) > 10
    return {name: reader.get_tensor(name) for name in names}


@pytest.fixture(scope="module")
def finished_run(data_dir, tmp_path_factory):
    """An undisturbed run and what it printed."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    result = run_module(*train_flags(data_dir, run_dir))
    assert result.returncode == 0, result.stderr
    return run_dir, result


def test_a_run_ends_with_its_scores_and_the_way_to_tensorboard(finished_run):
    run_dir, result = finished_run
    summary = json.loads((run_dir / "summary.json").read_text())
    assert re.search(rf"frames in order +{summary['accuracy']:.4f} +{summary['macro_f1']:.4f}", result.stdout)
    assert re.search(rf"frames shuffled +{summary['shuffled']['accuracy']:.4f}", result.stdout)
    assert f"Run:         {run_dir}" in result.stdout
    assert f"-m tensorboard.main --logdir {run_dir}\n" in result.stdout
    assert len(re.findall(r"^epoch +\d/3 ", result.stdout, re.MULTILINE)) == 3
    assert "Traceback" not in result.stderr


def test_the_summary_can_be_made_again_from_the_predictions(finished_run, data_dir):
    run_dir, _ = finished_run
    summary = json.loads((run_dir / "summary.json").read_text())
    lines = [json.loads(line) for line in (run_dir / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * summary["num_clips"] == 24
    for perturbation, scores in (("none", summary), ("shuffle1", summary["shuffled"])):
        chosen = [line for line in lines if line["perturbation"] == perturbation]
        assert len({line["clip_id"] for line in chosen}) == 12 and {line["fold"] for line in chosen} == {1, 2}
        labels, predicted = ([line[key] for line in chosen] for key in ("label", "predicted"))
        assert predicted == [int(np.argmax(line["logits"])) for line in chosen]
        assert all(line["clip_id"].startswith(line["class"]) for line in chosen)
        assert scores["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
        assert scores["macro_f1"] == pytest.approx(
            f1_score(labels, predicted, average="macro", zero_division=0)
        )
    loaded = manifest.load(str(data_dir))
    assert summary["fingerprint"] == loaded.fingerprint
    config = run.load_config(str(run_dir))
    assert (config.clip_format, config.video_secs) == (loaded.format, (0.98, 1.08))
    assert (summary["folds"], summary["train_folds"], summary["num_train_clips"]) == (
        [1, 2],
        [3, 4, 5],
        18,
    )
    assert summary["model"] == "seed_pool" and summary["params"] > 0 and summary["seed"] == 0
    assert summary["clips_per_sec"] > 0 and 0 <= summary["wait_share"] <= 1


@pytest.mark.parametrize(
    "signum, status",
    [
        (signal.SIGTERM, 0),
        pytest.param(signal.SIGINT, 0, marks=pytest.mark.slow),
        (signal.SIGKILL, -9),
    ],
)
def test_an_interrupted_process_goes_on_to_the_same_weights(finished_run, data_dir, tmp_path, signum, status):
    run_dir = tmp_path / "run"
    command = train_flags(data_dir, run_dir, "--checkpoint_secs=0.05")
    process = start_module(*command)
    wait_for(
        lambda: list((run_dir / "checkpoints" / "last").glob("ckpt-*.index")), process=process, poll_secs=0.01
    )
    process.send_signal(signum)
    stdout, stderr = process.communicate(timeout=500)
    assert process.returncode == status, stderr
    assert not (run_dir / "summary.json").exists()
    if status == 0:
        assert re.search(
            rf"Stopped at step \d+ and saved. To go on:\n.*-m pipelines.train .*--run={run_dir}", stdout
        )
    resumed = run_module(*command)
    assert resumed.returncode == 0, resumed.stderr
    expected, found = final_weights(finished_run[0]), final_weights(run_dir)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_run_folder_keeps_its_configuration(finished_run, data_dir):
    run_dir, _ = finished_run
    result = run_module(*train_flags(data_dir, run_dir, "--learning_rate=0.5", "--seed=3"))
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "learning_rate was 0.001, is 0.5; seed was 0, is 3. Try: another --run" in result.stderr


def test_a_run_that_is_being_trained_is_left_alone(data_dir, tmp_path):
    (tmp_path / "run").mkdir()
    with storage.folder_lock(tmp_path / "run"):
        result = run_module(*train_flags(data_dir, tmp_path / "run"))
    assert result.returncode == 2 and f"Another process is writing {tmp_path / 'run'}" in result.stderr


def test_more_epochs_go_on_and_replace_the_figures(finished_run, data_dir, tmp_path):
    run_dir = shutil.copytree(finished_run[0], tmp_path / "run")
    result = run_module(*train_flags(data_dir, run_dir, "--epochs=4"))
    assert result.returncode == 0, result.stderr
    assert re.findall(r"^epoch +(\d)/4 ", result.stdout, re.MULTILINE) == ["4"]
    assert json.loads((run_dir / "summary.json").read_text())["trained_epochs"] == 4


def test_a_finished_run_keeps_its_figures(finished_run, data_dir):
    run_dir, _ = finished_run
    before = (run_dir / "summary.json").read_text()
    result = run_module(*train_flags(data_dir, run_dir))
    assert result.returncode == 0 and "epoch" not in result.stdout.split("after")[0]
    assert (run_dir / "summary.json").read_text() == before


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run.time, "strftime", lambda form: "now")
    assert [run.make_run_dir("data/x", "lstm") for _ in range(3)] == [
        "runs/x-lstm-now",
        "runs/x-lstm-now-2",
        "runs/x-lstm-now-3",
    ]


def test_a_test_set_is_scored_that_selection_never_saw(data_dir, tmp_path):
    """Train, validation and test folds; the best epoch by validation, scored on the test folds."""
    run_dir = tmp_path / "run"
    flags = ["--val_folds=2", "--test_folds=1", "--early_stopping=1", "--ema=0.9", "--learning_rate=1e-6"]
    result = run_module(*train_flags(data_dir, run_dir, *flags))
    assert result.returncode == 0, result.stderr
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["folds"], summary["train_folds"], summary["num_clips"]) == ([1], [3, 4, 5], 6)
    assert summary["weights"] == "best" and summary["trained_epochs"] == summary["best"]["epoch"] + 1 < 3
    assert summary["validation"]["macro_f1"] == pytest.approx(summary["best"]["macro_f1"])
    assert f"with the weights of epoch {summary['best']['epoch']}, on 6 clips of folds 1" in result.stdout
    lines = [json.loads(line) for line in (run_dir / "predictions.jsonl").read_text().splitlines()]
    assert {line["fold"] for line in lines} == {1}
    again = run_module("pipelines.evaluate", f"--run={run_dir}")  # by default what the run itself reports
    assert again.returncode == 0, again.stderr
    found = json.loads((run_dir / "evaluation-best-1" / "summary.json").read_text())
    assert found["macro_f1"] == summary["macro_f1"]


def test_a_batch_of_more_clips_than_there_are_is_told(finished_run, monkeypatch, capsys):
    """It may take all memory, and the process with it, which says nothing then."""
    config = run.load_config(str(finished_run[0]))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=40))
    job = types.SimpleNamespace(
        config=config,
        feeds=[types.SimpleNamespace(clips=range(18)), types.SimpleNamespace(clips=range(12))],
        strategy=types.SimpleNamespace(num_replicas_in_sync=1),
        run_dir="runs/x",
    )
    train.announce(job)
    assert (
        "18 training clips do not fill a batch of 40: --batch_size=18 trains as well"
        in capsys.readouterr().err
    )
    job.feeds[0].clips = range(40)
    train.announce(job)
    assert not capsys.readouterr().err


def test_flags_are_checked_before_anything_is_converted(videos_dir, tmp_path):
    result = run_module(
        "pipelines.train", f"--videos={videos_dir}", f"--data={tmp_path / 'set'}", "--batch_size=0"
    )
    assert result.returncode == 2 and not (tmp_path / "set").exists()


def test_a_run_can_be_evaluated_again(finished_run, data_dir, tmp_path):
    run_dir, _ = finished_run
    summary = json.loads((run_dir / "summary.json").read_text())
    result = run_module("pipelines.evaluate", f"--run={run_dir}", f"--output={tmp_path / 'again'}")
    assert result.returncode == 0, result.stderr
    again = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert {key: again[key] for key in ("accuracy", "macro_f1", "shuffled", "num_clips")} == {
        key: summary[key] for key in ("accuracy", "macro_f1", "shuffled", "num_clips")
    }
    result = run_module("pipelines.evaluate", f"--run={run_dir}", "--folds=2-3", "--weights=best")
    assert result.returncode == 0 and "was trained on folds 3" in result.stderr
    assert json.loads((run_dir / "evaluation-best-2-3" / "summary.json").read_text())["num_clips"] == 12


def test_videos_alone_are_enough(videos_dir, tmp_path):
    result = run_module(
        "pipelines.train",
        f"--videos={videos_dir}",
        f"--data={tmp_path / 'set'}",
        "--size=16",
        "--frames=3",
        f"--run={tmp_path / 'run'}",
        "--epochs=1",
        "--model=seed_rnn",
        f"--flagfile={REPOSITORY}/ucf50_tfrecord/recipes/seed_rnn.flags",
        "--epochs=1",
    )
    assert result.returncode == 0, result.stderr
    assert "Converting 30 of 30 videos" in result.stdout
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train"]["epochs"] == 1


@pytest.mark.parametrize("recipe", recipes.names())
def test_every_recipe_parses(recipe, data_dir, tmp_path):
    """--val_folds=99 is refused after all flags have been read, before TensorFlow is loaded."""
    result = run_module("pipelines.train", f"--data={data_dir}", f"--recipe={recipe}", "--val_folds=99")
    assert result.returncode == 2 and "Expected val_folds out of folds 1-5" in result.stderr


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--data="], r"Pass --videos=<folder of class folders>, or --data=<folder of shards>"),
        (["--data=nowhere"], "nowhere holds no manifest.json"),
        (["--model=resnet"], "flag --model=resnet"),
        (["--epoch=3"], "Unknown command line flag 'epoch'"),
        (["--epochs=many"], "flag --epochs=many"),
        (["--flagfile=nowhere.flags"], "nowhere.flags"),
        (["--val_folds=1-3", "--train_folds=3-5"], "Folds 3 are in both train_folds and val_folds"),
        (["--val_folds=7"], "Expected val_folds out of folds 1-5 of .* Received: 7"),
        (["--val_folds=one"], "Expected folds such as 1-5,9. Received: folds='one'"),
        (["--val_folds=1-5"], "Expected train_folds out of folds 1-5 .* Received: none"),
        (["--test_folds=1,2", "--val_folds=2-3"], "Folds 2 are in both val_folds and test_folds"),
        (["--test_folds=4", "--train_folds=1-4"], "Folds 4 are in both train_folds and test_folds"),
        (["--test_folds=9"], "Expected test_folds out of folds 1-5 of .* Received: 9"),
        (["--early_stopping=3"], "test_folds with early_stopping: scores on the folds that chose"),
        (["--profile_steps=9,3"], "--profile_steps=a,b with 1 <= a <= b"),
        (["--encoder=LeNet"], "flag --encoder=LeNet"),
        (["--encoder=VGG16"], "VGG16 .* cannot be built for frames of 16x24"),
        (["--model=lstm", "--encoder_weights=nowhere.h5"], "none, imagenet or a file. Received: nowhere.h5"),
        (["--model=conv3d", "--freeze_encoder"], "Expected a model out of .* if an encoder is chosen"),
        (["--ema=1"], "ema from 0 to below 1"),
        (["--epochs=3", "--unfreeze_after_epoch=3"], "below the 3 epochs .* unfreeze_after_epoch=3"),
        (
            ["--model=lstm", "--unfreeze_after_epoch=3"],
            "freeze_encoder .* Received: model='lstm', freeze_enc",
        ),
        (["--size=32"], "--size is 32x32, but the shards have 16x24"),
        (["--batch_size=0"], "Expected batch_size from 1 to 1000000"),
    ],
)
def test_a_mistake_ends_with_one_clear_message(data_dir, tmp_path, flags, message):
    result = run_module("pipelines.train", f"--data={data_dir}", f"--run={tmp_path / 'run'}", *flags)
    assert result.returncode != 0 and "Traceback" not in result.stderr
    assert re.search(message, result.stdout + result.stderr), result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "Pass --run=<folder of a run>"),
        (["--run=nowhere"], "nowhere is not a run's folder"),
        (["--folds=8"], "Expected folds out of 1-5"),
        ([f"--output={REPOSITORY / 'README.md'}"], "Cannot read the folder .*README.md: Not a directory"),
        (["--data={other}"], "holds clips of 5x16x24, but the run was trained on 4x16x24"),
    ],
)
def test_evaluation_explains_mistakes(finished_run, data_dir, tmp_path, flags, message):
    run_dir = shutil.copytree(finished_run[0], tmp_path / "run")
    if "{other}" in "".join(flags):
        config = json.loads((run_dir / "config.json").read_text())
        config["model"]["num_frames"] = config["clip_format"]["num_frames"] = 4
        (run_dir / "config.json").write_text(json.dumps(config))
    given = [flag.format(other=data_dir) for flag in flags]
    run_flag = [] if not flags or "--run" in flags[0] else [f"--run={run_dir}"]
    result = run_module("pipelines.evaluate", *run_flag, *given)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert re.search(message, result.stderr), result.stderr
