"""Tests a model on corrupted clips, one corruption after the other, and keeps the predictions of each in a file.

A test that was stopped continues with the first corruption that has no file.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Protocol

import keras
import msgspec
import numpy as np
import tensorflow as tf

from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import parsing, storage
from ucf50_tfrecord.choices import CorruptionFamily, Recoding
from ucf50_tfrecord.dataset import segments
from ucf50_tfrecord.dataset.clips import ClipIndex
from ucf50_tfrecord.dataset.feed import Feed, read_clips
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.evaluation.runner import Predictor
from ucf50_tfrecord.parsing import Name, Sha256
from ucf50_tfrecord.robustness.corruptions import CORRUPTIONS, corrupt
from ucf50_tfrecord.robustness.levels import SEVERITIES
from ucf50_tfrecord.robustness.results import NO_PREDICTION
from ucf50_tfrecord.specs import ClipFormat

PREDICTIONS_DIR = "predictions"
# Part of the keys of stored predictions. Raise it if the code of a corruption changes.
_VERSION = 1
_MAX_PREDICTIONS_BYTES = 256 << 20


class Recoder(Protocol):
    """Takes clips from videos that are coded again; see videos.Recoder, which needs PyAV."""

    def clips(
        self, name: str, recoding: Recoding, strengths: tuple[float, ...], *, seed: int
    ) -> Iterator[tuple[int, list[np.ndarray | None]]]: ...

    def clip(
        self, place: int, name: str, recoding: Recoding, strengths: tuple[float, ...], *, seed: int
    ) -> list[np.ndarray | None]: ...


class Tester:
    """Predicts the clips of one feed, unchanged and corrupted.

    clips: index of the clips that can be read, known once `plain` has returned.
    """

    def __init__(
        self,
        model: keras.Model,
        feed: Feed,
        *,
        strategy: tf.distribute.Strategy,
        batch_size: int,
        seed: int = 0,
        warn: Callable[[str], None] = lambda text: None,
    ):
        """Prepares the tests.

        Args:
          model: model that maps clips, uint8 [B, T, H, W, 3], to logits, float32 [B, C].
          feed: feed of the clips' frames to the one device of `strategy`.
          strategy: the device.
          batch_size: clips per step.
          seed: seed of the corruptions' random numbers.
          warn: called with a sentence about skipped clips.
        """
        self._feed, self._batch_size, self._seed = feed, batch_size, seed
        self._warn = warn
        self._format: ClipFormat = feed.clips.manifest.format
        self._predictor = Predictor(model, strategy)

    @functools.cached_property
    def plain(self) -> np.ndarray:
        """The predicted classes of the unchanged clips, int64 [N]; NO_PREDICTION for unreadable clips."""
        found = np.full(len(self._feed.clips), NO_PREDICTION, np.int64)
        for index, video in self._batches():
            found[index] = self._predict(video)
        if self._feed.skipped:
            self._warn(self._feed.describe_skipped())
        expect(bool((found >= 0).any()), "at least 1 clip that can be read", skipped=len(self._feed.skipped))
        return found

    @property
    def kept(self) -> np.ndarray:
        """Whether each clip of the feed can be read, bool [N]."""
        return self.plain != NO_PREDICTION

    def corrupted(self, name: str, on_clips: Callable[[int], object] = lambda count: None) -> np.ndarray:
        """Predicts the clips under a corruption that is not of the codec.

        Args:
          name: name of the corruption.
          on_clips: called with the number of clips after each batch.

        Returns:
          The predicted classes, int64 [5, N], one row per severity; NO_PREDICTION for unreadable clips.
        """
        ids = self._feed.clips.ids
        found = np.full((len(SEVERITIES), len(ids)), NO_PREDICTION, np.int64)
        with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            for index, video in self._batches():
                chosen = [ids[i] for i in index]
                for row, severity in enumerate(SEVERITIES):
                    change = functools.partial(corrupt, name=name, severity=severity, seed=self._seed)
                    found[row, index] = self._predict(np.stack(list(threads.map(change, video, chosen))))
                on_clips(len(index))
        return found

    def recoded(
        self, name: str, recoder: Recoder, on_clips: Callable[[int], object] = lambda count: None
    ) -> np.ndarray:
        """Predicts the clips under a corruption of the codec; arguments and result as in `corrupted`.

        The result is NO_PREDICTION where no frame of the corrupted video decodes, too.
        """
        found = np.full((len(SEVERITIES), len(self._feed.clips)), NO_PREDICTION, np.int64)
        for index, versions in recoder.clips(*self._recoding(name), seed=self._seed):
            rows = [row for row, version in enumerate(versions) if version is not None]
            if rows:
                found[rows, index] = self._predict(np.stack([versions[row] for row in rows]))
            on_clips(1)
        return found

    def example(
        self, names: Sequence[str], recoder: Recoder | None, severities: Sequence[int]
    ) -> tuple[str, dict[str, list[np.ndarray]]]:
        """Shows one clip under each corruption: the first clip that is predicted right, or else the first.

        Args:
          names: names of the corruptions.
          recoder: as in `measure`.
          severities: the severities to show, from 0 to 5.

        Returns:
          A tuple of the clip's id, and a dictionary from each name to the clip in these severities, uint8
          [T, H, W, 3] each; black if no frame of the corrupted video decodes.
        """
        clips = self._feed.clips
        place = int(np.argmax((self.plain == clips.labels) + 0.5 * self.kept))
        [plain] = self._take(read_clips(clips.select(np.array([place]))))
        found = {}
        for name in names:
            versions = [corrupt(plain, clips.ids[place], name, 0)]
            if CORRUPTIONS[name].family == CorruptionFamily.CODEC:
                assert recoder is not None
                recoded = recoder.clip(place, *self._recoding(name), seed=self._seed)
                versions += [None if clip is None else self._take(clip[np.newaxis])[0] for clip in recoded]
            else:
                versions += [corrupt(plain, clips.ids[place], name, s, seed=self._seed) for s in SEVERITIES]
            shown = [versions[severity] for severity in severities]
            found[name] = [np.zeros_like(plain) if clip is None else clip for clip in shown]
        return clips.ids[place], found

    def _take(self, clips: np.ndarray) -> np.ndarray:
        """Returns those frames of clips, uint8 [N, T, H, W, 3], that the model sees."""
        return segments.take_middles(clips, self._predictor.num_frames)

    def _recoding(self, name: str) -> tuple[str, Recoding, tuple[float, ...]]:
        """Returns the arguments that tell a Recoder what a corruption of the codec is."""
        entry = CORRUPTIONS[name]
        return name, entry.recoding, tuple(entry.strength(severity, self._format) for severity in SEVERITIES)

    def _batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields tuples of the positions of B clips, int64 [B], and their frames, uint8 [B, T, H, W, 3]."""
        for batch in self._feed.batches(batch_size=self._batch_size):
            video, index, mask = self._predictor.read(self._feed.frames, batch)
            yield index[mask], video.numpy()[mask]

    def _predict(self, video: np.ndarray) -> np.ndarray:
        """Returns the predicted classes of B clips, int64 [B]."""
        logits = self._predictor.predict(video, batch_size=self._batch_size)
        if not np.isfinite(logits).all():
            raise UserError("The model returns NaN or infinity for a clip")
        return logits.argmax(axis=1)


