"""Makes runs without training: random weights, and all files that a training writes."""

from __future__ import annotations

import json
import os
import pathlib
import shutil

import keras
import numpy as np
import tensorflow as tf

from ucf50_tfrecord import job as job_lib
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import models, storage
from ucf50_tfrecord.dataset import reader
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.dataset.feed import Feed
from ucf50_tfrecord.evaluation import runner
from ucf50_tfrecord.specs import ModelSpec, TrainSpec
from ucf50_tfrecord.training import run as run_lib
from ucf50_tfrecord.training import strategy as strategy_lib
from ucf50_tfrecord.training.checkpoint import Checkpoints
from ucf50_tfrecord.training.loop import Trained


def fresh_model(spec: ModelSpec, dtype: str = "float32") -> keras.Model:
    """Builds an untrained model with random moving averages in its batch norms.

    With the initial averages, batch norm would change nothing. With large means, ReLU would return zeros alone, and
    all clips would get the same logits.
    """
    keras.utils.set_random_seed(0)
    model = models.build_model(spec, dtype=dtype)
    rng = np.random.default_rng(0)
    for variable in model.non_trainable_variables:
        if "moving_mean" in variable.path:
            variable.assign(rng.uniform(-0.1, 0.1, variable.shape))
        elif "moving_variance" in variable.path:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def write_run(
    run_dir: pathlib.Path,
    data_dir: pathlib.Path,
    *,
    name: str = "seed_pool",
    precision: str = "float32",
    weight_std: float | None = None,
    num_frames: int | None = None,
) -> str:
    """Writes a finished run without training: as if trained on folds 3 to 5 and validated on 1 and 2.

    Args:
      run_dir: the run's folder.
      data_dir: folder of the shards.
      name: name of the model.
      precision: precision of the training.
      weight_std: standard deviation of random weights; None keeps the initial weights, with which the
        model hardly tells clips apart.
      num_frames: frames per clip that the model takes; None for all stored ones.

    Returns:
      The run's folder.
    """
    manifest = manifest_lib.load(str(data_dir))
    model_spec = ModelSpec(
        name=name,
        num_classes=len(manifest.classes),
        num_frames=num_frames or manifest.format.num_frames,
        height=manifest.format.height,
        width=manifest.format.width,
        motion_frames=manifest.format.motion_frames,
        dropout=0.3,
    )
    config = run_lib.RunConfig(
        data_dir=os.path.abspath(data_dir),
        fingerprint=manifest.fingerprint,
        classes=manifest.classes,
        train_folds=(3, 4, 5),
        val_folds=(1, 2),
        test_folds=(),
        model=model_spec,
        train=TrainSpec(epochs=2, batch_size=4, precision=precision),
        clip_format=manifest.format,
        video_secs=reader.video_secs([load_clips(manifest, manifest.folds)]),
        multi_label=manifest.multi_label,
    )
    strategy = tf.distribute.get_strategy()
    model = fresh_model(model_spec, strategy_lib.keras_policy(precision))
    if weight_std:
        rng = np.random.default_rng(0)
        for variable in model.trainable_variables:
            variable.assign(rng.normal(0, weight_std, variable.shape))
    feeds = [Feed(load_clips(manifest, folds), strategy=strategy) for folds in ((3, 4, 5), (1, 2))]
    evaluate = runner.Evaluator(runner.Predictor(model, strategy), feeds[1], batch_size=4)
    with run_lib.open_run(str(run_dir), config):
        checkpoints = Checkpoints(str(run_dir), model, keras.optimizers.Adam())
        checkpoints.save_best(0.5, epoch=1)
        for _ in range(2):
            checkpoints.save_last()
        evaluations = {"validation": [evaluate(name) for name in runner.RUN_INTERVENTIONS]}
        job = job_lib.Job(
            manifest=manifest, config=config, strategy=strategy, feeds=feeds, state=None, run_dir=str(run_dir)
        )
        trained = Trained(
            model=model,
            evaluate=evaluate,
            finished=True,
            step=10,
            epochs=2,
            clips_per_sec=1.0,
            wait_share=0.0,
            num_skipped=0,
            best_score=0.5,
            best_epoch=1,
        )
        job_lib.write_results(job_lib.summarize(job, trained, evaluations), evaluations, model, str(run_dir))
    return str(run_dir)


def copy_with_best(run_dir: str | os.PathLike[str], copy: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Copies a run, as if an evaluation of its best weights had written its predictions.

    Returns:
      The copy's folder, and the folder of that evaluation.
    """
    shutil.copytree(run_dir, copy)
    folder = copy / "evaluation-best-1-2"
    folder.mkdir()
    shutil.move(copy / run_lib.PREDICTIONS_FILENAME, folder)
    storage.write_json(
        folder / run_lib.SUMMARY_FILENAME, {"fingerprint": run_lib.load_config(str(copy)).fingerprint}
    )
    return copy, folder


def replace_predictions(
    run_dir: str | os.PathLike[str], logits: np.ndarray, labels: np.ndarray, groups: np.ndarray
) -> None:
    """Replaces a run's stored predictions by those of N other clips, unchanged and shuffled.

    Args:
      run_dir: the run's folder.
      logits: float [N, C].
      labels, groups: class and recording group of each clip, int [N].
    """
    lines = [
        {
            "clip_id": f"v{number}",
            "perturbation": perturbation,
            "label": label,
            "fold": group,
            "group": group,
            "logits": row,
        }
        for perturbation in runner.RUN_INTERVENTIONS
        for number, (row, label, group) in enumerate(zip(logits.tolist(), labels.tolist(), groups.tolist()))
    ]
    path = pathlib.Path(run_dir, run_lib.PREDICTIONS_FILENAME)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
