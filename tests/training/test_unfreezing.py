"""Fine-tuning: the encoder is frozen at first, and trained after some epochs (TrainSpec.unfreeze_after_epoch)."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.test_loop import assert_same_weights, read_all, train
from ucf50_tfrecord import manifest, models
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.dataset.feed import Feed
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import runner
from ucf50_tfrecord.specs import FeatureFormat, ModelSpec, TrainSpec
from ucf50_tfrecord.training import logs, loop, optimizer, step, trained
from ucf50_tfrecord.training import run as run_lib
from ucf50_tfrecord.training import strategy as strategy_lib

SHAPE = {"num_classes": 3, "num_frames": 5, "height": 16, "width": 24}
OWN = {"encoder": "tests.models.own:encode_normalized"}
WEIGHTS = [
    "kernel",
    "bias",
    "gamma",
    "beta",
    "moving_mean",
    "moving_variance",
]  # the last four: of batch norm
# All that changes weights. The encoder is frozen in the first of three epochs, which have 5 steps each.
SETTINGS = {
    "model": "frame_pool",
    "epochs": 3,
    "optimizer": "adamw",
    "weight_decay": 0.1,
    "clip_norm": 1.0,
    "unfreeze_after_epoch": 1,
}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Leaves out TensorBoard's pictures: to draw them takes longer than such a training."""
    monkeypatch.setattr(logs.TensorBoardLog, "evaluation", lambda *_: None)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """The settings of a small encoder that is frozen, with weights out of a file."""
    path = tmp_path_factory.mktemp("encoder") / "encoder.weights.h5"
    encoder_of(models.build_model(ModelSpec(name="frame_pool", **OWN, **SHAPE))).save_weights(path)
    return OWN | {"encoder_weights": str(path), "freeze_encoder": True}


def encoder_of(model):
    return model.get_layer("encoder")


def watch(data_dir):
    """Returns an argument make_evaluator, and a list of each epoch's evaluated weights: encoder's, classifier's."""
    seen, strategy = [], strategy_lib.make_strategy("one")
    feed = Feed(load_clips(manifest.load(str(data_dir)), [1]), strategy=strategy)

    def make_evaluator(predictor):
        evaluate, model = runner.Evaluator(predictor, feed, batch_size=4), predictor.model

        def watched():
            seen.append((encoder_of(model).get_weights(), model.get_layer("logits").get_weights()))
            return evaluate()

        watched.mistakes = lambda evaluation: None
        return watched

    return make_evaluator, seen


def equal(found, expected):
    return [np.array_equal(one, other) for one, other in zip(found, expected, strict=True)]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="plain"),
        pytest.param({"ema": 0.9}, marks=pytest.mark.slow, id="ema"),
        pytest.param({"precision": "float16"}, marks=pytest.mark.slow, id="float16"),
        pytest.param({"xla": True, "steps_per_call": 9}, marks=pytest.mark.slow, id="xla"),
    ],
)
def test_an_encoder_keeps_every_bit_until_it_is_unfrozen(data_dir, tmp_path, frozen, changes):
    """Until then, training equals that with a frozen encoder. Batch norm stays frozen after it, too."""
    settings = SETTINGS | {"encoder": frozen} | changes
    make_evaluator, seen = watch(data_dir)
    train(data_dir, tmp_path / "run", make_evaluator=make_evaluator, **settings)
    start = encoder_of(models.build_model(ModelSpec(name="frame_pool", **frozen, **SHAPE)))
    assert [weight.name for weight in start.weights] == WEIGHTS
    (first, classifier), (second, _), (third, _) = seen
    assert all(equal(first, start.get_weights()))
    for found, before in ((second, first), (third, second)):
        assert equal(found, before) == [False, False, True, True, True, True]

    make_evaluator, seen = watch(data_dir)
    settings |= {"unfreeze_after_epoch": 0, "epochs": 1, "make_evaluator": make_evaluator}
    train(data_dir, tmp_path / "frozen", **settings)
    assert all(equal(seen[0][1], classifier))


def test_a_resume_on_either_side_of_the_unfreezing_gives_the_same_weights(data_dir, tmp_path, frozen):
    """Stopped within the frozen epoch, at its end and after it, each time with a new model and optimizer."""
    settings = SETTINGS | {"encoder": frozen, "ema": 0.9, "schedule": "cosine"}
    undisturbed = train(data_dir, tmp_path / "undisturbed", **settings)
    settings |= {"steps_per_call": 4, "log_every_steps": 100}  # of 9 steps, none is on both sides
    for steps in (4, 5, 9):
        stopped = train(data_dir, tmp_path / "run", listener={"should_stop": lambda: True}, **settings)
        assert stopped.step == steps
    assert_same_weights(train(data_dir, tmp_path / "run", **settings), undisturbed)


