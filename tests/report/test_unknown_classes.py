"""The report's section on unknown classes, from results that never ran, and from trainings on planted corpora."""

import dataclasses
import itertools

import numpy as np
import pytest

from tests.conftest import run_module
from tests.report.tiny import tiny_cell, tiny_results
from tools import make_demo_videos
from tools.scenarios import SCENARIOS
from ucf50_tfrecord.drawing.document import Heading, Paragraph, Table
from ucf50_tfrecord.evaluation import result_files, unknown
from ucf50_tfrecord.evaluation.results import Cell, CellResult, Results
from ucf50_tfrecord.evaluation.unknown import Score
from ucf50_tfrecord.report import build, unknown_classes

CLASSES = tuple("abcdefgh")


def made_up(shift: float, *, seed: int = 0, num_seeds: int = 2) -> Results:
    """Makes results of trainings without each of 8 classes, 2 at a time, on 20 clips of each class in 10 groups.

    Args:
      shift: what makes unknown classes look different: their logits of known classes are lower, and their
        neighbors farther, by this many standard deviations. 0 makes them look like known ones.
      seed: seed of the random logits and distances.
      num_seeds: trainings per set.
    """
    rng = np.random.default_rng(seed)
    labels, groups = np.tile(np.arange(8), 20), np.repeat(np.arange(10), 16)
    cells = []
    for held_out, number in itertools.product(unknown.class_sets(CLASSES, 2), range(num_seeds)):
        is_unknown = np.isin(labels, held_out)
        logits = rng.normal(0, 1, (160, 8))
        known = np.setdiff1d(np.arange(8), held_out)
        logits[np.arange(160), rng.choice(known, 160)] += 3  # each clip looks like some known class
        logits *= np.where(is_unknown, np.exp(-shift), 1)[:, np.newaxis]
        cells.append(
            CellResult(
                cell=Cell(model="lstm", seed=number, held_out=held_out),
                architecture="lstm",
                clips=np.arange(160),
                logits={"none": logits.astype(np.float32)},
                recurrence=None,
                run_dir="",
                precision="float32",
                neighbor_distances=rng.normal(1 + shift * is_unknown, 1),
            )
        )
    return Results(
        name="made up",
        classes=CLASSES,
        num_frames=8,
        ids=tuple(f"{CLASSES[label]}/v{i}" for i, label in enumerate(labels)),
        labels=labels,
        groups=groups,
        folds=groups,
        cells=tuple(cells),
    )


def auroc(results: Results, score: Score, model: str = "lstm"):
    found = unknown_classes.detections(results, results.cells, model, score)
    return unknown_classes.measure(found, "auroc")


@pytest.mark.parametrize("score", Score)
def test_different_classes_are_told_from_known_ones(score):
    found = auroc(made_up(6.0), score)
    assert 0.95 < found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize("score", Score)
def test_the_interval_of_indistinguishable_classes_mostly_holds_a_half(score):
    found = [auroc(made_up(0.0, seed=seed), score) for seed in range(40)]
    missed = sum(not one.low <= 0.5 <= one.high for one in found)
    assert missed <= 5  # of 40; 2 are expected
    assert abs(np.mean([one.value for one in found]) - 0.5) < 0.01


def test_the_section_has_each_model_and_score_and_the_hardest_classes_first():
    results = made_up(1.0)
    blocks = list(unknown_classes.section(results))
    assert isinstance(blocks[0], Heading) and blocks[0].text == "Unknown classes"
    measures, hardest = (block for block in blocks if isinstance(block, Table))
    assert [row[:2] for row in measures.rows] == [["lstm", score] for score in Score]
    for score, row in zip(Score, measures.rows):
        estimate = auroc(results, score)
        assert row[2] == f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
        assert all("nan" not in cell for cell in row)
    values = [float(row[1]) for row in hardest.rows]
    assert len(values) == 4 and values == sorted(values)
    assert "2 of the 8 classes at a time, in 4 sets" in blocks[1].text and "AUPR 0.250" in blocks[1].text
    assert blocks[0] in build.build(results, []).blocks


def test_without_held_out_classes_there_is_no_section():
    assert not list(unknown_classes.section(tiny_results([tiny_cell("lstm", "aabbcc")])))


def test_trainings_whose_test_clips_are_of_one_kind_are_left_out_and_counted():
    results = made_up(1.0)
    first = results.cells[0]
    known = np.flatnonzero(~np.isin(results.labels, first.cell.held_out))
    lonely = dataclasses.replace(
        first,
        clips=known,
        logits={"none": first.logits["none"][known]},
        neighbor_distances=first.neighbor_distances[known],
    )
    cells = (lonely, *results.cells[1:])
    texts = [
        block.text
        for block in unknown_classes.section(dataclasses.replace(results, cells=cells))
        if isinstance(block, Paragraph)
    ]
    assert texts[0].startswith("1 of 8 trainings are left out")
    alone = list(unknown_classes.section(dataclasses.replace(results, cells=(lonely,))))
    assert [type(block) for block in alone] == [Heading, Paragraph]


def test_a_set_has_one_value_however_many_trainings_it_has():
    results = made_up(1.0, num_seeds=1)
    twice = dataclasses.replace(results, cells=results.cells * 2)
    assert auroc(twice, Score.ENERGY) == auroc(results, Score.ENERGY)


NUM_FRAMES = 4


@pytest.mark.slow
@pytest.mark.parametrize("scenario, is_planted", [("background", True), ("nothing", False)])
def test_a_model_notices_an_unknown_place_but_not_a_class_like_all_others(scenario, is_planted, tmp_path):
    planted = SCENARIOS[scenario]
    for item in itertools.product(planted.classes, range(1, 13), range(1, 4)):
        make_demo_videos.write_clip(
            tmp_path / "videos", item, scenario=planted, seed=0, num_frames=NUM_FRAMES
        )
    options = [f"--frames={NUM_FRAMES}", "--size=32", f"--data={tmp_path / 'data'}", "--jobs=1"]
    settings = ["--epochs=15", "--batch_size=16", "--precision=float32", "--seeds=1", "--cv=2", "--orders="]
    result = run_module(
        "pipelines.compare",
        f"--videos={tmp_path / 'videos'}",
        f"--output={tmp_path / 'out'}",
        *["--models=frame_pool", "--audit=none", "--hold_out_classes=1", *options, *settings],
    )
    assert result.returncode == 0, result.stderr
    assert "Unknown classes" in (tmp_path / "out" / "report.md").read_text()
    results = result_files.load(tmp_path / "out" / "results.json")
    held_out = tuple(one for one in results.cells if one.cell.held_out)
    assert len(held_out) == len(planted.classes)
    found = {
        score: auroc(dataclasses.replace(results, cells=held_out), score, "frame_pool") for score in Score
    }
    if is_planted:
        assert found[Score.NEIGHBORS].value > 0.95 and found[Score.SOFTMAX].value > 0.8, found
    else:  # 4 sets with 18 unknown clips each
        assert found[Score.NEIGHBORS].low <= 0.5 <= found[Score.NEIGHBORS].high, found
        assert all(0.35 < estimate.value < 0.65 for estimate in found.values()), found
