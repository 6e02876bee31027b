"""The files that a check writes: JSON, the page, TensorBoard's scalars and Prometheus' text."""

import json
import math
import re

import numpy as np
import pytest

from tests.monitoring.made_up import CLASSES, make_videos
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.monitoring import page, prometheus
from ucf50_tfrecord.monitoring.drift import MIN_RECORDINGS
from ucf50_tfrecord.monitoring.reference import Reference
from ucf50_tfrecord.monitoring.results import check_stream
from ucf50_tfrecord.monitoring.stream import Batch
from ucf50_tfrecord.monitoring.videos import Videos
from ucf50_tfrecord.training import events

HOSTILE = 'a"b\\c\nd\udcff'


def make_reference(num_recordings=60, missing=""):
    videos, recordings = make_videos(np.random.default_rng(0), num_recordings)
    return Reference(videos=videos, ids=(), recordings=recordings, groups=recordings, missing=missing)


def check(*batches, reference=None, run="pool"):
    return check_stream(
        reference or make_reference(),
        batches,
        run=run,
        model="lstm",
        weights="last",
        classes=CLASSES,
        level=0.05,
    )


@pytest.fixture(scope="module")
def results():
    same, _ = make_videos(np.random.default_rng(1), 80)
    dark, _ = make_videos(np.random.default_rng(2), 20, darker=5)
    none = same.select(np.arange(0))
    return check(
        Batch(name="1", videos=same, num_failed=0),
        Batch(name="2", videos=dark, num_failed=1),
        Batch(name="3", videos=none, num_failed=2),
        run=HOSTILE,
    )


def parse(text):
    """Parses Prometheus' text format strictly: a family is its help, its type, and then its samples."""
    found, name = {}, ""
    assert text.endswith("\n") and "\r" not in text
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = re.fullmatch(r"# HELP ([a-z_][a-z0-9_]*) [^\\\n]+", line)[1]
            assert name not in found
            found[name] = None
        elif line.startswith("# TYPE "):
            assert line == f"# TYPE {name} gauge" and found[name] is None
            found[name] = {}
        else:
            label = r'[a-z_]+="(?:[^"\\\n]|\\["\\n])*"'
            match = re.fullmatch(rf"({name})\{{({label}(?:,{label})*)\}} (\S+)", line)
            assert match, line
            assert match[2] not in found[name]
            found[name][match[2]] = float(match[3])
    return found


def test_prometheus_text_is_valid_and_escapes_names(results):
    text = prometheus.to_text(results, 1234.5)
    text.encode()  # valid UTF-8 although the name is not
    found = parse(text)
    run = r'run="a\"b\\c\nd\\udcff"'
    assert found["ucf50_monitor_drift"] == {f'{run},batch="{n}"': n == 2 for n in (1, 2, 3)}
    assert found["ucf50_monitor_failed_videos"][f'{run},batch="3"'] == 2
    assert found["ucf50_monitor_findable"][f'{run},batch="3"'] == math.inf
    assert found["ucf50_monitor_alarm"][f'{run},batch="2",measure="brightness"'] == 1
    assert found["ucf50_monitor_alarm"][f'{run},batch="1",measure="brightness"'] == 0
    assert len(found["ucf50_monitor_p_value"]) == 12
    assert found["ucf50_monitor_time_seconds"] == {run: 1234.5}


def test_json_holds_all_numbers(results):
    value = json.loads(json.dumps(results.to_json(), allow_nan=False))
    assert value["drift"] is True and value["reference"]["recordings"] == 60
    first, second, third = value["batches"]
    assert second["finding"] == "drift" and second["tests"]["brightness"]["alarm"]
    assert second["tests"]["softmax"]["class"] in CLASSES
    assert first["finding"] == "no drift found" and sum(first["classes"].values()) == pytest.approx(
        1, abs=1e-4
    )
    assert third == {
        "name": "3",
        "failed": 2,
        "videos": 0,
        "finding": "too few videos to tell",
        "findable": None,
        "videos_needed": first["videos_needed"],
        "tests": {},
    }
    # Of three batches, two are tested; each of six measures gets its part.
    assert first["tests"]["softmax"]["level"] == 0.05 / 2 / 6


def test_tensorboard_reads_the_scalars(results, tmp_path):
    path = tmp_path / "events.out.tfevents.0000000000.monitor"
    for _ in range(2):  # the second one replaces the first
        events.write_scalars(path, results.scalars())
    curves = events.read_scalars(tmp_path)
    assert curves["drift"] == [(1, 0), (2, 1), (3, 0)] and curves["failed"] == [(1, 0), (2, 1), (3, 2)]
    steps, values = zip(*curves["mean/brightness"])
    assert steps == (1, 2) and values[1] < 0.1 < values[0]
    assert {"p/softmax", "statistic/frame_rate", "threshold/classes"} <= curves.keys()


def test_the_page_shows_findings_figure_and_tests(results, tmp_path):
    page.write(tmp_path, page.build(results))
    text = (tmp_path / "monitor.md").read_text()
    assert "3 batches: drift in 1, no drift found in 1, too few videos to tell in 1" in text
    assert "drift: brightness" in text and "3 of" in text and "| alarm |" in text
    assert (tmp_path / "figures" / "measures.png").stat().st_size > 5000
    assert "<script" not in (tmp_path / "monitor.html").read_text()


def test_notes_say_what_was_left_out():
    stream, _ = make_videos(np.random.default_rng(1), 80)
    bare = Videos(probabilities=stream.probabilities)
    [note] = check(Batch(name="all", videos=bare, num_failed=0)).notes()
    assert note.startswith("brightness, motion_energy, frame_rate: left out where the predictions")
    whole = make_reference()
    lost = Reference(
        videos=Videos(probabilities=whole.videos.probabilities),
        ids=(),
        recordings=whole.recordings,
        groups=whole.groups,
        missing="no shards",
    )
    results = check(Batch(name="all", videos=stream, num_failed=1), reference=lost)
    assert [test.measure for test in results.checks[0].tests] == ["softmax", "classes", "confidence"]
    first, second = results.notes()
    assert first.endswith("are unknown: no shards.") and "1 of" in second
    page.build(results)
    small = check(
        Batch(name="all", videos=stream, num_failed=0), reference=make_reference(MIN_RECORDINGS - 1)
    )
    assert "nothing is tested" in small.notes()[0] and not small.has_drifted
    page.build(small)


def test_a_stream_without_predictions_is_refused():
    none = make_reference().videos.select(np.arange(0))
    with pytest.raises(UserError, match="at least 1 predicted video. Received: failed=3"):
        check(Batch(name="all", videos=none, num_failed=3))
