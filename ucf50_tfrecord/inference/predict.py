"""Predicts the classes of videos by a trained model, from windows of their frames.

A window is a span of time that is treated like a video of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from scipy import special

from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import record
from ucf50_tfrecord.dataset import reader
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.dataset.views import PLAIN_VIEW, View
from ucf50_tfrecord.errors import Action, Remedy, UserError
from ucf50_tfrecord.evaluation import multi_label
from ucf50_tfrecord.inference import pictures
from ucf50_tfrecord.inference.decoding import DecodedVideo, Failed, StreamWindow, VideoFile
from ucf50_tfrecord.specs import ClipFormat, WindowSpec
from ucf50_tfrecord.training import trained
from ucf50_tfrecord.training.run import RunConfig

# The median and the longest duration of 278 videos of eight UCF50 classes, for runs that store no durations.
UCF50_SECS = (5.0, 20.0)
_DECIMALS = 6  # decimals of times, probabilities, logits, brightness and motion energy in files
_RATE_DECIMALS = 3  # decimals of frame rates in files; records hold them as float32


def complete_config(
    config: RunConfig, data_dir: str | None, warn: Callable[[str], None] = lambda text: None
) -> RunConfig:
    """Completes a run's configuration with the format of its clips and the durations of its videos.

    Runs of earlier versions do not store these, so they are read from the run's shards.

    Args:
      config: the run's configuration.
      data_dir: folder of shards to read both from, even if the configuration has them; None for the
        configuration's folder, if it does not have them.
      warn: called with a sentence if the folder holds other shards than those that the run was trained on.

    Returns:
      A copy of the configuration with `clip_format` and `video_secs`; these are UCF50_SECS if unknown.

    Raises:
      UserError: if shards are needed but missing, or the model does not fit their clips.
    """
    if config.clip_format and not data_dir:
        return dataclasses.replace(config, video_secs=config.video_secs or UCF50_SECS)
    folder = data_dir or config.data_dir
    manifest = manifest_lib.load_if_finished(folder)
    if manifest is None:
        raise UserError(
            f"The format of the run's clips is unknown: the run is from an earlier version, and there are no shards "
            f"in {folder}",
            Remedy(Action.SET, "to name the folder of its shards", data_dir=...),
        )
    trained.check_fits(manifest, config)
    if manifest.fingerprint != config.fingerprint:
        warn(f"{folder} holds other shards than those the run was trained on")
    clips = load_clips(manifest, manifest.folds, check_shards=False)
    video_secs = reader.video_secs([clips]) or UCF50_SECS
    return dataclasses.replace(config, clip_format=manifest.format, video_secs=video_secs)


def choose_windows(
    video_secs: tuple[float, float], window_secs: float | None, stride_secs: float | None
) -> WindowSpec:
    """Chooses how videos are cut into windows, spans of time that are treated like videos of their own.

    Args:
      video_secs: median and maximum duration of the videos that the run was trained on.
      window_secs: duration of a window; longer videos are cut. If None, windows have the median duration, and
        only videos longer than the maximum duration are cut; shorter videos stay whole, as in training.
      stride_secs: time from a window's start to the next window's start; None for half a window.
    """
    typical, longest = video_secs
    window = typical if window_secs is None else window_secs
    return WindowSpec(
        whole_secs=longest if window_secs is None else 0.0,
        window_secs=window,
        stride_secs=window / 2 if stride_secs is None else stride_secs,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """A model's prediction for a video, from the video's windows.

    video: the video.
    num_frames: number of the video's decodable frames.
    secs: duration of the video.
    windows_secs: start and end of each window, in seconds from the video's first frame.
    logits: logits of the clips of each window, float32 [windows, clips_per_video * views, C].
    temperature: number that logits are divided by before the softmax, to calibrate the probabilities.
    thresholds: probability from which on each class is predicted, float64 [C], if clips have several labels. Then
      probabilities are sigmoids of the logits. None for one label per clip.
    brightness, motion_energy: means over the windows' clips, see pictures.
    frame_rate: mean frames per second that the video's container states; 0.0 if it states none.
    """

    video: VideoFile
    num_frames: int
    secs: float
    windows_secs: list[tuple[float, float]]
    logits: np.ndarray
    temperature: float
    brightness: float
    motion_energy: float
    frame_rate: float
    thresholds: np.ndarray | None = None

    @functools.cached_property
    def window_probabilities(self) -> np.ndarray:
        """Class probabilities of each window, float64 [windows, C]: means over the window's clips and views."""
        if self.thresholds is not None:
            return multi_label.probabilities(self.logits).mean(axis=1)
        return special.softmax(self.logits.astype(np.float64) / self.temperature, axis=2).mean(axis=1)

    @functools.cached_property
    def probabilities(self) -> np.ndarray:
        """Class probabilities of the video, float64 [C]: means over the windows."""
        return self.window_probabilities.mean(axis=0)

    def top(self, count: int) -> list[tuple[int, float]]:
        """Lists the `count` most probable classes as (class index, probability), the most probable first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(int(label), float(self.probabilities[label])) for label in order]

    def predicted(self) -> list[tuple[int, float]]:
        """Lists the predicted classes as (class index, probability), the most probable first.

        It is the most probable class; with several labels per clip, those that reach their thresholds, maybe none.
        """
        if self.thresholds is None:
            return self.top(1)
        every = self.top(len(self.probabilities))
        return [(label, value) for label, value in every if value >= self.thresholds[label]]

    def to_json(self, classes: Sequence[str], top: int) -> dict[str, Any]:
        """Converts the prediction to JSON, with the names of the `top` most probable out of `classes`.

        With several labels per clip, "labels" lists the predicted classes.
        """
        folder = folder_class(self.video, classes)

        def listed(found: list[tuple[int, float]]) -> list[dict[str, Any]]:
            return [
                {"class": classes[label], "probability": round(value, _DECIMALS)} for label, value in found
            ]

        return {
            "path": self.video.path,
            "num_frames": self.num_frames,
            "secs": round(self.secs, _DECIMALS),
            "modified": self.video.modified.isoformat() if self.video.modified else None,
            "brightness": round(self.brightness, _DECIMALS),
            "motion_energy": round(self.motion_energy, _DECIMALS),
            "frame_rate": round(self.frame_rate, _RATE_DECIMALS),
            "folder_class": folder,
            **({} if self.thresholds is None else {"labels": listed(self.predicted())}),
            "top": listed(self.top(top)),
            "probabilities": _rounded(self.probabilities),
            "windows": [
                {
                    "start_secs": round(start, _DECIMALS),
                    "end_secs": round(end, _DECIMALS),
                    "probabilities": _rounded(probabilities),
                    "logits": [_rounded(row) for row in logits],
                }
                for (start, end), probabilities, logits in zip(
                    self.windows_secs, self.window_probabilities, self.logits
                )
            ],
        }


def folder_class(video: VideoFile, classes: Sequence[str]) -> str | None:
    """Returns the name of the folder that holds a video if this is a class's name; otherwise, None."""
    name = pathlib.Path(video.path).absolute().parent.name
    return name if name in classes else None


