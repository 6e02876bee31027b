"""Tells whether two checkouts make the same shards, weights and predictions.

  git worktree add /tmp/before HEAD~1
  python -m tools.compare_commits --before=/tmp/before --videos=videos/few \\
      --work=/tmp/comparison

The code of each checkout converts the videos, trains each model and predicts
the videos, in a folder of its own. Shards and predictions are compared byte by
byte, weights tensor by tensor. The exit status is 1 if there is a difference.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags

from pipelines import console, terminal
from ucf50_tfrecord.errors import UserError, expect

# All options that draw random numbers or change how weights are updated.
_TRAIN_FLAGS = (
    "--precision=float32 --epochs=2 --batch_size=8 --optimizer=adamw --weight_decay=0.01 --schedule=cosine "
    "--warmup_epochs=0.5 --label_smoothing=0.1 --class_weight=balanced --dropout=0.3 --clip_norm=1 --ema=0.9 "
    "--mixup=0.4 --cutmix=1 --randaugment_ops=2 --randaugment_magnitude=12 "
    "--horizontal_flip --crop_area=0.7 --brightness=0.2 --contrast=0.2 --saturation=0.2 --temporal_shift=1 --erase=0.3 "
    "--frame_order=shuffled --sample_frames=12"
)
_DATA, _PREDICTED, _LOG = "data", "predicted", "log.txt"


def define_flags() -> None:
    """Defines the flags. Called only when run as a program: the pipelines define flags of the same names."""
    flags.DEFINE_string("before", None, "Checkout to compare with.", required=True)
    flags.DEFINE_string("after", ".", "Checkout to compare.")
    flags.DEFINE_string("videos", None, "Folder with one folder of videos per class.", required=True)
    flags.DEFINE_string("work", None, "New folder for the results of both checkouts.", required=True)
    flags.DEFINE_list("models", ["lstm", "frame_pool"], "Models to train.")
    flags.DEFINE_string("convert", "--size=64 --frames=15", "Flags of the conversion.")
    flags.DEFINE_string("train", _TRAIN_FLAGS, "Flags of the training.")


def main() -> int:
    args = flags.FLAGS
    videos, work = pathlib.Path(args.videos).resolve(), pathlib.Path(args.work).resolve()
    if work.exists():
        raise UserError(f"Expected a new folder as --work. Received: {work}, which exists")
    sides = {"before": pathlib.Path(args.before), "after": pathlib.Path(args.after)}
    for name, checkout in sides.items():
        terminal.say(f"{name}: {checkout}", flush=True)
        make_all(checkout.resolve(), videos, work / name)
    console.load_tensorflow()
    differences = list(find_differences(work / "before", work / "after", args.models))
    for text in differences:
        terminal.say(f"different: {text}")
    verdict = "differ" if differences else "equal bit for bit"
    terminal.say(f"Shards, weights and predictions of {', '.join(args.models)}: {verdict}.")
    return 1 if differences else 0


def make_all(checkout: pathlib.Path, videos: pathlib.Path, folder: pathlib.Path) -> None:
    """Converts videos, trains the models of --models and predicts the videos, with the code of a checkout.

    Shards, runs and predictions lie in `folder`, which is new.
    """
    folder.mkdir(parents=True)
    for package in ("pipelines", "ucf50_tfrecord"):  # else an installed package would be imported
        expect((checkout / package).is_dir(), f"a checkout with a folder {package}", checkout=str(checkout))
    _run(checkout, folder, "convert", f"--videos={videos}", f"--data={_DATA}", *flags.FLAGS.convert.split())
    for model in flags.FLAGS.models:
        names = f"--run={model}", f"--data={_DATA}"
        _run(checkout, folder, "train", *names, f"--model={model}", *flags.FLAGS.train.split())
        output = f"--output={model}/{_PREDICTED}"
        _run(checkout, folder, "predict", f"--run={model}", f"--video={videos}", output)


def _run(checkout: pathlib.Path, folder: pathlib.Path, pipeline: str, *arguments: str) -> None:
    """Runs an entry point of a checkout on the CPU, and appends what it prints to the folder's log file.

    `folder` is the current folder, so that relative paths are the same for both checkouts.
    """
    environment = os.environ | {"PYTHONPATH": str(checkout), "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-m", f"pipelines.{pipeline}", *arguments]
    with open(folder / _LOG, "a", encoding="utf-8") as log:
        done = subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise UserError(
            f"{checkout}: pipelines.{pipeline} exited with status {done.returncode}; see {folder / _LOG}"
        )


def find_differences(before: pathlib.Path, after: pathlib.Path, models: Sequence[str]) -> Iterator[str]:
    """Yields one text for each difference between two folders that make_all filled, such as a file's name."""
    shards, others = ({path.name for path in side.glob(f"{_DATA}/*.tfrecord-*")} for side in (before, after))
    if not shards or shards != others:
        yield f"names of shards: {sorted(shards)}, {sorted(others)}"
    files = [f"{_DATA}/{name}" for name in sorted(shards & others)]
    for name in (*files, *(f"{model}/predictions.jsonl" for model in models)):
        if (before / name).read_bytes() != (after / name).read_bytes():
            yield name
    for model in models:
        name = f"{model}/{_PREDICTED}/predictions.json"
        if _numbers(before / name) != _numbers(after / name):
            yield name
        for which in ("last", "best"):
            yield from _different_weights(f"{model}/checkpoints/{which}", before, after)


def _numbers(path: pathlib.Path) -> list[Any]:
    """Returns the entries of a predictions.json that name neither code nor machine, and are no words."""
    document = json.loads(path.read_text())
    return [document["videos"], document["windows"], document["calibration"]["temperature"]]


def _different_weights(folder: str, before: pathlib.Path, after: pathlib.Path) -> Iterator[str]:
    """Yields one text for each difference between the newest checkpoints in two folders within two others.

    Compares all tensors, those of the optimizer's state too.
    """
    import tensorflow as tf

    from ucf50_tfrecord.training import checkpoint

    readers = [tf.train.load_checkpoint(checkpoint.find(side / folder)[0]) for side in (before, after)]
    keys = [{*reader.get_variable_to_shape_map()} - {"_CHECKPOINTABLE_OBJECT_GRAPH"} for reader in readers]
    for key in sorted(keys[0] ^ keys[1]):
        yield f"{folder}: {key} is in one checkpoint only"
    for key in sorted(keys[0] & keys[1]):
        one, other = (np.asarray(reader.get_tensor(key)) for reader in readers)
        if (one.dtype, one.shape, one.tobytes()) != (other.dtype, other.shape, other.tobytes()):
            yield f"{folder}: {key}"


if __name__ == "__main__":
    define_flags()
    console.run(main)
