"""The reference of a run: what its held-out clips are like, one value per video and measure.

Softmax outputs come from the run's stored predictions. Brightness, motion energy and frame rate come from the
frames in its shards; they are kept in a file of the run, so that the shards are read once.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
import numpy as np

from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import parsing, record, storage
from ucf50_tfrecord.dataset import reader
from ucf50_tfrecord.dataset.clips import ClipIndex, frames_of, load_clips
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.evaluation import runner
from ucf50_tfrecord.evaluation.interventions import PLAIN
from ucf50_tfrecord.evaluation.results import video_of
from ucf50_tfrecord.inference import finished_run, pictures
from ucf50_tfrecord.inference.decoding import VideoFile
from ucf50_tfrecord.inference.predict import Prediction
from ucf50_tfrecord.monitoring import stream
from ucf50_tfrecord.monitoring.videos import PICTURES, Videos
from ucf50_tfrecord.parsing import Fraction, Sha256
from ucf50_tfrecord.training import run as run_lib
from ucf50_tfrecord.training import trained
from ucf50_tfrecord.training.run import RunConfig

FILENAME = "monitor_reference.json"
_VERSION = 1  # of the measures. Raise it if their code changes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """The held-out videos of a run.

    videos: the N videos.
    ids: their ids, see results.video_of.
    recordings: index of each video's recording, from 0, int64 [N]: videos of one class and group, or else the
      video alone.
    groups: recording group of each video, int64 [N]; record.UNKNOWN_GROUP if it has none.
    missing: why brightness, motion energy and frame rate are unknown; empty if they are known.
    """

    videos: Videos
    ids: tuple[str, ...]
    recordings: np.ndarray
    groups: np.ndarray
    missing: str = ""


def load(
    run_dir: str,
    config: RunConfig,
    weights: str,
    temperature: float,
    *,
    data_dir: str | None = None,
    on_clip: Callable[[int, int], object] = lambda done, total: None,
) -> Reference:
    """Loads the reference of a run.

    Args:
      run_dir: the run's folder.
      config: its configuration.
      weights: checkpoint of the predictions, "last" or "best".
      temperature: number that logits are divided by before the softmax, as in the stream's predictions.
      data_dir: folder of the run's shards if it has moved.
      on_clip: called with the number of clips whose frames are read, and the number of all clips.

    Raises:
      UserError: if the run has not finished, or its predictions or the file of its reference are damaged.
    """
    found = load_predictions(run_dir, config, weights)
    values, missing = _load_pictures(run_dir, config, found, data_dir, on_clip)
    return assemble(found, values, len(config.classes), temperature, missing)


def load_predictions(run_dir: str, config: RunConfig, weights: str) -> list[runner.SavedPrediction]:
    """Loads a run's predictions of its unchanged held-out clips; arguments and errors as in load."""
    path = finished_run.find_predictions(run_dir, config, run_lib.load_summary(run_dir), weights)
    return [p for p in runner.load_predictions(path, len(config.classes)) if p.intervention == PLAIN]


def assemble(
    found: Sequence[runner.SavedPrediction],
    values: np.ndarray | None,
    num_classes: int,
    temperature: float,
    missing: str = "",
) -> Reference:
    """Makes a reference from predictions of N clips.

    Each video becomes a Prediction, and its JSON an entry like those of a stream. So both sides of a comparison
    are computed and rounded by the same code.

    Args:
      found: the predictions of the clips.
      values: measures of the clips' frames, float64 [N, 3], by PICTURES; None if unknown.
      num_classes: number of classes.
      temperature, missing: as in load and Reference.
    """
    places: dict[str, list[int]] = {}
    for place, prediction in enumerate(found):
        places.setdefault(video_of(prediction.clip_id), []).append(place)
    pixels = np.zeros((len(found), len(PICTURES))) if values is None else values
    documents = [
        Prediction(
            video=VideoFile(path=name),
            num_frames=0,
            secs=0.0,
            windows_secs=[(0.0, 0.0)],
            logits=np.array([[found[place].logits for place in chosen]], np.float32),
            temperature=temperature,
            **dict(zip(map(str, PICTURES), pixels[chosen].mean(axis=0).tolist())),
        ).to_json([*map(str, range(num_classes))], 1)
        for name, chosen in places.items()
    ]
    videos = stream.gather(stream.convert(documents, num_classes), num_classes)
    if values is None:
        videos = Videos(probabilities=videos.probabilities)
    first = [found[chosen[0]] for chosen in places.values()]
    return Reference(
        videos=videos,
        ids=tuple(places),
        recordings=_recordings(first),
        groups=np.array([prediction.group for prediction in first], np.int64),
        missing=missing,
    )


