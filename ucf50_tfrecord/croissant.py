"""Writes a dataset's description in Croissant's vocabulary, which data set catalogues and mlcroissant read.

Source: https://docs.mlcommons.org/croissant/docs/croissant-spec-1.0.html, and its extension for responsible AI,
https://docs.mlcommons.org/croissant/docs/croissant-rai-spec.html.

Croissant cannot read TFRecord files, so shards are described as files. The table of clips (the record set "clips") is
read from the sidecars.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import storage, tfds
from ucf50_tfrecord.manifest import Manifest

FILENAME = "croissant.json"
_VERSION = "http://mlcommons.org/croissant/1.0"
_TFRECORD, _JSON = "application/x-tfrecord", "application/json"
_SHARDS, _SIDECARS = "shards", "sidecars"
# The context that the specification recommends.
_TERMS = (
    "citeAs column equivalentProperty extract field fileObject fileProperty fileSet format includes isLiveDataset "
    "jsonPath key md5 parentField path recordSet references regex repeated replace samplingRate separator source "
    "subField transform"
)
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
} | {term: f"cr:{term}" for term in _TERMS.split()}


def save(manifest: Manifest) -> None:
    """Writes a dataset's description beside its shards and sidecars, which must be complete.

    Equal manifests and sidecars give equal bytes.
    """
    storage.write_json(pathlib.Path(manifest.data_dir, FILENAME), _dataset(manifest))


def describe(manifest: Manifest) -> str:
    """Returns a sentence on what a dataset's records hold."""
    stored = manifest.stored
    what = f"{stored.dtype} RGB frames of shape {list(stored.shape)}"
    if manifest.format.motion_frames:
        what += f", whose channels are those of the frame and of the {manifest.format.motion_frames} right after it"
    if manifest.features:
        what = f"{stored.dtype} features of shape {list(stored.shape)} of the frame encoder {manifest.features.encoder}"
    kinds = "kinds of action, one or several per clip," if manifest.multi_label else "kinds of action"
    return (
        f"{manifest.num_clips} clips of {len(manifest.classes)} {kinds} from {manifest.num_videos} videos, in "
        f"{len(manifest.shards)} TFRecord files of tf.train.SequenceExample records, with {what}."
    )


def preprocessing(manifest: Manifest) -> str:
    """Returns sentences on how a dataset's clips were made from its videos."""
    form = manifest.format
    text = (
        f"Clips per video: {form.clips_per_video}. Each has {form.num_frames} frames, evenly spaced by {form.spacing} "
        f"over the video or its segment, of {form.height} rows and {form.width} columns (resize: {form.resize}; "
        f"encoding: {form.encoding}). Decoded by {manifest.decoder}."
    )
    if features := manifest.features:
        text += (
            f" Features: encoder {features.encoder}, weights with sha256 {features.weights}, frames of "
            f"{features.height} rows and {features.width} columns, {features.precision}, intervention "
            f"{features.intervention}."
        )
    return text


def _dataset(manifest: Manifest) -> dict[str, Any]:
    """Returns the contents of croissant.json as a JSON value; facts that are not known are left out."""
    about = manifest.about
    own = f"{describe(manifest)} Fingerprint: {manifest.fingerprint}."
    creator = {"@type": "sc:Organization", "name": about.creator} if about.creator else ""
    facts = {
        "name": about.title or manifest.name,
        "description": f"{about.description}\n\n{own}" if about.description else own,
        "license": about.license,
        "citeAs": about.citation,
        "creator": creator,
        "url": about.url,
        "datePublished": about.published,
        "version": tfds.VERSION,
        "rai:dataCollection": about.collection,
        "rai:dataCollectionMissingData": _missing(manifest),
        "rai:dataPreprocessingProtocol": preprocessing(manifest),
        "rai:personalSensitiveInformation": about.people,
        "rai:dataBiases": about.biases,
        "rai:dataLimitations": about.limits,
    }
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": _VERSION,
        **{name: _encodable(value) for name, value in facts.items() if value},
        "distribution": _distribution(manifest),
        "recordSet": [_classes(manifest), _folds(manifest), _clips(manifest.multi_label)],
    }


