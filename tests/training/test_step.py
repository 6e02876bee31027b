"""One training step, against what it should do computed by hand."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from tests.training.test_loop import read_all
from tests.warm import run_code
from ucf50_tfrecord import models
from ucf50_tfrecord.dataset import mixing
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import ModelSpec, TrainSpec
from ucf50_tfrecord.training import checkpoint, optimizer, step
from ucf50_tfrecord.training import strategy as strategy_lib
from ucf50_tfrecord.training.optimizer import WeightAverages

SPEC = ModelSpec(name="seed_pool", num_classes=3, num_frames=5, height=16, width=24)


def build():
    keras.utils.set_random_seed(0)
    return models.build_model(SPEC)


def one_step(model, batch, rate=0.1, averages=None, **spec):
    train_step = step.make_train_step(
        model,
        keras.optimizers.SGD(rate),
        TrainSpec(epochs=1, batch_size=32, **spec),
        strategy=strategy_lib.make_strategy("one"),
        frames=lambda batch: batch["video"],
        averages=averages,
    )
    zero = tf.constant(0, tf.int64)
    return step.StepResult.of(train_step(batch, zero, zero).numpy())._asdict()


def gradient_by_hand(model, batch):
    """Of the mean loss over the 24 clips that count, times their weights if there are any; and that loss."""
    with tf.GradientTape() as tape:
        losses = keras.losses.sparse_categorical_crossentropy(
            batch["label"][:24], model(batch["video"][:24]), True
        )
        loss = tf.reduce_mean(losses * batch["weight"][:24] if "weight" in batch else losses)
    return [g.numpy() for g in tape.gradient(loss, model.trainable_variables)], float(loss)


@pytest.mark.parametrize(
    "xla, clip_norm",
    [(False, 0.0), (False, 0.01), (True, 0.01), pytest.param(True, 0.0, marks=pytest.mark.slow)],
)
def test_a_step_follows_the_gradient_of_the_clips_that_count(data_dir, xla, clip_norm):
    """Plain gradient descent over a batch that is filled up with clips that do not count."""
    model = build()
    before = [v.numpy() for v in model.trainable_variables]
    batch = read_all(data_dir, batch_size=32)
    assert batch["mask"].numpy().sum() == 24
    gradients, loss = gradient_by_hand(model, batch)
    norm = np.sqrt(sum((g**2).sum() for g in gradients))
    sums = one_step(model, batch, xla=xla, clip_norm=clip_norm)
    assert sums["loss"] == pytest.approx(24 * loss, rel=1e-5) and sums["clips"] == 24
    assert sums["gradient_norm"] == pytest.approx(norm, rel=1e-4) and sums["finite"] == 1
    factor = min(1, clip_norm / norm) if clip_norm else 1
    assert not clip_norm or factor < 0.5
    for old, gradient, variable in zip(before, gradients, model.trainable_variables, strict=True):
        np.testing.assert_allclose(variable.numpy(), old - 0.1 * factor * gradient, atol=1e-6)


@pytest.mark.parametrize("xla", [False, True])
def test_clips_count_by_their_weights(data_dir, xla):
    """The mean over the number of clips, not over the sum of their weights; padding has a weight, too."""
    model, batch = build(), dict(read_all(data_dir, batch_size=32))
    before = [v.numpy() for v in model.trainable_variables]
    batch["weight"] = tf.constant(np.random.default_rng(0).uniform(0.1, 5, 32), tf.float32)
    gradients, loss = gradient_by_hand(model, batch)
    sums = one_step(model, batch, xla=xla)
    assert sums["loss"] == pytest.approx(24 * loss, rel=1e-5) and sums["clips"] == 24
    for old, gradient, variable in zip(before, gradients, model.trainable_variables, strict=True):
        np.testing.assert_allclose(variable.numpy(), old - 0.1 * gradient, atol=1e-6)


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize("settings", [{"mixup": 0.5}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 1.0}])
def test_mixtures_are_trained_towards_both_classes(data_dir, settings, xla):
    """By their fractions, each class with its weight and smoothed; correct is the class of the larger part."""
    model, batch = build(), dict(read_all(data_dir, batch_size=32))
    before = [v.numpy() for v in model.trainable_variables]
    batch["weight"] = tf.constant(np.random.default_rng(0).uniform(0.1, 5, 32), tf.float32)
    spec = TrainSpec(epochs=1, batch_size=32, **settings)
    counts, zero = tf.cast(batch["mask"], tf.float32), tf.constant(0, tf.int64)
    video, fraction = mixing.mix(batch["video"], counts, batch["position"], spec=spec, seed=0, step=zero)
    donor = np.arange(24) ^ 1
    label, weight, fraction = (
        np.array(values)[:24] for values in (batch["label"], batch["weight"], fraction)
    )
    classes = np.eye(3) * 0.9 + 0.1 / 3
    target = (fraction * weight)[:, np.newaxis] * classes[label]
    target += ((1 - fraction) * weight[donor])[:, np.newaxis] * classes[label[donor]]
    with tf.GradientTape() as tape:
        logits = model(video[:24])
        loss = -tf.reduce_sum(target.astype(np.float32) * tf.nn.log_softmax(logits)) / 24
    gradients = [gradient.numpy() for gradient in tape.gradient(loss, model.trainable_variables)]
    sums = one_step(model, batch, xla=xla, label_smoothing=0.1, **settings)
    assert sums["loss"] == pytest.approx(24 * float(loss), rel=1e-5) and sums["clips"] == 24
    larger = np.where(fraction >= 0.5, label, label[donor])
    assert (larger != label).any()
    assert sums["correct"] == np.count_nonzero(np.argmax(logits, axis=1) == larger)
    for old, gradient, variable in zip(before, gradients, model.trainable_variables, strict=True):
        np.testing.assert_allclose(variable.numpy(), old - 0.1 * gradient, atol=1e-6)


@pytest.mark.parametrize("xla, smoothing", [(False, 0.0), (True, 0.2)])
def test_several_labels_have_a_sigmoid_loss_for_each_class(data_dir, xla, smoothing):
    """The sum of the classes' losses, as the mean over the clips that count; a clip is right if all classes are."""
    model, batch = build(), dict(read_all(data_dir, batch_size=32))
    before = [v.numpy() for v in model.trainable_variables]
    labels = np.random.default_rng(0).integers(0, 2, (32, 3)).astype(np.uint8)
    batch["label"] = tf.constant(labels)
    with tf.GradientTape() as tape:
        logits = model(batch["video"][:24])
        smoothed = labels[:24] * (1 - smoothing) + smoothing / 2
        losses = 3 * keras.losses.binary_crossentropy(smoothed.astype(np.float32), logits, from_logits=True)
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, model.trainable_variables)
    sums = one_step(model, batch, xla=xla, label_smoothing=smoothing)
    assert sums["loss"] == pytest.approx(24 * float(loss), rel=1e-5)
    assert sums["correct"] == ((logits.numpy() >= 0) == labels[:24]).all(axis=1).sum()
    for old, gradient, variable in zip(before, gradients, model.trainable_variables, strict=True):
        np.testing.assert_allclose(variable.numpy(), old - 0.1 * gradient.numpy(), atol=1e-6)


