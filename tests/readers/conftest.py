"""Fixtures for docs/readers.md: the folder that its examples expect, and its shards' expected frames."""

import dataclasses
import pathlib

import numpy as np
import pytest

from tests.conftest import build, write_video
from ucf50_tfrecord import manifest
from ucf50_tfrecord.choices import Encoding
from ucf50_tfrecord.convert import decode
from ucf50_tfrecord.specs import ClipFormat

CLASSES = ("Left", "Right")
GROUPS = (1, 6, 7, 12, 21)


def write_videos(folder: pathlib.Path) -> None:
    """Writes a video for each of CLASSES and GROUPS: coloured waves that move left or right."""
    y, x = np.mgrid[:96, :128]
    for label, name in enumerate(CLASSES):
        for group in GROUPS:
            phases = np.arange(20)[:, np.newaxis, np.newaxis] / (3 - 6 * label)
            waves = [np.sin(x / (9 + group) + y / (8 + 5 * channel) + phases) for channel in range(3)]
            frames = np.uint8(127.5 + 120 * np.stack(waves, axis=-1))
            write_video(folder / name / f"v_{name}_g{group:02d}_c01.avi", frames)


def build_set(project: pathlib.Path, **format_options) -> pathlib.Path:
    """Converts the videos of a project folder into the default folder of `make shards`, one clip per shard.

    format_options: fields of ClipFormat.

    Returns:
      The folder of the shards.
    """
    clip_format = ClipFormat(**format_options)
    data_dir = project / "data" / f"ucf50-{clip_format}"
    options = dataclasses.asdict(clip_format)
    build(project / "UCF50", data_dir, name="ucf50", shard_bytes=clip_format.num_bytes, **options)
    return data_dir


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("project")
    write_videos(folder / "UCF50")
    return folder


@pytest.fixture(scope="session")
def data_dirs(project) -> dict[str, pathlib.Path]:
    """A dictionary from encoding to the folder of a dataset in it, 10 clips of the default size. Read only."""
    return {encoding: build_set(project, encoding=encoding) for encoding in Encoding}


@pytest.fixture(scope="session")
def expected(project, data_dirs) -> dict[str, tuple[np.ndarray, int]]:
    """A dictionary from a clip's id to a tuple of its frames and its label.

    The frames are uint8 [T, H, W, 3], from the converter's decoder.
    """
    labels = {name: label for label, name in enumerate(CLASSES)}
    clips = {}
    for path in sorted((project / "UCF50").rglob("*.avi")):
        [clip] = decode.decode_file(path, manifest.load(str(data_dirs["raw"])).format)
        clips[f"{path.parent.name}/{path.stem}"] = (clip.frames, labels[path.parent.name])
    return clips
