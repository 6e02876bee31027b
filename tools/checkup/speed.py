"""How fast this machine decodes, feeds and trains, and which of them holds training up.

`decode` and `train` are called in processes of their own: one loads PyAV, the other TensorFlow.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from tools.checkup import sets
from tools.checkup.finding import Finding, NoAnswer, Options, ask, fail, ok, warn
from ucf50_tfrecord.remote import is_remote
from ucf50_tfrecord.specs import format_bytes

_SHARES = {"decode": 0.2, "input": 0.3, "step": 0.5}  # of the time
_TIMEOUT_SECS = 300.0
_MAX_VIDEOS = 40
_MAX_WAIT_SHARE = 0.05  # as training's own warning, training/meter.py
_UCF50_VIDEOS = 6681


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """Clips a second: decoded on one core, fed from the shards, and trained on by one device of num_devices.

    fits_in_memory: whether --cache=auto would keep the clips in memory.
    """

    decode: float
    input: float
    step: float
    num_cores: int = 1
    num_devices: int = 1
    fits_in_memory: bool = False

    @property
    def wait_share(self) -> float:
        """The share of its time that training waits for its input."""
        return max(0.0, 1 - self.input / (self.step * self.num_devices))


def check(options: Options) -> Iterator[Finding]:
    if not options.speed_secs:
        yield ok("not measured (--nospeed)")
        return
    secs = {name: share * options.speed_secs for name, share in _SHARES.items()}
    cores = len(os.sched_getaffinity(0))
    if os.getloadavg()[0] > 0.5 * cores:
        yield warn(
            f"other work is running (load {os.getloadavg()[0]:.1f}): the rates are lower than they could be"
        )
    # Of a set behind a URL the network would be measured, and whole shards copied.
    folders = (manifest.data_dir for manifest in sets.sound_manifests(options))
    data = next((folder for folder in folders if not is_remote(folder)), None)
    with tempfile.TemporaryDirectory() as folder:
        try:
            decoded = _ask("decode", options.videos, data, folder, secs["decode"])
        except NoAnswer as error:
            yield fail(f"decoding could not be measured: {error}")
            return
        if not decoded["rate"]:
            yield fail(f"no video of {decoded['what']} decodes", "make inspect and make shards say why")
            return
        yield ok(f"decode {decoded['rate']:,.0f} clips/s a core ({decoded['what']})")
        try:
            trained = _ask("train", decoded["data"], secs["input"], secs["step"])
        except NoAnswer as error:
            yield fail(f"input and step could not be measured: {error}")
            return
    rates = Rates(
        decode=decoded["rate"],
        input=trained["input"],
        step=trained["step"],
        num_cores=cores,
        num_devices=trained["num_devices"],
        fits_in_memory=trained["fits_in_memory"],
    )
    yield ok(
        f"input {rates.input:,.0f} clips/s, streamed ({trained['what'] if data else 'a small set of demo clips'})"
    )
    yield ok(f"step {rates.step:,.0f} clips/s ({trained['how']})")
    yield from name_bottleneck(rates)


def _ask(function: str, *arguments: Any) -> Any:
    return ask("tools.checkup.speed", function, *arguments, timeout_secs=_TIMEOUT_SECS).value


def name_bottleneck(rates: Rates) -> Iterator[Finding]:
    """Says what holds training up, what helps, and what a conversion takes."""
    if rates.wait_share > _MAX_WAIT_SHARE:
        text = f"the input is the bottleneck: a step would wait {rates.wait_share:.0%} of its time for clips"
        if rates.fits_in_memory:
            yield ok(f"{text} if they were streamed; --cache=auto keeps them in memory, as they fit")
        else:
            yield warn(
                text, "faster storage or more cores; --cache=host where they fit; frames stored raw, SIZE=…"
            )
    else:
        yield ok(
            f"the step is the bottleneck: the input is {rates.input / (rates.step * rates.num_devices):.1f} times as "
            "fast. A GPU, or more; a smaller SIZE; another MODEL help"
        )
    secs = _UCF50_VIDEOS / (rates.decode * rates.num_cores)
    yield ok(
        f"a conversion is bound by decoding, once: UCF50's {_UCF50_VIDEOS:,} videos take about "
        f"{f'{secs / 60:.0f} min' if secs >= 120 else f'{secs:.0f} s'} on {rates.num_cores} cores"
    )


def decode(videos: str | None, data: str | None, folder: str, secs: float) -> dict[str, Any]:
    """Measures decoding, and makes a small set of shards where there is none.

    Args:
      videos: folder of class folders; else the demo's are rendered into `folder`.
      data: a sound set of shards, or None.
      folder: for what is made.
      secs: how long to measure.

    Returns:
      rate: clips a second on one core; what: which videos; data: the set of shards.
    """
    from tools import make_demo_videos, rates, shards
    from ucf50_tfrecord import manifest as manifest_lib
    from ucf50_tfrecord.convert import catalog, sampling
    from ucf50_tfrecord.specs import ClipFormat

    manifest = manifest_lib.load(data) if data else None
    clip_format = manifest.format if manifest else ClipFormat()
    given = videos or (manifest.videos_dir if manifest else None)
    made = os.path.join(folder, "videos")
    used = given if given and os.path.isdir(given) else made
    if used == made or manifest is None:
        make_demo_videos.make_corpus(made, groups=2, clips=1, seed=0, workers=1)
    found = catalog.find_videos(used).videos
    chosen = sampling.even_indices(len(found), min(_MAX_VIDEOS, len(found)))
    paths = [os.path.join(used, found[i].relative_path) for i in chosen]
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rate = rates.of_decoding(paths, clip_format, secs=secs)
    if data is None:
        shards.convert(made, os.path.join(folder, "data"), clip_format, num_workers=1, name="doctor")
    return {
        "rate": rate,
        "what": f"{len(paths)} demo videos" if used == made else used,
        "data": data or os.path.join(folder, "data"),
    }


def train(data: str, input_secs: float, step_secs: float) -> dict[str, Any]:
    """Measures a stream of batches, and steps of the default recipe's model on one device.

    Returns:
      input, step: clips a second; num_devices, fits_in_memory: see Rates; what, how: what was measured.
    """
    import tensorflow as tf

    from tools import rates
    from ucf50_tfrecord import manifest as manifest_lib
    from ucf50_tfrecord import recipes
    from ucf50_tfrecord.dataset import clips as clips_lib
    from ucf50_tfrecord.dataset import feed as feed_lib
    from ucf50_tfrecord.training import loop
    from ucf50_tfrecord.training import strategy as strategy_lib

    recipe = recipes.load("lstm")
    manifest = manifest_lib.load(data)
    spec = dataclasses.replace(recipes.train_spec(recipe), precision=strategy_lib.choose_precision("auto"))
    strategy = strategy_lib.make_strategy("one", environment={})
    clips = clips_lib.load_clips(manifest, manifest.folds)
    batches = feed_lib.Feed(clips, strategy=strategy).batches(batch_size=spec.batch_size, seed=0)
    input_rate = rates.of_batches(batches, spec.batch_size, secs=input_secs)
    batches.close()
    model_spec = recipes.model_spec(recipe, num_classes=len(manifest.classes), clip_format=manifest.format)
    state = loop.build_state(model_spec, spec, num_clips=len(clips), strategy=strategy)
    step_rate = rates.of_steps(state.model, state.optimizer, spec, strategy=strategy, secs=step_secs)
    return {
        "input": input_rate,
        "step": step_rate,
        "num_devices": max(1, len(tf.config.list_physical_devices("GPU"))),
        "fits_in_memory": feed_lib.choose_cache("auto", clips.num_bytes).cache != "none",
        "what": f"{data}, {format_bytes(clips.num_bytes)}",
        "how": f"{model_spec.name}, batches of {spec.batch_size}, {spec.precision} on one {strategy_lib.device_type()}",
    }
