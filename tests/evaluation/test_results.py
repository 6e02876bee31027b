import dataclasses
import json
import re

import numpy as np
import pytest

from tests.report.tiny import tiny_cell, tiny_results
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import result_files, runner
from ucf50_tfrecord.evaluation.attribution import Attribution
from ucf50_tfrecord.evaluation.results import Cell, TrainingCost, incomplete

RECURRENCE = {
    "loss_gradient": [1.0] * 8,
    "logit_gradient": [1.0] * 8,
    "memory_gradient": [1.0] * 8,
    "memory_frames": 3.0,
    "probe_accuracy": [0.5] * 8,
    "gates": {"input": [0.5] * 8},
}
NEAREST = {"accuracy": 0.5, "same_recording": None, "near_duplicates": 0.1, "pairs": [[0, 1, 0.9]]}
ATTRIBUTIONS = (Attribution(clip=2, prior=0.25, contributions=(0.5, -0.125) * 4),)


COST = TrainingCost(num_clips=208, clips_per_sec=31.5, num_parameters=1234)


@pytest.fixture
def results():
    cells = [
        dataclasses.replace(tiny_cell("lstm", "aabbcc", recurrence=RECURRENCE, reverse="aabbca"), cost=COST),
        dataclasses.replace(tiny_cell("frame_pool", "aabbca"), attributions=ATTRIBUTIONS),
    ]
    return tiny_results(cells, audit={"group": NEAREST})


def test_results_are_read_as_they_were_written(results, tmp_path):
    result_files.save(tmp_path, results)
    loaded = result_files.load(tmp_path / "results.json")
    assert (loaded.ids, loaded.classes, loaded.audit) == (results.ids, results.classes, results.audit)
    assert loaded.of_features is False
    for found, cell in zip(loaded.cells, results.cells, strict=True):
        assert (found.cell, found.recurrence) == (cell.cell, cell.recurrence)
        assert found.attributions == cell.attributions
        np.testing.assert_equal(dict(found.logits), cell.logits)
        assert found.cost == cell.cost
    (tmp_path / "costs.json").unlink()  # as in results of earlier versions
    assert [found.cost for found in result_files.load(tmp_path / "results.json").cells] == [None, None]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"clips_per_sec": 0}, "[0].cost.clips_per_sec: Expected float >= 1e-06"),
        ({"num_clips": 0}, "[0].cost.num_clips: Expected int >= 1"),
        ({"more": 1}, "Expected known fields. Received: '[0].cost.more'"),
    ],
    ids=str,
)
def test_hostile_costs_are_refused_with_their_field(results, tmp_path, change, message):
    result_files.save(tmp_path, results)
    path = tmp_path / "costs.json"
    [cell] = json.loads(path.read_text())
    path.write_text(json.dumps([cell | {"cost": cell["cost"] | change}]))
    expected = f"{path} is not the costs of a comparison's trainings: {message}"
    with pytest.raises(UserError, match=re.escape(expected)):
        result_files.load(tmp_path / "results.json")


@pytest.mark.parametrize(
    "change, received",
    [
        (lambda cells: cells + cells, "cells=2, distinct=1, unknown=[]"),
        (lambda cells: [cells[0] | {"seed": 7}], "cells=1, distinct=1, unknown=['lstm-part1-seed7']"),
    ],
    ids=["twice", "of another comparison"],
)
def test_costs_of_other_cells_are_refused(results, tmp_path, change, received):
    result_files.save(tmp_path, results)
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    message = f"Expected each of the comparison's cells at most once in {path}. Received: {received}"
    with pytest.raises(UserError, match=re.escape(message)):
        result_files.load(tmp_path / "results.json")


def test_a_damaged_cost_of_a_cell_can_be_removed(tmp_path):
    assert result_files.load_cost(tmp_path) is None
    result_files.save_cost(tmp_path, COST)
    assert result_files.load_cost(tmp_path) == COST
    path = tmp_path / "cost.json"
    path.write_text("{}")
    message = f"{path} is not a training's cost: Expected a field num_clips.* Without this file, the cost is unknown"
    with pytest.raises(UserError, match=message):
        result_files.load_cost(tmp_path)


