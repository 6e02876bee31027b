import copy
import dataclasses
import functools
import pathlib
import re
import shutil
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipelines import remedies
from tests.conftest import CLASSES, build, flip_bit, raises_with_remedies
from tests.dataset.helpers import EVERY_AUGMENTATION
from ucf50_tfrecord import manifest, models, texts
from ucf50_tfrecord.architectures import MODELS
from ucf50_tfrecord.dataset import pipeline
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.dataset.feed import Feed, read_clips
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import runner, workbench
from ucf50_tfrecord.specs import ModelSpec, TrainSpec
from ucf50_tfrecord.training import checkpoint, logs, loop
from ucf50_tfrecord.training import meter as meter_lib
from ucf50_tfrecord.training import step as step_lib
from ucf50_tfrecord.training import strategy as strategy_lib
from ucf50_tfrecord.training.listener import Listener
from ucf50_tfrecord.training.run import RunOptions, Scores


def train(
    data_dir,
    run_dir,
    *,
    model="seed_pool",
    precision="float32",
    strategy="one",
    listener=None,
    make_evaluator=None,
    dropout=0.0,
    encoder=None,
    log_every_steps=1,
    checkpoint_secs=1e9,
    steps_per_call=1,
    profile_steps=None,
    cache="none",
    skip_bad_records=False,
    **spec,
):
    """Trains on folds 2 to 5 (24 clips), validates on fold 1. Teachers' probabilities are random."""
    loaded = manifest.load(str(data_dir))
    strategy = strategy_lib.make_strategy(strategy)
    feed, val_feed = (
        Feed(load_clips(loaded, folds), strategy=strategy, cache=cache, skip_bad_records=skip_bad_records)
        for folds in ([2, 3, 4, 5], [1])
    )
    if "teachers" in spec:
        random = np.random.default_rng(0)
        feed = feed.with_soft_targets(random.dirichlet(np.ones(3), len(feed.clips)).astype(np.float32))
    shape = {"num_classes": 3, "num_frames": 5, "height": 16, "width": 24}
    model_spec = ModelSpec(name=model, dropout=dropout, **shape | (encoder or {}))
    train_spec = TrainSpec(**dict(epochs=2, batch_size=5, precision=precision) | spec)
    state = loop.build_state(model_spec, train_spec, num_clips=len(feed.clips), strategy=strategy)
    make_evaluator = make_evaluator or functools.partial(runner.Evaluator, feed=val_feed, batch_size=4)
    return loop.train(
        feed,
        state,
        train_spec,
        run_dir=str(run_dir),
        options=RunOptions(
            log_every_steps=log_every_steps,
            steps_per_call=steps_per_call,
            checkpoint_secs=checkpoint_secs,
            profile_steps=profile_steps,
        ),
        evaluate=make_evaluator(runner.Predictor(state.model, strategy)),
        open_log=lambda step: logs.TensorBoardLog(str(run_dir), start_step=step),
        listener=Listener(**listener or {}),
    )


@pytest.fixture(autouse=True)
def forget_models():
    """Frees the models of each test at once: to free those of the whole module takes TensorFlow up to a minute."""
    yield
    workbench.forget_models()


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """Leaves out TensorBoard's pictures: to draw them takes a third of a short run's time."""
    if request.function is not test_tensorboard_gets_curves_and_pictures:
        monkeypatch.setattr(logs.TensorBoardLog, "evaluation", lambda *_: None)


@pytest.fixture(scope="module")
def two_epochs(data_dir, tmp_path_factory):
    """A finished run: its folder and what training returned. Read only."""
    run_dir = tmp_path_factory.mktemp("two_epochs") / "run"
    return run_dir, train(data_dir, run_dir)


def read_all(data_dir, *, batch_size):
    """The training clips as one batch, filled up."""
    clips = load_clips(manifest.load(str(data_dir)), [2, 3, 4, 5])
    return next(Feed(clips, strategy=strategy_lib.make_strategy("one")).batches(batch_size=batch_size))


def weights(trained):
    return [v.numpy() for v in trained.model.variables]


def losses(seen):
    return [progress.scores["loss"] for progress in seen if "loss" in progress.scores]


