import json

import keras
import numpy as np
import pytest
from keras import layers, ops

from ucf50_tfrecord import models, specs
from ucf50_tfrecord.architectures import MODELS
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import recurrence
from ucf50_tfrecord.specs import ModelSpec

NUM_FRAMES = 6
# Inputs so small that tanh is the identity.
TINY = 1e-6


def built_model(name, dtype="float32"):
    keras.utils.set_random_seed(0)
    spec = ModelSpec(name=name, num_classes=3, num_frames=4, height=16, width=16, dropout=0.5)
    return models.build_model(spec, dtype=dtype)


def hand_made(layer, *, average=False, scale=1.0):
    """A model of frames of one pixel, whose three values times `scale` are the features."""
    video = keras.Input((NUM_FRAMES, 1, 1, 3), dtype="uint8")
    features = ops.reshape(layers.Rescaling(scale, dtype=layer.dtype_policy)(video), (-1, NUM_FRAMES, 3))
    outputs = layer(features)
    logits = layers.Dense(2, dtype="float32", name="logits")
    return keras.Model(video, logits(ops.mean(outputs, axis=1) if average else outputs))


def clips_of(model, count=6, seed=0):
    rng = np.random.default_rng(seed)
    video = rng.integers(0, 256, (count, *model.input.shape[1:]), dtype=np.uint8)
    return video, np.arange(count) % model.output.shape[-1]


def inspect(model, **options):
    stepwise = recurrence.StepwiseModel(model)
    return recurrence.inspect(stepwise, clips_of(model), clips_of(model, seed=1), **options)


def gradients(model):
    """The means over the clips; not compiled, which takes longer than a few small clips."""
    stepwise = recurrence.StepwiseModel(model)
    video, labels = clips_of(model, seed=1)
    norms = stepwise.gradients(stepwise.features(video), labels)
    return {name: np.mean(values, axis=0) for name, values in norms.items()}


def fading_rnn(factor, *, average=False, dtype="float32"):
    """An RNN whose state is `factor` times the one before, plus the features."""
    layer = layers.SimpleRNN(
        3,
        kernel_initializer="identity",
        recurrent_initializer=keras.initializers.Identity(factor),
        return_sequences=average,
        dtype=dtype,
    )
    keras.utils.set_random_seed(0)  # of the classifier
    return hand_made(layer, average=average, scale=TINY)


def steady_lstm(forget_bias):
    """An LSTM of 3 units that adds the features up and forgets by sigmoid(forget_bias); gates see nothing."""
    layer = layers.LSTM(3, return_sequences=False)
    model = hand_made(layer, scale=TINY)
    kernel = np.zeros((3, 12))
    kernel[:, 6:9] = np.eye(3)  # Keras's order: i, f, c, o
    bias = np.repeat([-1, forget_bias, 0, 2], 3)
    layer.set_weights([kernel, np.zeros((3, 12)), bias])
    return model


# -- Gradients ------------------------------------------------------------------------------------


def test_an_rnn_forgets_by_the_powers_of_its_recurrent_weight():
    factor = 0.9
    found = inspect(fading_rnn(factor))
    gradient = np.array(found.memory_gradient)
    np.testing.assert_allclose(gradient[:-1] / gradient[1:], factor, rtol=1e-4)
    assert found.memory_frames == pytest.approx((1 - factor**NUM_FRAMES) / (1 - factor), rel=1e-4)
    # There is no mean over time.
    np.testing.assert_allclose(found.logit_gradient, found.memory_gradient, rtol=1e-6)


def test_a_mean_over_time_hides_from_the_logit_what_the_memory_has_lost():
    factor = 0.5
    model = fading_rnn(factor, average=True)
    found = inspect(model, batch_size=5)  # 5 clips and 1
    weights = model.get_layer("logits").kernel.numpy()
    norm = np.linalg.norm(weights, axis=0).mean()  # the labels are as often 0 as 1
    ages = np.arange(NUM_FRAMES)[::-1]
    # Frame t reaches the T - t states from t on, each weighing 1 / T.
    averaged = norm * (1 - factor ** (ages + 1)) / (1 - factor) / NUM_FRAMES
    np.testing.assert_allclose(found.logit_gradient, averaged, rtol=1e-4)
    np.testing.assert_allclose(found.memory_gradient, norm * factor**ages, rtol=1e-4)


