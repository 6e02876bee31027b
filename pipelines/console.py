"""Shared behaviour of the entry points: start, failure, progress and interruption."""

from __future__ import annotations

import atexit
import contextlib
import io
import logging as python_logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence

import tqdm
from absl import app, flags, logging

import pipelines
from pipelines import remedies, scratch
from pipelines.terminal import escape_unknown_characters, note, note_exception, say, warn
from ucf50_tfrecord import remote
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.specs import format_folds, printable

# Shorter than tqdm's default format, so that scores beside the bar fit 80 columns.
_BAR_FORMAT = "{desc}: {n_fmt}/{total_fmt} |{bar}| {elapsed}<{remaining}, {rate_fmt}{postfix}"
_SHOWN_BESIDE_A_BAR = ("loss", "accuracy")


def run(main: Callable[..., int | None], *, arguments: Sequence[str] = ()) -> None:
    """Parses the flags, runs `main`, and exits with the status that `main` returns.

    A UserError is printed as one line, and the exit status is 2.

    Args:
      main: the entry point's function.
      arguments: names of the arguments that `main` takes from the command line besides the flags.
    """

    def guarded(argv: list[str]) -> int | None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        handle_sigterm()  # so that a conversion's workers exit with this process
        escape_unknown_characters()
        try:
            pipelines.raise_on_interrupt()
            scratch.use_own_folder()
            expected = (
                f"flags and {len(arguments)} argument: {', '.join(arguments)}" if arguments else "flags only"
            )
            expect(len(argv) == 1 + len(arguments), expected, arguments=argv[1:])
            status = main(*argv[1:])
            _flush()
            return status
        except UserError as error:
            # Called inside the handler: leaving it would release objects that the error's frames hold, such
            # as iterators.
            return _end(f"error: {remedies.message(error)}", 2)
        except KeyboardInterrupt:
            return _end("interrupted", 130)
        except BrokenPipeError:
            _flush()
            return 0

    if arguments:
        flags.FLAGS.set_gnu_getopt()  # flags may follow the arguments
    try:
        app.run(guarded, flags_parser=_parse_flags)
    except SystemExit as ending:
        if "tensorflow" in sys.modules:
            end_at_once(ending.code)
        raise
    except Exception as error:
        _flush()
        note_exception(error)
        if "tensorflow" in sys.modules:
            end_at_once(1)
        sys.exit(1)


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags as absl does, but escapes the values in its error messages."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        note(f"FATAL Flags parsing error: {error}", "Pass --helpshort or --helpfull to see help on flags.")
        sys.exit(1)


def _flush() -> None:
    """Flushes standard output, or discards it if the reader, such as head, has closed the pipe."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(message: str, status: int) -> int:
    _flush()
    note(message)
    if "tensorflow" in sys.modules:
        end_at_once(status)
    return status


def end_at_once(code: int | str | None) -> None:
    """Exits without destroying TensorFlow's objects. Takes the same codes as sys.exit.

    Destroying TensorFlow's iterators would wait for pending reads. The wait may be long with an object store,
    and endless once Python has stopped the threads that read. Besides, tensorflow-io 0.37.1 would abort a
    process that has used its s3:// file system (tensorflow/io issue 2039).
    """
    if isinstance(code, str):
        note(code)
    atexit._run_exitfuncs()
    _flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def handle_sigterm() -> None:
    """Makes SIGTERM raise KeyboardInterrupt.

    If several workers train together, TensorFlow replaces the handler; then call this function again.
    """
    signal.signal(signal.SIGTERM, _raise_interrupt)


def _raise_interrupt(_signum: int, _frame) -> None:
    raise KeyboardInterrupt


def load_tensorflow() -> None:
    """Imports TensorFlow and finds its devices, without TensorFlow's unhelpful output.

    Without an NVIDIA driver, TensorFlow prints a page about CUDA during the import, before the log level
    applies. That page is hidden unless the import fails. With a driver the output is shown, and this function
    warns if TensorFlow sees no GPU. After the import, TensorFlow shows only errors, from its C++ code
    (TF_CPP_MIN_LOG_LEVEL) and from its Python code. Otherwise it would warn about functions that are traced
    again when models are built one after another.
    """
    python_logging.getLogger("tensorflow").setLevel(python_logging.ERROR)
    if has_nvidia_driver():
        import tensorflow as tf

        if not tf.config.list_physical_devices("GPU"):
            warn("there is an NVIDIA driver, but TensorFlow sees no GPU")
        return
    # Redirects the file descriptor, because the notices come from C++.
    with tempfile.TemporaryFile() as notices, contextlib.ExitStack() as stack:
        stderr = os.dup(2)
        stack.callback(os.close, stderr)
        os.dup2(notices.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
        except BaseException:
            notices.seek(0)
            os.write(stderr, notices.read())
            raise
        finally:
            os.dup2(stderr, 2)


def load_file_systems(folder: str) -> None:
    """Imports TensorFlow, as load_tensorflow does, if `folder` is a URL that only TensorFlow can read."""
    if remote.needs_tensorflow(folder):
        load_tensorflow()


def has_nvidia_driver() -> bool:
    return os.path.exists("/proc/driver/nvidia/version") or shutil.which("nvidia-smi") is not None


class TrainingDisplay:
    """Shows a training's progress: a bar during each epoch (on a terminal only), and a line after each epoch.

    While the display's `with` block runs, SIGINT and SIGTERM ask the training to stop.
    """

    def __init__(self):
        self._bar: ProgressBar | None = None
        self._stack = contextlib.ExitStack()
        self._should_stop: Callable[[], bool] = lambda: False

    def __enter__(self) -> TrainingDisplay:
        self._should_stop = self._stack.enter_context(stop_requests())
        self._stack.callback(self._close_bar)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def listener(self):
        """Returns a job.JobListener that shows a job's progress in this display. Imports TensorFlow."""
        from ucf50_tfrecord.dataset.feed import CACHE_MEANINGS
        from ucf50_tfrecord.job import JobListener

        return JobListener(
            chose_cache=lambda choice: say(
                f"Clips are {CACHE_MEANINGS[choice.cache]} (--cache={choice.cache}): {choice.reason}"
            ),
            loading=_loading,
            predicting=_predicting,
            report=self.update,
            warn=warn,
            should_stop=lambda: self._should_stop(),
        )

    def update(self, progress) -> None:
        """Shows a training.listener.TrainProgress. A training calls this after each group of steps."""
        steps = progress.num_steps // progress.num_epochs
        if self._bar is None:
            self._bar = progress_bar(steps, "step", f"epoch {progress.epoch}/{progress.num_epochs}")
        self._bar.update(progress.step - (progress.epoch - 1) * steps - self._bar.n)
        if progress.scores and not progress.epoch_done:
            shown = [name for name in _SHOWN_BESIDE_A_BAR if name in progress.scores]
            self._bar.set_postfix({name: f"{progress.scores[name]:.3g}" for name in shown})
        if progress.epoch_done:
            self._close_bar()
            scores = "  ".join(f"{name} {value:.4f}" for name, value in progress.scores.items())
            say(f"epoch {progress.epoch:>3}/{progress.num_epochs}  {scores}", flush=True)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None