@pytest.mark.parametrize("scaled", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_late_weights_are_updated_as_by_a_new_optimizer_at_a_fraction_of_the_rate(name, scaled):
    """Adam's bias correction counts their own updates; float16's skipped steps do not count."""
    settings = {"optimizer": name, "weight_decay": 0.5 if name == "adamw" else 0.0}
    policy = "mixed_float16" if scaled else "float32"
    random = np.random.default_rng(0)
    early, late, expected = (keras.Variable(np.ones(3), name="kernel") for _ in range(3))
    spec = TrainSpec(
        epochs=2, unfreeze_after_epoch=1, unfrozen_rate_factor=0.25, learning_rate=0.1, **settings
    )
    found = optimizer.make_optimizer(spec, 4, policy, [late])
    found.build([early, late])
    plain = optimizer.make_optimizer(TrainSpec(learning_rate=0.025, **settings), 4, "float32")

    def gradient(finite=True):
        return tf.constant(random.normal(size=3), tf.float32) if finite else tf.fill([3], np.inf)

    for number in range(4):
        found.apply_gradients([(gradient(finite=not scaled or number != 1), early)])
    assert late.numpy().tolist() == [1, 1, 1] and not (early.numpy() == 1).any()
    for number in range(5):
        value, finite = gradient(), not scaled or number != 2
        scale = found.scale_loss(tf.constant(1.0))
        found.apply_gradients([(gradient(), early), (value * scale if finite else gradient(False), late)])
        if finite:
            plain.apply_gradients([(value, expected)])
        np.testing.assert_allclose(late.numpy(), expected.numpy(), rtol=1e-5)


def test_the_schedule_of_the_learning_rate_does_not_start_again():
    spec = TrainSpec(epochs=2, unfreeze_after_epoch=1, schedule="cosine", learning_rate=0.1)
    early, late = (keras.Variable(np.ones(1), name="kernel") for _ in range(2))
    found = optimizer.make_optimizer(spec, 10, "float32", [late])
    found.build([early, late])
    for _ in range(10):
        found.apply_gradients([(tf.ones(1), early)])
    found.apply_gradients([(tf.ones(1), early), (tf.ones(1), late)])
    # Adam's first update is the learning rate: half of its peak in the middle, times the factor 0.1.
    assert float(late[0]) == pytest.approx(1 - 0.1 * 0.5 * 0.1, abs=1e-5)


@pytest.mark.parametrize("is_frozen", [True, False])
def test_a_frozen_encoder_has_no_backward_pass(data_dir, frozen, is_frozen):
    strategy = strategy_lib.make_strategy("one")
    spec = TrainSpec(epochs=2, batch_size=32, unfreeze_after_epoch=1, precision="float32")
    state = loop.build_state(
        ModelSpec(name="frame_pool", **frozen, **SHAPE), spec, num_clips=24, strategy=strategy
    )
    train_step = step.make_train_step(
        state.model,
        state.optimizer,
        spec,
        strategy=strategy,
        frames=lambda batch: batch["video"],
        variables=state.trained_variables(frozen=is_frozen),
    )
    zero = tf.constant(0, tf.int64)
    graph = train_step.get_concrete_function(read_all(data_dir, batch_size=32), zero, zero).graph
    kinds = {operation.type for operation in graph.get_operations()}
    assert "Conv2D" in kinds and ("Conv2DBackpropFilter" in kinds) == (not is_frozen)


@pytest.mark.parametrize("unfreeze_after_epoch", [0, 1])
def test_averages_of_a_fine_tuned_run_are_loaded(data_dir, tmp_path, frozen, unfreeze_after_epoch):
    settings = SETTINGS | {"encoder": frozen, "ema": 0.9, "unfreeze_after_epoch": unfreeze_after_epoch}
    found = train(data_dir, tmp_path, **settings)
    config = make_config(frozen, epochs=3, unfreeze_after_epoch=unfreeze_after_epoch, ema=0.9)
    strategy = strategy_lib.make_strategy("one")
    model = trained.load_model(
        str(tmp_path), config, "last", strategy=strategy, allowed_code=[OWN["encoder"]]
    )
    assert all(equal(model.get_weights(), found.model.get_weights()))


def make_config(model, *, features=None, **settings):
    return run_lib.RunConfig(
        data_dir="",
        fingerprint="",
        classes=("a", "b", "c"),
        train_folds=(1,),
        val_folds=(2,),
        test_folds=(),
        model=ModelSpec(**{"name": "frame_pool"} | SHAPE | model),
        train=TrainSpec(precision="float32", **settings),
        features=features,
    )


FEATURES = FeatureFormat(
    encoder="efficientnet_lite0", weights="0" * 64, num_frames=5, num_features=8, height=16, width=24
)


@pytest.mark.parametrize(
    "model, features, message",
    [
        (
            {},
            None,
            r"freeze_encoder and .*with unfreeze_after_epoch. Received: .*freeze_encoder=False",
        ),
        ({"name": "conv3d"}, None, "Received: model='conv3d', freeze_encoder=False, unfreeze_after_epoch=2"),
        (
            {"feature_shape": (8,)},
            FEATURES,
            "no unfreeze_after_epoch for stored features.*unfreeze_after_epoch=2",
        ),
    ],
)
def test_a_training_without_a_frozen_encoder_cannot_unfreeze_it(model, features, message):
    make_config(model, features=features, epochs=3)
    with pytest.raises(UserError, match=message):
        make_config(model, features=features, epochs=3, unfreeze_after_epoch=2)