@pytest.mark.parametrize("xla, temperature", [(False, 1.0), (False, 4.0), (True, 2.5)])
def test_distillation_adds_the_divergence_from_the_teachers(data_dir, xla, temperature):
    """(1 - a) * cross entropy + a * T² * KL(teacher || student), times the clip's weight; also if a probability is 0."""
    model, batch = build(), dict(read_all(data_dir, batch_size=32))
    before = [v.numpy() for v in model.trainable_variables]
    random = np.random.default_rng(0)
    batch["weight"] = tf.constant(random.uniform(0.1, 5, 32), tf.float32)
    teacher = random.dirichlet(np.ones(3), 32).astype(np.float32)
    teacher[:2] = np.eye(3)[:2]
    batch["soft_target"] = tf.constant(teacher)
    label, weight = (batch[name].numpy()[:24] for name in ("label", "weight"))
    logits = model(batch["video"][:24]).numpy().astype(float)
    target = np.eye(3)[label] * 0.9 + 0.1 / 3
    hard = -np.sum(target * special.log_softmax(logits, axis=1), axis=1)
    softened = special.log_softmax(logits / temperature, axis=1)
    divergence = np.sum(special.rel_entr(teacher[:24], np.exp(softened)), axis=1)
    loss = np.mean(weight * (0.3 * hard + 0.7 * temperature**2 * divergence))
    with tf.GradientTape() as tape:
        found = model(batch["video"][:24])
        of_label = -tf.reduce_sum(target.astype(np.float32) * tf.nn.log_softmax(found), axis=1)
        of_teacher = -tf.reduce_sum(teacher[:24] * tf.nn.log_softmax(found / temperature), axis=1)
        by_hand = tf.reduce_mean(weight * (0.3 * of_label + 0.7 * temperature**2 * of_teacher))
    gradients = tape.gradient(by_hand, model.trainable_variables)
    settings = {"teachers": "a,b", "distillation": 0.7, "temperature": temperature}
    sums = one_step(model, batch, xla=xla, label_smoothing=0.1, **settings)
    assert sums["loss"] == pytest.approx(24 * loss, rel=1e-5) and sums["clips"] == 24
    assert sums["correct"] == np.count_nonzero(logits.argmax(axis=1) == label)
    for old, gradient, variable in zip(before, gradients, model.trainable_variables, strict=True):
        np.testing.assert_allclose(variable.numpy(), old - 0.1 * gradient.numpy(), atol=1e-6)


