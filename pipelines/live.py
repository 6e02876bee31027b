"""Prediction of a stream, window by window: its flags, and the lines that it prints."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

from absl import flags

from pipelines import console, terminal, video_flags
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import DecodeLimits, shorten, to_json

if TYPE_CHECKING:
    from ucf50_tfrecord.inference.abstention import Judgement
    from ucf50_tfrecord.inference.decoding import StreamWindow
    from ucf50_tfrecord.inference.live import LiveWindows
    from ucf50_tfrecord.inference.predict import Prediction
    from ucf50_tfrecord.inference.session import Session

_LIVE = flags.DEFINE_boolean(
    "live",
    False,
    "Predict one stream while it arrives, each window once it is complete: --video=- (standard input), a FIFO, a "
    "character device, or an http or https address. A slow model leaves out windows. Nothing is stored.",
)
_STALL_SECS = flags.DEFINE_float(
    "stall_secs", 30.0, "Seconds without a frame after which a stream is given up.", 0.5, 1e5
)

TOP = 3  # classes that are shown by default
_CLASS_WIDTH = 18  # characters of a class's name, so that three mostly fit a line


def is_requested() -> bool:
    """Returns the value of --live."""
    return _LIVE.value


def check_stream() -> None:
    """Checks --video before the model is loaded; raises UserError if it names no stream that can be opened."""
    from ucf50_tfrecord.inference import sources

    sources.check(video_flags.stream_name())


def predict_stream(session: Session, limits: DecodeLimits, *, top: int, as_json: bool) -> None:
    """Predicts the stream that --video names, and prints each window's prediction and a summary.

    It returns when the stream ends, or after SIGINT or SIGTERM.

    Args:
      session: the loaded model and the settings of the prediction.
      limits: limits on the memory and rights of the process that decodes.
      top: number of classes to show.
      as_json: whether to print JSON to standard output, one object per line and window, and all other texts to
        standard error.

    Raises:
      UserError: if the stream cannot be opened or decoded, breaks off, or stalls.
    """
    from ucf50_tfrecord.inference import live, sources

    name, windows = video_flags.stream_name(), dataclasses.replace(session.windows, whole_secs=0.0)
    show = _Display(session, name, top, as_json)
    session.predictor.warm_up()
    # A signal's own line would disturb the one that is rewritten; the summary says that it stopped.
    with (
        console.stop_requests("") as should_stop,
        sources.opened(name, _STALL_SECS.value, should_stop) as stream,
    ):
        if stream is None:
            show.summary("Stopped before anything arrived.")
            return
        found = live.LiveWindows(
            stream, session.clip_format, windows, limits=limits, stall_secs=_STALL_SECS.value
        )
        with found:
            for window in found(should_stop):
                show.window(window)
        failed = None if should_stop() else found.failed
        how = "Stopped" if should_stop() else "The stream broke off" if failed else "The stream ended"
        show.summary(f"{how} after {_describe(found, show.num_windows)}")
    if failed:
        raise UserError(f"{name}: {failed.reason}{video_flags.limit_note(failed.cause)}")


def _describe(found: LiveWindows, num_windows: int) -> str:
    counts = f"{_count(found.num_frames, 'frame')}, {_count(num_windows, 'window')} predicted"
    dropped = f", {found.num_dropped} dropped because the model is slower" if found.num_dropped else ""
    return f"{found.end_us / 1e6:.1f} s: {counts}{dropped}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


class _Display:
    """Prints predictions: on a terminal, one line that is rewritten; otherwise, or as JSON, a line per window.

    num_windows: number of windows that are predicted.
    """

    def __init__(self, session: Session, name: str, top: int, as_json: bool):
        self._session, self._name, self._top, self._as_json = session, name, top, as_json
        self._rewrites = not as_json and sys.stdout.isatty()
        self.num_windows = 0

    def window(self, window: StreamWindow) -> None:
        """Predicts a window and prints its line."""
        from ucf50_tfrecord.inference.decoding import Failed

        prediction = self._session.predictor.predict_window(self._name, window)
        if isinstance(prediction, Failed):
            terminal.note(f"not predicted: window at {window.start_us / 1e6:.1f} s: {prediction.reason}")
            return
        self.num_windows += 1
        judgement = self._session.judge(prediction)
        if self._as_json:
            terminal.say(json.dumps(self._entry(prediction, judgement), allow_nan=False), flush=True)
        elif self._rewrites:
            terminal.rewrite(self._line(prediction, judgement))
        else:
            terminal.say(self._line(prediction, judgement), flush=True)

    def summary(self, text: str) -> None:
        """Ends the line that is rewritten, and prints a text."""
        if self._rewrites and self.num_windows:
            terminal.say("")
        with contextlib.redirect_stdout(sys.stderr) if self._as_json else contextlib.nullcontext():
            terminal.say_wrapped(text, flush=True)

    def _line(self, prediction: Prediction, judgement: Judgement) -> str:
        """Returns a window's end in seconds from the stream's start, and the most probable classes."""
        [(_, end_secs)] = prediction.windows_secs
        classes = "  ".join(
            f"{shorten(self._session.config.classes[label], _CLASS_WIDTH)} {probability:.3f}"
            for label, probability in prediction.top(self._top)
        )
        no_answer = "no answer: " if judgement.confident is False else ""
        unknown = "  (may be unknown)" if judgement.known is False else ""
        return f"{end_secs:>8.1f} s  {no_answer}{classes}{unknown}"

    def _entry(self, prediction: Prediction, judgement: Judgement) -> dict[str, Any]:
        """Returns a window's JSON object, with the keys of predictions.json."""
        entry = prediction.to_json(self._session.config.classes, self._top)
        [window] = entry["windows"]
        names = (
            "num_frames",
            "brightness",
            "motion_energy",
            "labels",
            "top",
        )  # labels: if clips have several
        kept = {name: entry[name] for name in names if name in entry}
        return window | kept | to_json(judgement)
