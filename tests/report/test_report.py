"""The report, read back from its files."""

import dataclasses
import math
import re

import numpy as np
import pytest
from PIL import Image

from tests.drawing.test_document import Page
from tests.report import tiny
from tests.report.tiny import tiny_cell, tiny_results, tiny_verdict
from ucf50_tfrecord.evaluation import interventions, result_files
from ucf50_tfrecord.evaluation import verdicts as verdicts_lib
from ucf50_tfrecord.evaluation.attribution import Attribution
from ucf50_tfrecord.evaluation.results import TrainingCost
from ucf50_tfrecord.evaluation.verdicts import Answer
from ucf50_tfrecord.report import build as report
from ucf50_tfrecord.specs import printable

SECTIONS = [
    "Verdicts",
    "Data, models and trainings",
    "Scores",
    "Models against each other",
    "Costs",
    "Interventions at test time",
    "Interventions in training",
    "Inside the recurrence",
    "Errors",
    "Leak audit",
    "Published baseline",
    "How to read this",
]
TESTS = interventions.names(tiny.NUM_FRAMES)[1:]
ODD_NAMES = ("a<b>|&", "two\nlines $x_1$", "no UTF-8 \udce9")
NEAREST = {
    "accuracy": 0.5,
    "same_recording": 0.25,
    "near_duplicates": 0.125,
    "pairs": [[0, 1, 0.987], [2, 5, 0.5]],
}


def inside(**gates):
    """Returns a recurrence that forgets half of its memory at each step."""
    falling = (0.5 ** np.arange(tiny.NUM_FRAMES)[::-1]).tolist()
    return {
        "loss_gradient": falling,
        "logit_gradient": falling,
        "memory_gradient": falling,
        "memory_frames": sum(falling),
        "probe_accuracy": [0.75] * tiny.NUM_FRAMES,
        "gates": {name: [value] * tiny.NUM_FRAMES for name, value in gates.items()},
    }


def full_results(**options):
    """Returns a control and an RNN with mistakes, and an LSTM with mistakes under interventions alone."""
    shuffled = {name: "aabbaa" for name in interventions.SHUFFLES}
    cells = [
        tiny_cell("frame_pool", "aabbca", **{name: "aabbca" for name in TESTS}),
        dataclasses.replace(
            tiny_cell("rnn", "abbbca", recurrence=inside(), **{name: "abbbaa" for name in TESTS}),
            cost=TrainingCost(num_clips=1_200, clips_per_sec=40.0, num_parameters=12_345),
        ),
        tiny_cell(
            "lstm",
            "aabbcc",
            recurrence=inside(input=0.2, forget=0.9, output=0.5),
            **{name: "aabbaa" for name in TESTS},
        ),
        tiny_cell("lstm", "aabbaa", training="shuffled", **shuffled),
        tiny_cell("lstm", "abbbaa", training="single", middle1="abbbaa"),
        tiny_cell("lstm", "aabbcc", split="video"),
    ]
    return tiny_results(cells, audit={"group": NEAREST, "video": NEAREST}, **options)


def written(folder, results, *, judged=None, **options):
    """Writes a report and returns its page, its Markdown without escapes, and the pictures."""
    judged = verdicts_lib.judge(results) if judged is None else judged
    pictures = report.write(folder, results, judged, **options)
    markdown = re.sub(r"\\(.)", r"\1", (folder / "report.md").read_text())
    return Page((folder / "report.html").read_text()), markdown, pictures


def section(markdown, title):
    return markdown.split(f"\n## {title}\n")[1].split("\n## ")[0]


def row(markdown, *first):
    """Returns the other cells of the first row that begins with these cells."""
    start = f"| {' | '.join(first)} | "
    [line, *_] = [line for line in markdown.splitlines() if line.startswith(start)]
    return line.removeprefix(start).removesuffix(" |").split(" | ")


