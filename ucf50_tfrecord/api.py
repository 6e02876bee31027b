"""The public functions for notebooks and scripts, which `import ucf50_tfrecord as ucf` makes available.

    clips = ucf.open_clips("data/ucf50-15x64x64", folds="6-25")
    model = ucf.build_model("lstm", clips)
    run = ucf.train("data/ucf50-15x64x64", recipe="lstm", run_dir="runs/first", epochs=5)
    ucf.predict(run, "video.avi")

Each function imports TensorFlow and PyAV only if it needs them; `open_clips` needs neither.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import recipes
from ucf50_tfrecord.dataset.clips import ClipIndex
from ucf50_tfrecord.dataset.inputs import InputSpec
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.specs import ModelSpec, parse_folds
from ucf50_tfrecord.training import run as run_lib
from ucf50_tfrecord.training.folds import AskedFolds, choose_folds

if TYPE_CHECKING:
    import keras

    from ucf50_tfrecord.inference.abstention import Judgement
    from ucf50_tfrecord.training.listener import TrainProgress


def open_clips(
    data: str | os.PathLike[str], folds: str | Iterable[int] | None = None, *, inputs: InputSpec = InputSpec()
) -> ClipIndex:
    """Opens an index of a dataset's clips. Reads the manifest and the shards' sidecars (JSON), but no record.

    `clips.batches(16, seed=0)` streams them as a tf.data.Dataset of (uint8 [B, T, H, W, 3], int32 [B]);
    `clips.ids`, `clips.labels` (int32 [N]), `clips.groups` and `clips.folds` (int64 [N]) describe them, and
    `clips.manifest.classes` names the labels. With several labels per clip, labels are uint8 [N, C], and [B, C] in
    batches.

    Args:
      data: the dataset's folder, or its URL.
      folds: the folds whose clips are indexed, such as "1-5,9", "train" or [1, 2]; None indexes all clips.
      inputs: how the clips are read; only the fields whose names begin with `fetch`, and `on_bad_record`, are
        used here.

    Raises:
      UserError: if there is no dataset, a fold does not exist or holds no clip, or a shard is missing.
    """
    manifest = manifest_lib.load(os.fspath(data))
    chosen = parse_folds(folds, manifest.fold_numbers) if isinstance(folds, str) else folds
    return inputs.load_clips(manifest, manifest.folds if chosen is None else chosen)


def build_model(model: str, clips: ClipIndex, *, dtype: str = "float32", **settings: Any) -> keras.Model:
    """Builds a model for an index of clips, with fresh weights.

    Args:
      model: a name in architectures.MODELS, or a builder function of the user's own as "<module>:<builder>".
      clips: an index of the dataset's clips, which decides the input's shape and the number of classes.
      dtype: a Keras dtype policy: "float32", "mixed_bfloat16" or "mixed_float16".
      **settings: fields of specs.ModelSpec, such as dropout=0.3 or encoder="MobileNetV2".

    Returns:
      A model that maps clips, uint8 [B, T, H, W, 3], to logits, float32 [B, C]. Compile it with a loss that
      takes logits.

    Raises:
      UserError: if a setting is wrong or not one of the model, or the model does not accept clips of this size.
    """
    from ucf50_tfrecord import models

    recipes.check(settings, (ModelSpec,))
    spec = recipes.model_spec(settings | {"model": model}, clips.manifest)
    return models.build_model(spec, dtype=dtype)


class Run:
    """A finished or unfinished training, read from its run folder.

    The constructor reads the run's configuration, `config`; `summary` and `model` are read at their first
    use.
    """

    def __init__(self, run_dir: str | os.PathLike[str], *, allowed_code: Collection[str] = ()):
        """Opens a run's folder and reads the run's configuration.

        Args:
          run_dir: the run's folder.
          allowed_code: builders outside this package, as <module>:<builder>, that the run may name as its
            model or encoder. Loading the run's model imports and so executes them: allow only code that you
            trust.

        Raises:
          UserError: if the folder holds no run.
        """
        self.run_dir, self._allowed_code = os.fspath(run_dir), allowed_code
        self.config = run_lib.load_config(self.run_dir)

    def __repr__(self) -> str:
        return f"Run({self.run_dir!r})"

    @functools.cached_property
    def summary(self) -> run_lib.Summary:
        """The contents of the run's summary.json: scores on held-out clips, and the settings that gave them.

        Raises:
          UserError: if the run is not finished.
        """
        return run_lib.load_summary(self.run_dir)

    @functools.cached_property
    def model(self) -> keras.Model:
        """The trained model, with the weights that the run's scores belong to.

        It maps clips, uint8 [B, T, H, W, 3], to logits, float32 [B, C].

        Raises:
          UserError: if the run has no undamaged checkpoint, or names code that `allowed_code` does not list.
        """
        from ucf50_tfrecord.features import frame_model
        from ucf50_tfrecord.training import strategy, trained

        devices = strategy.make_strategy("one", environment={})
        weights = trained.scored_weights(self.config)
        return frame_model.load_frame_model(
            self.run_dir, self.config, weights, strategy=devices, allowed_code=self._allowed_code
        )


def train(
    data: str | os.PathLike[str],
    recipe: str = "lstm",
    run_dir: str | os.PathLike[str] | None = None,
    *,
    train_folds: str | None = None,
    val_folds: str | None = None,
    test_folds: str | None = None,
    inputs: InputSpec = InputSpec(),
    strategy: str = "auto",
    allowed_code: Collection[str] = (),
    report: Callable[[TrainProgress], None] = lambda progress: None,
    warn: Callable[[str], None] = lambda text: None,
    **settings: Any,
) -> Run:
    """Trains a model on some folds of a dataset and scores it on others, in this process and on all its GPUs.

    To resume an interrupted training, call this function again with the same arguments, `run_dir` among them.

    Args:
      data: the dataset's folder, or its URL.
      recipe: a name returned by recipes.names(), or the path of a recipe file, whose name ends in .flags.
      run_dir: the run's folder; None makes a new folder under runs/.
      train_folds, val_folds, test_folds: lists of folds such as "1-5,9" or "val". By default the model is
        validated on the first fifth of the folds and trained on the other folds; if folds are named train, val or
        test, on these.
      inputs: how the clips are read.
      strategy: "one" (one device), "mirrored" (all devices), or "auto".
      allowed_code: builders outside this package, as <module>:<builder>, that `teachers` may name; see Run.
      report: called with the progress after each group of steps that run in one call.
      warn: called with each warning, a sentence for the user.
      **settings: fields of specs.ModelSpec, TrainSpec and AugmentSpec, such as epochs=5; `model` is the model's
        name. These settings override the recipe's settings.

    Returns:
      The finished run.

    Raises:
      UserError: if an argument is wrong, `run_dir` holds another run, a clip cannot be read, the loss becomes
        NaN, or the memory does not suffice.
    """
    from ucf50_tfrecord import job as job_lib
    from ucf50_tfrecord.training import strategy as strategy_lib

    recipes.check(settings)
    settings = recipes.load(recipe) | settings
    manifest = manifest_lib.load(os.fspath(data))
    asked = AskedFolds(train=train_folds or "", val=val_folds or "", test=test_folds or "")
    listener = job_lib.JobListener(report=report, warn=warn)
    with contextlib.ExitStack() as stack:
        stack.enter_context(strategy_lib.explain_exhausted_memory())
        job = job_lib.prepare(
            manifest,
            choose_folds(manifest, asked, warn),
            model=recipes.model_spec(settings, manifest),
            train=recipes.train_spec(settings),
            inputs=inputs,
            strategy=strategy_lib.make_strategy(strategy, environment={}),
            run_dir=None if run_dir is None else os.fspath(run_dir),
            stack=stack,
            allowed_code=allowed_code,
            listener=listener,
        )
        job_lib.run(job, listener=listener)
    return Run(job.run_dir, allowed_code=job.config.model.own_code)


class Answer(dict[str, float]):
    """A video's classes and their probabilities, the most probable class first, with a judgement of them.

    `labels` are the predicted classes: the first; with several labels per clip, those that reach their thresholds.
    `judgement` says in `confident` and `known` whether to rely on the answer, and why; see inference.abstention.
    """

    def __init__(self, probabilities: Mapping[str, float], labels: Sequence[str], judgement: Judgement):
        super().__init__(probabilities)
        self.labels, self.judgement = tuple(labels), judgement


def predict(
    run: Run | str | os.PathLike[str], video: str | os.PathLike[str], *, max_error: float | None = None
) -> Answer:
    """Predicts the class of a video with the trained model of a run, as `ucf50 predict` does.

    Args:
      run: the run, or the path of its folder.
      video: the path of a video file. The video is decoded as the run's training clips were. A long video is
        cut into windows, and the windows' probabilities are averaged.
      max_error: the largest fraction of wrong answers, above 0 and below 1, that you accept: the answer's
        `judgement.confident` is False where more would be wrong, and None without this limit.

    Returns:
      A dictionary from class name to probability, the most probable class first. The probabilities are
      calibrated if the run has enough held-out clips.

    Raises:
      UserError: if the video cannot be decoded, max_error is out of range, or the run has no undamaged checkpoint.
    """
    from ucf50_tfrecord.inference import decoding
    from ucf50_tfrecord.inference.session import Session

    expect(not os.path.isdir(video), "a video file", video=video)
    run = run if isinstance(run, Run) else Run(run)
    videos, _ = decoding.find_videos([os.fspath(video)])
    session = Session.load(run.run_dir, model=run.model, max_error=max_error)
    [(file, result)] = session.predict(videos)
    if isinstance(result, decoding.Failed):
        raise UserError(f"Cannot predict {file.path}: {result.reason}")
    top = result.top(len(run.config.classes))
    probabilities = {run.config.classes[label]: probability for label, probability in top}
    predicted = [run.config.classes[label] for label, _ in result.predicted()]
    return Answer(probabilities, predicted, session.judge(result))