def _encodable(value: Any) -> Any:
    """Escapes bytes that are not UTF-8, as in names of files: RDF has no lone surrogates."""
    if isinstance(value, Mapping):
        return {name: _encodable(item) for name, item in value.items()}
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _missing(manifest: Manifest) -> str:
    if not manifest.quarantined:
        return ""
    return (
        f"{len(manifest.quarantined)} of {manifest.num_videos} videos gave no clip; "
        f"{manifest_lib.MANIFEST_FILENAME} names them and the reasons."
    )


def _distribution(manifest: Manifest) -> list[dict[str, Any]]:
    """Returns the dataset's files: each shard and each sidecar, and a set of each kind.

    The sets are searched in the folder of croissant.json. mlcroissant 1.1 cannot read sets that consist of listed
    files.
    """
    files = []
    for shard in manifest.shards:
        files.append(_file(shard.filename, _TFRECORD, shard.num_bytes, shard.sha256))
        path = manifest_lib.sidecar_path(manifest.data_dir, shard.filename)
        files.append(_file(os.path.basename(path), _JSON, os.path.getsize(path), storage.sha256(path)))
    shards = f"{manifest.name}-fold*.tfrecord-*-of-*"
    return [
        *files,
        _file_set(_SHARDS, _TFRECORD, f"{shards}[0-9]"),
        _file_set(_SIDECARS, _JSON, f"{shards}.json"),
    ]


def _file(filename: str, encoding: str, num_bytes: int, sha256: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": filename,
        "name": filename,
        "contentUrl": filename,
        "contentSize": f"{num_bytes} B",
        "encodingFormat": encoding,
        "sha256": sha256,
    }


def _file_set(name: str, encoding: str, pattern: str) -> dict[str, Any]:
    return {"@type": "cr:FileSet", "@id": name, "name": name, "encodingFormat": encoding, "includes": pattern}


def _classes(manifest: Manifest) -> dict[str, Any]:
    rows = [
        {"classes/label": label, "classes/name": _encodable(name)}
        for label, name in enumerate(manifest.classes)
    ]
    fields = [_field("classes/label", "sc:Integer"), _field("classes/name", ["sc:Text", "sc:name"])]
    return _record_set("classes", "classes/label", fields, dataType="sc:Enumeration", data=rows)


def _folds(manifest: Manifest) -> dict[str, Any]:
    """Returns the record set of the folds, which are the splits: with their names, where they have some."""
    names = {number: _encodable(name) for name, number in manifest.fold_numbers.items()}
    rows = []
    for fold in manifest.folds:
        split = tfds.split_name(fold)
        rows.append({"folds/split": split, "folds/fold": fold, "folds/name": names.get(fold, split)})
    fields = [
        _field("folds/split", "sc:Text"),
        _field("folds/fold", "sc:Integer"),
        _field("folds/name", ["sc:Text", "sc:name"]),
    ]
    return _record_set("folds", "folds/split", fields, dataType="cr:Split", data=rows)


def _clips(multi_label: bool) -> dict[str, Any]:
    """Returns the record set of the clips, which is read from the sidecars and from the fold in their names."""

    def listed(path: str) -> dict[str, Any]:
        return {"fileSet": {"@id": _SIDECARS}, "extract": {"jsonPath": path}}

    def named(part: str) -> dict[str, Any]:
        regex = rf".*-{part}\.tfrecord-.*\.json"
        file_name = {"fileProperty": "fullpath"}
        return {"fileSet": {"@id": _SIDECARS}, "extract": file_name, "transform": {"regex": regex}}

    label = {"source": listed("$.labels[*]"), "references": _reference("classes/label")}
    fields = [
        _field("clips/id", "sc:Text", source=listed("$.clip_ids[*]")),
        _field("clips/label", "sc:Integer", **label, **({"repeated": True} if multi_label else {})),
        _field("clips/group", "sc:Integer", source=listed("$.groups[*]")),
        _field("clips/fold", "sc:Integer", source=named("fold([0-9]+)")),
        _field("clips/split", "sc:Text", source=named("(fold[0-9]+)"), references=_reference("folds/split")),
    ]
    return _record_set("clips", "clips/id", fields)


def _reference(field: str) -> dict[str, Any]:
    return {"field": {"@id": field}}


def _field(name: str, data_type: str | list[str], **options: Any) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": name,
        "name": name.partition("/")[2],
        "dataType": data_type,
        **options,
    }


def _record_set(name: str, key: str, fields: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "key": {"@id": key},
        "field": fields,
        **options,
    }