def test_the_loss_has_the_logits_gradients_weighed_by_the_probabilities():
    model = fading_rnn(0.5)
    video, labels = clips_of(model, seed=1)
    kernel, _ = model.get_layer("logits").get_weights()
    probabilities = ops.softmax(model(video, training=False)).numpy()
    errors = probabilities - np.eye(2)[labels]
    expected = np.linalg.norm(errors @ kernel.T, axis=1).mean()
    faded = expected * 0.5 ** np.arange(NUM_FRAMES)[::-1]
    np.testing.assert_allclose(gradients(model)["loss_gradient"], faded, rtol=1e-4)


def test_an_lstm_that_forgets_nothing_remembers_all_frames_alike():
    memory = gradients(steady_lstm(forget_bias=20))["memory_gradient"]
    assert memory[0] > 0
    np.testing.assert_allclose(memory, memory[0], rtol=1e-4)
    assert recurrence.effective_frames(memory) == pytest.approx(NUM_FRAMES, rel=1e-4)


def test_an_lstm_forgets_by_its_forget_gate():
    found = inspect(steady_lstm(forget_bias=0))
    gradient = np.array(found.memory_gradient)
    np.testing.assert_allclose(gradient[:-1] / gradient[1:], 0.5, rtol=1e-4)
    assert list(found.gates) == ["input", "forget", "output"]
    for bias, activity in zip((-1, 0, 2), found.gates.values(), strict=True):
        assert activity == pytest.approx([1 / (1 + np.exp(-bias))] * NUM_FRAMES, abs=1e-6)


def test_float16_models_do_not_lose_small_gradients():
    model = fading_rnn(0.01, dtype="mixed_float16")
    gradient = gradients(model)["memory_gradient"]
    assert 0 < gradient[0] < 1e-9  # float16 ends at 6e-8
    np.testing.assert_allclose(gradient[:-1] / gradient[1:], 0.01, rtol=1e-4)


def test_memory_counts_the_frames_that_count():
    assert recurrence.effective_frames([0, 0, 5]) == 1
    assert recurrence.effective_frames([0.5, 2, 1]) == 1.75
    assert recurrence.effective_frames([0, 0, 0]) == 0


@pytest.mark.parametrize("kind", [layers.SimpleRNN, layers.LSTM, layers.GRU])
def test_gradients_are_those_of_numerical_differences(kind):
    keras.utils.set_random_seed(0)
    model = hand_made(kind(5, return_sequences=True, bias_initializer="random_normal"), average=True)
    stepwise = recurrence.StepwiseModel(model)
    features = np.random.default_rng(0).normal(size=(1, NUM_FRAMES, 3)).astype(np.float32)
    moves = 1e-2 * np.eye(NUM_FRAMES * 3, dtype=np.float32).reshape(-1, NUM_FRAMES, 3)
    ahead, behind = (stepwise.logits(stepwise.hidden(features + sign * moves))[:, 1] for sign in (1, -1))
    expected = np.linalg.norm(((ahead - behind) / 2e-2).numpy().reshape(NUM_FRAMES, 3), axis=1)
    norms = stepwise.gradients(features, np.array([1]))
    np.testing.assert_allclose(norms["logit_gradient"][0], expected, rtol=0.01, atol=1e-4)


def test_gates_are_those_the_lstm_computes():
    """The definition, step by step, in NumPy."""
    keras.utils.set_random_seed(0)
    layer = layers.LSTM(4, bias_initializer="random_normal")
    stepwise = recurrence.StepwiseModel(hand_made(layer))
    kernel, recurrent_kernel, bias = layer.get_weights()
    features = np.random.default_rng(0).normal(size=(2, NUM_FRAMES, 3)).astype(np.float32)
    state = carry = np.zeros((2, 4))
    expected = []
    for frame in features.swapaxes(0, 1):
        sums = np.split(frame @ kernel + state @ recurrent_kernel + bias, 4, axis=1)
        gate_in, forget, gate_out = (1 / (1 + np.exp(-sums[i])) for i in (0, 1, 3))
        carry = forget * carry + gate_in * np.tanh(sums[2])
        state = gate_out * np.tanh(carry)
        expected.append([gate_in, forget, gate_out])
    gates = stepwise.gates(ops.convert_to_tensor(features), stepwise.hidden(features))
    expected = np.transpose(expected, (1, 2, 0, 3))  # [3, B, T, U]
    np.testing.assert_allclose([gates[name] for name in recurrence.GATES], expected, atol=1e-5)


# -- Probes ---------------------------------------------------------------------------------------


