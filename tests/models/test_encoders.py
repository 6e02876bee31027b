import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models.test_models import make_spec, make_video
from ucf50_tfrecord import architectures, models
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.models.dropout import Dropout

SMALL = "MobileNetV3Small"
OWN = [name for name in architectures.ENCODERS if name not in architectures.APPLICATIONS]
POLICY = keras.dtype_policies.get("float32")


def encoder_of(model):
    return model.get_layer("encoder")


def assert_same_weights(found, expected):
    for one, other in zip(found.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_table_lists_keras_models():
    assert sorted(architectures.APPLICATIONS) == sorted(n for n in dir(keras.applications) if n[0].isupper())


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("name", [SMALL, "VGG16", pytest.param("ResNet50V2", marks=pytest.mark.slow)])
def test_a_keras_model_encodes_frames(name, dtype):
    before = keras.config.dtype_policy()
    spec = make_spec("frame_pool", encoder=name, height=32, width=40)
    model = models.build_model(spec, dtype=dtype)
    assert keras.config.dtype_policy() == before
    logits = model(make_video(spec), training=False)
    assert logits.shape == (3, 7) and logits.dtype == "float32" and np.isfinite(logits).all()
    computing = {layer.compute_dtype for layer in encoder_of(model)._flatten_layers() if "conv" in layer.name}
    assert computing == {dtype.removeprefix("mixed_")}


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("name", OWN)
def test_an_encoder_of_the_project_takes_motion_unless_pretrained_and_has_no_random_state(name, dtype):
    spec = make_spec("lstm", encoder=name, motion=name not in architectures.PRETRAINED)
    model = models.build_model(spec, dtype=dtype)
    encoder = encoder_of(model)
    assert encoder.input.shape == (None, 16, 24, 6 if spec.motion else 3)
    assert len(encoder.output.shape) == 2 and encoder.output.dtype == dtype.removeprefix("mixed_")
    assert np.isfinite(model(make_video(spec), training=False)).all()
    layers = list(encoder._flatten_layers())
    assert not [layer for layer in layers if isinstance(layer, keras.layers.Dropout)]
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert all(layer.synchronized for layer in norms)


def test_a_keras_model_gets_its_own_preprocessing():
    """VGG16 expects BGR from 0 to 255 minus ImageNet's means."""
    spec = make_spec("frame_pool", encoder="VGG16", height=32, width=32)
    model, video = models.build_model(spec), make_video(spec)
    encoder = encoder_of(model)
    vgg = next(layer for layer in encoder.layers if isinstance(layer, keras.Model))
    prepared = keras.applications.vgg16.preprocess_input(video[0].astype("float32"))
    np.testing.assert_allclose(
        encoder(video[0] / np.float32(255)), np.mean(vgg(prepared), axis=(1, 2)), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("name, count", [(SMALL, 0), ("EfficientNetB0", 9)])
def test_an_application_has_no_random_state_and_shares_its_statistics(name, count):
    """So that it computes the same with any number of replicas and after a resume."""
    spec = make_spec("frame_pool", encoder=name, height=32, width=32)
    found = list(encoder_of(models.build_model(spec))._flatten_layers())
    assert not [layer for layer in found if isinstance(layer, keras.layers.Dropout)]
    assert len([layer for layer in found if isinstance(layer, Dropout)]) == count
    norms = [layer for layer in found if isinstance(layer, keras.layers.BatchNormalization)]
    assert norms and all(layer.synchronized for layer in norms)


def test_an_application_loads_weights_from_a_file(tmp_path):
    path = tmp_path / "small.weights.h5"
    made = keras.applications.MobileNetV3Small(
        include_top=False, weights=None, input_shape=(32, 32, 3), pooling="avg"
    )
    made.save_weights(path)
    spec = make_spec("lstm", encoder=SMALL, height=32, width=32, encoder_weights=str(path))
    assert_same_weights(encoder_of(models.build_model(spec)), made)


@pytest.mark.parametrize("name", OWN)
def test_an_encoder_of_the_project_loads_weights_from_a_file_and_stays_frozen(name, tmp_path):
    path = tmp_path / "encoder.weights.h5"
    first = models.build_model(make_spec("lstm", encoder=name))
    encoder_of(first).save_weights(path)
    spec = make_spec("frame_pool", encoder=name, encoder_weights=str(path), freeze_encoder=True)
    model = models.build_model(spec)
    assert_same_weights(encoder_of(model), encoder_of(first))
    assert len(model.trainable_variables) == 2  # those of the classifier
    model(make_video(spec), training=True)  # batch norm keeps its statistics, too
    assert_same_weights(encoder_of(model), encoder_of(first))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"encoder_weights": "nowhere.h5"}, "none, imagenet or a file. Received: nowhere.h5"),
        ({"encoder": SMALL, "encoder_weights": "nowhere.h5"}, "Received: nowhere.h5"),
        ({"encoder": SMALL}, "MobileNetV3Small .*cannot be built for frames of 16x24: .*32"),
        ({"encoder_weights": __file__}, "three_block with .* cannot be built"),
        (
            {"encoder_weights": "imagenet"},
            "a pretrained encoder if its weights are ImageNet's",
        ),
        ({"freeze_encoder": True}, "encoder_weights if the encoder is frozen"),
        ({"name": "conv3d", "encoder": SMALL}, "a model out of .* if an encoder is chosen"),
        ({"name": "frame_pool", "motion": True}, "a model out of .* if there is motion"),
        (
            {"encoder": SMALL, "motion": True},
            "an encoder that is not pretrained if there is motion",
        ),
        ({"encoder": "LeNet"}, "an encoder out of"),
    ],
)
def test_a_wrong_spec_is_a_clear_error(changes, message):
    with pytest.raises(UserError, match=message):
        models.build_model(make_spec(**{"name": "lstm"} | changes))


