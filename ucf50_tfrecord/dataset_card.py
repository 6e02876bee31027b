"""Writes a dataset's card: a Markdown file with the header of the Hugging Face Hub's dataset cards.

Source of the header's fields: https://github.com/huggingface/hub-docs/blob/main/datasetcard.md
"""

from __future__ import annotations

import pathlib
from typing import Any

from ucf50_tfrecord import about as about_lib
from ucf50_tfrecord import croissant, markdown, storage, tfds
from ucf50_tfrecord.about import About
from ucf50_tfrecord.manifest import Manifest

FILENAME = "DATASET_CARD.md"
# Licenses that the Hub knows by the lower-case SPDX identifier; it wants the others by name or address.
_HUB_LICENSES = frozenset(
    "apache-2.0 bsd-2-clause bsd-3-clause cc-by-2.0 cc-by-3.0 cc-by-4.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-4.0 "
    "cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 mit odbl pddl unlicense".split()
)
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")
_NOT_KNOWN = f"not known; {about_lib.FILENAME} beside the videos can state it"


def save(manifest: Manifest) -> None:
    """Writes a dataset's card. Equal manifests give equal bytes."""
    with storage.atomic_write(pathlib.Path(manifest.data_dir, FILENAME)) as file:
        file.write(f"{markdown.yaml_header(_header(manifest))}{_text(manifest)}".encode())


def _header(manifest: Manifest) -> dict[str, Any]:
    title = manifest.about.title or manifest.name
    size = sum(manifest.num_clips >= 10**power for power in range(3, 2 + len(_SIZES)))
    return {
        **license_fields(manifest.about),
        "pretty_name": title,
        "task_categories": ["video-classification"],
        "tags": ["action-recognition", "video", "tfrecord", "features" if manifest.features else "frames"],
        "size_categories": [_SIZES[size]],
    }


def license_fields(about: About) -> dict[str, str]:
    """Returns the header's fields on a dataset's license."""
    if not about.license:
        return {"license": "unknown"}
    if about.license.lower() in _HUB_LICENSES:
        return {"license": about.license.lower()}
    link = about.license if about.license.startswith(("https://", "http://")) else about.url
    return {"license": "other", "license_name": about.license} | ({"license_link": link} if link else {})


def _text(manifest: Manifest) -> str:
    about = manifest.about
    facts = {
        "License": about.license or _NOT_KNOWN,
        "Citation": about.citation or _NOT_KNOWN,
        "Made by": about.creator,
        "Page": about.url,
        "Published": about.published,
        "Collection of the videos": about.collection,
        "Personal and sensitive information": about.people or _NOT_KNOWN,
        "Biases": about.biases,
        "Limits": about.limits,
        "From videos to clips": croissant.preprocessing(manifest),
        "Fingerprint": manifest.fingerprint,
    }
    texts = [about.description, croissant.describe(manifest)]
    blocks = [
        f"# {markdown.escape(about.title or manifest.name)}",
        *(markdown.escape(text) for text in texts if text),
        "\n".join(f"- {name}: {markdown.escape(value)}" for name, value in facts.items() if value),
        "## Folds",
        _folds(manifest),
        "## Classes",
        _classes(manifest),
    ]
    return "\n\n".join(blocks) + "\n"


def _folds(manifest: Manifest) -> str:
    names = {number: name for name, number in manifest.fold_numbers.items()}
    rows = [
        (tfds.split_name(fold), names.get(fold, ""), str(count))
        for fold, count in sorted(manifest.clips_per_fold.items())
    ]
    return markdown.table([("split", "name", "clips"), *rows], (False, False, True))


def _classes(manifest: Manifest) -> str:
    counts = [sum(column) for column in zip(*manifest.clips_per_class.values())]
    rows = [(name, str(count)) for name, count in zip(manifest.classes, counts)]
    return markdown.table([("class", "clips"), *rows], (False, True))