def _recordings(found: Sequence[runner.SavedPrediction]) -> np.ndarray:
    names = [
        f"video {video_of(p.clip_id)}"
        if p.group == record.UNKNOWN_GROUP
        else f"class {p.label} group {p.group}"
        for p in found
    ]
    return np.unique(names, return_inverse=True)[1]


def _load_pictures(
    run_dir: str,
    config: RunConfig,
    found: Sequence[runner.SavedPrediction],
    data_dir: str | None,
    on_clip: Callable[[int, int], object],
) -> tuple[np.ndarray | None, str]:
    """Returns the measures of clips' frames from the run's file, or else from its shards, and writes the file.

    Returns:
      A tuple of the measures, float64 [N, 3], and ""; or of None and the reason why they are unknown.
    """
    ids = [prediction.clip_id for prediction in found]
    key = manifest_lib.fingerprint({"version": _VERSION, "data": config.fingerprint, "clips": ids})
    path = pathlib.Path(run_dir, FILENAME)
    if path.is_file():
        stored = parsing.read(path, _Stored, "a run's reference for monitoring")
        if stored.key == key:
            expect(len(stored.clips) == len(ids), f"{len(ids)} clips in {path}", clips=len(stored.clips))
            return np.array(stored.clips, float).reshape(len(ids), len(PICTURES)), ""
    clips, missing = find_clips(config, found, data_dir)
    if clips is None:
        return None, missing
    values = measure_clips(clips, lambda done: on_clip(done, len(ids)))
    storage.write_json(
        path, {"key": key, "measures": [*map(str, PICTURES)], "clips": values.tolist()}, indent=None
    )
    return values, ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Stored:
    """The contents of a run's file of measures. `clips` has a tuple per clip, by videos.PICTURES."""

    key: Sha256
    measures: tuple[str, ...]
    clips: tuple[tuple[Fraction, Fraction, Annotated[float, msgspec.Meta(ge=0, le=1e9)]], ...]

    def __post_init__(self):
        expect(self.measures == tuple(map(str, PICTURES)), f"measures {PICTURES}", measures=self.measures)


def find_clips(
    config: RunConfig, found: Sequence[runner.SavedPrediction], data_dir: str | None
) -> tuple[ClipIndex | None, str]:
    """Finds the frames of predicted clips in the run's shards.

    Returns:
      A tuple of an index of the clips, in the order of the predictions, and ""; or of None and the reason.
    """
    manifest, missing = trained.find_manifest(
        dataclasses.replace(config, data_dir=data_dir) if data_dir else config
    )
    if manifest is None:
        return None, missing
    try:
        clips = load_clips(manifest, {prediction.fold for prediction in found})
        return frames_of(clips.find([p.clip_id for p in found], "all held-out clips")), ""
    except UserError as error:
        return None, str(error)


def measure_clips(clips: ClipIndex, on_clip: Callable[[int], object] = lambda done: None) -> np.ndarray:
    """Measures the frames of clips, read from their shards one by one.

    Args:
      clips: index of the clips' frames.
      on_clip: called with the number of clips that are done after each of them.

    Returns:
      The measures of videos.PICTURES, float64 [N, 3].

    Raises:
      UserError: if a record is damaged.
    """
    found = np.empty((len(clips), len(PICTURES)))
    for place in range(len(clips)):
        features = reader.read_record(clips, place)
        frames = features[record.VIDEO][np.newaxis]
        found[place] = (
            pictures.brightness(frames)[0],
            pictures.motion_energy(frames)[0],
            features[record.IMAGE_FRAME_RATE][0],
        )
        on_clip(place + 1)
    return found
