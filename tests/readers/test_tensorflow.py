"""Tests TensorFlow's parsers, TensorFlow Datasets, and DMVR through its key specs."""

import functools
import re

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import real_folder
from tests.readers import checks, document
from tests.readers.conftest import build_set
from ucf50_tfrecord import building, manifest, record
from ucf50_tfrecord.choices import Encoding
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.dataset.feed import read_clips
from ucf50_tfrecord.features import encode
from ucf50_tfrecord.features.encoders import load_encoder
from ucf50_tfrecord.specs import ClipFormat, FeatureSpec

STRING = tf.io.FixedLenFeature([], tf.string)


def payloads(data_dir, folds="*"):
    return [payload.numpy() for payload in tf.data.TFRecordDataset(checks.shards(data_dir, folds))]


def ids_of(clip_ids):
    return [clip_id.decode() for clip_id in clip_ids.numpy()]


def test_patterns_match_shards_only(data_dirs):
    """A shorter pattern also finds the sidecars, and TensorFlow stops at them."""
    patterns = re.findall(r"data/\S+tfrecord[^\s\"]*", document.TEXT)
    assert patterns and all(pattern.endswith(".tfrecord-?????-of-?????") for pattern in patterns)
    for data_dir in data_dirs.values():
        listed = {shard.filename for shard in manifest.load(str(data_dir)).shards}
        found = tf.io.gfile.glob(f"{data_dir}/*.tfrecord-?????-of-?????")
        assert {path.rpartition("/")[2] for path in found} == listed
        sidecar = f"{found[0]}.json"
        assert sidecar in tf.io.gfile.glob(f"{data_dir}/*.tfrecord-*")
        with pytest.raises(tf.errors.DataLossError):
            list(tf.data.TFRecordDataset(sidecar))


def test_the_example_of_tensorflow_datasets(project, data_dirs, expected, monkeypatch):
    found = document.run("builder_from_directory", project, monkeypatch)
    train = list(found["train"].as_numpy_iterator())
    assert sorted((clip["fold"], clip["label"]) for clip in train) == [(6, 0), (6, 1), (7, 0), (7, 1)]
    [half] = found["half"].as_numpy_iterator()
    assert half["fold"] == 1
    for clip in [*train, half]:
        frames, label = expected[clip["clip/media_id"].decode()]
        np.testing.assert_array_equal(clip["video"], frames)
        assert clip["label"] == label


