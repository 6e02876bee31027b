"""The door for notebooks: the documents' code as it stands, Keras's own loop, and what is loaded when."""

import itertools
import math
import re
import shutil

import keras
import numpy as np
import pytest

import ucf50_tfrecord as ucf
from tests.conftest import REPOSITORY, run_code
from ucf50_tfrecord.inference import decoding
from ucf50_tfrecord.specs import PREDICTION_LIMITS, ClipFormat
from ucf50_tfrecord.training import run as run_lib

LOADED = """
import sys
import ucf50_tfrecord as ucf
def loaded(): return [name for name in ("numpy", "tensorflow", "keras", "av") if name in sys.modules]
assert loaded() == [], loaded()
assert {"open_clips", "train"} <= set(dir(ucf)) and not hasattr(ucf, "nothing")
clips = ucf.open_clips(sys.argv[1], folds=[2, 3])
assert loaded() == ["numpy"], loaded()
print(len(clips))
"""


def test_the_import_is_cheap_and_an_index_needs_no_tensorflow(data_dir):
    result = run_code(LOADED, data_dir)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "12\n"


NUM_EPOCH_STEPS = 2  # of 24 clips, in batches of 16 and of 8


@pytest.fixture
def run_document(data_dir, videos_dir, tmp_path, monkeypatch):
    """A function that runs a document's Python code beside a small dataset and returns the code's variables."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f"ucf50-{ClipFormat()}").symlink_to(data_dir)
    shutil.copy(videos_dir / "Left" / "v_Left_g01_c01.avi", tmp_path / "video.avi")
    monkeypatch.chdir(tmp_path)

    def run(name, *, num_epochs=5, model="lstm"):
        text = (REPOSITORY / name).read_text()
        code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
        # 30 clips in folds 1 to 5 stand for UCF50.
        code = code.replace('"6-25"', '"2-5"').replace('"1-5"', '"1"')
        code = code.replace("epochs=5", f"epochs={num_epochs}").replace('"lstm"', f'"{model}"')
        scope: dict = {}
        exec(compile(code, name, "exec"), scope)
        return scope

    return run


def test_the_readme_runs_as_it_stands(run_document):
    """For one epoch of a smaller model: its code is nearly that of the notebook."""
    scope = run_document("README.md", num_epochs=1, model="seed_pool")
    assert scope["model"].optimizer.iterations == NUM_EPOCH_STEPS
    assert scope["run"].summary == run_lib.load_summary("runs/first")


def test_the_notebook_runs_as_it_stands(run_document, capsys):
    scope = run_document("docs/notebook.md")
    printed = capsys.readouterr().out
    assert scope["model"].optimizer.iterations == 5 * NUM_EPOCH_STEPS
    assert "8 of 24 clips show Left" in printed and "epoch 5: " in printed
    assert scope["run"].summary == run_lib.load_summary("runs/first")
    assert scope["run"].config.train.epochs == 5
    assert scope["run"].config.train.augment.horizontal_flip  # the recipe's
    assert sum(scope["probabilities"].values()) == pytest.approx(1)
    assert [*scope["probabilities"].values()] == sorted(scope["probabilities"].values(), reverse=True)


def test_batches_hold_every_clip_once_per_epoch(data_dir):
    clips = ucf.open_clips(data_dir)
    in_order = [*clips.batches(8).as_numpy_iterator()]
    assert [len(labels) for _, labels in in_order] == [8, 8, 8, 6]
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in in_order]), clips.labels)
    frames = np.concatenate([video for video, _ in in_order])
    assert frames.shape == (30, 5, 16, 24, 3) and frames.dtype == np.uint8
    epochs = [*itertools.islice(clips.batches(8, seed=0).as_numpy_iterator(), 8)]
    for epoch in (epochs[:4], epochs[4:]):
        shuffled = np.concatenate([video for video, _ in epoch])
        assert sorted(video.tobytes() for video in shuffled) == sorted(video.tobytes() for video in frames)
    assert any((one != two).any() for (one, _), (two, _) in zip(epochs[:4], epochs[4:]))


def test_keras_fit_learns_from_batches(data_dir):
    keras.utils.set_random_seed(0)
    clips = ucf.open_clips(data_dir, folds="2-5")
    model = ucf.build_model("seed_pool", clips)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    history = model.fit(
        clips.batches(8, seed=0), epochs=8, steps_per_epoch=math.ceil(len(clips) / 8), verbose=0
    )
    assert history.history["loss"][-1] < history.history["loss"][0]
    _, accuracy = model.evaluate(ucf.open_clips(data_dir, folds=[1]).batches(4), verbose=0)
    assert accuracy == 1


def test_a_finished_run_keeps_its_model_and_scores(data_dir, tmp_path):
    settings = {"epochs": 1, "batch_size": 2, "precision": "float32"}
    run = ucf.train(data_dir, "seed_pool", tmp_path / "run", val_folds="1,2", **settings)
    clips = ucf.open_clips(data_dir, folds=[1, 2])
    predicted = run.model.predict(clips.batches(5), verbose=0).argmax(axis=1)
    assert run.summary.accuracy == (predicted == clips.labels).mean()
    again = ucf.train(data_dir, "seed_pool", tmp_path / "run", val_folds="1,2", **settings)
    assert again.summary == run.summary


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda data, run: ucf.open_clips("nowhere"), "nowhere holds no manifest.json"),
        (lambda data, run: ucf.open_clips(data, folds="9"), "Expected folds out of 1-5"),
        (lambda data, run: ucf.build_model("resnet", ucf.open_clips(data)), "a model out of"),
        (lambda data, run: ucf.build_model("lstm", ucf.open_clips(data), drop=1), r"settings=\['drop'\]"),
        (
            lambda data, run: ucf.build_model("lstm", ucf.open_clips(data), dropout=0.1, epochs=5),
            r"Expected settings out of dropout, .* Received: settings=\['epochs'\]",
        ),
        (
            lambda data, run: ucf.build_model("lstm", ucf.open_clips(data), horizontal_flip=True),
            r"Received: settings=\['horizontal_flip'\]",
        ),
        (lambda data, run: ucf.train(data, epoch=3), r"Expected settings out of .* settings=\['epoch'\]"),
        (lambda data, run: ucf.train(data, "nothing"), "Expected a recipe out of bilstm, .*recipe='nothing'"),
        (lambda data, run: ucf.train(data, early_stopping=2), "test_folds with early_stopping"),
        (lambda data, run: ucf.train(data, val_folds="1-5"), "Expected train_folds out of folds 1-5"),
        (lambda data, run: ucf.Run(data), "is not a run's folder"),
        (lambda data, run: ucf.predict(run, "nowhere.avi"), "There is no video or folder nowhere.avi"),
        (lambda data, run: ucf.predict(run, data), "Expected a video file"),
        (
            lambda data, run: ucf.predict(run, data / "manifest.json", max_error=1),
            "max_error above 0, to below 1",
        ),
    ],
)
def test_a_mistake_is_a_user_error(call, message, data_dir, pool_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ucf.UserError, match=message):
        call(data_dir, pool_run)
    assert not list(tmp_path.iterdir())


def test_a_video_to_predict_may_take_as_long_as_in_the_command(videos_dir, pool_run, monkeypatch):
    found = []

    class Decoder(decoding.Decoder):
        def __call__(self, videos):
            found.append(self.limits)
            return super().__call__(videos)

    monkeypatch.setattr(decoding, "Decoder", Decoder)
    probabilities = ucf.predict(pool_run, videos_dir / "Left" / "v_Left_g01_c01.avi", max_error=0.1)
    assert sum(probabilities.values()) == pytest.approx(1)
    assert probabilities.judgement.confident is False and probabilities.judgement.known is not None
    assert "are too few to show it" in probabilities.judgement.confident_reason
    [limits] = found
    options = (REPOSITORY / "docs" / "options.md").read_text()  # which a test compares with the flags
    [of_videos] = re.findall("^## Flags: videos to predict$(.*?)^## ", options, re.MULTILINE | re.DOTALL)
    assert f"| `--video_timeout_secs` | `{limits.timeout_secs}` |" in of_videos
    assert limits == PREDICTION_LIMITS


RECIPE = "# A comment.\n--model=gru\n--learning_rate=3e-4\n\n--horizontal_flip\n--nofreeze_encoder\n"


def test_a_recipe_may_be_a_file_of_ones_own(tmp_path):
    from ucf50_tfrecord import recipes

    path = tmp_path / "mine.flags"
    path.write_text(RECIPE)
    settings = recipes.load(str(path))
    assert settings == {
        "model": "gru",
        "learning_rate": 3e-4,
        "horizontal_flip": True,
        "freeze_encoder": False,
    }
    assert recipes.train_spec(settings).augment.horizontal_flip
    for line in ("--epochs=many", "--epoch=3", "epochs=3", "--horizontal_flip=yes", "--num_classes=3", "x"):
        path.write_text(f"{RECIPE}{line}\n")
        with pytest.raises(ucf.UserError, match=f"mine.flags. Received: {line}"):
            recipes.load(str(path))
    path.write_text("# x\n--recipe=lstm\n--epochs=3\n--motion\n")
    assert recipes.load(str(path)) == recipes.load("lstm") | {"epochs": 3, "motion": True}
    path.write_text("--epochs=3\n--recipe=lstm\n")
    with pytest.raises(ucf.UserError, match="mine.flags. Received: --recipe=lstm"):
        recipes.load(str(path))
    for base in ("nothing", str(path), ""):
        path.write_text(f"--recipe={base}\n")
        with pytest.raises(
            ucf.UserError, match="Expected --recipe=<one of bilstm, .*mine.flags. Received: recipe="
        ):
            recipes.load(str(path))
    path.write_bytes(b"--epochs=\xff")
    with pytest.raises(ucf.UserError, match="mine.flags: it is not UTF-8"):
        recipes.load(str(path))
    with pytest.raises(ucf.UserError, match="Cannot read the recipe nowhere.flags: No such file"):
        recipes.load("nowhere.flags")
