"""Sessions: a run's model, ready to predict videos, with its clips' format, windows, calibration and abstention."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Collection, Generator, Sequence

import keras

from ucf50_tfrecord import labels
from ucf50_tfrecord.dataset import views as views_lib
from ucf50_tfrecord.errors import Action, Remedy, UserError
from ucf50_tfrecord.features import frame_model
from ucf50_tfrecord.inference import abstention, decoding, held_out, selection
from ucf50_tfrecord.inference import calibration as calibration_lib
from ucf50_tfrecord.inference.abstention import Judgement, Rules
from ucf50_tfrecord.inference.calibration import Calibration
from ucf50_tfrecord.inference.decoding import Failed, VideoFile
from ucf50_tfrecord.inference.held_out import Thresholds
from ucf50_tfrecord.inference.predict import Prediction, Predictor, choose_windows, complete_config
from ucf50_tfrecord.inference.selection import HeldOut
from ucf50_tfrecord.specs import PREDICTION_LIMITS, ClipFormat, DecodeLimits, WindowSpec
from ucf50_tfrecord.training import run as run_lib
from ucf50_tfrecord.training import strategy as strategy_lib
from ucf50_tfrecord.training import trained
from ucf50_tfrecord.training.run import RunConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
    """A run's model, loaded to predict videos.

    config: the run's configuration.
    clip_format: format of the clips that the model was trained on.
    weights: checkpoint of the model, "last" or "best".
    windows: how videos are cut into windows, spans of time that are treated like videos of their own.
    calibration: temperature of the model's probabilities.
    rules: when the model abstains, and when a video's class may be unknown to it.
    thresholds: from which probability on each class is predicted, if clips have several labels; otherwise, None.
    predictor: the model, with the batch size and the temperature.
    """

    config: RunConfig
    clip_format: ClipFormat
    weights: str
    windows: WindowSpec
    calibration: Calibration
    rules: Rules
    predictor: Predictor
    thresholds: Thresholds | None = None

    @classmethod
    def load(
        cls,
        run_dir: str,
        *,
        weights: str | None = None,
        model: keras.Model | None = None,
        data_dir: str | None = None,
        window_secs: float | None = None,
        stride_secs: float | None = None,
        calibrate: bool = True,
        max_error: float | None = None,
        test_views: int = 1,
        batch_size: int = 32,
        allowed_code: Collection[str] = (),
        warn: Callable[[str], None] = lambda text: None,
    ) -> Session:
        """Loads a run's model and prepares it to predict videos.

        Args:
          run_dir: the run's folder.
          weights: checkpoint to load, "last" or "best"; None for the one that the run's own scores are of.
          model: the run's model with these weights if it is loaded already; None to load it.
          data_dir: folder of the run's shards if it has moved; see predict.complete_config.
          window_secs: duration of a window; None for a default, see predict.choose_windows.
          stride_secs: time from a window's start to the next window's start; None for half a window.
          calibrate: whether to fit a temperature on the run's predictions for its held-out clips.
          max_error: wanted largest fraction of wrong answers, above 0 and below 1, for which `judge` says whether a
            prediction is confident; None for no such limit.
          test_views: number of views of each clip whose probabilities are averaged, see views.choose. Calibration and
            thresholds rest on single views.
          batch_size: clips per step.
          allowed_code: names of the model builders, as <module>:<builder>, that may be imported; see
            trained.load_model.
          warn: called with a sentence if shards are read that are not those the run was trained on.

        Raises:
          UserError: if the run has no sound checkpoint or names code that is not allowed, the format of its
            clips is unknown, its file of predictions is damaged, max_error is out of range or is given for a run on
            clips with several labels, or a clip has not as many views.
        """
        if max_error is not None:
            selection.check_max_error(max_error)
        config = complete_config(run_lib.load_classifier(run_dir), data_dir, warn)
        if max_error is not None:
            labels.expect_one(config.multi_label, "max_error", config.data_dir)
        clip_format, video_secs = config.clip_format, config.video_secs
        assert clip_format is not None and video_secs is not None  # complete_config has filled them in
        views = views_lib.choose(
            test_views,
            num_stored_views=1,
            num_stored_frames=clip_format.num_frames,
            num_frames=config.model.num_frames,
            mirrors=config.train.augment.horizontal_flip,
        )
        weights = weights or trained.scored_weights(config)
        if model is None:
            strategy = strategy_lib.make_strategy("one", environment={})
            model = frame_model.load_frame_model(
                run_dir, config, weights, strategy=strategy, allowed_code=allowed_code
            )
        found, why, thresholds = None, "the run's predictions on held-out clips are not requested", None
        if config.multi_label:
            why = "it is not defined for clips with several labels"
            thresholds = held_out.load_thresholds(run_dir, config, weights)
        elif calibrate or max_error is not None:
            found, why = _load_held_out(run_dir, config, weights, max_error)
        calibration = Calibration(reason=why if calibrate else "not requested")
        if found and calibrate:
            calibration = calibration_lib.calibrate(found)
        return cls(
            config=config,
            clip_format=clip_format,
            weights=weights,
            windows=choose_windows(video_secs, window_secs, stride_secs),
            calibration=calibration,
            rules=abstention.make_rules(
                found,
                why,
                calibration=calibration,
                max_error=max_error,
                is_selected=trained.is_selected(config, weights),
            ),
            predictor=Predictor(
                model,
                clip_format,
                batch_size=batch_size,
                temperature=calibration.temperature,
                num_frames=config.model.num_frames,
                views=views,
                thresholds=thresholds.values if thresholds else None,
            ),
            thresholds=thresholds,
        )

    def predict(
        self,
        videos: Sequence[VideoFile],
        *,
        limits: DecodeLimits = PREDICTION_LIMITS,
        num_workers: int | None = None,
        on_wait: Callable[[int], None] = lambda num_frames: None,
        on_fraction: Callable[[float], None] = lambda fraction: None,
    ) -> Generator[tuple[VideoFile, Prediction | Failed], None, None]:
        """Predicts videos one after the other, each decoded in a process of its own.

        Args:
          videos: the videos, as decoding.find_videos returns them.
          limits: limits on the time and memory that decoding one video may take.
          num_workers: number of processes that decode videos; None for one per CPU core.
          on_wait: called regularly while a video is decoded, with the number of its frames decoded so far.
          on_fraction: called after each batch of a video's clips, with the fraction of them that are
            predicted, from 0 to 1.

        Yields:
          Tuples of a video and its prediction, or Failed if it has none, in the order of `videos`.

        Raises:
          UserError: if no worker process can be started.
        """
        decoder = decoding.Decoder(
            clip_format=self.clip_format,
            windows=self.windows,
            limits=limits,
            num_workers=num_workers or len(os.sched_getaffinity(0)),
            on_wait=on_wait,
        )
        with contextlib.closing(decoder(videos)) as decoded:
            for video, result in decoded:
                if isinstance(result, decoding.DecodedVideo):
                    yield video, self.predictor(video, result, on_fraction)
                else:
                    yield video, result

    def judge(self, prediction: Prediction) -> Judgement:
        """Tells whether a prediction is confident, and whether the video's class seems to be known."""
        logits = prediction.logits.reshape(-1, prediction.logits.shape[-1])
        return self.rules.judge(float(prediction.probabilities.max()), logits)


def _load_held_out(
    run_dir: str, config: RunConfig, weights: str, max_error: float | None
) -> tuple[HeldOut | None, str]:
    """Reads a run's held-out predictions, as held_out.load; an error names the way to do without them."""
    try:
        return held_out.load(run_dir, config, weights)
    except UserError as error:
        if max_error is not None:
            raise
        without = Remedy(Action.SET, "to predict without calibration", calibrate=False)
        raise UserError(str(error), *error.remedies, without) from error