def read_clips(asked):
    """Returns a reader of frames whose grey value is 30 times the clip's index; it notes which clips it reads."""

    def read(clips):
        assert clips.dtype == np.int64
        asked.append(clips.tolist())
        shape = (len(clips), tiny.NUM_FRAMES, 16, 16, 3)
        return np.broadcast_to((30 * clips)[:, None, None, None, None], shape).astype(np.uint8)

    return read


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A report with all sections: its folder, page, Markdown, pictures, and the clips that were read."""
    folder, asked = tmp_path_factory.mktemp("report"), []
    return folder, *written(folder, full_results(), read_clips=read_clips(asked), notes=["By hand."]), asked


@pytest.fixture(scope="module")
def markdown(full):
    return full[2]


def test_sections_are_in_order_and_linked(full):
    _, page, markdown, _, _ = full
    assert re.findall(r"^## (.+)$", markdown, re.MULTILINE) == SECTIONS
    links = [link.removeprefix("#") for link in page.attributes("href")]
    assert len(links) == len(SECTIONS) and links == page.attributes("id")


def test_the_page_needs_no_network(full):
    folder, page, _, _, _ = full
    assert all(source.startswith("data:image/png;base64,") for source in page.attributes("src"))
    assert all(link.startswith("#") for link in page.attributes("href"))
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe"}
    for name in ("report.html", "report.md"):
        text = (folder / name).read_text()
        assert "://" not in text and "url(" not in text and "@import" not in text


def test_every_picture_is_in_both_files_and_has_a_description(full):
    folder, page, markdown, pictures, _ = full
    links = re.findall(r"\]\((figures/[^)]+)\)", markdown)
    assert sorted(links) == sorted(f"figures/{name}.png" for name in pictures)
    assert len(page.attributes("src")) == len(links) and all(page.attributes("alt"))
    for name, pixels in pictures.items():
        assert pixels.dtype == np.uint8 and pixels.shape[2] == 3 and min(pixels.shape) >= 3
        with Image.open(folder / "figures" / f"{name}.png") as image:
            assert image.size == pixels.shape[1::-1]


def test_the_overview_lists_data_and_models(full):
    _, page, markdown, _, _ = full
    assert "By hand." in page.text and "By hand." in markdown
    assert row(markdown, "Clips") == ["6, of 8 frames each"]
    assert row(markdown, "Recording groups") == ["3"]
    assert row(markdown, "Held out in turn") == ["1 parts by group, 1 parts by video"]
    assert row(markdown, "Models") == ["frame_pool, rnn, lstm"]
    assert row(markdown, "Order-blind models") == ["frame_pool"]
    assert row(markdown, "Trained on frames") == ["kept, shuffled, single"]


def test_every_verdict_is_quoted(full):
    _, page, markdown, _, _ = full
    judged = verdicts_lib.judge(full_results())
    assert len(judged) > 15
    for found in judged:
        assert found.text in page.text and f"- {found.text}\n" in markdown


def test_verdicts_are_sorted_by_answer(tmp_path):
    judged = [
        tiny_verdict("uses_direction", "lstm", answer=Answer.UNKNOWN),
        tiny_verdict("needs_full_rate", "lstm", answer=Answer.NO),
        tiny_verdict("above_chance", "lstm"),
    ]
    results = tiny_results([tiny_cell(model, "aabbcc") for model in ("frame_pool", "rnn", "lstm")])
    _, markdown, _ = written(tmp_path, results, judged=judged)
    wanted = [
        "### Yes (1)",
        judged[2].text,
        "### No (1)",
        judged[1].text,
        "### Cannot tell (1)",
        judged[0].text,
    ]
    places = [markdown.index(text) for text in wanted]
    assert places == sorted(places)
    assert row(markdown, "Does it need the full frame rate?") == ["", "", "no +0.20"]
    assert row(markdown, "Does it notice that time runs backwards?") == ["", "", "? +0.20"]


def test_horizons_are_given_for_models_that_recognise_something(tmp_path):
    names = {f"{end}{k}": "aabbcc" for end in ("first", "last") for k in (1, 2, 4)}
    names |= {"first1": "aaaaaa", "first2": "aaaaaa"}
    results = tiny_results([tiny_cell("lstm", "aabbcc", **names)])
    _, markdown, _ = written(tmp_path, results, judged=[tiny_verdict("above_chance", "lstm")])
    lost = "0.000 [0.000, 0.000]"
    assert f"The first 4 frames of 8 score like the whole clip for lstm: they cost {lost}." in markdown
    assert f"The last frame of 8 scores like the whole clip for lstm: it costs {lost}." in markdown
    _, markdown, _ = written(
        tmp_path, results, judged=[tiny_verdict("above_chance", "lstm", answer=Answer.NO)]
    )
    assert "like the whole clip for lstm" not in markdown


def test_order_blind_models_are_checked(markdown):
    num_predictions = 6 * sum(interventions.find(name).permutes for name in TESTS)  # of 6 clips
    assert f"any logit of frame_pool is 0, and 0 of {num_predictions} predictions change class" in markdown
    assert row(markdown, "rnn", "shuffle") == ["yes", "4", "4", "3 of 18"]
    assert "This check fails" not in markdown


def test_an_order_blind_model_that_sees_order_fails_the_check(tmp_path):
    broken = tiny_results([tiny_cell("frame_pool", "aabbcc", reverse="aabbca")])
    _, markdown, _ = written(tmp_path, broken)
    assert "This check fails" in markdown and "reverse changes its logits by up to 4" in markdown


def test_the_order_check_tolerates_rounding(tmp_path):
    cell = tiny_cell("frame_pool", "aabbcc", reverse="aabbcc")
    cell.logits["none"][:], cell.logits["reverse"][:] = 0.2399, 0.24
    _, markdown, _ = written(tmp_path, tiny_results([cell]))
    assert "any logit of frame_pool is 0.0001" in markdown and "This check fails" not in markdown


def test_scores(markdown):
    found = section(markdown, "Scores")
    accuracy, f1, by_seed, f1_by_seed = row(found, "frame_pool")
    assert accuracy.startswith("0.833 [") and by_seed == "0.833"  # 5 of 6
    assert f1.startswith("0.822 [") and f1_by_seed == "0.822"  # (4/5 + 1 + 2/3) / 3
    likely, other = math.exp(4) / (math.exp(4) + 2), 1 / (math.exp(4) + 2)
    loss = -(5 * math.log(likely) + math.log(other)) / 6
    losses, brier, area, calibration = row(found.split("Scores of the mean of the seeds'")[1], "frame_pool")
    assert losses.startswith(f"{loss:.3f} [") and calibration == f"{likely - 5 / 6:.3f}"
    wrong, right = likely**2 + (1 - other) ** 2 + other**2, (1 - likely) ** 2 + 2 * other**2
    assert brier.startswith(f"{(5 * right + wrong) / 6:.3f} [")
    assert area.startswith("0.167 [")  # all clips are equally confident: the error rate
    assert row(found, "c")[0] == "1.00 / 0.50 / 0.67"
    assert "gives accuracy 0.333 and macro F1 0.167" in found


def test_scores_of_videos_and_top_five(tmp_path):
    ids = [f"{letter}/v#{i}" for letter in "abc" for i in range(2)]
    cell = tiny_cell("lstm", "abbbcc", classes="abcdef", sure=(9, 4, 4, 4, 4, 4))
    cell.logits["none"][:, 5] -= 1  # the least probable, where others tie
    _, markdown, _ = written(tmp_path, tiny_results([cell], classes="abcdef", ids=ids))
    assert row(markdown.split("Scores of the mean of the seeds'")[1], "lstm")[-1] == "1.000"
    videos, accuracy, f1 = row(markdown.split("Scores of whole videos")[1], "lstm")
    assert videos == "3"
    assert accuracy.startswith("1.000 [") and f1.startswith("1.000 [")


def test_models_against_each_other(tmp_path):
    judged = [tiny_verdict("models_differ", "lstm", "rnn", answer=Answer.NO)]
    results = tiny_results([tiny_cell("rnn", "aabbca"), tiny_cell("lstm", "aabbcc")])
    _, markdown, _ = written(tmp_path, results, judged=judged)
    cells = row(markdown, "lstm over rnn")
    assert cells == ["+0.200 [+0.100, +0.300]", "+0.178 [–]", "0.01", "0.02", "0.03", "no"]


def test_costs(markdown):
    costs = section(markdown, "Costs")
    assert row(costs, "rnn")[:3] == ["0.5", "40", "12,345"]
    assert "frame_pool" not in costs  # its costs are unknown
    assert "![" in costs


def test_the_costs_of_several_trainings_are_a_median_and_a_range(tmp_path):
    costs = [
        TrainingCost(num_clips=6_000, clips_per_sec=speed, num_parameters=9) for speed in (10.0, 200.0, 100.0)
    ]
    cells = [
        dataclasses.replace(tiny_cell("lstm", "aabbcc", seed=seed), cost=cost)
        for seed, cost in enumerate(costs)
    ]
    cells.append(dataclasses.replace(tiny_cell("lstm", "aabbcc", training="shuffled"), cost=costs[0]))
    _, markdown, _ = written(tmp_path, tiny_results(cells))
    assert row(markdown, "lstm", "1 (0.5 to 10)")[:2] == ["100 (10 to 200)", "9"]


def test_interventions(markdown):
    found = section(markdown, "Interventions at test time")
    changes = [cell.split(" ")[0] for cell in row(found, "shuffle")]
    assert changes == ["+0.000", "-0.167", "-0.333"]  # of frame_pool, rnn, lstm
    assert [cell.split(" ")[0] for cell in row(found, "c")] == ["-0.500", "-1.000"]
    assert "shuffle1" not in found
    for name in ("reverse", "first<k>", "patches"):
        assert row(section(markdown, "How to read this"), name)


def test_interventions_in_training(markdown):
    found = section(markdown, "Interventions in training")
    assert [cell.split(" ")[0] for cell in row(found, "lstm")] == [
        "1.000",
        "0.667",
        "0.667",
        "0.667",
        "0.500",
    ]


def test_backgrounds(markdown):
    found = section(markdown, "Interventions at test time").split("### Foreground or background")[1]
    numbers = {
        "accuracy on the clip as it is": ("0.833", "0.667", "1.000"),
        "accuracy on the foreground alone": ("0.833", "0.500", "0.667"),
        "accuracy on the background alone": ("0.833", "0.500", "0.667"),
        "accuracy on another clip's background": ("0.833", "0.500", "0.667"),
        "contrasted accuracy": ("0.000", "0.000", "0.000"),  # the frozen frame gives the same predictions
    }
    for words, expected in numbers.items():
        assert tuple(cell.split(" ")[0] for cell in row(found, words)) == expected
    assert len(row(found, "swap error")) == 3
    assert row(found, "predicted as the donor's class without the swap")[2].startswith("0.000 [")


def test_the_swap_error_is_left_out_if_donors_are_unknown(tmp_path):
    results = tiny_results([tiny_cell("lstm", "aabbcc", background_swap="aabbaa")])
    _, markdown, _ = written(tmp_path, dataclasses.replace(results, of_features=None))
    assert "| accuracy on another clip's background | 0.667 [" in markdown
    assert "| swap error |" not in markdown and "| contrasted accuracy |" not in markdown


def test_the_oracle_of_single_frames(tmp_path):
    frames = {"first1": "aaaaaa", "middle1": "aabbaa", "last1": "ccccac"}
    _, markdown, _ = written(tmp_path, tiny_results([tiny_cell("lstm", "abbbca", **frames)]))
    assert row(markdown, "whole clip")[0].startswith("0.667 [")
    assert row(markdown, "middle frame")[0].startswith("0.667 [")
    assert row(markdown, "oracle single frame")[0].startswith("0.833 [")
    assert row(markdown, "oracle minus whole clip")[0].startswith("+0.167 [")


def test_pairs_of_a_clip_and_its_reverse(tmp_path):
    cells = [
        tiny_cell("frame_pool", "aabbcc", reverse="aabbcc"),
        tiny_cell("lstm", "aabbcc", reverse="bbabcc"),
    ]
    _, markdown, _ = written(tmp_path, tiny_results([*cells], labels="aaabcc"))
    assert "### Pairs of a clip" not in markdown  # no clip of b becomes a
    cells = [
        tiny_cell("frame_pool", "aabbcc", reverse="aabbcc"),
        tiny_cell("lstm", "aabacc", reverse="bbaacc"),
    ]
    _, markdown, _ = written(tmp_path, tiny_results([*cells], labels="aabbcc"))
    assert "### Pairs of a clip" not in markdown  # one clip of b is a: no majority
    cells = [
        tiny_cell("frame_pool", "aabbcc", reverse="aabbcc"),
        tiny_cell("lstm", "abbbcc", reverse="bbaacc"),
    ]
    _, markdown, _ = written(tmp_path, tiny_results([*cells], labels="aabbcc"))
    assert "such pairs are a and b." in markdown
    assert [cell.split(" ")[0] for cell in row(markdown, "other class for its reverse")] == ["0.000", "1.000"]
    assert [cell.split(" ")[0] for cell in row(markdown, "pair accuracy: both")] == ["0.000", "0.750"]


def test_the_effect_of_order_by_class(full):
    _, _, markdown, pictures, _ = full
    found = section(markdown, "Interventions in training")
    assert "- lstm with frame order: no class gains or loses beyond its interval." in found
    assert "order_by_class" in pictures and "where there are several" in found


def test_temporal_classes_are_named(tmp_path):
    names = {name: "a" * 16 for name in interventions.SHUFFLES}
    cells = [tiny_cell("lstm", "ab" * 8), tiny_cell("lstm", "a" * 16, training="shuffled", **names)]
    _, markdown, _ = written(tmp_path, tiny_results(cells, labels="ab" * 8))
    assert "- lstm with frame order: gains in b (+1.000 [+1.000, +1.000]).\n" in markdown


def test_inside_the_recurrence(full):
    _, _, markdown, pictures, _ = full
    frames, spread, fall, probe = row(section(markdown, "Inside the recurrence"), "rnn")
    assert (frames, spread, fall, probe) == ("2.0", "2.0 to 2.0", "0.0078", "0.750")
    assert {"recurrence", "gates"} <= set(pictures)


def attributed(cell, *clips):
    """Returns a cell that attributes predictions for clips to frames, the later the more."""
    values = tuple(float(value) for value in np.linspace(-0.1, 0.2, tiny.NUM_FRAMES))
    found = tuple(Attribution(clip=clip, prior=0.2, contributions=values) for clip in clips)
    return dataclasses.replace(cell, attributions=found)


def test_contributions_of_frames(tmp_path):
    asked = []
    cells = [attributed(tiny_cell("lstm", "aabbcc"), *range(6)), attributed(tiny_cell("rnn", "aabbcc"), 0, 2)]
    _, markdown, pictures = written(tmp_path, tiny_results(cells), read_clips=read_clips(asked))
    assert asked == [[0, 1, 3, 5]] and {"contributions", "contributing_clips"} <= set(pictures)
    assert "1: a: a/v0; 2: a: a/v1; 3: b: b/v3; 4: c: c/v5" in markdown
    assert "## Contributions of frames" not in written(tmp_path, full_results())[1]


def test_errors(full):
    _, _, markdown, pictures, _ = full
    found = section(markdown, "Errors")
    assert row(found, "c → a") == ["0.50", "0.50", "0.00"] and row(found, "a → b") == ["0.00", "0.50", "0.00"]
    assert "All seeds of rnn are wrong and all of lstm right about 2 clips; the reverse holds for 0." in found
    assert row(found, "a/v1") == ["a", "b"] and row(found, "c/v5") == ["c", "a"]
    assert {"confusion_frame_pool", "confusion_rnn", "confusion_lstm", "class_gains"} <= set(pictures)


def test_classes_that_gain_are_named(tmp_path):
    cells = [tiny_cell("frame_pool", "a" * 16), tiny_cell("lstm", "ab" * 8), tiny_cell("rnn", "ba" * 8)]
    _, markdown, _ = written(tmp_path, tiny_results(cells, labels="ab" * 8))
    assert "- lstm over frame_pool: gains in b (+1.000 [+1.000, +1.000]).\n" in markdown
    assert "- rnn over frame_pool: loses in a (-1.000 [-1.000, -1.000]).\n" in markdown


def test_clips_are_shown(full):
    _, _, markdown, pictures, asked = full
    # For both pairs a confused clip and one of the other class; clips only lstm recognises; the nearest pairs.
    assert asked == [[5, 0, 1, 2], [1, 5], [0, 1, 2, 5], [0, 1, 2, 5]]
    assert {"confused_pairs", "rnn_fails_lstm_right", "nearest_by_group", "nearest_by_video"} <= set(pictures)
    assert (pictures["rnn_fails_lstm_right"] == 150).all(axis=2).any()
    assert "left out" not in markdown


def test_leak_audit_of_clips(markdown):
    found = section(markdown, "Leak audit")
    assert row(found, "Split")[0] == "Nearest clip has the class"
    assert row(found, "by video") == ["0.500", "0.250", "0.125"]
    assert row(found, "a/v0") == ["a/v1", "0.987", "same recording"]
    assert row(found, "b/v2") == ["c/v5", "0.500", "other class"]
    assert "No model is shown to score higher" in found


def test_leak_audit_of_models(tmp_path):
    results = tiny_results([tiny_cell("lstm", "aabbca"), tiny_cell("lstm", "aabbcc", split="video")])
    _, markdown, _ = written(tmp_path, results, judged=[tiny_verdict("recognises_recording", "lstm")])
    by_group, by_video, *_ = row(section(markdown, "Leak audit"), "lstm")
    assert by_group.startswith("0.833 [") and by_video.startswith("1.000 [")
    sentence = (
        "Of the 1.000 that lstm scores by video, 0.200 [0.100, 0.300] is gone once whole recordings are"
    )
    assert sentence in markdown and "20% of that score is recognising the recording" in markdown


def test_published_baseline(markdown):
    found = section(markdown, "Published baseline")
    assert row(found, "Model") == ["Source", "Split", "Accuracy", "Macro F1"]
    assert row(found, "CNN + LSTM") == ["published", "random clips", "0.4734", "0.4548"]
    assert row(found, "CNN + RNN") == ["published", "random clips", "0.4263", "0.4071"]
    assert (
        "nothing here reproduces" in found and "this comparison" not in found.split("that was requested")[1]
    )
    assert "for 25% it is of the same recording" in found


def test_missing_results_are_left_out_or_requested(tmp_path):
    _, markdown, pictures = written(tmp_path, tiny_results([tiny_cell("lstm", "aabbcc")]))
    assert set(pictures) == {"summary", "scores", "confusion_lstm"}
    assert "## Models against each other" not in markdown and "### Built-in check" not in markdown
    assert "### Class gains" not in markdown and "### Where" not in markdown
    for words in (
        "on unchanged clips only",
        "No model was trained on other orders of frames",
        "An audit tests the same models",
        "raises the score; an audit does",
        "Pictures of clips are left out",
        "No class was confused",
    ):
        assert words in markdown


def test_a_comparison_without_predictions_has_a_report(tmp_path):
    _, markdown, pictures = written(tmp_path, tiny_results([]))
    assert not pictures and "there is nothing to judge" in markdown
    assert "## Scores" not in markdown


def test_untested_clips_are_reported(tmp_path):
    cells = [tiny_cell("lstm", "aabb"), tiny_cell("rnn", "aabbcc"), tiny_cell("gru", "aabbcc", split="video")]
    _, markdown, _ = written(tmp_path, tiny_results(cells))
    assert "Not all of the 6 clips were tested by all seeds of: lstm (4)." in markdown
    assert "No clip was tested by all seeds of gru" in markdown
    assert row(section(markdown, "Scores"), "lstm")[0].startswith("1.000 [")


def test_any_class_name_survives(tmp_path):
    ids = [f"{ODD_NAMES[i // 2]}/v{i}" for i in range(6)]
    results = full_results(names=ODD_NAMES, ids=ids)
    results = dataclasses.replace(results, cells=results.cells[:2])
    page, _, _ = written(tmp_path, results, read_clips=read_clips([]))
    for name in (*ODD_NAMES, *(ids[i] for i in (1, 5))):
        assert printable(name) in page.text
    tables = re.findall(r"(?:^\|.*\n)+", (tmp_path / "report.md").read_text(), re.MULTILINE)
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_a_report_from_the_saved_results_is_the_same(full, tmp_path):
    folder, _, _, pictures, _ = full
    result_files.save(tmp_path, full_results())
    loaded = result_files.load(tmp_path / "results.json")
    written(tmp_path, loaded, read_clips=read_clips([]), notes=["By hand."])
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert len(files) == len(pictures) + 2
    assert all((folder / file).read_bytes() == (tmp_path / file).read_bytes() for file in files)


@pytest.mark.slow
def test_fifty_classes_and_five_models(tmp_path):
    letters = "".join(chr(0x4E00 + i) for i in range(50))
    labels, rng = letters * 6, np.random.default_rng(0)

    def says(fraction):
        return "".join(c if rng.random() < fraction else letters[rng.integers(50)] for c in labels)

    models = ("frame_pool", "seed_rnn", "seed_lstm", "rnn", "lstm")
    tests = ("shuffle1", "reverse", "first1", "last1", "half_rate", "grey")
    cells = [
        *(tiny_cell(m, says(0.8), classes=letters, **{name: says(0.6) for name in tests}) for m in models),
        tiny_cell("seed_lstm", says(0.9), classes=letters, split="video"),
    ]
    results = tiny_results(cells, labels=labels, classes=letters, names=[f"Class{i:02d}" for i in range(50)])
    page, markdown, pictures = written(tmp_path, results)
    assert (tmp_path / "report.html").stat().st_size < 5e6
    assert len(pictures) == 15 and "Class49" in page.text
    source, split, *_ = row(section(markdown, "Published baseline"), "seed_lstm")
    assert (source, split) == ("this comparison", "by video")
