"""Shows the contents of a folder of shards, and the curves of a run.

  python -m tools.inspect_data --data=data/demo_videos-15x64x64
  python -m tools.inspect_data --run=runs/first

For a folder of shards, prints the clips per class and fold, sizes, durations
and a record's keys, and draws frames of each class as a picture (--sheet, or
contact_sheet.png in the shards' folder). For a run, prints its model and
training, its scores, and its curves.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
import pathlib
import sys

import numpy as np
from absl import flags

from pipelines import console, terminal
from tools import class_table, contact_sheet
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import record, remote, storage
from ucf50_tfrecord.dataset import clips as clips_lib
from ucf50_tfrecord.dataset import reader
from ucf50_tfrecord.drawing.pixels import to_png
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.specs import format_bytes, format_folds, printable, shorten, to_json
from ucf50_tfrecord.training import run as run_lib

_DATA = flags.DEFINE_string("data", None, "Folder of shards. Default: each folder under data/.")
_RUN = flags.DEFINE_string("run", None, "Folder of a run.")
_SHEET = flags.DEFINE_string(
    "sheet",
    None,
    "File for the picture, a .png; empty draws none. Default: contact_sheet.png in --data, "
    "or here if that is a URL.",
)

_SAMPLE_CLIPS, _SAMPLE_BYTES = 100, 64 << 20
# The drawings of a run's curves: title, and by name of the curve its split and tag in the event files.
_CURVES = (
    ("loss", {"train": ("train", "loss")}),
    ("accuracy", {"train": ("train", "accuracy"), "validation": ("validation", "accuracy")}),
    ("macro F1", {"validation": ("validation", "macro_f1")}),
    ("learning rate", {"train": ("train", "learning_rate")}),
)


def main() -> None:
    if _SHEET.value:
        expect(_SHEET.value.endswith(".png"), "--sheet=<a file .png>", sheet=_SHEET.value)
    if _RUN.value:
        print_run(_RUN.value)
    if _DATA.value or not _RUN.value:
        folders = [_DATA.value] if _DATA.value else find_sets()
        expect(not _SHEET.value or len(folders) == 1, "--data with a --sheet", sets=folders)
        for folder in folders:
            console.load_file_systems(folder)
            manifest = manifest_lib.load(folder)
            print_counts(manifest)
            print_clips(manifest)


def find_sets() -> list[str]:
    """Returns the folders under data/ that hold a finished set of shards; raises UserError if there is none."""
    folders = sorted(str(path.parent) for path in pathlib.Path("data").glob("*/manifest.json"))
    if not folders:
        raise UserError(
            "Pass --data=<folder of shards>, or --run=<folder of a run>; there is none under data/."
        )
    return folders


def print_counts(manifest: Manifest) -> None:
    """Prints what a dataset's manifest tells: clips, shards, quarantined videos, clips per class and fold."""
    sizes = [shard.num_bytes for shard in manifest.shards]
    described = manifest.features or f"{manifest.format} (frames x height x width)"
    terminal.say(manifest.data_dir)
    print_wrapped(
        f"{manifest.num_clips} clips of {described}, {len(manifest.classes)} "
        f"classes{', several labels per clip' if manifest.multi_label else ''}, {manifest.num_videos} videos"
    )
    print_wrapped(
        f"{len(sizes)} shards, {format_bytes(sum(sizes))} ({format_bytes(min(sizes))} to "
        f"{format_bytes(max(sizes))} each); folds by {manifest.fold_rule.fold_by}; "
        f"fingerprint {manifest.fingerprint[:16]}"
    )
    print_wrapped(f"decoded with {manifest.decoder}")
    for item in manifest.quarantined:
        terminal.say(f"  quarantined: {item.relative_path}: {item.reason}")
    terminal.say("", *class_table.format_table(manifest), "")


def print_wrapped(text: str) -> None:
    # Paths stay whole so that they can be copied.
    terminal.say_wrapped(
        text, break_on_hyphens=False, break_long_words=False, initial_indent="  ", subsequent_indent="    "
    )


