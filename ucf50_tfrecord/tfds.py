"""Writes the files beside the shards that TensorFlow Datasets needs (tfds.builder_from_directory)."""

from __future__ import annotations

import pathlib
from typing import Any

from ucf50_tfrecord import record, storage
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.specs import FeatureFormat

VERSION = "1.0.0"
FILENAMES = _FEATURES, _LABELS, _INFO = ("features.json", "label.labels.txt", "dataset_info.json")


def save(manifest: Manifest) -> None:
    """Writes a dataset's files for TensorFlow Datasets; each fold becomes a split: "fold01", "fold02", …"""
    folder = pathlib.Path(manifest.data_dir)
    storage.write_json(folder / _FEATURES, _features(manifest))
    with storage.atomic_write(folder / _LABELS) as file:
        lines = [name.replace("\n", "\\n") + "\n" for name in manifest.classes]
        file.write("".join(lines).encode("utf-8", "surrogateescape"))
    splits = []
    for fold in manifest.folds:
        shards = [shard for shard in manifest.shards if shard.fold == fold]
        splits.append(
            {
                "name": split_name(fold),
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "shardLengths": [str(shard.num_clips) for shard in shards],
                "numBytes": str(sum(shard.num_bytes for shard in shards)),
            }
        )
    storage.write_json(
        folder / _INFO,
        {
            "name": manifest.name,
            "version": VERSION,
            "fileFormat": "tfrecord",
            "moduleName": "ucf50_tfrecord.convert",
            "splits": splits,
        },
    )


def split_name(fold: int) -> str:
    """Returns the name of a fold as a split, such as "fold01"."""
    return f"fold{fold:02d}"


def _features(manifest: Manifest) -> dict[str, Any]:
    """Returns the contents of features.json, which describes the features of a record, as a JSON value.

    TensorFlow Datasets parses records as `tf.train.Example`, so it sees the features in the context: scalar
    label (in a multi-label dataset a sequence of them), group, fold and media id, and `video`, uint8
    [T, H, W, 3], if frames are stored raw, or the features, float16 [T, ...] or, of K views, [K, T, ...], in
    place of frames.
    """
    package, stored = "tensorflow_datasets.core.features", manifest.stored

    def tensor(shape: tuple[int, ...], dtype: str, encoding: str) -> dict[str, Any]:
        return {
            "pythonClassName": f"{package}.tensor_feature.Tensor",
            "tensor": {
                "shape": {"dimensions": [str(size) for size in shape]},
                "dtype": dtype,
                "encoding": encoding,
            },
        }

    label: dict[str, Any] = {
        "pythonClassName": f"{package}.class_label_feature.ClassLabel",
        "classLabel": {"numClasses": str(len(manifest.classes))},
    }
    if manifest.multi_label:
        label = {
            "pythonClassName": f"{package}.sequence_feature.Sequence",
            "sequence": {"feature": label, "length": "-1"},
        }
    features = {
        record.LABEL: label,
        record.GROUP: tensor((), "int64", "none"),
        record.FOLD: tensor((), "int64", "none"),
        record.MEDIA_ID: {"pythonClassName": f"{package}.text_feature.Text", "text": {}},
    }
    if isinstance(stored, FeatureFormat):
        features[record.FEATURES] = tensor(stored.shape, stored.dtype, "bytes")
    elif record.stores_raw(stored):
        features[record.VIDEO] = tensor(stored.shape, stored.dtype, "bytes")
    return {
        "pythonClassName": f"{package}.features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }
