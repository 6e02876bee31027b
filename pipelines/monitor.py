"""Tells whether a stream of videos differs from a run's held-out clips.

  python -m pipelines.monitor --run=runs/demo --video=inbox/ --by=day
  python -m pipelines.monitor --run=runs/demo --predictions=predictions.json

Compared are the model's outputs, brightness, motion and frame rate, video by
video. The exit status is 3 if anything has drifted. Videos that cannot be
predicted are counted and left out.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from pipelines import code_flags, console, run_flags, terminal, video_flags
from pipelines.spec_flags import SpecFlags
from ucf50_tfrecord import labels, storage
from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.monitoring.spec import MonitorSpec
from ucf50_tfrecord.specs import shorten
from ucf50_tfrecord.training import run as run_lib

if TYPE_CHECKING:
    from ucf50_tfrecord.inference import decoding
    from ucf50_tfrecord.monitoring.reference import Reference
    from ucf50_tfrecord.monitoring.results import Results
    from ucf50_tfrecord.monitoring.stream import Entry
    from ucf50_tfrecord.training.run import RunConfig

_PREDICTIONS = flags.DEFINE_string(
    "predictions",
    None,
    "A predictions.json of the same run, in place of --video: its videos are not decoded again.",
)
_SPEC = SpecFlags(MonitorSpec)
_PROMETHEUS = flags.DEFINE_string(
    "prometheus",
    None,
    "File to write in Prometheus' text format, such as a textfile collector's monitor.prom.",
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the page and the numbers. Default: <run>/monitor.")

flags.adopt_module_key_flags(run_flags)
flags.adopt_module_key_flags(code_flags)
flags.adopt_module_key_flags(video_flags)

_FOLDER_KIND = "a check for drift"
_RESULTS_FILENAME = "monitor.json"
_EVENTS_FILENAME = (
    "events.out.tfevents.0000000000.monitor"  # a fixed name, so that the next check replaces it
)
_DRIFT_STATUS = 3
_MAX_ROWS = 20  # batches that are printed
_NAME_WIDTH = 12


def main() -> int:
    expect(
        video_flags.has_videos() != bool(_PREDICTIONS.value),
        "either --video=<a video, or a folder of videos> or --predictions=<predictions.json>",
        video=video_flags.has_videos(),
        predictions=_PREDICTIONS.value,
    )
    run_dir = run_flags.run_dir()
    _SPEC.build()  # refuses wrong values before anything is predicted
    config = run_lib.load_classifier(run_dir)
    labels.expect_one(config.multi_label, "monitoring", config.data_dir)
    output = pathlib.Path(_OUTPUT.value or os.path.join(run_dir, "monitor"))
    storage.check_own(output, _FOLDER_KIND, _is_earlier)
    with contextlib.ExitStack() as stack:
        if _PREDICTIONS.value:
            results = check_predictions(run_dir, _PREDICTIONS.value)
        else:
            results = check_videos(stack, run_dir, video_flags.find_videos())
    storage.claim_folder(output, _FOLDER_KIND, _is_earlier)
    with storage.folder_lock(output):
        storage.remove_unfinished(output)
        save(results, output)
    report(results, output)
    return _DRIFT_STATUS if results.has_drifted else 0


def _is_earlier(names: set[str]) -> bool:
    return False  # earlier versions wrote no such folder


def check_predictions(run_dir: str, path: str) -> Results:
    """Checks the videos of a file of predictions."""
    console.load_tensorflow()
    from ucf50_tfrecord.inference import predict
    from ucf50_tfrecord.monitoring import stream
    from ucf50_tfrecord.training import trained

    config = predict.complete_config(run_lib.load_classifier(run_dir), video_flags.data_dir(), terminal.warn)
    weights = run_flags.weights() or trained.scored_weights(config)
    assert config.video_secs is not None  # complete_config has filled it in
    found = stream.read(path, config, weights, predict.choose_windows(config.video_secs, None, None))
    reference = load_reference(run_dir, config, weights, found.calibration.temperature)
    return check(run_dir, config, weights, reference, found.videos)


def check_videos(stack: contextlib.ExitStack, run_dir: str, videos: Sequence[decoding.VideoFile]) -> Results:
    """Predicts videos as the entry point predict does by default, and checks them.

    Args:
      stack: receives a context that turns TensorFlow's errors about full memory into UserErrors.
      run_dir: the run's folder.
      videos: the videos.
    """
    limits = video_flags.limits()
    console.load_tensorflow()
    from ucf50_tfrecord.inference.session import Session
    from ucf50_tfrecord.monitoring import stream
    from ucf50_tfrecord.training import strategy as strategy_lib

    stack.enter_context(strategy_lib.explain_exhausted_memory())
    session = Session.load(
        run_dir,
        weights=run_flags.weights(),
        data_dir=video_flags.data_dir(),
        batch_size=video_flags.batch_size(),
        allowed_code=code_flags.allowed_code(),
        warn=terminal.warn,
    )
    config = session.config
    reference = load_reference(run_dir, config, session.weights, session.calibration.temperature)
    values = video_flags.predict_all(
        session, videos, limits, lambda number, prediction: prediction.to_json(config.classes, 1)
    )
    return check(run_dir, config, session.weights, reference, stream.convert(values, len(config.classes)))


def load_reference(run_dir: str, config: RunConfig, weights: str, temperature: float) -> Reference:
    """Loads the run's reference, and shows how far its clips are read."""
    from ucf50_tfrecord.monitoring import reference

    with console.progress_bar(0, "clip", "measuring held-out clips") as bar:

        def on_clip(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return reference.load(
            run_dir, config, weights, temperature, data_dir=video_flags.data_dir(), on_clip=on_clip
        )


def check(
    run_dir: str, config: RunConfig, weights: str, reference: Reference, entries: Sequence[Entry]
) -> Results:
    from ucf50_tfrecord.monitoring import results, stream

    spec = _SPEC.build()
    batches = stream.divide(entries, len(config.classes), spec)
    return results.check_stream(
        reference,
        batches,
        run=os.path.basename(os.path.abspath(run_dir)),
        model=config.model.name,
        weights=weights,
        classes=config.classes,
        level=spec.alarm_level,
    )


def save(results: Results, output: pathlib.Path) -> None:
    """Writes the page, the numbers, TensorBoard's scalars and, if asked for, Prometheus' file."""
    from ucf50_tfrecord.monitoring import page, prometheus
    from ucf50_tfrecord.training import events

    page.write(output, page.build(results))
    storage.write_json(output / _RESULTS_FILENAME, results.to_json())
    events.write_scalars(output / "tensorboard" / _EVENTS_FILENAME, results.scalars())
    if _PROMETHEUS.value:
        with storage.atomic_write(_PROMETHEUS.value) as file:
            file.write(prometheus.to_text(results, time.time()).encode())


def report(results: Results, output: pathlib.Path) -> None:
    """Prints the finding of each batch, the tests of a single one, and where the files are."""
    from ucf50_tfrecord.monitoring import page

    terminal.say_wrapped(page.summarize(results))
    for note in results.notes():
        terminal.say_wrapped(note)
    parts = list(zip(results.batches, results.checks))
    terminal.say("")
    if len(parts) == 1:
        for test in results.checks[0].tests:
            alarm = "  drift" if test.is_alarm else ""
            terminal.say(
                f"  {test.measure:<15}{test.statistic:>9.3f}  alarm from {test.threshold:>8.3f}  p {test.p:<8.2g}{alarm}"
            )
    else:
        for batch, found in parts[-_MAX_ROWS:]:
            name = shorten(batch.name, _NAME_WIDTH)
            terminal.say(f"  {name:<{_NAME_WIDTH}}{len(batch.videos):>7} videos  {found.describe()}")
        if len(parts) > _MAX_ROWS:
            terminal.say(f"  and {len(parts) - _MAX_ROWS} batches before these")
    terminal.say("", f"Page:       {output / page.NAME}.html")


if __name__ == "__main__":
    console.run(main)
