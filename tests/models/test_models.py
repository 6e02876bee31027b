import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.warm import run_code
from ucf50_tfrecord import models
from ucf50_tfrecord.architectures import MODELS
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.models import frames
from ucf50_tfrecord.models.dropout import RandomKey, random_key
from ucf50_tfrecord.models.recurrent import ProjectingGRU, ProjectingLSTM, ProjectingRNN
from ucf50_tfrecord.specs import ModelSpec


def make_spec(name, **changes):
    return ModelSpec(**dict(name=name, num_classes=7, num_frames=4, height=16, width=24) | changes)


def make_video(spec, batch=3):
    shape = (batch, *spec.clip_shape)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


LOADED = """
import sys
for name in [name for name in sys.modules if name.startswith("ucf50_tfrecord")]:  # of the process that forks
    del sys.modules[name]
import ucf50_tfrecord.models
from ucf50_tfrecord.architectures import ENCODERS, MODELS

builders = [*(traits.builder for traits in MODELS.values()), *ENCODERS.values()]
print([name for name in builders if name.partition(":")[0] not in sys.modules])
"""


def test_importing_the_package_registers_the_layers_of_every_model():
    """Programs that load a .keras file import the package for this."""
    assert run_code(LOADED, check=True).stdout == "[]\n"


# The published models have 2,729,842 and 2,335,090: PyTorch adds a second bias to each
# recurrent unit, 4 x 256 for the LSTM and 256 for the RNN.
@pytest.mark.parametrize("name, count", [("seed_lstm", 2_729_842 - 1024), ("seed_rnn", 2_335_090 - 256)])
def test_seed_models_have_the_published_size(name, count):
    spec = ModelSpec(name=name, num_classes=50, num_frames=15, height=64, width=64)
    assert (
        models.build_model(spec).count_params()
        == count
        == {"seed_lstm": 2_728_818, "seed_rnn": 2_334_834}[name]
    )


def test_seed_model_is_the_published_stack():
    spec = ModelSpec(name="seed_lstm", num_classes=50, num_frames=15, height=64, width=64)
    shapes = [tuple(v.shape) for v in models.build_model(spec).trainable_variables]
    assert shapes == [
        (3, 3, 3, 32),
        (32,),
        (3, 3, 32, 64),
        (64,),
        (3, 3, 64, 128),
        (128,),
        (8192, 256),
        (256,),
        (256, 1024),
        (256, 1024),
        (1024,),
        (256, 50),
        (50,),
    ]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_uint8_clips_in_float32_logits_out(name, dtype):
    spec = make_spec(name)
    model = models.build_model(spec, dtype=dtype)
    assert model.input.dtype == "uint8" and model.input.shape == (None, 4, 16, 24, 3)
    logits = model(make_video(spec), training=False)
    assert logits.dtype == "float32" and logits.shape == (3, 7)
    assert np.isfinite(logits).all()
    assert all(v.dtype == "float32" for v in model.trainable_variables)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("changes", [dict(height=33, width=20), dict(num_frames=1), dict(num_classes=2)])
def test_any_size_length_and_number_of_classes(name, changes):
    spec = make_spec(name, **changes)
    assert models.build_model(spec)(make_video(spec)).shape == (3, spec.num_classes)


@pytest.mark.parametrize("name", MODELS)
def test_only_models_without_a_control_are_blind_to_order(name):
    keras.utils.set_random_seed(0)
    spec = make_spec(name, num_frames=8)
    model, video = models.build_model(spec), make_video(spec)
    shuffled = video[:, [3, 0, 6, 1, 7, 4, 2, 5]]  # spread_pool cannot tell a clip from its reverse
    difference = np.abs(model(video, training=False) - model(shuffled, training=False)).max()
    assert difference < 1e-5 if MODELS[name].is_order_blind else difference > 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_clips_do_not_mix_and_frames_stay_with_their_clip(name):
    keras.utils.set_random_seed(0)
    spec = make_spec(name)
    model, video = models.build_model(spec), make_video(spec)
    alone = np.concatenate([model(video[i : i + 1], training=False) for i in range(3)])
    np.testing.assert_allclose(model(video, training=False), alone, atol=1e-5)


