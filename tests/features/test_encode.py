"""Datasets of features, encoded from the small dataset of frames by small encoders."""

import functools
import os
import pathlib
import shutil
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import build as convert
from tests.conftest import flip_bit, raises_with_remedies
from tests.warm import run_module, start_module
from ucf50_tfrecord import building, manifest, record, tfrecord
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.dataset.feed import read_clips
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.features import encode, encoders
from ucf50_tfrecord.features.encoders import load_encoder, reload_encoder
from ucf50_tfrecord.specs import FeatureSpec

SOURCE = '''
import keras
from keras import layers

def colors(shape, spec, dtype):
    """Averages each color over the cells of a map of 4x4."""
    image = keras.Input(shape)
    return keras.Model(image, layers.AveragePooling2D((shape[0] // 4, shape[1] // 4))(image))
'''
COLORS = "colors_encoder:colors"


@pytest.fixture(autouse=True, scope="module")
def own_module(tmp_path_factory):
    folder = tmp_path_factory.mktemp("code")
    (folder / "colors_encoder.py").write_text(SOURCE)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def build(data_dir, folder, **options):
    """Encodes a dataset by the library's functions; returns the manifest of the features."""
    source = manifest.load(str(data_dir))
    encoder = load_encoder(FeatureSpec(**{"encoder": COLORS, **options}), source.format)
    planned = encode.plan_features(source, encoder.format)
    run = functools.partial(encode.run_encoder, encoders=[encoder])
    return building.build_dataset(planned, str(folder), run=run)


def build_for_module(data_dir, tmp_path_factory, **options) -> pathlib.Path:
    """Encodes a dataset into a folder of its own, for the fixtures of modules; returns the folder."""
    folder = tmp_path_factory.mktemp("encoded") / "features"
    build(data_dir, folder, **options)
    return folder


@pytest.fixture(scope="module")
def features_dir(data_dir, tmp_path_factory):
    return build_for_module(data_dir, tmp_path_factory)


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """The files of a dataset by name; the manifest without the folders that it names."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if ".tfrecord-" in path.name}


def test_features_of_clips_with_motion_frames_are_those_of_the_frames_alone(
    features_dir, videos_dir, tmp_path
):
    convert(videos_dir, tmp_path / "moving", shard_bytes=60_000, motion_frames=2)
    found = build(tmp_path / "moving", tmp_path / "features")
    assert found.format == manifest.load(str(features_dir)).format  # a run on them decodes no neighbours
    assert {
        path.name: path.read_bytes() for path in (tmp_path / "features").glob("*.tfrecord-*-of-?????")
    } == {name: content for name, content in contents(features_dir).items() if not name.endswith(".json")}


def clips_of(folder):
    found = manifest.load(str(folder))
    return load_clips(found, found.folds)


def test_a_clips_features_are_those_of_its_frames(data_dir, features_dir):
    clips, stored = clips_of(data_dir), clips_of(features_dir)
    assert stored.ids == clips.ids and (stored.labels == clips.labels).all()
    assert (stored.folds == clips.folds).all() and (stored.groups == clips.groups).all()
    features = read_clips(stored)
    assert features.shape == (30, 5, 3) and features.dtype == np.float16
    expected = read_clips(clips).mean(axis=(2, 3)) / 255
    np.testing.assert_allclose(features, expected, atol=1e-3)


def test_a_grid_keeps_where_features_are(data_dir, tmp_path):
    built = build(data_dir, tmp_path / "grid", grid=2)
    assert built.features.shape == (5, 2, 2, 3)
    frames = read_clips(clips_of(data_dir)).reshape(30, 5, 2, 8, 2, 12, 3)
    np.testing.assert_allclose(
        read_clips(clips_of(tmp_path / "grid")), frames.mean(axis=(3, 5)) / 255, atol=1e-3
    )


def test_cells_of_a_grid_overlap_where_it_does_not_divide_the_map():
    """As PyTorch's adaptive_avg_pool2d: 7 places over 2 cells are 0 to 3 and 3 to 6."""
    from ucf50_tfrecord.features.encoders import _cells

    np.testing.assert_array_equal(4 * _cells(7, 2), [[1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1]])
    np.testing.assert_array_equal(_cells(4, 4), np.eye(4))