def test_it_learns_and_scores_held_out_groups(data_dir, tmp_path):
    # Batch norm's moving averages need some 60 steps, however soon the training loss is low.
    options = {"optimizer": "adamw", "schedule": "cosine", "warmup_epochs": 1.0, "steps_per_call": 12}
    trained = train(data_dir, tmp_path, model="lstm", epochs=6, batch_size=2, log_every_steps=12, **options)
    assert trained.finished and trained.step == 6 * 12
    assert set(trained.evaluate().scores.values()) == {1.0}
    assert trained.best_score == 1.0 and 1 <= trained.best_epoch <= 6
    assert trained.clips_per_sec > 0 and 0 <= trained.wait_share <= 1


def test_it_learns_from_a_perfect_teacher_without_labels(data_dir, tmp_path, monkeypatch):
    def without_labels(self, _):
        targets = np.eye(3, dtype=np.float32)[self.clips.labels]
        labels = np.zeros_like(self.clips.labels)
        taught = copy.copy(self)
        taught.clips = dataclasses.replace(self.clips, labels=labels, soft_targets=targets)
        return taught

    monkeypatch.setattr(Feed, "with_soft_targets", without_labels)
    options = {"optimizer": "adamw", "schedule": "cosine", "warmup_epochs": 1.0, "steps_per_call": 12}
    options |= {"model": "lstm", "epochs": 6, "batch_size": 2, "log_every_steps": 12}
    trained = train(data_dir, tmp_path / "taught", teachers="perfect", distillation=1.0, **options)
    assert set(trained.evaluate().scores.values()) == {1.0}


def test_the_loss_is_the_mean_over_the_clips_that_count(data_dir, tmp_path):
    """One epoch of one batch that is filled up: the reported loss is that of the initial weights."""
    seen = []
    train(data_dir, tmp_path, epochs=1, batch_size=32, listener={"report": seen.append}, label_smoothing=0.1)
    keras.utils.set_random_seed(0)
    model = models.build_model(ModelSpec(name="seed_pool", num_classes=3, num_frames=5, height=16, width=24))
    batch = read_all(data_dir, batch_size=24)
    target = tf.one_hot(batch["label"], 3) * 0.9 + 0.1 / 3
    expected = keras.losses.categorical_crossentropy(target, model(batch["video"]), from_logits=True)
    assert seen[-1].scores["train_loss"] == pytest.approx(float(tf.reduce_mean(expected)), rel=1e-5)


# All that draws on chance.
CHANCE = {
    "model": "frame_pool",
    "epochs": 3,
    "dropout": 0.3,
    "augment": EVERY_AUGMENTATION,
    "optimizer": "adamw",
    "schedule": "cosine",
    "weight_decay": 0.01,
    "ema": 0.9,
    "clip_norm": 1.0,
    "mixup": 0.4,
    "cutmix": 1.0,
}


def step_of(run_dir):
    """The step that a run's last checkpoint was saved after."""
    found = checkpoint.find(run_dir / "checkpoints" / "last")
    return int(tf.train.load_variable(found[0], "step/.ATTRIBUTES/VARIABLE_VALUE")) if found else 0


