"""A run's folder as training leaves it, of a model that was never trained."""

import numpy as np

from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import storage
from ucf50_tfrecord.dataset import reader
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.dataset.feed import Feed
from ucf50_tfrecord.evaluation import runner
from ucf50_tfrecord.specs import ModelSpec, TrainSpec, to_json
from ucf50_tfrecord.training import checkpoint, loop, run
from ucf50_tfrecord.training import strategy as strategy_lib


def make_run(run_dir, data_dir, *, model="seed_pool"):
    """Makes a run on folds 3 to 5 of a set, held out 1 and 2; returns its configuration."""
    manifest = manifest_lib.load(str(data_dir))
    clips = load_clips(manifest, [1, 2])
    fmt = manifest.format
    config = run.RunConfig(
        data_dir=str(data_dir),
        fingerprint=manifest.fingerprint,
        classes=manifest.classes,
        train_folds=(3, 4, 5),
        val_folds=(1, 2),
        test_folds=(),
        model=ModelSpec(
            name=model,
            num_classes=len(manifest.classes),
            num_frames=fmt.num_frames,
            height=fmt.height,
            width=fmt.width,
        ),
        train=TrainSpec(epochs=1, batch_size=4, precision="float32"),
        clip_format=fmt,
        video_secs=reader.video_secs([load_clips(manifest, manifest.folds)]),
    )
    strategy = strategy_lib.make_strategy("one")
    state = loop.build_state(config.model, config.train, num_clips=1, strategy=strategy)
    # Large and random, so that classes differ.
    rng = np.random.default_rng(0)
    state.model.set_weights([rng.normal(0, 0.5, weight.shape) for weight in state.model.get_weights()])
    storage.write_json(run_dir / run.CONFIG_FILENAME, to_json(config))
    checkpoint.Checkpoints(str(run_dir), state.model, state.optimizer).save_last()
    feed = Feed(clips, strategy=strategy)
    evaluate = runner.Evaluator(state.model, feed, strategy=strategy, batch_size=4)
    evaluations = [evaluate(name) for name in runner.PERTURBATIONS]
    runner.save_predictions(run_dir / run.PREDICTIONS_FILENAME, evaluations)
    return config
