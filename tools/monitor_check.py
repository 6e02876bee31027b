"""Measures how often monitoring raises an alarm, without drift and with it.

  python -m tools.monitor_check --run=runs/demo

The groups of a run's held-out clips are drawn into two halves, again and again:
one half is the reference, the other one the stream. An alarm is then false. The
stream's clips are also corrupted as pipelines.robustness does; then an alarm is
right. Exits with status 1 if more than the alarm level of the alarms are false.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from pipelines import code_flags, console, run_flags, terminal
from ucf50_tfrecord import labels
from ucf50_tfrecord.choices import CorruptionFamily, Measure, Recoding
from ucf50_tfrecord.errors import expect
from ucf50_tfrecord.specs import DecodeLimits

if TYPE_CHECKING:
    from ucf50_tfrecord.dataset.clips import ClipIndex
    from ucf50_tfrecord.evaluation.runner import SavedPrediction
    from ucf50_tfrecord.monitoring.reference import Reference
    from ucf50_tfrecord.monitoring.videos import Videos
    from ucf50_tfrecord.training.run import RunConfig

_DRAWS = flags.DEFINE_integer("draws", 200, "Divisions of the groups.", lower_bound=1)
_CORRUPTED_DRAWS = flags.DEFINE_integer(
    "corrupted_draws", 50, "Divisions of the groups for corrupted streams.", lower_bound=1
)
_STREAMS = flags.DEFINE_list(
    "stream_videos",
    ["10", "20", "all"],
    "Numbers of videos in a stream; the last one also for corrupted streams.",
)
_CORRUPTIONS = flags.DEFINE_list(
    "corruptions", list(CorruptionFamily), "Names of corruptions, or of their families."
)
_VIDEOS = flags.DEFINE_string(
    "videos",
    None,
    "Folder of the videos, for corruptions of the codec. Default: the one they were converted from.",
)
_RECODED = flags.DEFINE_string(
    "recoded", None, "Folder that keeps the clips of videos coded again. Default: <shards>-recoded."
)

flags.adopt_module_key_flags(run_flags)
flags.adopt_module_key_flags(code_flags)

_NAME_WIDTH = 16


def main() -> int:
    console.load_tensorflow()
    from tools.monitor_halves import Halves
    from ucf50_tfrecord.monitoring.spec import MonitorSpec
    from ucf50_tfrecord.robustness import corruptions

    run = _Run.load(run_flags.run_dir())
    rates, draws = [], _DRAWS.value
    for size in _STREAMS.value:
        halves = Halves(run.reference, run.config.classes, size=size, draws=draws)
        alarms = halves.count_alarms(run.reference.videos)
        rates.append(alarms["any"] / draws)
        parts = ", ".join(f"{measure} {alarms[measure]}" for measure in Measure if alarms[measure])
        terminal.say(
            f"{size:>4} videos: {alarms['any']} false alarms in {draws} draws ({rates[-1]:.3f}). {parts}",
            flush=True,
        )
    names = corruptions.select(_CORRUPTIONS.value) if any(_CORRUPTIONS.value) else ()
    if names:
        print_power(run, names)
    return int(max(rates) > MonitorSpec.alarm_level)


def print_power(run: _Run, names: Sequence[str]) -> None:
    """Prints the fraction of draws with an alarm by corruption and severity, and the measures that raise it."""
    from tools.monitor_halves import Halves

    draws = _CORRUPTED_DRAWS.value
    halves = Halves(run.reference, run.config.classes, size=_STREAMS.value[-1], draws=draws)
    terminal.say("", f"{'corruption':<{_NAME_WIDTH}}severity 1     2     3     4     5   alarms at 5 by")
    for name in names:
        counts = [halves.count_alarms(videos) for videos in run.corrupted(name)]
        cells = "".join(f"{count['any'] / draws:>6.2f}" for count in counts)
        by = ", ".join(f"{m} {counts[-1][m] / draws:.2f}" for m in Measure if counts[-1][m])
        terminal.say(f"{name:<{_NAME_WIDTH}}    {cells}   {by}", flush=True)


@dataclasses.dataclass(frozen=True)
class _Run:
    """A run, its reference, and what corrupts and predicts its held-out clips.

    predictions: the predictions of the unchanged clips.
    clips: index of the clips' frames, in the same order.
    frame_rates: frames per second of the clips' videos, float64 [N].
    predict: returns the logits, float32 [B, C], of clips, uint8 [B, T, H, W, 3].
    """

    config: RunConfig
    temperature: float
    reference: Reference
    predictions: Sequence[SavedPrediction]
    clips: ClipIndex
    frame_rates: np.ndarray
    predict: Callable[[np.ndarray], np.ndarray]

    @classmethod
    def load(cls, run_dir: str) -> _Run:
        from ucf50_tfrecord.evaluation import runner
        from ucf50_tfrecord.features import frame_model
        from ucf50_tfrecord.inference import calibration, held_out
        from ucf50_tfrecord.monitoring import reference
        from ucf50_tfrecord.robustness.levels import SEVERITIES
        from ucf50_tfrecord.training import run as run_lib
        from ucf50_tfrecord.training import strategy as strategy_lib
        from ucf50_tfrecord.training import trained

        config = run_lib.load_config(run_dir)
        labels.expect_one(config.multi_label, "monitoring", config.data_dir)
        weights = trained.scored_weights(config)
        predicted, why = held_out.load(run_dir, config, weights)
        expect(predicted is not None, "predictions on held-out clips", missing=why)
        temperature = calibration.calibrate(predicted).temperature
        predictions = reference.load_predictions(run_dir, config, weights)
        clips, missing = reference.find_clips(config, predictions, None)
        expect(clips is not None, "the shards of the run", missing=missing)
        values = reference.measure_clips(clips)
        strategy = strategy_lib.make_strategy("one", environment={})
        model = frame_model.load_frame_model(
            run_dir, config, weights, strategy=strategy, allowed_code=code_flags.allowed_code()
        )
        predictor = runner.Predictor(model, strategy)
        return cls(
            config=config,
            temperature=temperature,
            reference=reference.assemble(predictions, values, len(config.classes), temperature),
            predictions=predictions,
            clips=clips,
            frame_rates=values[:, 2],
            predict=lambda frames: predictor.predict(frames, batch_size=len(SEVERITIES)),
        )

    def corrupted(self, name: str) -> list[Videos]:
        """Returns the videos under a corruption, one for each severity; NaN where nothing decodes."""
        from ucf50_tfrecord.robustness.levels import SEVERITIES

        num_classes = len(self.config.classes)
        logits = np.full((len(SEVERITIES), len(self.clips), num_classes), np.nan, np.float32)
        pixels = np.zeros((len(SEVERITIES), len(self.clips), 2))
        for place, versions in self._versions(name):
            rows = [row for row, version in enumerate(versions) if version is not None]
            if rows:
                frames = np.stack([versions[row] for row in rows])
                logits[rows, place], pixels[rows, place] = self.predict(frames), measure(frames)
        return [
            self._videos(logits[row], pixels[row], self._rates(name, severity))
            for row, severity in enumerate(SEVERITIES)
        ]

    def _rates(self, name: str, severity: int) -> np.ndarray:
        """Returns the frame rates that the containers of corrupted videos state, float64 [N]."""
        from ucf50_tfrecord.robustness.corruptions import CORRUPTIONS

        entry = CORRUPTIONS[name]
        if entry.recoding != Recoding.FRAME_RATE:
            return self.frame_rates
        return np.minimum(self.frame_rates, entry.strength(severity, self.clips.manifest.format))

    def _videos(self, logits: np.ndarray, pixels: np.ndarray, rates: np.ndarray) -> Videos:
        import msgspec

        from ucf50_tfrecord.evaluation.results import video_of
        from ucf50_tfrecord.monitoring import reference

        lost = np.isnan(logits[:, 0])
        found = [
            msgspec.structs.replace(prediction, logits=tuple(row))
            for prediction, row in zip(self.predictions, np.where(lost[:, np.newaxis], 0, logits).tolist())
        ]
        values = np.concatenate([pixels, rates[:, np.newaxis]], axis=1)
        made = reference.assemble(found, values, logits.shape[1], self.temperature)
        unreadable = {video_of(p.clip_id) for p, is_lost in zip(self.predictions, lost) if is_lost}
        gone = np.array([name in unreadable for name in made.ids])
        probabilities = np.where(gone[:, np.newaxis], np.nan, made.videos.probabilities)
        return dataclasses.replace(made.videos, probabilities=probabilities)

    def _versions(self, name: str) -> Iterator[tuple[int, Sequence[np.ndarray | None]]]:
        """Yields each clip's position and its versions by severity, uint8 [T, H, W, 3]; None if nothing decodes."""
        from ucf50_tfrecord.dataset import feed
        from ucf50_tfrecord.robustness import corruptions
        from ucf50_tfrecord.robustness.levels import SEVERITIES

        entry = corruptions.CORRUPTIONS[name]
        clip_format = self.clips.manifest.format
        if entry.family == CorruptionFamily.CODEC:
            strengths = tuple(entry.strength(severity, clip_format) for severity in SEVERITIES)
            with self._recoder() as recoder:
                yield from recoder.clips(name, entry.recoding, strengths, seed=0)
            return
        place = 0
        for frames in feed.read_in_batches(self.clips):
            for clip in frames:
                clip_id = self.clips.ids[place]
                yield place, [corruptions.corrupt(clip, clip_id, name, severity) for severity in SEVERITIES]
                place += 1

    @contextlib.contextmanager
    def _recoder(self):
        from ucf50_tfrecord.robustness import videos

        manifest = self.clips.manifest
        with videos.Recoder(
            self.clips,
            videos_dir=_VIDEOS.value or manifest.videos_dir,
            cache_dir=pathlib.Path(_RECODED.value or f"{manifest.data_dir.rstrip(os.sep)}-recoded"),
            limits=DecodeLimits(timeout_secs=600.0),
            warn=terminal.warn,
        ) as recoder:
            yield recoder


def measure(frames: np.ndarray) -> np.ndarray:
    """Returns brightness and motion energy of clips, float64 [B, 2]."""
    from ucf50_tfrecord.inference import pictures

    return np.stack([pictures.brightness(frames), pictures.motion_energy(frames)], axis=1)


if __name__ == "__main__":
    console.run(main)