@contextlib.contextmanager
def _loading(folds: Sequence[int], num_clips: int) -> Iterator[Callable[[int], None]]:
    with progress_bar(num_clips, "clip", f"loading folds {format_folds(folds)}") as bar:
        yield bar.update


@contextlib.contextmanager
def _predicting(teacher: str, num_clips: int) -> Iterator[Callable[[int], None]]:
    with progress_bar(num_clips, "clip", f"teacher {teacher}") as bar:
        yield bar.update


def only_chief_speaks(is_chief: bool) -> contextlib.AbstractContextManager:
    """Returns a context that hides this process's standard output unless the process is the chief.

    The chief is the first of the workers that train together. Standard error is shown for all workers.
    """
    return contextlib.nullcontext() if is_chief else contextlib.redirect_stdout(io.StringIO())


def print_scores(
    title: str,
    plain: dict[str, float],
    shuffled: dict[str, float],
    views: dict[str, float] | None = None,
) -> None:
    """Prints a model's scores for frames in order, for shuffled frames and, if given, averaged over views.

    If clips have several labels, mean average precision comes first; "tuned F1" is macro F1 with thresholds of other
    recording groups. Accuracy is then the fraction of clips of which all classes are right.
    """
    columns = {"accuracy": "accuracy", "macro_f1": "macro F1"}
    if "mean_average_precision" in plain:
        columns = {"mean_average_precision": "mAP", "macro_f1": "macro F1", "tuned_macro_f1": "tuned F1"}
        columns |= {"micro_f1": "micro F1", "accuracy": "accuracy"}
    say("", f"{title}:", f"{'':<19}" + "".join(f"{heading:>10}" for heading in columns.values()))
    rows = [("frames in order", plain), ("frames shuffled", shuffled)]
    for name, scores in [*rows, *([("mean of views", views)] if views else [])]:
        cells = [f"{scores[key]:.4f}" if key in scores else "–" for key in columns]
        say(f"  {name:<17}{cells[0]:>12}" + "".join(f"{cell:>10}" for cell in cells[1:]))


class ProgressBar(tqdm.tqdm):
    """A progress bar that escapes line breaks and the like in the texts beside it, to stay on one line."""

    @property
    def format_dict(self) -> dict[str, object]:
        shown = super().format_dict
        return shown | {name: printable(shown[name] or "") for name in ("prefix", "postfix")}


def progress_bar(total: int, unit: str, description: str, *, done: int = 0) -> ProgressBar:
    """Returns a progress bar, which is shown only if standard error is a terminal, not in logs.

    Args:
      total: number of units; 0 if unknown.
      unit: the unit's name; "B" for bytes, which are shown as kB, MB and GB.
      description: text before the bar.
      done: number of units that are done already.
    """
    return ProgressBar(
        total=total,
        initial=done,
        unit=unit,
        unit_scale=unit == "B",
        desc=description,
        bar_format=_BAR_FORMAT,
        disable=not sys.stderr.isatty(),
        leave=False,
    )


@contextlib.contextmanager
def stop_requests(text: str = "stopping after this step …") -> Iterator[Callable[[], bool]]:
    """Catches SIGINT and SIGTERM while the block runs, and prints `text`, unless it is empty, when the first one arrives.

    Yields a function that tells whether a signal has arrived. A second signal raises KeyboardInterrupt at
    once.
    """
    received: list[int] = []

    def handle(signum: int, _frame) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(signum)
        if text:
            note(text)

    previous = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
