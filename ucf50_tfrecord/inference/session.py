"""A run's model with everything that its predictions of videos depend on."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Collection, Generator, Sequence

import keras

from ucf50_tfrecord.inference import calibration as calibration_lib
from ucf50_tfrecord.inference import decoding
from ucf50_tfrecord.inference.calibration import Calibration
from ucf50_tfrecord.inference.decoding import Failed, VideoFile
from ucf50_tfrecord.inference.predict import Prediction, Predictor, choose_windows, complete_config
from ucf50_tfrecord.specs import ClipFormat, DecodeLimits, WindowSpec
from ucf50_tfrecord.training import run as run_lib
from ucf50_tfrecord.training import strategy as strategy_lib
from ucf50_tfrecord.training import trained
from ucf50_tfrecord.training.run import RunConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
    """A run that predicts videos.

    weights: "last" or "best", the checkpoint of the model.
    """

    config: RunConfig
    clip_format: ClipFormat
    weights: str
    windows: WindowSpec
    calibration: Calibration
    predictor: Predictor

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
        batch_size: int = 32,
        allowed_code: Collection[str] = (),
        warn: Callable[[str], None] = lambda text: None,
    ) -> Session:
        """Loads a run.

        Args:
          run_dir: the run's folder.
          weights: "last" or "best"; None for those of the run's own scores.
          model: the run's model with these weights, if it is loaded already.
          data_dir: see predict.complete_config.
          window_secs, stride_secs: see predict.choose_windows.
          calibrate: whether to fit a temperature on the run's held-out clips.
          batch_size: clips per step.
          allowed_code: see trained.load_model.
          warn: receives a sentence if the shards of `data_dir` are not the run's.

        Raises:
          UserError: if the run has no sound checkpoint or names code that is not allowed, or the format of its
            clips is unknown.
        """
        config = complete_config(run_lib.load_config(run_dir), data_dir, warn)
        clip_format, video_secs = config.clip_format, config.video_secs
        assert clip_format is not None and video_secs is not None  # complete_config has filled them in
        weights = weights or trained.scored_weights(config)
        if model is None:
            strategy = strategy_lib.make_strategy("one", environment={})
            model = trained.load_model(run_dir, config, weights, strategy=strategy, allowed_code=allowed_code)
        calibration = Calibration(reason="not requested")
        if calibrate:
            calibration = calibration_lib.calibrate(run_dir, config, weights)
        return cls(
            config=config,
            clip_format=clip_format,
            weights=weights,
            windows=choose_windows(video_secs, window_secs, stride_secs),
            calibration=calibration,
            predictor=Predictor(
                model, clip_format, batch_size=batch_size, temperature=calibration.temperature
            ),
        )

    def predict(
        self,
        videos: Sequence[VideoFile],
        *,
        limits: DecodeLimits = DecodeLimits(),
        num_workers: int | None = None,
        on_wait: Callable[[int], None] = lambda num_frames: None,
        on_fraction: Callable[[float], None] = lambda fraction: None,
    ) -> Generator[tuple[VideoFile, Prediction | Failed], None, None]:
        """Predicts videos one after the other, each decoded in a process of its own.

        Args:
          videos: as decoding.find_videos returns them.
          limits: limits on what one video may cost.
          num_workers: processes that decode; None for one per core.
          on_wait: receives the number of frames decoded so far, while a video is waited for.
          on_fraction: receives the fraction of a video's windows that are predicted, 0 to 1.

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