@pytest.mark.parametrize("size, op", [((32, 24), "ResizeBilinear"), ((8, 24), "ScaleAndTranslate")])
def test_frames_are_scaled_alike_by_an_operation_that_export_formats_have_if_it_suffices(size, op):
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    inputs = keras.Input((16, 24, 3), dtype="uint8")
    model = keras.Model(inputs, encoders._scaled(inputs, size))
    expected = tf.image.resize(frames / np.float32(255), size, antialias=True)
    np.testing.assert_allclose(model(frames), expected, atol=1e-6)
    graph = tf.function(model).get_concrete_function(tf.TensorSpec((2, 16, 24, 3), tf.uint8)).graph
    assert op in {operation.type for operation in graph.get_operations()}


def test_frames_of_another_size_are_scaled(data_dir, tmp_path):
    built = build(data_dir, tmp_path / "scaled", size="32x32")
    assert (built.features.height, built.features.width) == (32, 32)
    expected = read_clips(clips_of(data_dir)).mean(axis=(2, 3)) / 255
    np.testing.assert_allclose(read_clips(clips_of(tmp_path / "scaled")), expected, atol=0.03)


def test_records_are_readable_as_the_other_shards_are(features_dir):
    found = manifest.load(str(features_dir))
    path = features_dir / found.shards[0].filename
    [payload, *_] = (payload for _, payload in tfrecord.read_file(path))
    keys = {
        record.FEATURES: tf.io.FixedLenFeature([], tf.string),
        record.FEATURE_SHAPE: tf.io.FixedLenFeature([2], tf.int64),
        record.LABEL: tf.io.FixedLenFeature([], tf.int64),
    }
    parsed = tf.io.parse_single_example(payload, keys)
    features = tf.reshape(tf.io.decode_raw(parsed[record.FEATURES], tf.float16), parsed[record.FEATURE_SHAPE])
    decoded = record.decode(payload)
    np.testing.assert_array_equal(features, decoded[record.FEATURES])
    assert record.VIDEO not in decoded and record.IMAGE_ENCODED not in str(payload)


def test_tensorflow_datasets_reads_them(features_dir):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(features_dir)
    found = {
        example["clip/media_id"].decode(): example for example in tfds.as_numpy(builder.as_dataset("fold01"))
    }
    clips = clips_of(features_dir)
    for position in np.flatnonzero(clips.folds == 1):
        example = found[clips.ids[position]]
        np.testing.assert_array_equal(
            example[record.FEATURES], read_clips(clips.select(np.array([position])))[0]
        )


def test_up_to_date_shards_are_kept_and_damaged_ones_made_again(data_dir, features_dir, tmp_path):
    folder = shutil.copytree(features_dir, tmp_path / "features")
    shards = sorted(folder.glob("*.tfrecord-*-of-?????"))
    times = {path.name: path.stat().st_mtime_ns for path in shards}
    shards[0].unlink()
    build(data_dir, folder)
    assert contents(folder) == contents(features_dir)
    kept = [path.name for path in shards[1:] if path.stat().st_mtime_ns == times[path.name]]
    assert kept == [path.name for path in shards[1:]]


def test_two_tasks_make_the_files_of_one(data_dir, features_dir, tmp_path, own_module):
    environment = {**os.environ, "PYTHONPATH": str(own_module)}
    for index in (1, 0):
        result = run_module(
            *(
                "pipelines.features",
                f"--data={data_dir}",
                f"--features={COLORS}",
                f"--features_data={tmp_path / 'f'}",
            ),
            *(f"--task_index={index}", "--task_count=2"),
            env=environment,
        )
        assert result.returncode == 0, result.stderr
        assert manifest.exists(str(tmp_path / "f")) == (index == 0)
    assert contents(tmp_path / "f") == contents(features_dir)


def test_an_encoding_that_is_killed_anywhere_goes_on_to_the_same_files(
    data_dir, features_dir, tmp_path, own_module
):
    environment = {**os.environ, "PYTHONPATH": str(own_module)}
    command = ["pipelines.features", f"--data={data_dir}", f"--features={COLORS}"]
    command.append(f"--features_data={tmp_path / 'f'}")
    for count in (1, 4):
        process = start_module(*command, env=environment)
        while process.poll() is None and len(list((tmp_path / "f").glob("*.json"))) < count:
            time.sleep(0.001)
        process.kill()
        process.wait()
    run_module(*command, env=environment, check=True)
    assert contents(tmp_path / "f") == contents(features_dir)
    assert not list((tmp_path / "f").glob(".tmp-*"))