def print_clips(manifest: Manifest) -> None:
    """Prints facts of some of a dataset's records, and draws its contact sheet."""
    clips = clips_lib.load_clips(manifest, manifest.folds)
    sample = clips.spread(min(_SAMPLE_CLIPS, max(1, _SAMPLE_BYTES // manifest.stored.num_bytes)))
    with concurrent.futures.ThreadPoolExecutor() as threads:  # each read may be a request
        records = list(threads.map(functools.partial(reader.read_record, sample), range(len(sample))))
    secs = np.array([features[record.END_TIMESTAMP][0] for features in records]) / 1e6
    rates = {round(features[record.IMAGE_FRAME_RATE][0], 2) for features in records}
    shown = sorted({min(rates), max(rates)})
    terminal.say(
        f"{len(sample)} evenly chosen clips: videos of {secs.min():.1f} to {secs.max():.1f} s, "
        f"median {np.median(secs):.1f}; {' to '.join(f'{rate:g}' for rate in shown)} frames/s",
        "",
        f"A record, {pathlib.Path(sample.shard_paths[sample.shards[0]]).name} at byte {sample.offsets[0]}:",
    )
    for key, value in sorted(records[0].items()):
        terminal.say(f"  {key:<22} {shorten(describe(value), terminal.WIDTH - 25)}")
    terminal.say("")
    if _SHEET.value != "":
        draw_sheet(clips_lib.frames_of(clips))


def draw_sheet(clips: clips_lib.ClipIndex) -> None:
    """Draws a contact sheet, a picture with frames of one clip of each class, and prints the picture's path."""
    manifest = clips.manifest
    rows = []
    for label, name in enumerate(manifest.classes):
        indices = np.flatnonzero(clips.has_class(label))
        if not len(indices):
            rows.append(contact_sheet.Row(name, "no clip", None))
            continue
        chosen = int(indices[len(indices) // 2])
        short = clips.ids[chosen].rpartition("/")[2]
        frames = reader.read_record(clips, chosen)[record.VIDEO]
        rows.append(contact_sheet.Row(name, f"{len(indices)} clips\n{short}", frames))
    name = os.path.basename(os.path.abspath(manifest.data_dir))
    title = f"{name}: {manifest.num_clips} clips of {manifest.format}"
    picture = contact_sheet.draw(title, rows, manifest.format.shape)
    beside = "contact_sheet.png" if remote.is_remote(manifest.data_dir) else None
    path = _SHEET.value or beside or os.path.join(manifest.data_dir, "contact_sheet.png")
    try:
        with storage.atomic_write(path) as file:
            file.write(to_png(picture))
    except UserError as error:
        if _SHEET.value:
            raise
        terminal.note(f"No contact sheet: {error}. --sheet=<file.png> writes it elsewhere.")
        return
    height, width = picture.shape[:2]
    terminal.say(f"Contact sheet: {path} ({width}x{height} pixels)", "")


def describe(value: list | np.ndarray) -> str:
    """Describes a record's feature in one line: an array by its shape and mean, a list by its values."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}, mean {value.mean():.1f}"
    return printable(" ".join(v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in value))


def print_run(run_dir: str) -> None:
    """Prints a run's model and training settings, its scores, and its curves so far."""
    config = run_lib.load_config(run_dir)
    model, train = config.model, config.train
    parts = {"train": config.train_folds, "validate": config.val_folds, "test": config.test_folds}
    folds = "; ".join(f"{name} {format_folds(part)}" for name, part in parts.items() if part)
    terminal.say(run_dir)
    print_wrapped(
        f"{model.name} on clips of {model.num_frames}x{model.height}x{model.width}, {len(config.classes)} "
        f"classes, from {config.data_dir}"
    )
    print_wrapped(f"folds: {folds}")
    print_wrapped(
        f"{train.epochs} epochs of batches of {train.batch_size}, {train.optimizer} at "
        f"{train.learning_rate:g} ({train.schedule}), {train.precision}, seed {train.seed}"
    )
    if config.taught_by:
        print_wrapped(f"taught by {', '.join(teacher.name for teacher in config.taught_by)}")
    print_scores(run_dir)
    print_curves(run_dir)


def print_scores(run_dir: str) -> None:
    """Prints a finished run's scores, or that the run is not finished."""
    path = pathlib.Path(run_dir, run_lib.SUMMARY_FILENAME)
    if not path.is_file():
        print_wrapped(
            "not finished, so there are no scores yet; the command that started it resumes it, with --run"
        )
        terminal.say("")
        return
    summary = run_lib.load_summary(run_dir)
    trained_on = "unknown" if summary.num_train_clips is None else summary.num_train_clips
    terminal.say(
        f"  {summary.params:,} parameters; {trained_on} training clips, {summary.trained_epochs} epochs"
    )
    title = f"{summary.num_clips} clips of folds {format_folds(summary.folds)} ({summary.split})"
    console.print_scores(title, to_json(summary), to_json(summary.shuffled), to_json(summary.views))
    terminal.say("")


def print_curves(run_dir: str) -> None:
    """Draws the curves in a run's event files as text, such as its loss, and prints them."""
    from tools import curves
    from ucf50_tfrecord.training import events

    folder = pathlib.Path(run_dir, "tensorboard")
    found = {split: events.read_scalars(folder / split) for split in ("train", "validation")}
    drawn = []
    for title, parts in _CURVES:
        points = {name: found[split].get(tag, []) for name, (split, tag) in parts.items()}
        if text := curves.draw(title, points, is_coloured=sys.stdout.isatty()):
            drawn.append(text)
    if not drawn:
        terminal.say(f"No curves: the event files of {folder} hold no points.", "")
        return
    terminal.say("By training step:")
    terminal.say_drawing("\n".join(drawn))
    terminal.say("")


if __name__ == "__main__":
    console.run(main)
