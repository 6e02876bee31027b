"""make inspect shows the contents of shards and the curves of runs."""

import dataclasses
import os
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.conftest import build, flip_bit, run_code, run_module
from tools import class_table, contact_sheet, curves
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import record, storage, tfrecord
from ucf50_tfrecord.dataset import clips as clips_lib
from ucf50_tfrecord.specs import ModelSpec, TrainSpec, to_json
from ucf50_tfrecord.training import events
from ucf50_tfrecord.training import run as run_lib


def test_paths_are_not_broken_at_hyphens():
    path = "/data/" + "-".join(["long"] * 15)
    code = "import sys; from tools import inspect_data; inspect_data.print_wrapped('clips of ' + sys.argv[1])"
    assert run_code(code, path).stdout == f"  clips of\n    {path}\n"


def test_inspect_shows_counts_and_a_record(data_dir, tmp_path):
    result = run_module("tools.inspect_data", f"--data={data_dir}", f"--sheet={tmp_path / 'sheet.png'}")
    assert result.returncode == 0, result.stderr
    assert "30 clips of 5x16x24" in result.stdout
    assert "class   clips 1 2 3 4 5" in result.stdout and "Middle     10 2 2 2 2 2" in result.stdout
    assert "all        30 6 6 6 6 6" in result.stdout
    assert "uint8 [5, 16, 24, 3]" in result.stdout and "clip/media_id" in result.stdout
    assert "videos of 0.9 to 1.1 s" in result.stdout  # 22 to 27 frames, 25 a second
    assert all(len(line) <= 80 for line in result.stdout.splitlines() if str(tmp_path) not in line)
    assert not (data_dir / "contact_sheet.png").exists()
    assert run_module("tools.inspect_data", "--data=nowhere").returncode == 2


def read_video(data_dir, clip_id):
    """Returns a clip's frames, uint8 [T, H, W, 3], from a sequential read."""
    for path in sorted(pathlib.Path(data_dir).glob("*.tfrecord-*-of-?????")):
        for _, payload in tfrecord.read_file(path):
            if record.clip_id_and_labels(payload)[0] == clip_id:
                return record.decode(payload)[record.VIDEO]
    raise KeyError(clip_id)


