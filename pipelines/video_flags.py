"""Prediction of videos in several entry points: its flags (videos, shards, cost of decoding), and its progress."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from pipelines import console, remedies, terminal
from pipelines.spec_flags import SpecFlags
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import PREDICTION_LIMITS, DecodeLimits

if TYPE_CHECKING:
    from ucf50_tfrecord.inference import decoding
    from ucf50_tfrecord.inference.predict import Prediction
    from ucf50_tfrecord.inference.session import Session

_VIDEO = flags.DEFINE_string(
    "video",
    None,
    "Videos or folders of videos, separated by commas. Folders are searched with their subfolders. With --live, one "
    "stream.",
)
_DATA = flags.DEFINE_string(
    "data",
    None,
    "Folder of the run's shards, if it has moved. Runs of earlier versions need it to know how clips were made.",
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Clips per step.", lower_bound=1)
_WORKERS = flags.DEFINE_integer(
    "workers", None, "Number of processes that decode. Default: one per core.", lower_bound=1
)
_LIMITS = SpecFlags(DecodeLimits, defaults=dataclasses.asdict(PREDICTION_LIMITS))

_OPTION_OF_CAUSE = {"timeout": "timeout_secs", "memory": "memory_mib"}


def data_dir() -> str | None:
    """Returns the value of --data."""
    return _DATA.value


def batch_size() -> int:
    """Returns the value of --batch_size."""
    return _BATCH_SIZE.value


def limits() -> DecodeLimits:
    """Returns the limits on what one video may cost."""
    return _LIMITS.build()


def has_videos() -> bool:
    """Tells whether --video is given."""
    return bool(_VIDEO.value)


def find_videos() -> list[decoding.VideoFile]:
    """Returns the videos that --video names; prints a warning about skipped files."""
    from ucf50_tfrecord.inference import decoding

    if not _VIDEO.value:
        raise UserError("Pass --video=<a video, or a folder of videos>.")
    # The value may be one existing path with a comma in its name.
    paths = [_VIDEO.value] if os.path.exists(_VIDEO.value) else filter(None, _VIDEO.value.split(","))
    videos, warnings = decoding.find_videos(list(paths))
    for warning in warnings:
        terminal.warn(warning)
    return videos


def stream_name() -> str:
    """Returns the value of --video as the name of one stream, which may have commas."""
    if not _VIDEO.value:
        raise UserError("Pass --video=<a stream: -, a FIFO, a device or an http address>.")
    return _VIDEO.value


def limit_note(cause: str) -> str:
    """Returns a note about the flag that sets the limit by which a video failed; "" if there is none."""
    option = _OPTION_OF_CAUSE.get(cause)
    return f" (--{remedies.FLAGS[option]} allows more)" if option else ""


def predict_all(
    session: Session,
    videos: Sequence[decoding.VideoFile],
    limits: DecodeLimits,
    on_prediction: Callable[[int, Prediction], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Predicts videos one after the other, and shows progress.

    Args:
      session: the loaded model and the settings of the prediction.
      videos: the videos to predict.
      limits: limits on what one video may cost.
      on_prediction: called with a video's index, counted from 0, and its prediction; returns its entry.

    Returns:
      The entries of the videos for predictions.json, in the order of the videos.
    """
    from ucf50_tfrecord.inference import decoding

    found: list[dict[str, Any]] = []
    with console.progress_bar(len(videos), "video", "predicting") as bar:
        predicted = session.predict(
            videos,
            limits=limits,
            num_workers=_WORKERS.value,
            on_wait=lambda num_frames: bar.set_postfix_str(f"{num_frames} frames decoded"),
            on_fraction=lambda fraction: _show_fraction(bar, len(found), fraction),
        )
        with contextlib.closing(predicted):
            for number, (video, result) in enumerate(predicted):
                if isinstance(result, decoding.Failed):
                    found.append(_report_failure(video, result))
                else:
                    found.append(on_prediction(number, result))
                _show_fraction(bar, number, 1.0)
    return found


def _show_fraction(bar: console.ProgressBar, number: int, fraction: float) -> None:
    """Shows the progress within a video, by its predicted windows, on a bar that counts videos.

    Args:
      bar: the bar.
      number: number of videos that are already done.
      fraction: fraction of the current video's windows that is predicted, 0 to 1.
    """
    bar.n = number + round(fraction, 2) if fraction < 1 else number + 1
    bar.set_postfix_str("")


def _report_failure(video: decoding.VideoFile, failed: decoding.Failed) -> dict[str, Any]:
    """Prints why a video is not predicted; returns its entry for predictions.json."""
    terminal.note(f"not predicted: {video.path}: {failed.reason}{limit_note(failed.cause)}")
    return {
        "path": video.path,
        "error": failed.reason,
        "cause": failed.cause,
        "modified": video.modified.isoformat() if video.modified else None,
    }