def key_of(name: str, clips: ClipIndex, *, weights: str, source: str, seed: int = 0) -> str:
    """Returns the hex sha256 of everything that decides the predictions under a corruption.

    Args:
      name: name of the corruption.
      clips: index of the clips.
      weights: hex sha256 of the model's weights, see trained.digest_weights.
      source: what else decides the clips of corruptions of the codec, see videos.Recoder.source; "" without them.
      seed: seed of the corruptions' random numbers.
    """
    entry, clip_format = CORRUPTIONS[name], clips.manifest.format
    return manifest_lib.fingerprint(
        {
            "version": _VERSION,
            "corruption": name,
            "strengths": [entry.strength(severity, clip_format) for severity in SEVERITIES],
            "seed": seed,
            "weights": weights,
            "data": clips.manifest.fingerprint,
            "clips": clips.ids,
            "source": source if entry.family == CorruptionFamily.CODEC else "",
        }
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Stored:
    """The contents of a file of predictions under one corruption.

    key: see key_of.
    predicted: the predicted classes by severity and clip.
    """

    corruption: Name
    key: Sha256
    predicted: tuple[tuple[Annotated[int, msgspec.Meta(ge=NO_PREDICTION, lt=1 << 31)], ...], ...]


def save(folder: pathlib.Path, name: str, key: str, predicted: np.ndarray) -> None:
    """Writes the predicted classes under a corruption, int64 [5, N], into a file of their own."""
    value = {"corruption": name, "key": key, "predicted": predicted.tolist()}
    storage.write_json(_path(folder, name), value, indent=None)


def load(folder: pathlib.Path, name: str, key: str, *, num_clips: int, num_classes: int) -> np.ndarray | None:
    """Reads the predicted classes under a corruption, int64 [5, N].

    Returns:
      The predicted classes; None if there is no file, or its predictions have another key.

    Raises:
      UserError: if the file does not hold predictions for `num_clips` clips of `num_classes` classes.
    """
    path = _path(folder, name)
    if not path.is_file():
        return None
    stored = parsing.read(path, _Stored, "a file of predictions", max_bytes=_MAX_PREDICTIONS_BYTES)
    if stored.key != key:
        return None
    lengths = {len(row) for row in stored.predicted}
    most = max((max(row, default=0) for row in stored.predicted), default=0)
    expect(
        len(stored.predicted) == len(SEVERITIES) and lengths == {num_clips} and most < num_classes,
        f"{len(SEVERITIES)} rows of {num_clips} classes below {num_classes} in {path}",
        rows=len(stored.predicted),
        lengths=sorted(lengths),
        largest=most,
    )
    return np.array(stored.predicted, np.int64)


def _path(folder: pathlib.Path, name: str) -> pathlib.Path:
    return folder / PREDICTIONS_DIR / f"{name}.json"


def measure(
    tester: Tester,
    names: Sequence[str],
    keys: dict[str, str],
    folder: pathlib.Path,
    *,
    num_classes: int,
    recoder: Recoder | None = None,
    on_start: Callable[[str], Callable[[int], object]] = lambda name: lambda count: None,
) -> Iterable[tuple[str, np.ndarray]]:
    """Yields the predicted classes under each corruption; takes those that `folder` holds already.

    Args:
      tester: the model and the clips.
      names: names of the corruptions.
      keys: dictionary from these names to the keys of their predictions, see key_of.
      folder: folder of the results.
      num_classes: number of classes of the model.
      recoder: takes clips from videos that are coded again, for corruptions of the codec.
      on_start: called with the name of a corruption before it is tested; returns a function that is called with
        the number of clips after each batch.

    Yields:
      Tuples of a corruption's name and the predicted classes of all clips of the feed, int64 [5, N].

    Raises:
      UserError: if a file is damaged, or clips cannot be read or predicted.
    """
    num_clips = len(tester.plain)
    for name in names:
        found = load(folder, name, keys[name], num_clips=num_clips, num_classes=num_classes)
        if found is None:
            on_clips = on_start(name)
            if CORRUPTIONS[name].family == CorruptionFamily.CODEC:
                assert recoder is not None
                found = tester.recoded(name, recoder, on_clips)
            else:
                found = tester.corrupted(name, on_clips)
            save(folder, name, keys[name], found)
        yield name, found