class _Answers(NamedTuple):
    """A model's answers to clips.

    logits: float32 [clips * views, C].
    brightness, motion_energy: means over the clips, see pictures.
    """

    logits: np.ndarray
    brightness: float
    motion_energy: float


class Predictor:
    """Predicts videos by a model, from the clips of their windows, in batches of clips."""

    def __init__(
        self,
        model: keras.Model,
        clip_format: ClipFormat,
        *,
        batch_size: int,
        temperature: float,
        num_frames: int | None = None,
        views: Sequence[View] = (PLAIN_VIEW,),
        thresholds: Sequence[float] | None = None,
    ):
        """Prepares the predictions.

        Args:
          model: the model of frames.
          clip_format: format of the clips that videos are decoded to.
          batch_size: clips per step.
          temperature: as in Prediction.
          num_frames: frames per clip that the model takes; None for all of `clip_format`.
          views: the views of each clip that the model predicts.
          thresholds: as in Prediction.
        """
        self._format, self._batch_size, self._temperature = clip_format, batch_size, temperature
        self._thresholds = None if thresholds is None else np.array(thresholds, np.float64)
        count = num_frames or clip_format.num_frames

        def forward(clips: tf.Tensor) -> tf.Tensor:
            """Maps B clips to the logits of their views, float32 [B * views, C]; those of a clip follow each other."""
            found = [model(view.take(clips, count), training=False) for view in views]
            return tf.reshape(tf.stack(found, axis=1), [-1, found[0].shape[-1]])

        self._forward = tf.function(
            forward, input_signature=[tf.TensorSpec([None, *clip_format.shape], tf.uint8)]
        )

    def __call__(
        self,
        video: VideoFile,
        decoded: DecodedVideo,
        on_fraction: Callable[[float], None] = lambda fraction: None,
    ) -> Prediction | Failed:
        """Predicts one video; the frames of each batch of clips are read from their file when it is due.

        Args:
          video: the video.
          decoded: the video's decoded windows.
          on_fraction: called after each batch, with the fraction of the video's clips that are predicted,
            from 0 to 1.

        Returns:
          The prediction; Failed if the file of frames was changed after decoding, or the model returns NaN or
          infinity, as it may in float16 for unusual videos.
        """
        places = decoded.places.reshape(-1, decoded.places.shape[-1])

        def batches() -> Iterator[np.ndarray | None]:
            for first in range(0, len(places), self._batch_size):
                if first:
                    on_fraction(first / len(places))
                yield self._read(decoded.frames, places[first : first + self._batch_size])

        answers = self._answer(batches())
        if isinstance(answers, Failed):
            return answers
        on_fraction(1.0)
        return Prediction(
            video=video,
            num_frames=decoded.num_frames,
            secs=decoded.end_us / 1e6,
            windows_secs=[(start / 1e6, end / 1e6) for start, end in decoded.windows_us],
            logits=answers.logits.reshape(len(decoded.places), -1, answers.logits.shape[-1]),
            temperature=self._temperature,
            thresholds=self._thresholds,
            brightness=answers.brightness,
            motion_energy=answers.motion_energy,
            frame_rate=decoded.frame_rate,
        )

    def predict_window(self, name: str, window: StreamWindow) -> Prediction | Failed:
        """Predicts a window of a stream.

        Args:
          name: the stream's name.
          window: the decoded window.

        Returns:
          The prediction of a video of this window alone, whose time counts from the stream's first frame; Failed if
          the model returns NaN or infinity.
        """
        clips = np.frombuffer(window.clips, np.uint8).reshape(-1, *self._format.shape)
        firsts = range(0, len(clips), self._batch_size)
        answers = self._answer(clips[first : first + self._batch_size] for first in firsts)
        if isinstance(answers, Failed):
            return answers
        return Prediction(
            video=VideoFile(path=name),
            num_frames=window.num_frames,
            secs=(window.end_us - window.start_us) / 1e6,
            windows_secs=[(window.start_us / 1e6, window.end_us / 1e6)],
            logits=answers.logits[np.newaxis],
            temperature=self._temperature,
            thresholds=self._thresholds,
            brightness=answers.brightness,
            motion_energy=answers.motion_energy,
            frame_rate=window.frame_rate,
        )

    def warm_up(self) -> None:
        """Calls the model once on black frames: its first call takes seconds, in which a stream would go on."""
        self._forward(np.zeros((1, *self._format.shape), np.uint8))

    def _answer(self, batches: Iterable[np.ndarray | None]) -> _Answers | Failed:
        """Calls the model on batches of clips, uint8 [B, T, H, W, C]; None is one that could not be read."""
        parts, brightness, motion_energy = [], [], []
        for batch in batches:
            if batch is None:
                return Failed("its process changed the frames after its answer", "crash")
            parts.append(self._forward(batch).numpy())
            brightness.append(pictures.brightness(batch))
            motion_energy.append(pictures.motion_energy(batch))
        logits = np.concatenate(parts)
        if not np.isfinite(logits).all():
            return Failed("the model returns NaN or infinity for it", "model")
        return _Answers(
            logits, float(np.concatenate(brightness).mean()), float(np.concatenate(motion_energy).mean())
        )

    def _read(self, frames: BinaryIO, places: np.ndarray) -> np.ndarray | None:
        """Reads the frames of B clips from a file.

        Args:
          frames: file of frames, one after the other.
          places: positions of the clips' frames and their neighbours in the file, counted in frames, int64
            [B, T * (1 + motion_frames)].

        Returns:
          The clips, uint8 [B, T, H, W, C]; None if the file does not hold all of their frames.
        """
        batch = np.empty((*places.shape, self._format.height, self._format.width, 3), np.uint8)
        for out, place in zip(batch.reshape(places.size, -1), places.flat):
            if os.preadv(frames.fileno(), [out], int(place) * out.size) != out.size:
                return None
        return record.stack_neighbours(batch, self._format) if self._format.motion_frames else batch


def _rounded(values: np.ndarray) -> list[float]:
    return [round(value, _DECIMALS) for value in values.tolist()]