def test_a_failed_download_is_explained(monkeypatch):
    def fail(*args, **kwargs):
        raise Exception("URL fetch failure on https://storage.googleapis.com/…: None -- timed out")

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", fail)
    spec = make_spec("lstm", encoder=SMALL, height=32, width=32, encoder_weights="imagenet")
    with pytest.raises(UserError, match="the weights imagenet cannot be built .* URL fetch failure"):
        models.build_model(spec)


@pytest.mark.parametrize("name", ["rnn", "lstm", "conv3d", "transformer"])
def test_motion_is_the_difference_from_the_frame_before(name):
    """The pixels get three more channels; the model's input stays uint8 RGB."""
    spec = make_spec(name, motion=True)
    model, video = models.build_model(spec), make_video(spec)
    assert model.input.shape == (None, 4, 16, 24, 3)
    assert model(video).shape == (3, 7)
    seen = models.frames.pixels(tf.constant(video), spec, POLICY).numpy()
    assert seen.shape == (3, 4, 16, 24, 6)
    scaled = video.astype("float32") / 255
    np.testing.assert_allclose(seen[..., :3], scaled, atol=1e-6)
    np.testing.assert_allclose(seen[:, 1:, ..., 3:], np.diff(scaled, axis=1), atol=1e-6)
    assert not seen[:, 0, ..., 3:].any()


# The conditions by which Keras chooses between cuDNN's kernel and a loop over time.
@pytest.mark.parametrize("name, count", [("lstm", 1), ("bilstm", 2), ("gru", 1), ("seed_lstm", 1)])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_recurrent_layers_use_cudnn_on_a_gpu(monkeypatch, name, count, dtype):
    rnn = importlib.import_module("keras.src.backend.tensorflow.rnn")  # a function has its name
    asked = []

    def note(inputs, *args, **kwargs):
        asked.append(inputs.dtype.name)
        raise tf.errors.NotFoundError(None, None, "no GPU here")  # Keras then takes its loop

    monkeypatch.setattr(rnn, "_is_gpu_available", lambda: True)
    monkeypatch.setattr(rnn, "_cudnn_lstm", note)
    monkeypatch.setattr(rnn, "_cudnn_gru", note)
    spec = make_spec(name)
    model = models.build_model(spec, dtype=dtype)
    asked.clear()
    model(make_video(spec), training=True)
    assert asked == [dtype.removeprefix("mixed_")] * count