def test_a_damaged_shard_of_frames_is_named(copy, tmp_path):
    shard = sorted(copy.glob("*.tfrecord-*-of-?????"))[1]
    flip_bit(shard, 300)
    with pytest.raises(UserError, match=f"{shard.name} is damaged: it has another sha256"):
        build(copy, tmp_path / "features")
    assert not manifest.exists(str(tmp_path / "features"))


def test_an_encoder_with_other_weights_is_refused(data_dir, tmp_path):
    source = manifest.load(str(data_dir))
    image = keras.Input((16, 24, 3))
    model = keras.Model(image, keras.layers.Conv2D(4, 3)(image))
    path = tmp_path / "encoder.keras"
    model.save(path)
    stored = load_encoder(FeatureSpec(encoder=str(path)), source.format).format
    assert stored.shape == (5, 4)
    assert reload_encoder(stored, source.format, allowed_code=[str(path)]).format == stored
    with raises_with_remedies("which is outside this package. If you trust it: --allow_code="):
        reload_encoder(stored, source.format)
    model.layers[1].set_weights([2 * weight for weight in model.layers[1].get_weights()])
    model.save(path)
    with pytest.raises(UserError, match="is not the one that the features were made with. Expected: weights"):
        reload_encoder(stored, source.format, allowed_code=[str(path)])


def test_the_program_refuses_a_folder_of_other_features(data_dir, features_dir, tmp_path, own_module):
    result = run_module(
        *("pipelines.features", f"--data={data_dir}", "--features=efficientnet_lite0", "--encoder_size=32"),
        f"--features_data={features_dir}",
    )
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert f"{features_dir} holds 5x3 features of {COLORS}" in result.stderr


@pytest.mark.parametrize(
    "options, message",
    [
        ({"encoder": "no_such"}, "Expected an encoder: one of"),
        ({"encoder": "three_block"}, "Expected an encoder: one of"),
        ({"encoder": "no_such:builder"}, "Cannot import no_such"),
        ({"encoder": COLORS, "grid": 5}, "a feature_grid of at most 4"),
        ({"encoder": COLORS, "size": "4097"}, "a height of 8 to 4096"),
        ({"encoder": COLORS, "precision": "auto"}, "a precision other than auto"),
        ({"encoder": COLORS, "size": "x"}, "a size such as 64"),
    ],
)
def test_wrong_settings_are_refused(data_dir, options, message):
    source = manifest.load(str(data_dir))
    with pytest.raises(UserError, match=message):
        load_encoder(FeatureSpec(**options), source.format)


def test_features_are_not_encoded_again(features_dir, tmp_path):
    with pytest.raises(UserError, match="Expected shards of frames"):
        build(features_dir, tmp_path / "again")


def test_features_beyond_float16_are_an_error(data_dir, tmp_path):
    source = manifest.load(str(data_dir))
    image = keras.Input((16, 24, 3))
    path = tmp_path / "large.keras"
    keras.Model(image, keras.layers.Rescaling(1e6)(image)).save(path)
    encoder = load_encoder(FeatureSpec(encoder=str(path)), source.format)
    planned = encode.plan_features(source, encoder.format)
    with pytest.raises(UserError, match="exceed the range of float16"):
        list(encode.run_encoder(planned.jobs, str(tmp_path), lambda count: None, encoders=[encoder]))
    assert not list(tmp_path.glob("*.tfrecord*"))


def test_several_devices_encode_side_by_side(data_dir, features_dir, tmp_path):
    source = manifest.load(str(data_dir))
    encoders = [load_encoder(FeatureSpec(encoder=COLORS), source.format) for _ in range(2)]
    planned = encode.plan_features(source, encoders[0].format)
    counts = []
    run = functools.partial(encode.run_encoder, encoders=encoders)
    building.build_dataset(planned, str(tmp_path / "f"), run=run)
    assert contents(tmp_path / "f") == contents(features_dir)
    list(run(planned.jobs[:2], str(tmp_path / "f"), counts.append))
    assert sum(counts) == sum(job.num_items for job in planned.jobs[:2])
