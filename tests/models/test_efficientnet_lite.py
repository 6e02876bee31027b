import keras
import numpy as np
import pytest

from tests.conftest import real_folder
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.models import efficientnet_lite

POLICY = keras.dtype_policies.get("float32")
# ImageNet's classes that tell an action, by the folders of UCF50: bicycle-built-for-two, mountain bike, tricycle,
# unicycle; drum, drumstick, steel drum; ski, ski mask, alp.
EXPECTED = {"Biking": {444, 671, 870, 880}, "Drumming": {541, 542, 822}, "Skiing": {795, 796, 970}}


def test_it_has_the_published_number_of_weights():
    """4.65 million (TensorFlow's efficientnet/lite), and the statistics of 42,016 channels of batch norm."""
    model = efficientnet_lite.feature_map((64, 64, 3), POLICY)
    classifier = efficientnet_lite.classifier(POLICY)
    classifier.build((None, efficientnet_lite.NUM_FEATURES))
    trainable = sum(np.prod(w.shape) for w in model.trainable_weights) + classifier.count_params()
    assert trainable == 4_652_008
    assert model.count_params() + classifier.count_params() == 4_694_024
    assert model.output.shape == (None, 2, 2, 1280)


@pytest.mark.parametrize("size, output", [((64, 96), (2, 3)), ((33, 48), (2, 2))])
def test_it_takes_frames_of_any_size(size, output):
    model = efficientnet_lite.feature_map((*size, 3), POLICY)
    efficientnet_lite.load_imagenet(model)
    assert model(np.zeros((1, *size, 3), np.float32)).shape == (1, *output, 1280)


def test_it_names_what_is_on_real_frames():
    """The most probable class over the middle frames of the videos of a folder."""
    import av

    folder = real_folder("UCF50_VIDEOS")
    model = efficientnet_lite.feature_map((224, 224, 3), POLICY)
    classifier = efficientnet_lite.classifier(POLICY)
    classifier.build((None, efficientnet_lite.NUM_FEATURES))
    efficientnet_lite.load_imagenet(model, classifier)
    for name, expected in EXPECTED.items():
        frames = []
        for path in sorted((folder / name).iterdir())[:6]:
            with av.open(str(path)) as container:
                decoded = [
                    f.to_ndarray(format="rgb24", width=224, height=224) for f in container.decode(video=0)
                ]
            frames.append(decoded[len(decoded) // 2])
        features = keras.ops.mean(model(np.stack(frames) / np.float32(255)), axis=(1, 2))
        probabilities = keras.ops.mean(keras.ops.softmax(classifier(features)), axis=0)
        assert int(np.argmax(probabilities)) in expected, name


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "_PACKAGE", "package_that_is_not_installed")
    with pytest.raises(
        UserError, match="The package that holds the weights of efficientnet_lite0 is not installed"
    ):
        efficientnet_lite.weights_path()