def test_a_student_that_predicts_as_its_teachers_do_has_no_loss(data_dir):
    model, batch = build(), dict(read_all(data_dir, batch_size=32))
    batch["soft_target"] = tf.nn.softmax(model(batch["video"]) / 2.0)
    sums = one_step(model, batch, teachers="a", distillation=1.0)
    assert sums["loss"] == pytest.approx(0, abs=1e-4) and sums["gradient_norm"] < 1e-4


# The global batch has 3 clips and a padding clip; the first device's clips weigh more.
REPLICAS = """
import json, sys, keras, numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from ucf50_tfrecord.specs import TrainSpec
from ucf50_tfrecord.training import optimizer, step
from ucf50_tfrecord.training import strategy as strategy_lib
spec = TrainSpec(epochs=1, batch_size=4, **json.loads(sys.argv[1]))
random = np.random.default_rng(0)
batch = {"video": random.integers(0, 256, (4, 1, 2, 2, 3)).astype(np.uint8), "label": np.array([0, 1, 1, 0], np.int32),
         "mask": np.array([True, True, True, False]), "position": np.arange(4),
         "weight": np.array([4, 0.5, 0.25, 9], np.float32),
         "soft_target": np.array([[1, 0], [0.5, 0.5], [0.2, 0.8], [0, 1]], np.float32)}
found = []
for name, size in (("one", 4), ("mirrored", 2)):
    strategy = strategy_lib.make_strategy(name)
    with strategy.scope():
        video = keras.Input((1, 2, 2, 3), dtype="uint8")
        pixels = keras.ops.cast(keras.layers.Flatten(dtype="float32")(video), "float32") / 255
        model = keras.Model(video, keras.layers.Dense(2, kernel_initializer="zeros")(pixels))
        adam = optimizer.make_optimizer(spec, 1, "float32")
        adam.build(model.trainable_variables)
    def part(context):
        replica = context.replica_id_in_sync_group
        return {key: tf.constant(value[replica * size : (replica + 1) * size]) for key, value in batch.items()}
    train_step = step.make_train_step(model, adam, spec, strategy=strategy, frames=lambda batch: batch["video"])
    zero = tf.constant(0, tf.int64)
    row = train_step(strategy.experimental_distribute_values_from_function(part), zero, zero)
    found.append([row.numpy().tolist(), model.get_weights()[0].tolist()])
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    "settings", [{}, {"mixup": 0.5, "cutmix": 1.0}, {"teachers": "a", "distillation": 0.25}]
)
def test_weighted_clips_on_two_replicas_train_as_on_one(settings):
    result = run_code(REPLICAS, json.dumps(settings), timeout=120)
    assert result.returncode == 0, result.stderr[-3000:]
    (row, one), (other_row, two) = json.loads(result.stdout)
    np.testing.assert_allclose(other_row, row, rtol=1e-6)
    np.testing.assert_allclose(two, one, rtol=1e-5)
    fraction = np.ones(4)
    if "mixup" in settings:
        zero, counts = tf.constant(0, tf.int64), tf.constant([1, 1, 1, 0], tf.float32)
        arguments = tf.zeros([4, 1, 2, 2, 3], tf.uint8), counts, tf.range(4, dtype=tf.int64)
        spec = TrainSpec(batch_size=4, **settings)
        fraction = mixing.mix(*arguments, spec=spec, seed=0, step=zero)[1].numpy()
        assert (fraction[:2] < 1).any() and (fraction[2:] == 1).all()
    weights = np.array([4, 0.5, 0.25, 0])
    # Of a model whose weights are 0, the loss for every class is log(2).
    loss = np.log(2) * np.sum(fraction * weights + (1 - fraction) * weights[[1, 0, 3, 2]])
    if "teachers" in settings:
        entropy = special.entr([[1, 0], [0.5, 0.5], [0.2, 0.8], [0, 1]]).sum(axis=1)
        loss = 0.75 * loss + 0.25 * 2**2 * np.sum(weights * (np.log(2) - entropy))
    assert step.StepResult(*row).loss == pytest.approx(loss, rel=1e-6) and np.any(one)


def test_xla_requires_one_device():
    spec = TrainSpec(epochs=1, batch_size=4, xla=True)

    class Two:
        num_replicas_in_sync = 2

    with pytest.raises(UserError, match="one device if XLA compiles the step. Received: devices=2"):
        step.make_train_step(
            build(), keras.optimizers.SGD(), spec, strategy=Two(), frames=lambda batch: batch
        )


def test_averages_follow_the_weights_and_can_be_evaluated(data_dir, tmp_path):
    model = build()
    averages = WeightAverages(model, 0.5)
    start = model.trainable_variables[0].numpy()
    one_step(model, read_all(data_dir, batch_size=32), averages=averages)
    trained = model.trainable_variables[0].numpy()
    decay = 2 / 11  # (1 + 1) / (10 + 1), still below 0.5
    expected = decay * start + (1 - decay) * trained
    np.testing.assert_allclose(averages.averages[0].numpy(), expected, rtol=1e-5)
    with averages.applied():
        np.testing.assert_array_equal(model.trainable_variables[0].numpy(), averages.averages[0].numpy())
    np.testing.assert_array_equal(model.trainable_variables[0].numpy(), trained)

    sgd = keras.optimizers.SGD()
    sgd.build(model.trainable_variables)
    checkpoint.Checkpoints(str(tmp_path), model, sgd, averages).save_last()
    for averaged, value in ((True, averages.averages[0].numpy()), (False, trained)):
        loaded = build()
        checkpoint.load_weights(str(tmp_path), "last", loaded, averaged=averaged)
        np.testing.assert_array_equal(loaded.trainable_variables[0].numpy(), value)


def test_averages_beside_a_frozen_encoder_cover_trained_weights_only(tmp_path):
    spec = ModelSpec(name="frame_pool", num_classes=3, num_frames=5, height=16, width=24)
    model = models.build_model(spec)
    model.get_layer("encoder").trainable = False
    averages = WeightAverages(model, 0.5)
    averages.averages[0].assign(averages.averages[0] + 1)
    sgd = keras.optimizers.SGD()
    sgd.build(model.trainable_variables)
    checkpoint.Checkpoints(str(tmp_path), model, sgd, averages).save_last()
    loaded = models.build_model(spec)
    loaded.get_layer("encoder").trainable = False
    checkpoint.load_weights(str(tmp_path), "last", loaded, averaged=True)
    encoder, expected = (m.get_layer("encoder").get_weights() for m in (loaded, model))
    for one, other in zip(encoder, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    kernel = model.trainable_variables[0].numpy() + 1
    np.testing.assert_allclose(loaded.trainable_variables[0].numpy(), kernel, rtol=1e-6)


# One replica's gradients are too large for float16 under the loss scale, the other's are 0.
OVERFLOW = """
import json, keras, numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from ucf50_tfrecord.specs import TrainSpec
from ucf50_tfrecord.training import optimizer, step
from ucf50_tfrecord.training import strategy as strategy_lib
strategy = strategy_lib.make_strategy("mirrored")
spec = TrainSpec(epochs=1, batch_size=2)
with strategy.scope():
    video = keras.Input((1, 2, 2, 3), dtype="uint8")
    dense = keras.layers.Dense(2, kernel_initializer="zeros", dtype="mixed_float16")
    model = keras.Model(video, keras.ops.cast(dense(keras.layers.Flatten(dtype="mixed_float16")(video)), "float32"))
    scaled = optimizer.make_optimizer(spec, 1, "mixed_float16")
    scaled.build(model.trainable_variables)