@pytest.mark.parametrize("encoding", ["raw", "png"])
def test_the_sheet_shows_stored_pixels(videos_dir, tmp_path, encoding):
    manifest = build(videos_dir, tmp_path / "set", encoding=encoding)
    result = run_module("tools.inspect_data", f"--data={tmp_path / 'set'}")
    assert result.returncode == 0, result.stderr
    path = tmp_path / "set" / "contact_sheet.png"
    assert f"Contact sheet: {path}" in result.stdout
    sheet = np.asarray(Image.open(path))
    layout = contact_sheet.lay_out(manifest.format.shape, 3)
    assert (layout.factor, layout.indices) == (5, (0, 1, 2, 3, 4))
    clips = clips_lib.load_clips(manifest, manifest.folds)
    for label in range(3):
        of_class = np.flatnonzero(clips.labels == label)
        video = read_video(tmp_path / "set", clips.ids[of_class[len(of_class) // 2]])
        left, top = layout.corner(label)
        for slot, index in enumerate(layout.indices):
            x = left + layout.frame_x(slot)
            shown = sheet[top : top + 16 * 5, x : x + 24 * 5]
            for dy, dx in ((0, 0), (2, 3), (4, 4)):  # each pixel is a square of 5
                np.testing.assert_array_equal(shown[dy::5, dx::5], video[index])
        assert (sheet[top : top + 16, left : left + layout.frame_x(0) - 10] < 128).any()  # its name
    assert manifest_lib.load(str(tmp_path / "set")).fingerprint == manifest.fingerprint


@pytest.mark.parametrize("shape", [(15, 64, 64, 3), (1, 8, 8, 3), (40, 224, 224, 3), (16, 1080, 1920, 3)])
@pytest.mark.parametrize("num_classes", [1, 8, 50, 101])
def test_sheets_fit_any_clip_shape_and_number_of_classes(shape, num_classes):
    layout = contact_sheet.lay_out(shape, num_classes)
    width, height = layout.size
    places = {layout.corner(row) for row in range(num_classes)}
    assert len(places) == num_classes
    assert max(x for x, _ in places) + layout.column_width <= width
    assert max(y for _, y in places) + layout.row_height <= height
    assert layout.indices[0] == 0 and layout.indices[-1] == shape[0] - 1
    assert len(set(layout.indices)) == len(layout.indices) <= 8


def test_a_sheet_handles_odd_names_and_empty_classes():
    frames = np.zeros((2, 8, 8, 3), np.uint8) + np.array([9, 77, 200], np.uint8)
    rows = [contact_sheet.Row("no UTF-8 \udce9 \n" + "x" * 300, "1 clip\nid", frames)]
    rows.append(contact_sheet.Row("empty", "no clip", None))
    drawn = contact_sheet.draw("a \udce9 title", rows, frames.shape)
    assert (drawn == [9, 77, 200]).all(axis=2).sum() == 2 * (8 * 16) ** 2
    font = contact_sheet.ImageFont.load_default(15)
    cut = contact_sheet.fit("A" * 100 + "B" * 100, font, 120)
    assert cut.startswith("A") and cut.endswith("B") and "…" in cut and font.getlength(cut) <= 120


def test_damage_is_reported_with_the_repair_command(data_dir, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(data_dir, folder)
    first = folder / manifest_lib.load(str(folder)).shards[0].filename
    flip_bit(first, 2000)
    result = run_module("tools.inspect_data", f"--data={folder}")
    assert result.returncode == 2 and "Middle" in result.stdout
    assert (
        "is damaged" in result.stderr and "make repair" in result.stderr and "Traceback" not in result.stderr
    )


def table_of(data_dir, *, num_folds=25, count=7, other=0, name="BaseballPitch"):
    manifest = manifest_lib.load(str(data_dir))
    folds = {fold: (count, other) for fold in range(1, num_folds + 1)}
    made = dataclasses.replace(manifest, classes=(name, "B"), clips_per_class=folds)
    return class_table.format_table(made)


def test_the_table_fits_80_columns(data_dir):
    lines = table_of(data_dir)
    assert lines[0].split() == ["fold", *"1111111111222222"] and lines[1].startswith("class ")
    assert lines[2] == "BaseballPitch    175" + " 7" * 25
    assert lines[3] == "B                  0" + " ." * 25 and lines[4].startswith("all")
    # Room for the sums of the folds, for the counts alone, for neither.
    assert len(table_of(data_dir, num_folds=15, count=99)) == 2 + 2 + 1
    assert len(table_of(data_dir, num_folds=25, count=6, other=5)) == 2 + 2
    ranges = table_of(data_dir, num_folds=70)
    assert ranges[:2] == ["class          clips  in folds", "BaseballPitch    490  1-70"]
    for width in (2, 25, 40, 70):
        assert max(map(len, table_of(data_dir, num_folds=width, name="x" * 90, count=100))) <= 80


def make_run(folder):
    config = run_lib.RunConfig(
        data_dir="data/set",
        fingerprint="f" * 64,
        classes=("a", "b"),
        train_folds=(2, 3),
        val_folds=(1,),
        test_folds=(),
        model=ModelSpec(name="lstm", num_classes=2, num_frames=5, height=16, width=24),
        train=TrainSpec(epochs=2, batch_size=4, precision="float32"),
    )
    storage.write_json(folder / run_lib.CONFIG_FILENAME, to_json(config))
    return folder


def test_the_curves_of_an_unfinished_run(tmp_path):
    from ucf50_tfrecord.training import logs

    run_dir = make_run(tmp_path / "run")
    result = run_module("tools.inspect_data", f"--run={run_dir}")
    assert result.returncode == 0, result.stderr
    assert "lstm on clips of 5x16x24" in result.stdout and "not finished" in result.stdout
    assert "hold no points" in result.stdout
    log = logs.TensorBoardLog(str(run_dir), start_step=0)
    for step in range(1, 31):
        log.scalars("train", {"loss": 2 - step / 20, "accuracy": step / 30, "learning_rate": 1e-3}, step)
    log.scalars("validation", {"accuracy": 0.25, "macro_f1": float("nan")}, 30)
    log.close()
    assert events.read_scalars(run_dir / "tensorboard" / "train")["loss"][-1] == (30, 0.5)
    [path] = events.find_files(run_dir / "tensorboard" / "train")
    os.truncate(path, path.stat().st_size - 9)  # as it is while the run is written
    result = run_module("tools.inspect_data", f"--run={run_dir}")
    assert result.returncode == 0, result.stderr
    assert (
        "loss: ⢕ train 0.55" in result.stdout
        and "accuracy: ⢕ train 0.9667, ▞ validation 0.25" in result.stdout
    )
    assert (
        "learning rate" in result.stdout and "macro F1" not in result.stdout and "\x1b" not in result.stdout
    )
    assert all(len(line) <= 80 for line in result.stdout.splitlines() if str(tmp_path) not in line)


def test_the_scores_of_a_finished_run(tmp_path):
    run_dir = make_run(tmp_path / "run")
    summary = run_lib.Summary(
        accuracy=0.5,
        macro_f1=0.25,
        shuffled=run_lib.Scores(accuracy=0.125, macro_f1=0.0),
        num_clips=6,
        folds=(1,),
        weights="last",
        model="lstm",
        params=1234567,
        epochs=2,
        trained_epochs=2,
        seed=0,
        best=run_lib.Best(macro_f1=0.25, epoch=1),
        num_train_clips=24,
    )
    storage.write_json(run_dir / run_lib.SUMMARY_FILENAME, to_json(summary))
    result = run_module("tools.inspect_data", f"--run={run_dir}")
    assert result.returncode == 0, result.stderr
    assert "1,234,567 parameters" in result.stdout and "6 clips of folds 1 (validation)" in result.stdout
    assert "0.5000    0.2500" in result.stdout and "0.1250" in result.stdout
    storage.write_json(run_dir / run_lib.SUMMARY_FILENAME, {})
    result = run_module("tools.inspect_data", f"--run={run_dir}")
    assert result.returncode == 2 and "is not a training's summary: Expected a field" in result.stderr
    result = run_module("tools.inspect_data", f"--run={tmp_path}")
    assert result.returncode == 2 and "is not a run's folder" in result.stderr


def test_curves_are_drawn_at_their_values():
    drawn = curves.draw("accuracy", {"train": [(0, 0.0), (100, 1.0)], "validation": [(0, 1.0), (100, 0.0)]})
    lines = drawn.splitlines()
    assert {len(line) for line in lines} == {80} and "accuracy: ⢕ train 1, ▞ validation 0" in lines[0]
    plot = [line.partition("┤")[2] or line.partition("│")[2] for line in lines[2:-2]]
    first = next(row for row in plot if row.strip("│ "))
    # Both ends of the upper line are the curves' maxima: validation's first point and train's last.
    assert first[0] in "▀▚▘" and first.rstrip("│")[-1] in "⠁⠈⠉⠊⠑"
    assert "\x1b" in curves.draw("loss", {"train": [(1, 2.0), (2, 1.0)]}, is_coloured=True)
    assert curves.draw("loss", {"train": [(1, float("nan"))], "validation": []}) is None
