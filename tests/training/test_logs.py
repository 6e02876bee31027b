"""TensorBoard's files, read back as TensorBoard reads them."""

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import time

import numpy as np
import pytest
import tensorflow as tf
from tensorboard import context, plugin_util
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.training import events, logs

# A class's folder may have any name that the file system takes.
ODD_NAMES = ("Tai Chi", "a/b", "50% $x_1$ <i>|`", "été 太极", "no UTF-8 \udce9", "two\nlines", " ")


def read(run_dir, split):
    """Opens a split as TensorBoard does, keeping everything."""
    found = EventAccumulator(
        str(pathlib.Path(run_dir, "tensorboard", split)), size_guidance={"tensors": 0, "images": 0}
    )
    found.Reload()
    return found


def points(run_dir, split, tag):
    """A curve's (step, value)."""
    found = read(run_dir, split).Tensors(tag)
    return [(event.step, round(float(tf.make_ndarray(event.tensor_proto)), 4)) for event in found]


def text(run_dir, tag):
    """The HTML that TensorBoard shows of a text's latest version."""
    [value] = tf.make_ndarray(read(run_dir, "train").Tensors(tag)[-1].tensor_proto).flatten()
    return plugin_util.markdown_to_safe_html(value.decode())


def picture(run_dir, split, tag):
    return tf.io.decode_png(read(run_dir, split).Tensors(tag)[-1].tensor_proto.string_val[2]).numpy()


def write_curves(run_dir, steps, *, value, start_step=None):
    """Trains, as far as the files are concerned; every tenth step is an epoch's end."""
    log = logs.TensorBoardLog(str(run_dir), start_step=start_step)
    log.card(flags={"start": start_step})
    for step in steps:
        log.scalars("train", {"loss": value, "accuracy": value / 2}, step)
        if step % 10 == 0:
            for split in ("validation", "test"):
                log.scalars(split, {"macro_f1": value}, step)
            log.confusion(np.eye(2, dtype=int), ["a", "b"], step)
    log.close()


def event_files(run_dir):
    return sorted(pathlib.Path(run_dir).rglob("*.tfevents.*"))


def test_a_resumed_curve_does_not_jump_back(tmp_path):
    write_curves(tmp_path, range(1, 31), value=1.0, start_step=0)
    write_curves(tmp_path, range(21, 41), value=2.0, start_step=20)
    expected = [(step, 1.0 if step <= 20 else 2.0) for step in range(1, 41)]
    assert points(tmp_path, "train", "loss") == expected
    assert points(tmp_path, "train", "accuracy") == [(step, value / 2) for step, value in expected]
    for split in ("validation", "test"):
        assert points(tmp_path, split, "macro_f1") == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0)]
    assert [e.step for e in read(tmp_path, "validation").Tensors("confusion")] == [10, 20, 30, 40]
    assert [e.step for e in read(tmp_path, "train").Tensors("run")] == [0, 20]


def test_a_run_that_starts_again_keeps_no_event_of_its_first_try(tmp_path):
    write_curves(tmp_path, range(1, 6), value=1.0, start_step=0)
    write_curves(tmp_path, range(1, 4), value=2.0, start_step=0)
    assert points(tmp_path, "train", "loss") == [(1, 2.0), (2, 2.0), (3, 2.0)]


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_file_that_ends_torn_is_read_up_to_the_tear(tmp_path, cut):
    """As after SIGKILL or a full disk."""
    write_curves(tmp_path, range(1, 31), value=1.0, start_step=0)
    [path] = event_files(tmp_path / "tensorboard" / "train")
    os.truncate(path, path.stat().st_size - cut)
    write_curves(tmp_path, range(21, 41), value=2.0, start_step=20)
    assert [step for step, _ in points(tmp_path, "train", "loss")] == list(range(1, 41))


