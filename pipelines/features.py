"""Encodes the frames of shards into features, by a frozen frame encoder.

  python -m pipelines.features --data=data/ucf50-15x224x224 \\
    --features=efficientnet_lite0

The features are shards in a folder of their own, which `train` and `compare`
take in place of frames. Up-to-date shards are kept: the same command resumes
after an interruption, and does nothing when nothing has changed.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from absl import flags

from pipelines import code_flags, console, convert, remedies, terminal
from pipelines.spec_flags import SpecFlags
from ucf50_tfrecord import building, remote, storage
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord.errors import Action, Change, Remedy, UserError, expect
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.specs import FeatureFormat, FeatureSpec, format_bytes

if TYPE_CHECKING:
    from ucf50_tfrecord.features.encoders import FrameEncoder

_SPEC = SpecFlags(FeatureSpec, names=remedies.FEATURE_FLAGS)
_FEATURES_DATA = flags.DEFINE_string(
    "features_data",
    None,
    "Folder of the features. Default: the folder of the frames with the encoder's name appended.",
)

_WAIT_SECS = 5.0

for _module in (convert, code_flags):
    flags.adopt_module_key_flags(_module)


def load_data() -> Manifest:
    """Returns the manifest of the dataset to train on: the features that --features asks for, else the frames.

    Converts videos and encodes frames, except those whose shards are up to date.

    Raises:
      UserError: as convert.load_or_convert and encode do.
    """
    manifest = convert.load_or_convert()
    encoder = _SPEC.values()["encoder"]
    if not encoder:
        return manifest
    expect(
        not convert.is_task(),
        "--data=<folder of finished features> instead of --features with --task_index or --finalize",
        features=encoder,
    )
    return encode(manifest)


def encode(source: Manifest, like: FeatureFormat | None = None) -> Manifest | None:
    """Encodes a dataset of frames as the flags say, except for up-to-date shards, and prints the result.

    Args:
      source: the manifest of the frames.
      like: the format of other features, by whose encoder the frames are encoded; None for the flags' encoder.

    Returns:
      The manifest of the features, or None if other tasks have not finished their parts yet.

    Raises:
      UserError: if a flag is wrong, the encoder cannot be loaded, or a shard cannot be read or written.
    """
    spec = None if like else _SPEC.build()
    console.load_tensorflow()
    from ucf50_tfrecord.features import encode as encode_lib
    from ucf50_tfrecord.features.encoders import load_encoder, reload_encoder

    allowed = code_flags.allowed_code()
    encoders = _on_each_device(
        lambda: (
            load_encoder(spec, source.format, allowed_code=allowed)
            if spec
            else reload_encoder(like, source.format, allowed_code=allowed)
        )
    )
    planned = encode_lib.plan_features(source, encoders[0].format)
    data_dir = _FEATURES_DATA.value or encode_lib.default_dir(source, encoders[0].format)
    expect(not remote.is_remote(data_dir), "a local --features_data", features_data=data_dir)
    _check_same(data_dir, planned.features)
    run = functools.partial(encode_lib.run_encoder, encoders=encoders)
    with EncodingDisplay(source, data_dir, spec.num_views if spec else 1) as display:
        built = convert.build(planned, data_dir, run, display)
    display.print_result(built)
    return built


def encode_changed(plain: Manifest) -> dict[str, Manifest]:
    """Encodes the frames of a dataset of features again, under each intervention that changes pixels.

    Writes one dataset per intervention, into a folder beside the given dataset. Keeps up-to-date shards. If
    another process is encoding one of these datasets, waits for that process.

    Args:
      plain: the manifest of the features of the unchanged clips.

    Returns:
      A dictionary from the intervention's name to the manifest of its features.

    Raises:
      UserError: if the frames or the encoder are missing or have changed, or a shard cannot be written.
    """
    from ucf50_tfrecord.dataset.clips import load_clips, load_frames_manifest
    from ucf50_tfrecord.features import encode as encode_lib
    from ucf50_tfrecord.features.encoders import reload_encoder

    source = load_frames_manifest(plain)
    # Only an encoder that the command line names is loaded: the dataset may come from a stranger.
    allowed = [*code_flags.allowed_code(), _SPEC.values()["encoder"]]
    encoders = _on_each_device(lambda: reload_encoder(plain.features, source.format, allowed_code=allowed))
    built = {}
    for name, (data_dir, changed) in changed_datasets(plain).items():
        planned = encode_lib.plan_features(source, changed)

        def run(jobs, data_dir, on_clips, name=name):
            change = encode_lib.intervene(name, load_clips(source, source.folds))
            return encode_lib.run_encoder(jobs, data_dir, on_clips, encoders=encoders, change=change)

        while name not in built:
            try:
                with EncodingDisplay(source, data_dir) as display:
                    built[name] = building.build_dataset(planned, data_dir, run=run, listener=display)
            except storage.LockedError:  # such as another task of a job array
                terminal.note(f"Waiting for another process that is encoding {data_dir}")
                time.sleep(_WAIT_SECS)
    return built


def find_changed(plain: Manifest) -> dict[str, Manifest]:
    """Returns the finished ones of the datasets that encode_changed makes, by the intervention's name."""
    found = {}
    for name, (data_dir, changed) in changed_datasets(plain).items():
        manifest = manifest_lib.load_if_finished(data_dir)
        if manifest is not None and manifest.features == changed:
            found[name] = manifest
    return found