SPLIT = set(MODELS) - {
    "conv3d",
    "r2plus1d",
    "two_path",
}  # whose frames meet in the first block, or in the input


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_split_where_its_frames_first_meet(name):
    spec = make_spec(name)
    model, video = models.build_model(spec), make_video(spec)
    halves = frames.split_at_frames(model)
    assert (halves is not None) == (name in SPLIT)
    if halves is None:
        return
    encoder, head = halves
    order = [2, 0, 3, 3]  # one frame twice, one left out
    features = encoder.predict_on_batch(video)[:, order]
    np.testing.assert_allclose(
        head.predict_on_batch(features), model.predict_on_batch(video[:, order]), rtol=1e-4, atol=1e-5
    )
    model.set_weights([1.5 * weight for weight in model.get_weights()])  # as training does
    np.testing.assert_allclose(
        head.predict_on_batch(encoder.predict_on_batch(video)),
        model.predict_on_batch(video),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize(
    "changes",
    [
        dict(name="lstm", motion=True),
        dict(name="two_path"),
        dict(name="lstm", encoder="tests.models.own:encode"),
        dict(name="lstm", feature_shape=(8,)),
    ],
)
def test_a_model_whose_frames_may_meet_earlier_is_not_split(changes):
    assert frames.split_at_frames(models.build_model(make_spec(**changes))) is None


@pytest.mark.parametrize("name", ["frame_pool", "spread_pool", "lstm", "conv3d", "transformer", "seed_lstm"])
def test_without_motion_input_stored_neighbours_change_neither_weights_nor_logits(name):
    found = []
    video = make_video(make_spec(name, motion_frames=2))
    for motion_frames in (0, 2):
        keras.utils.set_random_seed(0)
        model = models.build_model(make_spec(name, motion_frames=motion_frames))
        found.append([*model.get_weights(), model(video[..., : 3 * (1 + motion_frames)], training=False)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_motion_input_is_the_differences_of_stored_neighbours(dtype):
    spec = make_spec("lstm", motion=True, motion_frames=2)
    video = make_video(spec)
    clip = frames.clip_input(spec)
    model = keras.Model(clip, frames.pixels(clip, spec, keras.dtype_policies.get(dtype)))
    found = np.asarray(keras.ops.cast(model(video), "float32"))
    now, one, two = (video[..., i : i + 3] / 255 for i in (0, 3, 6))
    np.testing.assert_allclose(found[..., :3], now, atol=1e-6 if dtype == "float32" else 1e-2)
    # A difference is rounded once, so that small ones keep their precision.
    moved = np.concatenate([one - now, two - now], axis=-1)
    np.testing.assert_allclose(found[..., 3:], moved, rtol=0 if dtype == "float32" else 2**-8, atol=1e-6)


@pytest.mark.parametrize("name, motion", [("frame_pool", True), ("two_path", False)])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_models_that_pool_see_the_motion_of_neighbours_but_not_the_order_of_frames(name, motion, dtype):
    keras.utils.set_random_seed(0)
    spec = make_spec(name, motion=motion, motion_frames=2)
    model, video = models.build_model(spec, dtype=dtype), make_video(spec)
    logits = model(video, training=False)
    assert logits.dtype == "float32" and np.isfinite(logits).all()
    atol = 1e-5 if dtype == "float32" else 5e-2
    np.testing.assert_allclose(model(video[:, [2, 0, 3, 1]], training=False), logits, atol=atol)
    other = video.copy()
    other[..., 3:] = 255 - other[..., 3:]
    assert np.abs(model(other, training=False) - logits).max() > 1e-3
    encoder, head = frames.split_at_frames(model)
    features = encoder.predict_on_batch(video)[:, [2, 0, 3, 3]]
    expected = model.predict_on_batch(video[:, [2, 0, 3, 3]])
    np.testing.assert_allclose(head.predict_on_batch(features), expected, atol=max(atol, 1e-4))


@pytest.mark.parametrize("name", [name for name, traits in MODELS.items() if traits.has_residuals])
def test_stochastic_depth_skips_residuals_of_whole_clips_in_training_alone(name):
    built, video = [], make_video(make_spec(name))
    for rate in (0.0, 0.9):
        keras.utils.clear_session()  # so that both have the same names of weights
        keras.utils.set_random_seed(0)
        built.append(models.build_model(make_spec(name, stochastic_depth=rate)))
    plain, deep = built
    one, other = ({weight.path: weight.numpy() for weight in model.weights} for model in built)
    assert one.keys() == other.keys()
    for path, weight in one.items():
        np.testing.assert_array_equal(weight, other[path])
    expected = plain(video, training=False)
    np.testing.assert_array_equal(deep(video, training=False), expected)

    def train(model, step, position):
        key = RandomKey(
            seed=0, step=tf.constant(step, tf.int64), position=tf.constant(position, tf.int64), batch_size=4
        )
        for layer in model._flatten_layers():  # so that clips do not meet in the statistics of the batch
            layer.trainable = not isinstance(layer, frames.BatchNorm)
        with random_key(key):
            return model(video, training=True).numpy()

    np.testing.assert_allclose(train(plain, 0, [0, 1, 2]), expected, atol=1e-5)
    found = train(deep, 0, [0, 1, 2])
    assert (np.abs(found - expected).max(axis=1) > 1e-3).all()
    np.testing.assert_array_equal(train(deep, 0, [0, 1, 2]), found)
    assert np.abs(train(deep, 1, [0, 1, 2]) - found).max() > 1e-3
    # A clip's draws follow from its position in the global batch.
    other = train(deep, 0, [0, 3, 2])
    np.testing.assert_allclose(other[[0, 2]], found[[0, 2]], atol=1e-5)


def test_a_model_without_residual_blocks_has_no_stochastic_depth():
    with pytest.raises(
        UserError, match=r"a model out of \('r2plus1d', 'transformer'\) if there is stochastic depth"
    ):
        make_spec("lstm", stochastic_depth=0.1)


@pytest.mark.parametrize(
    "height, width, cells, blocks",
    [
        (64, 64, [(32, 32)], [32]),
        (80, 80, [(40, 40)], [32]),
        (82, 16, [(41, 8), (21, 4)], [16, 32]),
        (112, 112, [(56, 56), (28, 28)], [16, 32]),
        (224, 224, [(112, 112), (56, 56), (28, 28)], [16, 16, 32]),
    ],
)
def test_a_residual_network_has_more_blocks_at_higher_resolutions(height, width, cells, blocks):
    model = models.build_model(make_spec("r2plus1d", num_frames=2, height=height, width=width))
    # The first convolution of each block, after that of the stem; the others have as many channels as filters.
    over_space = [layer for layer in model.layers if getattr(layer, "kernel_size", None) == (3, 3)]
    stem, *found = over_space
    assert stem.output.shape[1:] == (*cells[0], blocks[0])
    assert [layer.filters for layer in found[::2]] == [*blocks, 64, 128, 256]
    assert [layer.output.shape[1:3] for layer in found[::2]][: len(cells)] == cells
    assert all(first.strides == (2, 2) for first in found[2::2]) and found[0].strides == (1, 1)


def test_seed_weights_start_from_pytorchs_distributions():
    keras.utils.set_random_seed(0)
    spec = ModelSpec(name="seed_lstm", num_classes=50, num_frames=2, height=64, width=64)
    model = models.build_model(spec)
    fans = [27, 27, 288, 288, 576, 576, 8192, 8192, 256, 256, 256, 256, 256]
    for variable, fan in zip(model.trainable_variables, fans, strict=True):
        values, bound = variable.numpy(), fan**-0.5
        assert np.abs(values).max() <= bound and np.abs(values).max() > 0.8 * bound
        if values.size > 1000:
            assert values.std() == pytest.approx(bound / 3**0.5, rel=0.1)


@pytest.mark.parametrize("name", ["seed_lstm", "seed_rnn"])
def test_input_and_recurrent_weights_start_from_different_values(name):
    recurrent = next(layer for layer in models.build_model(make_spec(name)).layers if hasattr(layer, "cell"))
    kernel, recurrent_kernel, _ = recurrent.get_weights()
    assert kernel.shape == recurrent_kernel.shape and not np.array_equal(kernel, recurrent_kernel)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("mixed_bfloat16", 0.02)])
@pytest.mark.parametrize(
    "kinds",
    [
        (ProjectingRNN, keras.layers.SimpleRNN),
        (ProjectingLSTM, keras.layers.LSTM),
        (ProjectingGRU, keras.layers.GRU),
    ],
)
def test_recurrent_layers_of_features_compute_as_keras_does(kinds, dtype, tolerance):
    keras.utils.set_random_seed(0)
    policy = keras.dtype_policies.get(dtype)
    features = np.random.default_rng(0).normal(size=(3, 6, 20)).astype(np.float32)
    ours, theirs = (kind(8, return_sequences=True, dtype=policy) for kind in kinds)
    results = []
    for layer in (ours, theirs):
        layer.build(features.shape)
        layer.set_weights(
            [weight + 0.1 for weight in ours.get_weights()] if layer is ours else ours.get_weights()
        )
        with tf.GradientTape() as tape:
            outputs = layer(features)
            loss = tf.reduce_sum(tf.cast(outputs, tf.float32) ** 2)
        results.append([outputs, *tape.gradient(loss, layer.trainable_variables)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(
            tf.cast(one, tf.float32), tf.cast(other, tf.float32), atol=tolerance, rtol=tolerance
        )