def test_failed_cells_are_read_as_they_were_written(results, tmp_path):
    failed = {Cell(model="lstm", part=1, seed=1): "its process was killed by SIGKILL"}
    left_out = (Cell(model="lstm", seed=1),)
    result_files.save(tmp_path, dataclasses.replace(results, failed=failed, left_out=left_out))
    loaded = result_files.load(tmp_path / "results.json")
    assert (loaded.failed, loaded.left_out) == (failed, left_out)


def test_results_of_a_version_that_held_no_classes_out_are_read(results, tmp_path):
    result_files.save(tmp_path, results)
    value = json.loads((tmp_path / "results.json").read_text())
    assert [cell.pop("held_out") for cell in value["cells"]] == [[], []]
    assert [cell.pop("neighbor_distances") for cell in value["cells"]] == [None, None]
    (tmp_path / "results.json").write_text(json.dumps(value))
    loaded = result_files.load(tmp_path / "results.json")
    assert [found.cell for found in loaded.cells] == [cell.cell for cell in results.cells]


def test_results_of_a_version_that_knew_no_failed_cells_are_read(results, tmp_path):
    result_files.save(tmp_path, results)
    value = json.loads((tmp_path / "results.json").read_text())
    assert value.pop("failed") == value.pop("left_out") == []
    (tmp_path / "results.json").write_text(json.dumps(value))
    loaded = result_files.load(tmp_path / "results.json")
    assert (loaded.failed, loaded.left_out) == ({}, ())


def test_only_parts_of_the_failed_cells_own_seed_are_incomplete():
    cells = [
        Cell(model=model, training=training, split=split, part=part, seed=seed)
        for model in ("lstm", "rnn")
        for training in ("kept", "shuffled")
        for split in ("group", "video")
        for part in range(3)
        for seed in range(2)
    ]
    failed = cells.pop(cells.index(Cell(model="rnn", training="shuffled", part=1, seed=1)))
    assert incomplete(cells, []) == ()
    assert incomplete(cells, [failed]) == (
        Cell(model="rnn", training="shuffled", part=0, seed=1),
        Cell(model="rnn", training="shuffled", part=2, seed=1),
    )


def test_results_of_earlier_versions_do_not_know_donors(results, tmp_path):
    result_files.save(tmp_path, results)
    path = tmp_path / "results.json"
    value = json.loads(path.read_text())
    del value["of_features"], value["cells"][0]["attributions"]
    path.write_text(json.dumps(value))
    loaded = result_files.load(path)
    assert loaded.of_features is None and loaded.cells[0].attributions == ()


def first(value):
    return value["cells"][0]


def attributed(value):
    return value["cells"][1]["attributions"][0]


HOSTILE = {
    "clips.label[0]: Expected int. Received: None": lambda v: v["clips"]["label"].__setitem__(0, None),
    "clips: Expected an entry for each clip": lambda v: v["clips"]["label"].pop(),
    "clips: Expected distinct ids": lambda v: v["clips"]["id"].__setitem__(0, v["clips"]["id"][1]),
    "Expected labels below 3. Received: label=9": lambda v: v["clips"]["label"].__setitem__(0, 9),
    "Expected 2 or more distinct classes": lambda v: v.update(classes=["a"]),
    "cells[0]: Expected a model out of": lambda v: first(v).update(architecture="vgg"),
    "cells[0].recurrence: Expected curves": lambda v: first(v)["recurrence"]["loss_gradient"].pop(),
    "Expected contributions of 8 frames. Received: contributions=7": lambda v: attributed(v)[
        "contributions"
    ].pop(),
    "Expected clips below 6 in attributions. Received: clip=6": lambda v: attributed(v).update(clip=6),
    "cells[1].attributions[0].prior": lambda v: attributed(v).update(prior=1.5),
    "Expected loss_gradient of 9 frames": lambda v: v.update(num_frames=9),
    "Expected pairs of clips below 6": lambda v: v["audit"]["group"].update(pairs=[[0, 99, 0.5]]),
    "Expected at least 1 cell, and each cell once": lambda v: v["cells"].append(first(v)),
    "Expected at least 1 cell, and each cell once. Received: cells=3": lambda v: v.update(
        failed=[{"model": "lstm", "reason": "it crashed"}]
    ),
    "Expected no cells of seeds of which a part failed. Received: cells=['lstm-part1-seed0']": lambda v: (
        v.update(failed=[{"model": "lstm", "part": 1, "reason": "it crashed"}])
    ),
    "failed[0].reason: Expected str of length >= 1": lambda v: v.update(
        failed=[{"model": "a", "reason": ""}]
    ),
    "Expected known fields. Received: 'cells[1].more'": lambda v: v["cells"][1].update(more=1),
}


