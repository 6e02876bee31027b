"""Tells whether two checkouts make the same shards, weights and predictions.

  git worktree add /tmp/before HEAD~1
  python -m tools.compare_commits --before=/tmp/before --videos=videos/few \\
      --work=/tmp/comparison

Each checkout converts the videos, trains each model and predicts the videos, in
a folder of its own. Files are compared byte by byte, weights tensor by tensor.
Exit status 1 tells of a difference.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
from absl import flags

from pipelines import console, terminal
from ucf50_tfrecord.specs import UserError

_BEFORE = flags.DEFINE_string("before", None, "Checkout to compare with.", required=True)
_AFTER = flags.DEFINE_string("after", ".", "Checkout to compare.")
_VIDEOS = flags.DEFINE_string("videos", None, "Folder with one folder of videos per class.", required=True)
_WORK = flags.DEFINE_string("work", None, "New folder for what both checkouts make.", required=True)
_MODELS = flags.DEFINE_list("models", ["lstm", "frame_pool"], "Models to train.")
_CONVERT = flags.DEFINE_string("convert", "--size=64 --frames=15", "Flags of the conversion.")
# All that draws random numbers, and all that changes the update of weights.
_TRAIN = flags.DEFINE_string(
    "train",
    "--precision=float32 --epochs=2 --batch_size=8 --optimizer=adamw --weight_decay=0.01 --schedule=cosine --warmup_epochs=0.5 "
    "--label_smoothing=0.1 --dropout=0.3 --clip_norm=1 --ema=0.9 --horizontal_flip --crop_area=0.7 --brightness=0.2 "
    "--contrast=0.2 --saturation=0.2 --temporal_shift=1 --erase=0.3",
    "Flags of the training.",
)
_DATA, _LOG = "data", "log.txt"


def main() -> int:
    videos, work = pathlib.Path(_VIDEOS.value).resolve(), pathlib.Path(_WORK.value).resolve()
    if work.exists():
        raise UserError(f"Expected a new folder as --work. Received: {work}, which exists")
    sides = {"before": pathlib.Path(_BEFORE.value), "after": pathlib.Path(_AFTER.value)}
    for name, checkout in sides.items():
        terminal.say(f"{name}: {checkout}", flush=True)
        make_all(checkout.resolve(), videos, work / name)
    console.load_tensorflow()
    differences = list(find_differences(work / "before", work / "after"))
    for text in differences:
        terminal.say(f"different: {text}")
    models = ", ".join(_MODELS.value)
    terminal.say(
        f"Shards, weights and predictions of {models}: {'differ' if differences else 'equal bit for bit'}."
    )
    return 1 if differences else 0


def make_all(checkout: pathlib.Path, videos: pathlib.Path, folder: pathlib.Path) -> None:
    """Converts, trains and predicts by a checkout's code, into a folder.

    Raises:
      UserError: if one of its programs fails.
    """
    folder.mkdir(parents=True)
    _run(checkout, folder, "convert", f"--videos={videos}", f"--data={_DATA}", *_CONVERT.value.split())
    for model in _MODELS.value:
        names = f"--run={model}", f"--data={_DATA}"
        _run(checkout, folder, "train", *names, f"--model={model}", *_TRAIN.value.split())
        _run(
            checkout, folder, "predict", f"--run={model}", f"--video={videos}", f"--output={model}/predicted"
        )


def _run(checkout: pathlib.Path, folder: pathlib.Path, pipeline: str, *arguments: str) -> None:
    """Runs a program of a checkout on the CPU, in a folder whose relative names both checkouts share."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-m", f"pipelines.{pipeline}", *arguments]
    with open(folder / _LOG, "a", encoding="utf-8") as log:
        done = subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise UserError(
            f"{checkout}: pipelines.{pipeline} ended with status {done.returncode}; see {folder / _LOG}"
        )


def find_differences(before: pathlib.Path, after: pathlib.Path) -> Iterator[str]:
    """Yields what differs between the folders that make_all filled."""
    names = [sorted(path.name for path in (side / _DATA).glob("*.tfrecord-*")) for side in (before, after)]
    if names[0] != names[1] or not names[0]:
        yield f"names of shards: {names[0]}, {names[1]}"
    shards = [pathlib.Path(_DATA, name) for name in names[0] if name in names[1]]
    results = [
        pathlib.Path(model, name)
        for model in _MODELS.value
        for name in ("predictions.jsonl", "predicted/predictions.json")
    ]
    for name in (*shards, *results):
        if _contents(before, name) != _contents(after, name):
            yield str(name)
    for model in _MODELS.value:
        for which in ("last", "best"):
            folder = pathlib.Path(model, "checkpoints", which)
            yield from _different_weights(folder, before / folder, after / folder)


def _contents(side: pathlib.Path, name: pathlib.Path) -> bytes:
    """Reads a file without the name of the folder that it lies in."""
    return (side / name).read_bytes().replace(json.dumps(str(side))[1:-1].encode(), b"")


def _different_weights(name: pathlib.Path, before: pathlib.Path, after: pathlib.Path) -> Iterator[str]:
    """Compares two folders' newest checkpoints, the optimizer's state included."""
    import tensorflow as tf

    from ucf50_tfrecord.training import checkpoint

    readers = [tf.train.load_checkpoint(checkpoint.find(folder)[0]) for folder in (before, after)]
    keys = [{*reader.get_variable_to_shape_map()} - {"_CHECKPOINTABLE_OBJECT_GRAPH"} for reader in readers]
    for key in sorted(keys[0] ^ keys[1]):
        yield f"{name}: {key} is in one checkpoint only"
    for key in sorted(keys[0] & keys[1]):
        one, other = (np.asarray(reader.get_tensor(key)) for reader in readers)
        if (one.dtype, one.shape, one.tobytes()) != (other.dtype, other.shape, other.tobytes()):
            yield f"{name}: {key}"


if __name__ == "__main__":
    console.run(main)
