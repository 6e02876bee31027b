"""Tests TF Model Garden's video readers, and the MoViNet configuration in docs/readers.md."""

import numpy as np
import pytest
import tensorflow as tf

from tests.readers import checks, document
from tests.readers.conftest import build_set
from ucf50_tfrecord import record, tfrecord
from ucf50_tfrecord.choices import Encoding
from ucf50_tfrecord.specs import ClipFormat

pytest.importorskip("official", reason="TF Model Garden is not installed: make test-readers")

from official.core import exp_factory, input_reader, task_factory  # noqa: E402
from official.modeling import hyperparams  # noqa: E402
from official.projects.movinet import train  # noqa: E402, F401  (registers MoViNet)
from official.vision.configs import video_classification  # noqa: E402
from official.vision.dataloaders import video_input  # noqa: E402


@pytest.mark.parametrize("encoding", Encoding)
def test_its_decoder_and_parser_read_every_clip(data_dirs, expected, encoding):
    """The frames equal those of TensorFlow's own decoder bit for bit, scaled to 0..1; the label is one-hot."""
    config = video_classification.DataConfig(
        feature_shape=ClipFormat().shape, min_image_size=64, num_classes=2, is_training=False
    )
    decode, parse = video_input.Decoder().decode, video_input.Parser(config).parse_fn(is_training=False)
    for shard in checks.shards(data_dirs[encoding]):
        for _, payload in tfrecord.read_file(shard):
            if document.sees("TF Model Garden")[encoding] == "fails":
                with pytest.raises(tf.errors.InvalidArgumentError, match="image/encoded"):
                    decode(payload)
                continue
            decoded = decode(payload)
            assert decoded["clip/label/index"].shape == (1,) and decoded["image/encoded"].shape == (
                ClipFormat.num_frames,
            )
            features, label = parse(decoded)
            frames, index = expected[record.clip_id_and_labels(payload)[0]]
            by_tensorflow = np.stack(
                [tf.io.decode_image(image, channels=3) for image in checks.images_of(payload)]
            )
            np.testing.assert_allclose(255 * features["image"], by_tensorflow, atol=1e-4)
            assert checks.fidelity(by_tensorflow, frames) == document.sees("TF Model Garden")[encoding]
            assert label.numpy().tolist() == np.eye(2)[index].tolist()


@pytest.fixture
def recipe(project, tmp_path, monkeypatch):
    """Loads the configuration in the project's folder; Model Garden checks every key."""
    path = tmp_path / "movinet.yaml"
    path.write_text(document.example("movinet_a0_base", language="yaml"))
    monkeypatch.chdir(project)
    params = hyperparams.override_params_dict(
        exp_factory.get_exp_config("movinet_kinetics600"), str(path), is_strict=True
    )
    params.validate()
    return params


def test_the_recipe_reads_the_shards(project, recipe):
    data_dir = build_set(project, encoding="jpeg", height=172, width=172)
    training = input_reader.match_files(recipe.task.train_data.input_path)
    validation = input_reader.match_files(recipe.task.validation_data.input_path)
    assert len(validation) == 2 and all("ucf50-fold01." in path for path in validation)
    assert sorted([*training, *validation]) == checks.shards(data_dir.relative_to(project))
    task = task_factory.get_task(recipe.task)
    features, labels = next(iter(task.build_inputs(recipe.task.train_data)))
    assert features["image"].shape == (16, ClipFormat.num_frames, 172, 172, 3) and labels.shape == (16, 50)
    assert 0 <= tf.reduce_min(features["image"]) < 0.2 and 0.8 < tf.reduce_max(features["image"]) <= 1
    [(features, labels)] = task.build_inputs(recipe.task.validation_data)
    assert features["image"].shape == (2, ClipFormat.num_frames, 172, 172, 3)
    assert sorted(tf.argmax(labels, 1).numpy()) == [0, 1]


@pytest.mark.timeout(900)  # eagerly, layer by layer
def test_a_step_of_the_recipe_and_its_initial_checkpoint(project, data_dirs, recipe):
    """On frames of 64x64, to save time. The checkpoint is laid out as Model Garden's own trainer saves it."""
    small = {"feature_shape": [3, 64, 64, 3], "global_batch_size": 2}
    pattern = str(data_dirs["jpeg"].relative_to(project) / "ucf50-fold0[6-9].tfrecord-?????-of-?????")
    recipe.override({"task": {"train_data": small | {"input_path": pattern}, "validation_data": small}})
    task = task_factory.get_task(recipe.task)
    model = task.build_model()
    optimizer = task.create_optimizer(recipe.trainer.optimizer_config, recipe.runtime)
    before = [variable.numpy() for variable in model.trainable_variables]
    batch = next(iter(task.build_inputs(recipe.task.train_data)))
    # The first step of the warm-up has the learning rate 0.
    optimizer.iterations.assign(1)
    logs = task.train_step(batch, model, optimizer)
    assert np.isfinite(logs["loss"])
    assert any(np.any(old != new) for old, new in zip(before, model.trainable_variables))
    tf.train.Checkpoint(model=model, **model.checkpoint_items).save(project / "movinet_a0_base" / "ckpt")
    trained = [variable.numpy() for variable in model.backbone.variables]
    for variable in model.variables:
        variable.assign(tf.zeros_like(variable))
    task.initialize(model)
    for old, new in zip(trained, model.backbone.variables, strict=True):
        np.testing.assert_array_equal(old, new)
    # The head, which belongs to other classes, keeps its values.
    head = model.layers[-1].variables
    assert head and not any(np.any(variable) for variable in head)