@pytest.mark.parametrize("message", HOSTILE)
def test_hostile_results_are_refused_with_their_field(results, tmp_path, message):
    path = tmp_path / "results.json"
    result_files.save(tmp_path, results)
    value = json.loads(path.read_text())
    HOSTILE[message](value)
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match=f"{path} is not a comparison's results: {re.escape(message)}"):
        result_files.load(path)


def test_results_that_hold_the_predictions_themselves_are_of_an_earlier_version(results, tmp_path):
    result_files.save(tmp_path, results)
    (tmp_path / "predictions.parquet").unlink()
    message = "Expected predictions.parquet beside .*results.json.* a version before 2026-11-27 .* run the comparison"
    with pytest.raises(UserError, match=message):
        result_files.load(tmp_path / "results.json")
    with pytest.raises(UserError, match="Cannot read .*nothing/results.json: No such file"):
        result_files.load(tmp_path / "nothing" / "results.json")


def test_a_cell_of_another_comparison_is_refused(results, tmp_path):
    assert not result_files.has_cell(tmp_path)
    result_files.save_cell(tmp_path, results, results.cells[0])
    assert result_files.has_cell(tmp_path)
    assert result_files.load_cell(tmp_path, results).cell == results.cells[0].cell
    for changes, message in (
        (
            {"ids": ("b/other", *results.ids[1:])},
            "predictions.parquet .*values of the comparison in column clip",
        ),
        ({"classes": ("a", "b", "d")}, "predictions.parquet .*values of the comparison in column class_name"),
        (
            {"num_frames": 7},
            "cell.json is not a cell's result of this comparison: Expected loss_gradient of 7",
        ),
    ):
        with pytest.raises(UserError, match=message):
            result_files.load_cell(tmp_path, dataclasses.replace(results, **changes))


def test_a_cell_of_an_earlier_version_is_not_finished(results, tmp_path):
    (tmp_path / "cell.json").write_text("{}")
    assert not result_files.has_cell(tmp_path)
    result_files.save_cell(tmp_path, results, results.cells[0])
    assert result_files.load_cell(tmp_path, results).cell == results.cells[0].cell


def test_a_cell_whose_predictions_cannot_be_written_is_not_finished(results, tmp_path):
    broken = dataclasses.replace(results.cells[0], logits={"none": np.zeros((6, 3)), "reverse": "no array"})
    (tmp_path / "cell.json").write_text("{}")
    with pytest.raises(AttributeError):
        result_files.save_cell(tmp_path, results, broken)
    assert not list(tmp_path.iterdir())


LINE = {"clip_id": "a/x", "perturbation": "none", "fold": 1, "group": -1, "label": 0, "logits": [1.0, 2.0]}
WRONG_LINES = {
    "line 2: Expected a label below 2. Received: label=2": LINE | {"clip_id": "b", "label": 2},
    "line 2: Expected 2 logits. Received: logits=3": LINE | {"clip_id": "b", "logits": [1, 2, 3]},
    "line 2: logits[1]: Expected float. Received: None": LINE | {"clip_id": "b", "logits": [1, None]},
    "line 2: Expected one line per clip and perturbation": LINE,
    "line 2: Expected one label, group and fold per clip": LINE | {"perturbation": "shuffle1", "label": 1},
    "line 2: NaN is no JSON number": LINE | {"logits": [1.0, float("nan")]},
    "line 2: Expected object. Received: 5": 5,
    "line 2: Object contains unknown field": LINE | {"more": 1},
}


@pytest.mark.parametrize("message", WRONG_LINES)
def test_a_wrong_line_of_predictions_is_named(tmp_path, message):
    path = tmp_path / "predictions.jsonl"
    path.write_text(f"{json.dumps(LINE)}\n{json.dumps(WRONG_LINES[message])}\n")
    with pytest.raises(
        UserError, match=re.escape(f"{path} does not hold predictions of 2 classes: {message}")
    ):
        runner.load_predictions(path, 2)
    path.write_text(json.dumps(LINE))
    assert [dataclasses.is_dataclass(line) or line.label for line in runner.load_predictions(path, 2)] == [0]