def test_a_tear_before_the_checkpoint_loses_the_points_after_it(tmp_path):
    write_curves(tmp_path, range(1, 31), value=1.0, start_step=0)
    [path] = event_files(tmp_path / "tensorboard" / "train")
    records = list(events.read_records(path))
    os.truncate(path, path.stat().st_size * 8 // len(records))
    kept = list(events.read_records(path))
    assert 1 < len(kept) < 20 and kept == records[: len(kept)]
    write_curves(tmp_path, range(21, 23), value=2.0, start_step=20)
    steps = [step for step, _ in points(tmp_path, "train", "loss")]
    assert steps == sorted(set(steps)) and steps[-2:] == [21, 22]


def test_files_without_later_events_stay_untouched(tmp_path):
    write_curves(tmp_path, range(1, 31), value=1.0, start_step=0)

    def state():
        return {path: (path.read_bytes(), path.stat().st_ino) for path in event_files(tmp_path)}

    before = state()
    for start_step in (30, 31, None):
        logs.TensorBoardLog(str(tmp_path), start_step=start_step).close()
        assert state() == before
    logs.TensorBoardLog(str(tmp_path / "new"), start_step=0).close()
    assert not event_files(tmp_path / "new")


def test_a_reader_that_has_the_file_open_is_not_disturbed(tmp_path):
    write_curves(tmp_path, range(1, 31), value=1.0, start_step=0)
    [path] = event_files(tmp_path / "tensorboard" / "train")
    content = path.read_bytes()
    viewer = read(tmp_path, "train")
    with open(path, "rb") as file:
        half = file.read(len(content) // 2)
        logs.TensorBoardLog(str(tmp_path), start_step=20).close()
        assert half + file.read() == content
    assert len(path.read_bytes()) < len(content)
    assert sorted(path.parent.iterdir()) == [path]  # nothing unfinished stays
    viewer.Reload()
    assert len(viewer.Tensors("loss")) == 30


def test_events_that_cannot_be_written_are_reported(tmp_path, monkeypatch):
    write_curves(tmp_path, range(1, 4), value=1.0, start_step=0)
    [path] = event_files(tmp_path / "tensorboard" / "train")
    content = path.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(UserError, match="Cannot write .*No space left"):
        logs.TensorBoardLog(str(tmp_path), start_step=1)
    assert path.read_bytes() == content and sorted(path.parent.iterdir()) == [path]


def test_a_new_file_is_read_last(tmp_path):
    """Of one second, the tenth file of a process would come before its second."""
    second = int(time.time())
    path = tmp_path / f"events.out.tfevents.{second}.host.1.9.v2"
    path.touch()
    events.await_new_name(tmp_path)
    assert time.time() >= second + 1
    path.rename(tmp_path / f"events.out.tfevents.{second - 5}.host.1.9.v2")
    path.with_name(f"events.out.tfevents.{second + 100}.host.1.0.v2").touch()  # another host's clock
    path.with_name("events.out.tfevents.odd").touch()
    started = time.monotonic()
    events.await_new_name(tmp_path)
    assert time.monotonic() - started < 0.5


def test_a_split_must_be_one_of_three(tmp_path):
    with pytest.raises(UserError, match="a split that is one of .*split='val'"):
        logs.TensorBoardLog(str(tmp_path)).scalars("val", {"loss": 1.0}, 1)


def test_scalars_take_numbers_and_tensors(tmp_path):
    log = logs.TensorBoardLog(str(tmp_path))
    log.scalars("train", {"a": 1, "b": np.float32(0.5), "c": tf.constant(2.0), "d": float("nan")}, 7)
    log.flush()
    for tag, value in (("a", 1.0), ("b", 0.5), ("c", 2.0)):
        assert points(tmp_path, "train", tag) == [(7, value)]
    assert np.isnan(points(tmp_path, "train", "d")[0][1])
    log.close()
    log.close()


def test_class_f1_has_a_curve_per_class_and_a_picture(tmp_path):
    log = logs.TensorBoardLog(str(tmp_path))
    f1 = np.linspace(0, 0.6, len(ODD_NAMES))
    f1[1] = np.nan  # a class without clips
    log.class_f1(f1, ODD_NAMES, 5)
    log.class_f1(f1, ODD_NAMES, 9, split="test")
    log.close()
    curves = set(read(tmp_path, "validation").Tags()["tensors"])
    names = ("Tai Chi", "50% $x_1$ <i>|`", "été 太极", "no UTF-8 \\udce9", "two\nlines", " ")
    assert curves == {"per_class_f1"} | {f"per_class_f1/{name}" for name in names}
    assert points(tmp_path, "validation", "per_class_f1/ ") == [(5, 0.6)]
    assert points(tmp_path, "test", "per_class_f1/Tai Chi") == [(9, 0.0)]
    with pytest.raises(UserError, match="an F1 for each class"):
        log.class_f1(f1[:2], ODD_NAMES, 5)


def test_mistakes_are_strips_of_the_clips_own_frames(tmp_path):
    """15 frames of one grey each: eight of them, evenly spaced, the first and the last among them."""
    grey = np.arange(60, 210, 10, dtype=np.uint8)
    video = np.broadcast_to(grey[:, None, None, None], (2, 15, 64, 48, 3)).copy()
    video[1] += 5
    log = logs.TensorBoardLog(str(tmp_path))
    captions = ["v_Biking_g04_c02: true Biking, predicted Diving (0.93)", ODD_NAMES[2] + ODD_NAMES[4]]
    log.mistakes(video, captions, 3)
    log.close()
    drawn = picture(tmp_path, "validation", "mistakes")
    rows = [60, 60 + drawn.shape[0] // 2]  # within the first and the second strip
    for row, first in zip(rows, (60, 65)):
        line = drawn[row, :, 0]
        frames = [60 + 10 * i + first - 60 for i in (0, 2, 4, 6, 8, 10, 12, 14)]
        seen = [int(value) for value in line[line != 255]]
        assert seen == [value for value in frames for _ in range(2 * 48)]  # twice as large
    assert (drawn[:20] < 128).any()  # a caption


def test_no_mistakes_are_shown_as_such(tmp_path):
    log = logs.TensorBoardLog(str(tmp_path))
    log.mistakes(np.zeros((0, 15, 64, 64, 3), np.uint8), [], 3)
    log.close()
    drawn = picture(tmp_path, "validation", "mistakes")
    assert drawn.min() < 128 < drawn.max()
    with pytest.raises(UserError, match="a caption for each clip"):
        log.mistakes(np.zeros((1, 15, 64, 64, 3), np.uint8), [], 3)


def test_clips_keep_all_their_frames(tmp_path):
    log = logs.TensorBoardLog(str(tmp_path))
    video = np.random.default_rng(0).integers(0, 256, (2, 15, 8, 6, 3), dtype=np.uint8)
    log.clips("training clips", video)
    log.close()
    np.testing.assert_array_equal(
        picture(tmp_path, "train", "training clips"), video.transpose(0, 2, 1, 3, 4).reshape(16, 90, 3)
    )


def test_the_card_shows_every_value_as_it_is(tmp_path):
    odd = {"pipe": "a|b", "tick": "`x`", "html": "<b>&amp;", "star": "*a* _b_ \\", "empty": "", "none": None}
    log = logs.TensorBoardLog(str(tmp_path), start_step=0)
    log.card(data={"fingerprint": "9f" * 32}, flags=odd | {"lines": "a\nb"} | {"p\udce9": "\udce9`"})
    log.close()
    html = text(tmp_path, "run")
    assert "<h3>Data</h3>" in html and "<h3>Flags</h3>" in html and html.count("<table>") == 2
    assert f"<td><code>{'9f' * 32}</code></td>" in html
    for shown in ("a|b", "`x`", "&lt;b&gt;&amp;amp;", "*a* _b_ \\", "None", "a b", "\\udce9`"):
        assert f"<td><code>{shown}</code></td>" in html, shown
    assert html.count("<tr>") == 2 + 1 + 8 and html.count("<td") == 2 * 9


def table_of_runs(folder):
    """The rows of the HParams page, as its own backend answers: {run: (flags, scores)}, and its columns."""
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(folder))
    backend = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    request = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=100,
        allowed_statuses=[api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_RUNNING, api_pb2.STATUS_SUCCESS],
    )
    found = list_session_groups.Handler(context.RequestContext(), backend, "", request).run()
    rows = {}
    for group in found.session_groups:
        assert len(group.sessions) == 1
        flags = {name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()}
        scores = {f"{m.name.group} {m.name.tag}": round(m.value, 4) for m in group.metric_values}
        rows[group.name] = flags, scores
    metadata = backend.hparams_metadata(context.RequestContext(), "")
    experiment = backend.experiment_from_metadata(context.RequestContext(), "", True, metadata, None)
    return (
        rows,
        [info.name for info in experiment.hparam_infos],
        [m.display_name for m in experiment.metric_infos],
    )


def test_runs_compare_in_one_table(tmp_path):
    for name, rate in (("first", 0.1), ("second", 0.2)):
        values = {
            "model": "lstm",
            "learning_rate": rate,
            "flip": True,
            "folds": (1, 2),
            "a": None,
            "b": np.int64(1),
            "c": 2,
        }
        for start_step in (0, 10):  # interrupted, and gone on
            log = logs.TensorBoardLog(str(tmp_path / name), start_step=start_step)
            log.hparams(values | {"epochs": start_step})
            log.scalars(
                "validation", {"accuracy": rate + start_step, "macro_f1": rate, "other": 9.0}, start_step + 5
            )
            log.close()
    log = logs.TensorBoardLog(str(tmp_path / "first"), start_step=15)
    log.scalars("test", {"accuracy": 0.7, "macro_f1": 0.6}, 15)
    log.close()
    rows, flags, scores = table_of_runs(tmp_path)
    assert set(rows) == {"first", "second"}
    expected = {
        "model": "lstm",
        "flip": True,
        "folds": "1, 2",
        "a": "None",
        "b": 1.0,
        "c": 2.0,
        "epochs": 10.0,
    }
    assert rows["first"][0] == expected | {"learning_rate": 0.1}
    assert rows["first"][1] == {
        "validation accuracy": 10.1,
        "validation macro_f1": 0.1,
        "test accuracy": 0.7,
        "test macro_f1": 0.6,
    }
    assert rows["second"][1] == {"validation accuracy": 10.2, "validation macro_f1": 0.2}
    assert scores == ["validation accuracy", "validation macro_f1", "test accuracy", "test macro_f1"]
    assert set(flags[:5]) == {"model", "learning_rate", "flip", "folds", "a"}  # the first that were given
    assert set(flags[5:]) == {"b", "c", "epochs"}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KB, with a function that fills it."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")

    def fill():
        with contextlib.suppress(OSError), open(tmp_path / "filling", "wb", buffering=0) as file:
            while True:
                file.write(bytes(1024))

    yield tmp_path, fill
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_full_disk_is_named(small_disk):
    folder, fill = small_disk
    log = logs.TensorBoardLog(str(folder / "run"))
    log.scalars("train", {"loss": 1.0}, 1)
    log.flush()
    fill()
    writes = {
        "a curve": lambda: log.scalars("validation", {"loss": 1.0}, 2),
        "many points": lambda: [log.scalars("train", {"x" * 500: 1.0}, step) for step in range(20)],
        "the row of the run": lambda: log.hparams({"seed": 1}),
    }
    for name, write in writes.items():
        with pytest.raises(UserError, match="Cannot write .*No space left on device") as raised:
            write()
        assert str(folder / "run" / "tensorboard") in str(raised.value), name
        assert not re.search(r"\{\{|\[Op:|Out of memory|\n", str(raised.value)), name
    log.close()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "tensorboard").touch()
    with pytest.raises(UserError, match="Cannot write TensorBoard's files in .*is not a directory"):
        logs.TensorBoardLog(str(tmp_path)).scalars("train", {"loss": 1.0}, 1)


def test_a_log_that_writes_nothing_leaves_the_callers_writer_alone(tmp_path):
    with tf.summary.create_file_writer(str(tmp_path / "theirs")).as_default(step=3):
        log = logs.TensorBoardLog(str(tmp_path / "run"), writes=False)
        log.scalars("train", {"loss": 1.0}, 5)
        log.close()
    [path] = (tmp_path / "theirs").iterdir()
    assert [event.WhichOneof("what") for event in tf.compat.v1.train.summary_iterator(str(path))] == [
        "file_version"
    ]