@pytest.mark.parametrize("encoding", Encoding)
def test_tensorflow_datasets_reads_every_encoding(data_dirs, expected, encoding):
    """features.json names frames only if the reader can read them."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(data_dirs[encoding]))
    assert set(builder.info.splits) == {"fold01", "fold06", "fold07", "fold12", "fold21"}
    assert builder.info.features["label"].names == ["Left", "Right"]
    seen, clip_ids = set(), []
    for clip in tfds.as_numpy(builder.as_dataset(split="all")):
        clip_ids.append(clip["clip/media_id"].decode())
        frames, label = expected[clip_ids[-1]]
        assert clip["label"] == label and clip["fold"] == clip["group"] == int(clip_ids[-1][-6:-4])
        seen.add(checks.fidelity(clip["video"], frames) if "video" in clip else "none")
    assert sorted(clip_ids) == sorted(expected)
    assert seen == {document.sees("tensorflow_datasets")[encoding]}


def test_the_example_of_raw_frames(project, data_dirs, expected, monkeypatch):
    found = document.run(f"tf.uint8), {list(ClipFormat().shape)}", project, monkeypatch)
    read = {(frames.tobytes(), label) for frames, label in found["clips"].as_numpy_iterator()}
    asked = [clip for clip_id, clip in expected.items() if "_g06_" in clip_id or "_g07_" in clip_id]
    assert read == {(frames.tobytes(), label) for frames, label in asked} and len(read) == 4


@pytest.fixture(scope="module")
def features_dir(project, data_dirs):
    """The folder of the features of the raw frames. Read only."""
    folder = data_dirs["raw"].with_name(f"ucf50-{ClipFormat()}-efficientnet_lite0")
    source = manifest.load(str(data_dirs["raw"]))
    encoder = load_encoder(FeatureSpec(encoder="efficientnet_lite0"), source.format)
    run = functools.partial(encode.run_encoder, encoders=[encoder])
    building.build_dataset(encode.plan_features(source, encoder.format), str(folder), run=run)
    return folder


def test_the_example_of_features(project, features_dir, monkeypatch):
    found = document.run('video/features": tf.io', project, monkeypatch)
    read = {(features.tobytes(), label) for features, label in found["clips"].as_numpy_iterator()}
    built = manifest.load(str(features_dir))
    clips = load_clips(built, built.folds)
    assert read == {(one.tobytes(), label) for one, label in zip(read_clips(clips), clips.labels.tolist())}
    assert len(read) == built.num_clips


def test_the_pytorch_class_reads_features(project, features_dir, monkeypatch):
    monkeypatch.chdir(project)
    names = {}
    exec(document.example("class Clips"), names)
    built = manifest.load(str(features_dir))
    found = names["Clips"](str(features_dir), built.folds)
    clips = load_clips(built, built.folds)
    assert len(found) == len(clips)
    for index, expected in enumerate(read_clips(clips)):
        np.testing.assert_array_equal(found[index][0], expected)
        assert found[index][1] == clips.labels[index]


@pytest.mark.parametrize("encoding", Encoding)
def test_parse_example_reads_batches(project, data_dirs, expected, encoding, monkeypatch):
    found = document.run(f"tf.uint8), {list(ClipFormat().shape)}", project, monkeypatch)
    features = found["features"] | {"clip/media_id": STRING}
    if document.sees("tf.io.parse_example")[encoding] == "none":
        with pytest.raises(tf.errors.InvalidArgumentError, match="video"):
            tf.io.parse_example(payloads(data_dirs[encoding]), features)
        del features["video"]
    else:
        assert document.sees("tf.io.parse_example")[encoding] == "exact"
    clips = tf.io.parse_example(payloads(data_dirs[encoding]), features)
    clip_ids = ids_of(clips["clip/media_id"])
    assert sorted(clip_ids) == sorted(expected)
    assert clips["label"].numpy().tolist() == [expected[clip_id][1] for clip_id in clip_ids]
    for clip_id, pixels in zip(clip_ids, clips["video"].numpy() if "video" in clips else ()):
        assert pixels == expected[clip_id][0].tobytes()


def test_the_example_of_compressed_frames(project, data_dirs, expected, monkeypatch):
    """The frames equal those of other JPEG decoders, such as Pillow, which record.decode uses."""
    found = document.run("parse_single_sequence_example", project, monkeypatch)
    read = {(frames.tobytes(), label) for frames, label in found["clips"].as_numpy_iterator()}
    ours = [record.decode(payload) for payload in payloads(data_dirs["jpeg"], "0[6-9]")]
    assert read == {(clip["video"].tobytes(), clip["label"][0]) for clip in ours} and len(read) == 4


@pytest.mark.parametrize("encoding", Encoding)
def test_parse_sequence_example_reads_batches(project, data_dirs, expected, encoding, monkeypatch):
    """Raw frames come from the context if present, else from the feature lists."""
    found = document.run("parse_single_sequence_example", project, monkeypatch)
    context, lists = found["context"] | {"clip/media_id": STRING}, found["lists"]
    if "raw" in encoding:
        context, lists = context | {"video": STRING}, {}
    clips, steps, lengths = tf.io.parse_sequence_example(payloads(data_dirs[encoding]), context, lists)
    assert sorted(ids_of(clips["clip/media_id"])) == sorted(expected)
    for number, clip_id in enumerate(ids_of(clips["clip/media_id"])):
        frames, label = expected[clip_id]
        assert clips["clip/label/index"][number] == label
        assert clips["clip/label/text"][number] == clip_id.split("/")[0]

        def read():
            if "raw" in encoding:
                return np.frombuffer(clips["video"][number].numpy(), np.uint8).reshape(frames.shape)
            assert lengths["image/encoded"][number] == len(frames)
            return np.stack([found["decode"](image) for image in steps["image/encoded"][number]])

        assert checks.seen(read, frames) == document.sees("tf.io.parse_sequence_example")[encoding]


@pytest.mark.parametrize("encoding", Encoding)
def test_dmvr_finds_its_keys(data_dirs, expected, encoding):
    """Uses the parsers of its modalities add_image and add_label, and its way to decode frames.

    Source: dmvr/modalities.py, dmvr/builders.py and dmvr/processors.py; it is not on PyPI.
    """
    context = {
        "clip/label/index": tf.io.VarLenFeature(tf.int64),
        "clip/label/text": tf.io.VarLenFeature(tf.string),
    }
    lists = {"image/encoded": tf.io.FixedLenSequenceFeature((), tf.string)}
    for payload in payloads(data_dirs[encoding]):
        frames, label = expected[record.clip_id_and_labels(payload)[0]]

        def read():
            clip, steps = tf.io.parse_single_sequence_example(payload, context, lists)
            assert clip["clip/label/index"].values.numpy().tolist() == [label]
            assert clip["clip/label/text"].values == [record.clip_id_and_labels(payload)[0].split("/")[0]]
            return np.stack([tf.image.decode_jpeg(image, channels=3) for image in steps["image/encoded"]])

        assert checks.seen(read, frames) == document.sees("DMVR")[encoding]


def test_jpeg_of_real_videos_has_the_stated_psnr(tmp_path):
    """This also holds for TensorFlow's coarser default."""
    videos = sorted(real_folder("UCF50_VIDEOS").rglob("*.avi"))[::40]
    for number, path in enumerate(videos):
        link = tmp_path / "UCF50" / "ab"[number % 2] / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    data_dir = build_set(tmp_path, encoding="raw+jpeg", height=172, width=172)
    for payload in payloads(data_dir):
        exact = record.decode(payload)["video"]
        images = checks.images_of(payload)
        for method in ("INTEGER_ACCURATE", "INTEGER_FAST"):
            read = np.stack([tf.io.decode_jpeg(image, dct_method=method) for image in images])
            assert checks.fidelity(read, exact) == "lossy"
