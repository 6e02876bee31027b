"""Predicts the classes of videos by a trained run.

  python -m pipelines.predict --run=runs/demo --video=holiday.mp4
  python -m pipelines.predict --run=runs/demo --video=clips/,more.avi --json
  python -m pipelines.predict --run=runs/demo --video=clips/ --max_error=0.1
  … | python -m pipelines.predict --run=runs/demo --live --video=-

Videos are decoded in the same way as the training videos. A long video is cut
into windows that overlap; its probabilities are the mean of the windows'
probabilities. Each video is decoded in a process of its own: if one fails, the
others are still predicted, and the exit status is 1. With --live, a stream is
predicted while it arrives, window by window.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import sys
from typing import TYPE_CHECKING, Any

from absl import flags

from pipelines import answers, code_flags, console, live, run_flags, terminal, video_flags
from ucf50_tfrecord import parsing, storage
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import MAX_VIEWS, DecodeLimits, WindowSpec, format_folds, shorten, to_json

if TYPE_CHECKING:
    from ucf50_tfrecord.inference import decoding
    from ucf50_tfrecord.inference.abstention import Judgement, Rules
    from ucf50_tfrecord.inference.predict import Prediction
    from ucf50_tfrecord.inference.session import Session

_TOP = flags.DEFINE_integer(
    "top", None, "Number of classes to show per video. Default: 5, or 3 with --live.", lower_bound=1
)
_JSON = flags.DEFINE_boolean(
    "json",
    False,
    "Print only a JSON document to standard output, or a JSON object per line and window with --live; all other texts "
    "go to standard error.",
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Folder for predictions.json, and a timeline picture of each video that is cut. Default: "
    "<run>/predictions; the next prediction replaces the files there.",
)
_WINDOW_SECS = flags.DEFINE_float(
    "window_secs",
    None,
    "Cut videos longer than this into windows of this length. Default: cut videos that are longer than every "
    "video of the run's clips, into windows of the median length of the run's videos.",
)
_STRIDE_SECS = flags.DEFINE_float(
    "stride_secs",
    None,
    "Seconds from the start of a window to the start of the next window. Default: half a window.",
)
_CALIBRATE = flags.DEFINE_boolean(
    "calibrate", True, "Scale confidences by a temperature that is fitted on the run's held-out clips."
)
_MAX_ERROR = flags.DEFINE_float(
    "max_error",
    None,
    "Abstain where more than this fraction of the answers, such as 0.1, would be wrong. The threshold of the "
    "confidence is chosen on the run's held-out clips.",
)

_TEST_VIEWS = flags.DEFINE_integer(
    "test_views",
    1,
    "Average the probabilities of this many views of each clip: frames at other places of their segments, for runs with "
    "sample_frames, or the clip and its mirror image (2), for runs with horizontal_flip.",
    lower_bound=1,
    upper_bound=MAX_VIEWS,
)

flags.adopt_module_key_flags(run_flags)
flags.adopt_module_key_flags(code_flags)
flags.adopt_module_key_flags(video_flags)
flags.adopt_module_key_flags(live)

_PREDICTIONS_FILENAME = "predictions.json"
_FOLDER_KIND = "predictions"
_TIMELINE = re.compile(r"[0-9]{2,}-[^/]*\.png", re.DOTALL)
_MEANING = (
    "Probabilities hold only for videos like the run's own. The model knows only its own classes: it assigns one "
    "of them to every video, even if none fits."
)
_MEANING_OF_SEVERAL = (
    "Probabilities hold only for videos like the run's own. The model knows only its own classes; each is predicted by "
    "itself where its probability reaches its threshold, so that a video may get several classes or none."
)
_NAME_WIDTH, _CLASS_WIDTH = 40, 26  # of 80 columns
_TOP_CLASSES = 5  # classes that are shown by default
_MAX_STEM = 50  # characters, of up to 4 bytes each: a file's name holds 255


def main() -> int:
    with contextlib.ExitStack() as stack:
        if live.is_requested():
            predict_live(stack)
            return 0
        if _JSON.value:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        videos = video_flags.find_videos()
        limits = video_flags.limits()
        output = pathlib.Path(_OUTPUT.value or os.path.join(run_flags.run_dir(), "predictions"))
        storage.check_own(output, _FOLDER_KIND, _is_predictions)
        session = load_session(stack)
        storage.claim_folder(output, _FOLDER_KIND, _is_predictions)
        announce(session, describe_windows(session.windows))
        document = describe(session) | {"videos": predict_all(videos, session, limits, output)}
        save(document, output)
        num_failed = sum("error" in video for video in document["videos"])
        print_summary(document, session.rules, num_failed, output)
    if _JSON.value:
        terminal.say(*json.dumps(document, indent=1, sort_keys=True, allow_nan=False).split("\n"))
    return 1 if num_failed else 0


def predict_live(stack: contextlib.ExitStack) -> None:
    """Predicts a stream while it arrives, see live.predict_stream.

    Args:
      stack: as in load_session.
    """
    if _OUTPUT.value is not None:
        raise UserError("--live stores nothing. Leave out --output; --json prints what may be stored")
    live.check_stream()
    limits = video_flags.limits()
    with contextlib.redirect_stdout(sys.stderr) if _JSON.value else contextlib.nullcontext():
        session = load_session(stack)
        windows = session.windows
        announce(session, f"Windows of {windows.window_secs:.1f} s, one every {windows.stride_secs:.1f} s.")
    live.predict_stream(session, limits, top=top(), as_json=_JSON.value)


def top() -> int:
    """Returns the number of classes to show."""
    return _TOP.value or (live.TOP if live.is_requested() else _TOP_CLASSES)


def load_session(stack: contextlib.ExitStack) -> Session:
    """Loads the run's model.

    Args:
      stack: receives a context that turns TensorFlow's errors about full memory into UserErrors.
    """
    console.load_tensorflow()
    from ucf50_tfrecord.inference.session import Session
    from ucf50_tfrecord.training import strategy as strategy_lib

    stack.enter_context(strategy_lib.explain_exhausted_memory())
    return Session.load(
        run_flags.run_dir(),
        weights=run_flags.weights(),
        data_dir=video_flags.data_dir(),
        window_secs=_WINDOW_SECS.value,
        stride_secs=_STRIDE_SECS.value,
        calibrate=_CALIBRATE.value,
        max_error=_MAX_ERROR.value,
        test_views=_TEST_VIEWS.value,
        batch_size=video_flags.batch_size(),
        allowed_code=code_flags.allowed_code(),
        warn=terminal.warn,
    )


def describe_windows(windows: WindowSpec) -> str:
    """Returns sentences about how videos are cut into windows."""
    whole_secs = max(windows.whole_secs, windows.window_secs)
    return (
        f"Videos of up to {whole_secs:.1f} s are not cut. Longer ones are cut into windows of "
        f"{windows.window_secs:.1f} s, one every {windows.stride_secs:.1f} s; the windows' probabilities are averaged."
    )


def announce(session: Session, about_windows: str) -> None:
    """Prints the model, a text on windows, how well probabilities are calibrated, and when the model abstains."""
    config, calibration = session.config, session.calibration
    texts = [
        f"{config.model.name}, {session.weights} weights, clips of {config.clip_format}. {about_windows}"
    ]
    if calibration.num_clips:
        errors = f"expected calibration error {calibration.ece_before:.3f}"
        if calibration.ece_after is not None:
            errors += (
                f", {calibration.ece_after:.3f} with the temperature (cross-validated by recording group)"
            )
        folds = format_folds(config.scored_folds)
        texts.append(
            f"Confidence: temperature {calibration.temperature:.2f}, fitted on {calibration.num_clips} held-out "
            f"clips (folds {folds}); {errors}."
        )
    else:
        texts.append(f"Confidence: not calibrated (temperature 1): {calibration.reason}.")
    if session.thresholds:
        texts.append(answers.describe_thresholds(session.thresholds))
    for text in (*texts, *answers.describe_rules(session.rules), meaning(session)):
        terminal.say_wrapped(text, flush=True)


def meaning(session: Session) -> str:
    """Returns sentences about what the probabilities mean."""
    return _MEANING_OF_SEVERAL if session.thresholds else _MEANING


def predict_all(
    videos: list[decoding.VideoFile], session: Session, limits: DecodeLimits, output: pathlib.Path
) -> list[dict[str, Any]]:
    """Predicts videos one after the other, and prints the results.

    Args:
      videos: the videos to predict.
      session: the loaded model and the settings of the prediction.
      limits: limits on what one video may cost.
      output: the folder for the timeline pictures.

    Returns:
      The entries of the videos for predictions.json, in the order of the videos.
    """
    classes = session.config.classes

    def on_prediction(number: int, prediction: Prediction) -> dict[str, Any]:
        judgement = session.judge(prediction)
        print_prediction(prediction, judgement, session)
        timeline = save_timeline(prediction, classes, output, number)
        return prediction.to_json(classes, top()) | to_json(judgement) | timeline

    print_row("video", "class", "probability")
    return video_flags.predict_all(session, videos, limits, on_prediction)


def print_prediction(prediction: Prediction, judgement: Judgement, session: Session) -> None:
    """Prints a video's rows of the results table: its name, its duration and its most probable classes.

    If the model abstains, the first row says so. With several labels per clip, all predicted classes come first, and a
    row says what follows. Sentences below the rows give the reasons, and those for which the class may be unknown.
    """
    num_windows = len(prediction.windows_secs)
    cut = f", {num_windows} windows" if num_windows > 1 else ""
    about = [prediction.video.path, f"  {prediction.secs:.1f} s{cut}"]
    shown = prediction.top(top())
    if session.thresholds:
        found = prediction.predicted()
        shown = found + [one for one in shown if one not in found][: max(0, top() - len(found))]
    rows = [(session.config.classes[label], f"{probability:.3f}") for label, probability in shown]
    if session.thresholds:
        rows.insert(len(found), (answers.BELOW, ""))
    if judgement.confident is False:
        rows.insert(0, (answers.NO_ANSWER, ""))
    for text, row in zip([*about, *[""] * len(rows)], rows):
        print_row(text, *row)
    for text in answers.notes(judgement, session.rules):
        terminal.say_wrapped(text, initial_indent="  ", subsequent_indent="  ", flush=True)


def print_row(name: str, class_name: str, value: str) -> None:
    """Prints a line of the results table, 80 columns wide, without disturbing a progress bar."""
    name, class_name = shorten(name, _NAME_WIDTH, keep_end=True), shorten(class_name, _CLASS_WIDTH)
    # Flushes, so that a row in a pipe need not wait until the next long video is predicted.
    terminal.say(f"{name:<{_NAME_WIDTH}} {class_name:<{_CLASS_WIDTH}} {value:>11}", flush=True)


def save_timeline(
    prediction: Prediction, classes: tuple[str, ...], output: pathlib.Path, number: int
) -> dict[str, str]:
    """Draws the timeline of a video that was cut into several windows: its probabilities over time.

    Args:
      prediction: the prediction for the video.
      classes: the names of the classes.
      output: the folder for the picture.
      number: the video's index, counted from 0, for the picture's name.

    Returns:
      {"timeline": <the picture's file name>} for the video's entry in predictions.json; {} for an uncut
      video.
    """
    if len(prediction.windows_secs) == 1:
        return {}
    from ucf50_tfrecord.drawing import pixels, timeline

    stem = pathlib.Path(prediction.video.path).stem[:_MAX_STEM]
    path = output / f"{number + 1:02d}-{stem}.png"
    picture = timeline.draw_timeline(
        prediction.windows_secs, prediction.window_probabilities, classes, secs=prediction.secs
    )
    with storage.atomic_write(path) as file:
        file.write(pixels.to_png(picture))
    return {"timeline": path.name}


def save(document: dict[str, Any], output: pathlib.Path) -> None:
    """Writes predictions.json, and removes pictures that only the replaced predictions.json lists."""
    path = output / _PREDICTIONS_FILENAME
    try:
        before = find_timelines(path)
    except storage.MissingError:
        before = set()
    except UserError as error:
        terminal.warn(f"{error}. This file is replaced; the pictures that it lists are kept")
        before = set()
    storage.write_json(path, document)
    stale = before.difference(video.get("timeline") for video in document["videos"])
    storage.remove_files(output, lambda name: name in stale)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Predicted:
    timeline: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Predictions:
    """The part of predictions.json that is read again: the names of the pictures."""

    videos: tuple[_Predicted, ...]


def find_timelines(path: pathlib.Path) -> set[str]:
    """Returns the file names of the timeline pictures that a predictions.json lists.

    Leaves out names that save_timeline does not give. Earlier versions listed paths. A path to a picture
    beside predictions.json counts as the picture's name; other paths are left out.
    """
    listed = {
        video.timeline
        for video in parsing.read(path, _Predictions, "a list of predictions", extra=True).videos
    }
    names = {name.removeprefix(f"{path.parent}{os.sep}") for name in listed}
    return set(filter(_TIMELINE.fullmatch, names))


def _is_predictions(names: set[str]) -> bool:
    """Tells from an unmarked folder's file names whether an earlier version wrote predictions into it."""
    return _PREDICTIONS_FILENAME in names and all(
        name == _PREDICTIONS_FILENAME or name.endswith(".png") for name in names
    )


def describe(session: Session) -> dict[str, Any]:
    """Returns the part of predictions.json that describes the run, the settings and the environment."""
    from ucf50_tfrecord.convert import decode
    from ucf50_tfrecord.training import provenance

    config = session.config
    return {
        "run": {
            "path": run_flags.run_dir(),
            "model": config.model.name,
            "weights": session.weights,
            "precision": config.train.precision,
            "seed": config.train.seed,
            "fingerprint": config.fingerprint,
        },
        "classes": config.classes,
        "clip_format": to_json(config.clip_format),
        "windows": to_json(session.windows),
        "test_views": _TEST_VIEWS.value,
        "calibration": to_json(session.calibration),
        "answers": to_json(session.rules),
        **({"thresholds": to_json(session.thresholds)} if session.thresholds else {}),
        "meaning": meaning(session),
        "decoder": decode.decoder_version(),
        **provenance.environment(),
    }


def print_summary(document: dict[str, Any], rules: Rules, num_failed: int, output: pathlib.Path) -> None:
    videos = document["videos"]
    labelled = [video for video in videos if video.get("folder_class")]
    if labelled and "thresholds" not in document:
        num_right = sum(video["top"][0]["class"] == video["folder_class"] for video in labelled)
        terminal.say(
            f"Right about {num_right} of the {len(labelled)} videos whose folder has a class's name "
            f"({num_right / len(labelled):.3f}). The run may have been trained on some of these videos."
        )
    for text in answers.summarize([video for video in videos if "error" not in video], rules):
        terminal.say_wrapped(text)
    if num_failed:
        terminal.say(f"{num_failed} of {len(videos)} videos could not be predicted.")
    num_timelines = sum("timeline" in video for video in videos)
    pictures = f"; timelines: {num_timelines}" if num_timelines else ""
    terminal.say(f"Results: {output} ({_PREDICTIONS_FILENAME}{pictures})")


if __name__ == "__main__":
    console.run(main)