def evidence(count, *, at):
    """Clips that are black but for one frame, which is as bright as the class says."""
    labels = np.arange(count) % 2
    video = np.zeros((count, NUM_FRAMES, 1, 1, 3), np.uint8)
    video[:, at] = (100 + 100 * labels)[:, np.newaxis, np.newaxis, np.newaxis]
    return video, labels


@pytest.mark.parametrize("factor, after", [(0.9, 1.0), (0.0, 0.5)])
def test_a_probe_reads_the_frames_that_the_state_remembers(factor, after):
    stepwise = recurrence.StepwiseModel(fading_rnn(factor))
    (train, train_labels), (test, test_labels) = evidence(12, at=2), evidence(8, at=2)
    train_states, test_states = (stepwise.states(video).numpy() for video in (train, test))
    accuracy = recurrence.probe(train_states, train_labels, test_states, test_labels)
    assert accuracy == (0.5, 0.5, 1.0, after, after, after)


def test_a_probe_never_predicts_a_class_without_training_clips():
    states = np.arange(9, dtype=np.float32).reshape(9, 1, 1)
    train = states[:6], np.repeat([0, 1], 3)
    assert recurrence.probe(*train, states, np.repeat([0, 1, 2], 3)) == pytest.approx((6 / 9,))


@pytest.mark.filterwarnings("error")
def test_a_probe_converges_on_more_units_than_clips():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(60, 2, 256)).astype(np.float32) * np.logspace(-6, 3, 256)
    labels = np.arange(60) % 12
    assert recurrence.probe(states, labels, states, labels) == (1.0, 1.0)


def test_training_clips_of_one_class_are_an_error():
    model = fading_rnn(0.5)
    video, labels = clips_of(model)
    with pytest.raises(UserError, match="at least 2 classes"):
        recurrence.inspect(recurrence.StepwiseModel(model), (video, labels * 0), (video, labels))


# -- Whole models ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, traits in MODELS.items() if traits.recurrent])
def test_the_model_built_again_is_the_same(name):
    model = built_model(name)
    video, _ = clips_of(model)
    stepwise = recurrence.StepwiseModel(model)
    logits = stepwise.logits(stepwise.states(video))
    np.testing.assert_allclose(logits, model(video, training=False), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name, dtype", [("lstm", "mixed_bfloat16"), ("seed_rnn", "float32")])
def test_inspecting_leaves_the_model_as_it_is(name, dtype):
    model = built_model(name, dtype)
    video, _ = clips_of(model)
    weights, logits = model.get_weights(), model(video, training=False)
    configs = [layer.get_config() for layer in model.layers if hasattr(layer, "cell")]
    found = inspect(model, batch_size=4)
    assert [layer.get_config() for layer in model.layers if hasattr(layer, "cell")] == configs
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(model(video, training=False), logits)

    curves = [found.loss_gradient, found.logit_gradient, found.memory_gradient, found.probe_accuracy]
    assert {len(curve) for curve in [*curves, *found.gates.values()]} == {4}
    assert np.isfinite(curves).all() and np.min(curves[:3]) > 0
    assert 1 <= found.memory_frames <= 4
    assert set(found.gates) == ({"input", "forget", "output"} if name == "lstm" else set())
    read = json.loads(json.dumps(specs.to_json(found), allow_nan=False))
    assert read["memory_frames"] == found.memory_frames


def test_low_precision_is_measured_as_float32_is():
    low, full = built_model("lstm", "mixed_bfloat16"), built_model("lstm")
    full.set_weights(low.get_weights())
    found, expected = gradients(low), gradients(full)
    for curve in recurrence.GRADIENTS:
        np.testing.assert_allclose(found[curve], expected[curve], rtol=0.05)  # the features are bfloat16's


@pytest.mark.parametrize("name", ["frame_pool", "transformer", "bilstm"])
def test_other_models_are_an_error_that_names_them(name):
    with pytest.raises(UserError, match=f"exactly one.*model='{name}'"):
        inspect(built_model(name))


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda video, labels: (video[:, 1:], labels), "clips uint8"),
        (lambda video, labels: (video / 255, labels), "clips uint8"),
        (lambda video, labels: (video, labels[1:]), "at least 1 clip, and a label for each clip"),
        (lambda video, labels: (video[:0], labels[:0]), "at least 1 clip, and a label for each clip"),
        (lambda video, labels: (video, labels + 1), "labels from 0 to 1"),
    ],
)
def test_clips_that_do_not_fit_are_an_error(change, expected):
    model = fading_rnn(0.5)
    with pytest.raises(UserError, match=expected):
        recurrence.inspect(recurrence.StepwiseModel(model), clips_of(model), change(*clips_of(model)))