def changed_datasets(plain: Manifest) -> dict[str, tuple[str, FeatureFormat]]:
    """Returns the folder and the format of each dataset that encode_changed makes, by the intervention's name."""
    from ucf50_tfrecord.evaluation.interventions import INTERVENTIONS

    return {
        name: (
            f"{plain.data_dir.rstrip('/')}-{name}",
            dataclasses.replace(plain.features, intervention=name, num_views=1),
        )
        for name in [entry.name for entry in INTERVENTIONS.values() if entry.needs_pixels]
    }


def _on_each_device(load: Callable[[], FrameEncoder]) -> list[FrameEncoder]:
    """Loads an encoder on each GPU of this process, or on the CPU if there is none."""
    import tensorflow as tf

    encoders = []
    for device in tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU"):
        with tf.device(device.name):
            encoders.append(load())
    return encoders


def _check_same(data_dir: str, asked: FeatureFormat) -> None:
    """Raises UserError if a folder holds other features, or frames, and --overwrite is not set."""
    before = None if convert.overwrites() else manifest_lib.load_if_finished(data_dir)
    if before is None or before.features == asked:
        return
    found = before.features
    weights = found is not None and found.weights != asked.weights
    detail = (
        f", whose encoder had the weights {found.weights[:16]}…, not {asked.weights[:16]}…" if weights else ""
    )
    raise UserError(
        f"{data_dir} holds {found or 'frames'}{detail}. Expected: {asked}",
        Remedy(Action.SET, features_data=Change.OTHER),
        Remedy(Action.SET, "to replace them", overwrite=True),
    )


class EncodingDisplay(convert.BuildDisplay):
    """Shows the progress and the result of an encoding, in frames."""

    def __init__(self, source: Manifest, data_dir: str, num_views: int = 1):
        super().__init__(
            data_dir,
            source.num_clips,
            verb="encoding",
            items="clips",
            unit="frame",
            units_per_item=source.format.num_frames * num_views,
        )

    def print_result(self, built: Manifest | None) -> None:
        done = f"{self.rate():.0f} frames/s" if self.num_units else "nothing to encode"
        if built is None:
            terminal.say(f"This task's part is done ({done}); other tasks finish {self._data_dir}")
            return
        num_bytes = sum(shard.num_bytes for shard in built.shards)
        terminal.say(
            f"Features: {built.data_dir} ({built.num_clips} clips, {built.features}, "
            f"{len(built.shards)} shards, {format_bytes(num_bytes)}; {done})"
        )


def main() -> None:
    if not _SPEC.values()["encoder"]:
        raise UserError("Pass --features=<encoder>.")
    encode(convert.load() if convert.is_task() else convert.load_or_convert())


if __name__ == "__main__":
    console.run(main)