def assert_same_weights(found, expected):
    for one, other in zip(weights(found), weights(expected), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def undisturbed(data_dir, tmp_path_factory):
    """A run from its start to its end, streamed from the shards."""
    return train(data_dir, tmp_path_factory.mktemp("undisturbed"), **CHANCE)


@pytest.mark.slow
def test_ten_interruptions_leave_the_same_weights(undisturbed, data_dir, tmp_path):
    """Stopped after 10 of its 15 steps, in mid-epoch and at ends, each time with a new model and feed."""
    stops = sorted(np.random.default_rng(0).choice(np.arange(1, 15), 10, replace=False).tolist())
    assert any(stop % 5 == 0 for stop in stops) and any(stop % 5 for stop in stops)
    for stop in stops:
        seen, start = [], step_of(tmp_path)
        listener = {"report": seen.append, "should_stop": lambda: start + len(seen) + 1 == stop}
        stopped = train(data_dir, tmp_path, listener=listener, **CHANCE)
        assert not stopped.finished and stopped.step == stop
    resumed = train(data_dir, tmp_path, **CHANCE)
    assert resumed.finished
    assert_same_weights(resumed, undisturbed)


@pytest.mark.parametrize("balanced", ["class_weight", "sampler"])
def test_balanced_trainings_resume_in_mid_epoch_to_the_same_weights(
    data_dir, tmp_path, monkeypatch, balanced
):
    """On 13 of the clips, 8 of them of one class; stopped after step 4 of 6, and once with clips kept in memory."""
    load = load_clips

    def load_few(*arguments):
        clips = load(*arguments)
        return clips.select(np.sort([*np.flatnonzero(clips.labels == 0), *np.flatnonzero(clips.labels)[:5]]))

    monkeypatch.setitem(globals(), "load_clips", load_few)
    options = {"model": "frame_pool", "dropout": 0.3, balanced: "balanced"}
    whole = train(data_dir, tmp_path / "whole", **options)
    plain = train(data_dir, tmp_path / "plain", **options | {balanced: getattr(TrainSpec, balanced)})
    seen = []
    listener = {"report": seen.append, "should_stop": lambda: len(seen) == 3}
    assert train(data_dir, tmp_path / "cut", listener=listener, **options).step == 4
    assert_same_weights(train(data_dir, tmp_path / "cut", cache="host", **options), whole)
    assert any((a != b).any() for a, b in zip(weights(whole), weights(plain), strict=True))


def test_a_training_of_two_paths_on_stored_neighbours_resumes_in_mid_epoch_to_the_same_weights(
    videos_dir, tmp_path
):
    build(videos_dir, tmp_path / "data", motion_frames=1)
    options = {"model": "two_path", "dropout": 0.3, "encoder": {"motion_frames": 1}}
    options |= {"augment": EVERY_AUGMENTATION, "mixup": 0.4, "cutmix": 1.0}
    whole = train(tmp_path / "data", tmp_path / "whole", **options)
    seen = []
    listener = {"report": seen.append, "should_stop": lambda: len(seen) == 3}
    assert train(tmp_path / "data", tmp_path / "cut", listener=listener, **options).step == 4
    assert_same_weights(train(tmp_path / "data", tmp_path / "cut", cache="host", **options), whole)


@pytest.mark.parametrize("name", [name for name, traits in MODELS.items() if traits.has_residuals])
def test_a_training_with_stochastic_depth_resumes_in_mid_epoch_to_the_same_weights(data_dir, tmp_path, name):
    options = {"model": name, "encoder": {"stochastic_depth": 0.5}}
    whole = train(data_dir, tmp_path / "whole", **options)
    plain = train(data_dir, tmp_path / "plain", model=name)
    seen = []
    listener = {"report": seen.append, "should_stop": lambda: len(seen) == 3}
    assert train(data_dir, tmp_path / "cut", listener=listener, **options).step == 4
    assert_same_weights(train(data_dir, tmp_path / "cut", cache="host", **options), whole)
    # Sorted, because the drops change the order in which Keras lists layers.
    norms = [sorted(float(np.square(w).sum()) for w in weights(run)) for run in (whole, plain)]
    assert not np.allclose(*norms)


@pytest.mark.parametrize("cache", ["host", pytest.param("none", marks=pytest.mark.slow)])
def test_several_steps_per_call_give_the_same_weights(undisturbed, data_dir, tmp_path, cache):
    """4 steps a call, at most: an epoch's 5 steps are cut in two, and a point of the curve after 3 cuts too.

    With clips kept in host memory, on which the weights do not depend either.
    """
    seen = []
    options = {"steps_per_call": 4, "log_every_steps": 3, "listener": {"report": seen.append}}
    found = train(data_dir, tmp_path, cache=cache, **options, **CHANCE)
    assert [progress.step for progress in seen][:7] == [3, 5, 6, 9, 10, 12, 15]
    assert_same_weights(found, undisturbed)


@pytest.mark.parametrize("cache", ["device", pytest.param("host", marks=pytest.mark.slow)])
def test_weights_do_not_depend_on_the_cache(undisturbed, data_dir, tmp_path, cache):
    kept = train(data_dir, tmp_path, cache=cache, **CHANCE)
    assert_same_weights(kept, undisturbed)
    np.testing.assert_array_equal(kept.evaluate("shuffle1").logits, undisturbed.evaluate("shuffle1").logits)


def test_a_finished_run_is_not_trained_again(two_epochs, data_dir, tmp_path):
    run_dir, first = two_epochs
    shutil.copytree(run_dir, tmp_path, dirs_exist_ok=True)
    seen = []
    again = train(data_dir, tmp_path, listener={"report": seen.append})
    assert again.finished and not seen and again.clips_per_sec is None
    assert_same_weights(again, first)


def test_best_and_last_weights_can_be_loaded(two_epochs, tmp_path):
    run_dir, trained = two_epochs
    model = models.build_model(ModelSpec(name="seed_pool", num_classes=3, num_frames=5, height=16, width=24))
    checkpoint.load_weights(str(run_dir), "last", model)
    for expected, found in zip(weights(trained), (v.numpy() for v in model.variables), strict=True):
        np.testing.assert_array_equal(found, expected)
    checkpoint.load_weights(str(run_dir), "best", model)
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoint.load_weights(str(tmp_path / "nowhere"), "last", model)
    other = models.build_model(ModelSpec(name="seed_rnn", num_classes=3, num_frames=5, height=16, width=24))
    with pytest.raises(UserError, match="Cannot restore the checkpoint"):
        checkpoint.load_weights(str(run_dir), "last", other)


@pytest.mark.parametrize("precision", ["float16", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_mixed_precision_trains(data_dir, tmp_path, precision):
    seen = []
    trained = train(data_dir, tmp_path, precision=precision, epochs=4, listener={"report": seen.append})
    assert {layer.compute_dtype for layer in trained.model.layers if layer.name.startswith("conv")} == {
        precision
    }
    assert seen[-1].scores["train_loss"] < 0.8 * losses(seen)[0]


def test_a_loss_that_is_not_finite_stops_the_run(data_dir, tmp_path):
    with pytest.raises(UserError, match=r"at step (\d+) .*on the clips ") as raised:
        train(data_dir, tmp_path, learning_rate=1e30, epochs=5, log_every_steps=100, batch_size=2)
    assert "Try: a smaller --learning_rate, --clip_norm=1 or" in remedies.message(raised.value)
    step = int(re.search(r"at step (\d+)", str(raised.value))[1])
    clips = load_clips(manifest.load(str(data_dir)), [2, 3, 4, 5])
    indices = pipeline.batch_clips(clips, batch_size=2, seed=0, step=step - 1)
    assert f"on the clips {', '.join(clips.ids[i] for i in indices)}." in str(raised.value)
    assert step < 12  # named though it was looked for at the epoch's end only
    assert step_of(tmp_path) == 0  # and nothing was saved


def test_a_gradient_that_is_not_finite_stops_the_run_before_anything_is_saved(
    data_dir, tmp_path, monkeypatch
):
    """The loss of that step is finite still: it was computed before the weights became NaN."""
    make = step_lib.make_train_steps

    def poisoned(train_step, strategy):
        train_steps = make(train_step, strategy)

        def call(batches, first_step, *arguments):
            rows, times, votes = train_steps(batches, first_step, *arguments)
            columns = step_lib.StepResult.of(rows.numpy())
            poisoned = columns._replace(finite=columns.finite - float(first_step == 6))
            return tf.stack(poisoned, axis=1), times, votes

        return call

    monkeypatch.setattr(step_lib, "make_train_steps", poisoned)
    with pytest.raises(UserError, match="The gradient is not finite at step 7 .epoch 2., on the clips"):
        train(data_dir, tmp_path, log_every_steps=100)
    assert step_of(tmp_path) == 5


def test_early_stopping_stops_a_run_that_no_longer_improves(data_dir, tmp_path):
    """Scores that peak after epoch 2: patience 2 ends it after epoch 4, and it stays ended."""
    scores = iter([0.3, 0.6, 0.6, 0.5, 0.9])

    class Peaking(runner.Evaluator):
        def __call__(self, intervention="none"):
            evaluation = super().__call__(intervention)
            evaluation.__dict__["scores"] = {"macro_f1": next(scores)}
            return evaluation

    clips, strategy = load_clips(manifest.load(str(data_dir)), [1]), strategy_lib.make_strategy("one")
    feed = Feed(clips, strategy=strategy)
    make_evaluator = functools.partial(Peaking, feed=feed, batch_size=4)
    options = {"epochs": 9, "early_stopping": 2, "make_evaluator": make_evaluator}
    trained = train(data_dir, tmp_path, **options)
    assert trained.finished and (trained.step, trained.epochs) == (4 * 5, 4)
    assert (trained.best_epoch, trained.best_score) == (2, pytest.approx(0.6))
    again = train(data_dir, tmp_path, **options)
    assert again.finished and again.epochs == 4 and again.clips_per_sec is None
    assert next(scores) == 0.9


def read_events(run_dir, split):
    events = EventAccumulator(str(run_dir / "tensorboard" / split), size_guidance={"tensors": 0})
    events.Reload()
    return events


def test_tensorboard_gets_curves_and_pictures(data_dir, tmp_path):
    train(data_dir, tmp_path, epochs=2)
    events = {split: read_events(tmp_path, split) for split in ("train", "validation")}
    curves = {split: set(found.Tags()["tensors"]) for split, found in events.items()}
    of_steps = step_lib.StepResult(*np.ones(len(step_lib.StepResult._fields))).curves()
    of_input = {f"input/{name}" for name in meter_lib.Times(secs=1, clips=1).rates()}
    assert curves["train"] == {*of_steps, *of_input, "learning_rate", "training clips"}
    classes = {f"per_class_f1/{name}" for name in ("Left", "Middle", "Right")}
    pictures = {"confusion", "mistakes", "per_class_f1"}
    # Those with a default are of clips with several labels.
    scores = {field.name for field in dataclasses.fields(Scores) if field.default is dataclasses.MISSING}
    assert curves["validation"] == scores | pictures | classes
    assert [event.step for event in events["train"].Tensors("loss")] == list(range(1, 11))
    assert [event.step for event in events["validation"].Tensors("macro_f1")] == [5, 10]
    for name in pictures:
        assert events["validation"].Tensors(name)[-1].step == 10


def test_curves_do_not_jump_back_after_a_crash(data_dir, tmp_path):
    """Killed after step 8, when the last checkpoint was of step 5: steps 6 to 8 are trained and drawn again."""

    def die(progress):
        if progress.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(data_dir, tmp_path, listener={"report": die})
    assert [event.step for event in read_events(tmp_path, "train").Tensors("loss")][-1] == 8
    train(data_dir, tmp_path)
    assert [event.step for event in read_events(tmp_path, "train").Tensors("loss")] == list(range(1, 11))


@pytest.mark.parametrize("steps_per_call", [1, 5])
def test_a_run_can_be_profiled(data_dir, tmp_path, steps_per_call):
    seen = []
    options = {"log_every_steps": 100, "listener": {"report": seen.append}}
    train(data_dir, tmp_path, epochs=1, profile_steps=(2, 3), steps_per_call=steps_per_call, **options)
    assert list(tmp_path.glob("tensorboard/train/plugins/profile/*/*.xplane.pb"))
    assert [progress.step for progress in seen] == ([1, 2, 3, 4, 5] if steps_per_call == 1 else [1, 3, 5])


def test_steps_that_are_not_reached_give_no_profile_and_a_warning(data_dir, tmp_path):
    warnings = []
    train(data_dir, tmp_path, epochs=1, profile_steps=(20, 30), listener={"warn": warnings.append})
    assert warnings == ["there is no profile: none of the steps 20 to 30 was taken"]


def test_the_worst_mistakes_are_the_most_confident(two_epochs, data_dir):
    _, trained = two_epochs
    clips = load_clips(manifest.load(str(data_dir)), [1])
    logits = np.zeros((6, 3), np.float32)
    logits[range(6), (clips.labels + [1, 0, 1, 0, 0, 1]) % 3] = [1, 9, 3, 1, 1, 2]
    evaluation = runner.Evaluation(clips=clips, logits=logits)
    video, captions = trained.evaluate.mistakes(evaluation, count=2)
    np.testing.assert_array_equal(video, read_clips(clips.select(np.array([2, 5]))))
    first = f"{clips.ids[2]}: true {CLASSES[clips.labels[2]]}, predicted {CLASSES[(clips.labels[2] + 1) % 3]}"
    assert captions[0] == f"{first} ({np.exp(3) / (np.exp(3) + 2):.2f})" and len(captions) == 2
    right = runner.Evaluation(clips=clips, logits=np.eye(3, dtype="f4")[clips.labels])
    assert trained.evaluate.mistakes(right)[0].shape == (0, 5, 16, 24, 3)


def test_best_weights_are_saved_when_they_beat_all_before(tmp_path):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    optimizer = keras.optimizers.SGD()
    optimizer.build(model.trainable_variables)
    checkpoints = checkpoint.Checkpoints(str(tmp_path), model, optimizer)
    for epoch, macro_f1 in enumerate([0.5, 0.4, 0.6, 0.6], start=1):
        model.set_weights([np.full((1, 1), float(epoch))])
        checkpoints.step.assign(epoch)
        checkpoints.save_best(macro_f1, epoch)
    assert checkpoints.best_epoch.numpy() == 3
    checkpoint.load_weights(str(tmp_path), "best", model)
    assert model.get_weights()[0] == 3


@pytest.fixture(scope="module")
def stopped(data_dir, tmp_path_factory):
    """A run that was stopped after its eighth step. Read only."""
    seen, run_dir = [], tmp_path_factory.mktemp("stopped") / "run"
    listener = {"report": seen.append, "should_stop": lambda: len(seen) + 1 == 8}
    train(data_dir, run_dir, listener=listener)
    return run_dir


@pytest.mark.parametrize("damage", ["data", "index", "flip"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(two_epochs, stopped, data_dir, tmp_path, damage):
    """The two that are kept are those before and after the last evaluation; the third was made in epoch 2."""
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    last = tmp_path / "checkpoints" / "last"
    newest, before = (pathlib.Path(path).name for path in checkpoint.find(last))
    assert step_of(tmp_path) == 8
    torn = next(last.glob(f"{newest}.{'index' if damage == 'index' else 'data'}*"))
    if damage == "flip":
        flip_bit(torn, torn.stat().st_size // 2)
    else:
        torn.write_bytes(torn.read_bytes()[:100])
    (last / "ckpt-9_temp").mkdir()  # left by a process that was killed while it saved
    seen, warnings = [], []
    again = train(data_dir, tmp_path, listener={"report": seen.append, "warn": warnings.append})
    assert [progress.step for progress in seen] == [6, 7, 8, 9, 10]
    assert_same_weights(again, two_epochs[1])
    [text] = warnings
    assert "Cannot restore the checkpoint" in text and newest in text and "of step 5" in text
    assert len(list(last.iterdir())) == 4 and len(checkpoint.find(last)) == 2


def test_a_run_without_a_sound_checkpoint_is_an_error(two_epochs, data_dir, tmp_path):
    shutil.copytree(two_epochs[0], tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "checkpoints" / "last").glob("*.data*"):
        path.write_bytes(path.read_bytes()[:100])
    with raises_with_remedies("Cannot restore the checkpoint .* None before it is sound. Try: another --run"):
        train(data_dir, tmp_path)


def test_the_reason_of_tensorflows_error_is_plain(tmp_path):
    with pytest.raises(tf.errors.OpError) as raised:
        tf.raw_ops.ReadFile(filename=str(tmp_path / "x"))
    assert "{{" in str(raised.value) and "[Op:" in str(raised.value)
    assert texts.tensorflow_reason(raised.value) == f"{tmp_path / 'x'}; No such file or directory"


def test_an_epoch_that_was_not_evaluated_is_evaluated_on_resume(data_dir, tmp_path):
    """Killed in its evaluation, after what was due had been saved."""

    def fail(model):
        def evaluate():
            raise KeyboardInterrupt

        return evaluate

    with pytest.raises(KeyboardInterrupt):
        train(data_dir, tmp_path, epochs=1, checkpoint_secs=0, make_evaluator=fail)
    assert step_of(tmp_path) == 5
    seen = []
    trained = train(data_dir, tmp_path, epochs=1, listener={"report": seen.append})
    assert not seen and trained.finished and trained.best_epoch == 1
    assert [event.step for event in read_events(tmp_path, "validation").Tensors("macro_f1")] == [5]
    assert len(checkpoint.find(tmp_path / "checkpoints" / "best")) == 1


def test_weights_that_are_not_finite_are_never_saved(data_dir, tmp_path):
    with pytest.raises(UserError, match="The loss is"):
        train(data_dir, tmp_path, learning_rate=1e30, epochs=5, log_every_steps=1000, checkpoint_secs=0)
    model = models.build_model(ModelSpec(name="seed_pool", num_classes=3, num_frames=5, height=16, width=24))
    checkpoint.load_weights(str(tmp_path), "last", model)
    assert all(np.isfinite(values).all() for values in model.get_weights())


def test_a_damaged_record_stops_training_with_its_repair(data_dir, tmp_path):
    copy = shutil.copytree(data_dir, tmp_path / "data")
    flip_bit(copy / "small-fold03.tfrecord-00000-of-00002", 3000)
    with raises_with_remedies("fold03.*the record at byte 0 is damaged.*To repair it: make repair"):
        train(copy, tmp_path / "run")


def test_skipped_records_are_reported_and_leave_training_and_scores_sound(data_dir, tmp_path):
    copy = shutil.copytree(data_dir, tmp_path / "data")
    for fold in ("01", "03"):
        flip_bit(copy / f"small-fold{fold}.tfrecord-00000-of-00002", 3000)
    warnings = []
    trained = train(copy, tmp_path / "run", skip_bad_records=True, listener={"warn": warnings.append})
    assert trained.finished and trained.num_skipped == 1
    assert len(warnings) == 2  # one an epoch
    assert "1 of 24 clips were skipped" in warnings[0] and "small-fold03" in warnings[0]
    evaluation = trained.evaluate()
    assert len(evaluation.clips) == len(evaluation.logits) == 5 and np.isfinite(evaluation.logits).all()
    events = read_events(tmp_path / "run", "train")
    skipped = [tf.make_ndarray(event.tensor_proto) for event in events.Tensors("input/skipped_clips")]
    assert [int(count) for count in skipped] == [1, 1]


def test_a_dataset_without_a_readable_clip_stops_training(data_dir, tmp_path):
    copy = shutil.copytree(data_dir, tmp_path / "data")
    loaded = manifest.load(str(copy))
    clips = load_clips(loaded, [2])
    for path in {str(path) for path in clips.shard_paths}:
        pathlib.Path(path).unlink()
    strategy = strategy_lib.make_strategy("one")
    feed = Feed(clips, strategy=strategy, skip_bad_records=True)
    model = models.build_model(ModelSpec(name="seed_pool", num_classes=3, num_frames=5, height=16, width=24))
    warnings = []
    predictor = runner.Predictor(model, strategy)
    evaluate = runner.Evaluator(predictor, feed, batch_size=4, warn=warnings.append)
    with pytest.raises(UserError, match="Expected at least 1 clip that can be read. Received: skipped=6"):
        evaluate()
    assert "6 of 6 clips were skipped" in warnings[0]


def test_evaluation_sees_clips_as_they_are(data_dir, tmp_path):
    """Whatever training does to its clips, the scores are those of the stored ones."""
    trained = train(data_dir, tmp_path, augment=EVERY_AUGMENTATION, epochs=1)
    batch = next(
        Feed(
            load_clips(manifest.load(str(data_dir)), [1]), strategy=strategy_lib.make_strategy("one")
        ).batches(batch_size=4)
    )
    expected = trained.model(batch["video"], training=False)
    for _ in range(2):
        np.testing.assert_array_equal(trained.evaluate().logits[:4], expected)


def test_the_input_state_in_a_checkpoint_is_a_few_bytes(two_epochs):
    """All that is neither model nor optimizer, the counters of saves and of the best epoch included."""
    run_dir, trained = two_epochs
    path = checkpoint.find(run_dir / "checkpoints" / "last")[0]
    reader = tf.train.load_checkpoint(path)
    rest = [
        name
        for name in reader.get_variable_to_shape_map()
        if not name.startswith(("model", "optimizer", "_CHECK"))
    ]
    num_bytes = sum(np.asarray(reader.get_tensor(name)).nbytes for name in rest)
    assert trained.finished and any(name.startswith("step") for name in rest) and num_bytes < 100


@pytest.mark.parametrize(
    "input_secs, step_secs, expected",
    [(0.05, 0.02, 0.6), (0.06, 0.05, 1 / 6), (0.02, 0.05, 0.0), (0.05, 0.05, 0.0), (0.001, 0.05, 0.0)],
)
def test_the_wait_is_the_time_that_the_device_lacks_input(monkeypatch, input_secs, step_secs, expected):
    """On a device that works on while the host goes on, as GPUs do; by a clock of the test's own."""
    now = device_free_at = arrival = 0.0

    class Step:
        """A step on the device, which it starts when it is free, as the future of its end."""

        def __init__(self):
            nonlocal device_free_at
            device_free_at = self.end = max(device_free_at, now) + step_secs

        def done(self):
            return self.end <= now

        def result(self):
            nonlocal now
            now = max(now, self.end)
            return self.end

    for clock in ("perf_counter", "time"):
        monkeypatch.setattr(meter_lib.time, clock, lambda: now)
    meter = meter_lib.Meter()
    monkeypatch.setattr(meter._watcher, "submit", lambda function, rows: Step())
    for _ in range(200):
        meter.start_call()
        asked = now
        arrival = max(arrival + input_secs, now - 2 * input_secs)  # a buffer of two batches
        now = max(now, arrival)
        meter.end_call(
            tf.ones([1, len(step_lib.StepResult._fields)]), tf.constant([[asked, now]], tf.float64)
        )
    assert meter._times.wait_secs / meter._times.secs == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("log_every_steps", [1, 2])
def test_a_wholly_unreadable_batch_is_skipped(data_dir, tmp_path, log_every_steps):
    copy = shutil.copytree(data_dir, tmp_path / "data")
    flip_bit(copy / "small-fold03.tfrecord-00000-of-00002", 3000)
    options = {"batch_size": 1, "epochs": 1, "log_every_steps": log_every_steps}
    trained = train(copy, tmp_path / "run", skip_bad_records=True, **options)
    assert trained.finished and trained.step == 24 and trained.num_skipped == 1


def test_waiting_for_input_is_measured_and_warned_of(data_dir, tmp_path, monkeypatch):
    """A source that is slow: nearly all time is spent waiting, and the user is told once."""
    from ucf50_tfrecord.dataset.reader import ClipReader

    read = ClipReader.read_raw

    def slow_read(self, index):
        time.sleep(0.15)
        return read(self, index)

    monkeypatch.setattr(ClipReader, "read_raw", slow_read)
    warnings = []
    trained = train(
        data_dir, tmp_path, listener={"warn": warnings.append}, epochs=1, batch_size=1, log_every_steps=3
    )
    assert trained.wait_share > 0.5
    [text] = warnings
    assert "training waits" in text
    assert "To keep the clips' 0.1 MB in memory: --cache=host or device" in remedies.message(text)


def test_evaluation_of_a_run_counts_each_clip_once(two_epochs, tmp_path):
    _, trained = two_epochs
    evaluation = trained.evaluate()
    assert evaluation.logits.shape == (6, 3) and evaluation.confusion.sum() == 6
    shuffled = trained.evaluate("shuffle1")
    np.testing.assert_allclose(shuffled.logits, evaluation.logits, atol=1e-5)  # seed_pool is blind to order
    with pytest.raises(UserError, match="an intervention that is one of"):
        trained.evaluate("reverse")
    path = pathlib.Path(tmp_path, "predictions.jsonl")
    runner.save_predictions(path, [evaluation, shuffled])
    assert len(path.read_text().splitlines()) == 12


def test_shuffled_frames_change_a_sequence_models_logits(data_dir, tmp_path):
    trained = train(data_dir, tmp_path, model="seed_lstm", epochs=1)
    assert np.abs(trained.evaluate("shuffle1").logits - trained.evaluate().logits).max() > 1e-4
