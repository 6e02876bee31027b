"""Measures within seconds how fast this machine decodes videos, reads clips and trains.

`python -m tools.doctor` calls each of these functions in a process of its own. `decode` loads PyAV, and
`train` loads TensorFlow.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from benchmarks import rates
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord.specs import ClipFormat, format_bytes

_MAX_VIDEOS = 40


def decode(videos_dir: str | None, data_dir: str | None, folder: str, secs: float) -> dict[str, Any]:
    """Measures how fast one core decodes videos, for `secs` seconds.

    Takes the videos in `videos_dir`, else those from which the shards in `data_dir` were made, else demo
    videos. Converts demo videos if there are no shards. New videos and shards are written into `folder`.

    Returns:
      A dictionary of JSON values: `rate` (clips/s), `what` (text that names the videos), `data` (folder of
      the set of shards).
    """
    from tools import make_demo_videos, shards
    from ucf50_tfrecord.convert import catalog, sampling

    manifest = manifest_lib.load(data_dir) if data_dir else None
    clip_format = manifest.format if manifest else ClipFormat()
    given = videos_dir or (manifest.videos_dir if manifest else None)
    demo = os.path.join(folder, "videos")
    used = given if given and os.path.isdir(given) else demo
    if used == demo or manifest is None:
        make_demo_videos.make_corpus(demo, groups=2, clips=1, seed=0, workers=1)
    found = catalog.find_videos(used).videos
    chosen = sampling.even_indices(len(found), min(_MAX_VIDEOS, len(found)))
    paths = [os.path.join(used, found[i].relative_path) for i in chosen]
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rate = rates.of_decoding(paths, clip_format, secs=secs)
    if data_dir is None:
        data_dir = os.path.join(folder, "data")
        shards.convert(demo, data_dir, clip_format, num_workers=1, name="demo")
    what = f"{len(paths)} demo videos" if used == demo else used
    return {"rate": rate, "what": what, "data": data_dir}


def train(data_dir: str, input_secs: float, step_secs: float) -> dict[str, Any]:
    """Measures how fast clips are streamed from shards, and how fast one device trains the recipe lstm.

    Returns:
      A dictionary of JSON values: `input` and `step` (clips/s of streaming and of training), `num_devices`
      (number of GPUs, or 1 without any), `fits_in_memory` (whether --cache=auto keeps the clips in memory),
      `what` (text that names the shards), `how` (text with model, batch size, precision and device).
    """
    import tensorflow as tf

    from ucf50_tfrecord import recipes
    from ucf50_tfrecord.dataset import clips as clips_lib
    from ucf50_tfrecord.dataset import feed as feed_lib
    from ucf50_tfrecord.training import loop
    from ucf50_tfrecord.training import strategy as strategy_lib

    recipe = recipes.load("lstm")
    manifest = manifest_lib.load(data_dir)
    precision = strategy_lib.choose_precision("auto")
    spec = dataclasses.replace(recipes.train_spec(recipe), precision=precision)
    strategy = strategy_lib.make_strategy("one", environment={})
    clips = clips_lib.load_clips(manifest, manifest.folds)
    batches = feed_lib.Feed(clips, strategy=strategy).batches(batch_size=spec.batch_size, seed=0)
    input_rate = rates.of_batches(batches, spec.batch_size, secs=input_secs)
    batches.close()
    model = recipes.model_spec(recipe, manifest)
    state = loop.build_state(model, spec, num_clips=len(clips), strategy=strategy)
    step_rate = rates.of_steps(state.model, state.optimizer, spec, strategy=strategy, secs=step_secs)
    device = strategy_lib.device_type()
    return {
        "input": input_rate,
        "step": step_rate,
        "num_devices": max(1, len(tf.config.list_physical_devices("GPU"))),
        "fits_in_memory": feed_lib.choose_cache("auto", clips.num_bytes).cache != "none",
        "what": f"{data_dir}, {format_bytes(clips.num_bytes)}",
        "how": f"{model.name}, batches of {spec.batch_size}, {spec.precision} on one {device}",
    }