def part(context):
    replica = context.replica_id_in_sync_group
    return {"video": tf.fill([1, 1, 2, 2, 3], tf.cast(255 * replica, tf.uint8)), "label": tf.constant([0]),
            "mask": tf.constant([True]), "position": tf.constant([replica], tf.int64)}
train_step = step.make_train_step(model, scaled, spec, strategy=strategy, frames=lambda batch: batch["video"])
found = []
for number in range(8):
    batch = strategy.experimental_distribute_values_from_function(part)
    sums = step.StepResult.of(train_step(batch, tf.constant(number, tf.int64), tf.constant(0, tf.int64)).numpy())
    copies = [v.numpy().tolist() for v in strategy.experimental_local_results(model.trainable_variables[0].value)]
    found.append([float(sums.finite), float(scaled.scale_loss(1.0)), copies[0] == copies[1], bool(np.any(copies[0]))])
print(json.dumps(found))
"""


def test_an_overflow_on_one_replica_skips_the_step_on_all():
    result = run_code(OVERFLOW, timeout=120)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout)
    overflows = [finite == 0 for finite, *_ in found]
    assert overflows[0] and not overflows[-1]
    first_good = overflows.index(False)
    for number, (finite, scale, equal, moved) in enumerate(found):
        assert equal and moved == (number >= first_good)
        assert scale == 2.0**15 / 2 ** min(number + 1, first_good)


def test_optimizers():
    plain = optimizer.make_optimizer(TrainSpec(epochs=2, batch_size=1), 10, "float32")
    assert isinstance(plain, keras.optimizers.Adam) and not isinstance(plain, keras.optimizers.AdamW)
    assert float(plain.learning_rate) == pytest.approx(1e-3)
    spec = TrainSpec(
        epochs=2, batch_size=1, optimizer="adamw", schedule="cosine", warmup_epochs=1.0, weight_decay=0.1
    )
    scaled = optimizer.make_optimizer(spec, 10, "mixed_float16")
    assert isinstance(scaled, keras.optimizers.LossScaleOptimizer)
    schedule = scaled.inner_optimizer._learning_rate
    rates = [float(schedule(number)) for number in (0, 5, 10, 15, 20)]
    np.testing.assert_allclose(rates, [0, 0.5e-3, 1e-3, 0.5e-3, 0], atol=1e-9)
    # Without gradients, only what decays shrinks.
    kernel, bias = (keras.Variable([1.0], name=name) for name in ("kernel", "bias"))
    decaying = optimizer.make_optimizer(
        TrainSpec(epochs=2, batch_size=1, optimizer="adamw", weight_decay=0.1), 10, "float32"
    )
    decaying.apply_gradients([(tf.zeros(1), kernel), (tf.zeros(1), bias)])
    assert float(kernel[0]) == pytest.approx(1 - 1e-3 * 0.1) and float(bias[0]) == 1.0


def four_updates(make, scaled):
    """Applies four given gradients; returns the weights and the optimizer's moments."""
    random = np.random.default_rng(0)
    variables = [
        keras.Variable(random.normal(size=size), name=name)
        for size, name in (((7, 3), "kernel"), (5, "bias"))
    ]
    inner = make()
    if isinstance(inner, keras.optimizers.AdamW):
        inner.exclude_from_weight_decay(var_names=["bias"])
    outer = keras.optimizers.LossScaleOptimizer(inner) if scaled else inner
    outer.build(variables)

    @tf.function
    def update(*gradients):
        outer.apply_gradients(zip(gradients, variables))

    for _ in range(4):
        update(*(tf.constant(random.normal(size=variable.shape), tf.float32) for variable in variables))
    return [value.numpy() for value in (*variables, *inner.variables)]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name, settings", [("Adam", {}), ("AdamW", {"weight_decay": 0.1})])
def test_the_update_in_one_op_equals_keras(scaled, name, settings):
    rate = keras.optimizers.schedules.CosineDecay(1e-2, 10)
    found, expected = (
        four_updates(lambda: kind(rate, name="adam", **settings), scaled)
        for kind in (getattr(optimizer, f"_{name}"), getattr(keras.optimizers, name))
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
