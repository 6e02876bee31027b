import numpy as np
import pytest

from tests.test_layout import LIBRARY, imported_modules
from ucf50_tfrecord.drawing import canvas, diagrams
from ucf50_tfrecord.drawing.diagrams import Chart, Curve, Panel, Point
from ucf50_tfrecord.evaluation.statistics import Estimate

DRAWING = LIBRARY / "drawing"
ODD_NAMES = ("a/b", "50% $x_1$ <i>|`", "no UTF-8 \udce9", "two\nlines", "x" * 80)
ORANGE, BLUE, WHITE = (179, 89, 0), (8, 81, 156), (255, 255, 255)


def estimates(count):
    return [Estimate(0.1 * i, 0.1 * i - 0.05, 0.1 * i + 0.05) for i in range(count)]


def is_picture(pixels):
    return (
        pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and len(np.unique(pixels)) > 2
    )


def colours(pixels):
    return {tuple(colour) for colour in np.unique(pixels.reshape(-1, 3), axis=0).tolist()}


def rgb(colour):
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def curve(name, style, y):
    return Curve(name, style, range(1, len(y) + 1), y, [0.9 * v for v in y], [1.1 * v for v in y])


def test_forest_of_models_with_seeds_and_gaps():
    found = [*estimates(3), None, Estimate(0.5, float("nan"), float("nan"))]
    points = [[0.1, 0.2]] * 5
    panels = [Panel(title, "0 to 1", {"x": found}, points, reference=(0.2, "chance")) for title in ("a", "b")]
    pixels = diagrams.draw_forest(ODD_NAMES, panels)
    assert is_picture(pixels)
    assert {rgb(canvas.COLOURS[i]) for i in (0, 1, 2, 4)} <= colours(pixels)
    assert rgb(canvas.COLOURS[3]) not in colours(pixels)  # nothing was tested


def test_forest_leaves_space_for_each_of_several_series():
    rows = ["rnn", "lstm"]
    one = diagrams.draw_forest(rows, [Panel("", "x", {"only": estimates(2)})])
    four = diagrams.draw_forest(rows, [Panel("", "x", {f"$number$ {i}": estimates(2) for i in range(4)})])
    assert four.shape[0] > one.shape[0] and four.shape[1] > one.shape[1]  # rows are higher, and a legend


def test_changes_are_orange_below_and_blue_above_zero():
    pixels = diagrams.draw_changes(np.array([[-0.4, 0.4]]), rows=["m"], columns=["a", "b"], label="x")
    found = [
        np.mean(np.all(np.abs(pixels.astype(int) - colour) < 8, axis=2)) for colour in (ORANGE, BLUE, WHITE)
    ]
    assert found[0] > 0.01 and found[1] > 0.01
    assert found[0] == pytest.approx(found[1], rel=0.2)


def test_small_changes_are_pale_and_missing_ones_grey():
    pixels = diagrams.draw_changes(np.array([[-0.01, np.nan]]), rows=["m"], columns=["a", "b"], label="x")
    counts = {
        colour: np.mean(np.all(pixels == colour, axis=2)) for colour in (ORANGE, WHITE, (224, 224, 224))
    }
    assert counts[ORANGE] < 0.01 and counts[224, 224, 224] > 0.01


def test_pictures_with_a_common_limit_share_their_colours():
    options = dict(rows=["m"], columns=["a"], label="x")
    alone = diagrams.draw_changes(np.array([[-0.2]]), **options)
    beside = diagrams.draw_changes(
        np.array([[-0.2]]), limit=diagrams.colour_limit(np.array([0.1, -0.8])), **options
    )
    assert diagrams.colour_limit(np.array([0.1, -0.8])) == 0.8
    assert not np.array_equal(alone, beside)


def test_changes_of_fifty_classes_have_one_row_each():
    rng = np.random.default_rng(0)
    few, many = (
        diagrams.draw_changes(
            rng.normal(0, 0.2, (count, 17)),
            rows=[f"class {i}" for i in range(count)],
            columns=[f"first{i}" for i in range(17)],
            label="change of accuracy (0 to 1)",
        )
        for count in (8, 50)
    )
    rows = (many.shape[0] - few.shape[0]) / 42  # pixels per row
    assert 0.2 < rows / canvas.PRINT_DPI < 0.3
    assert few.shape[1] <= 8 * 2 * canvas.PRINT_DPI


def test_curves_with_zeros_on_a_logarithmic_axis():
    curves = [curve(name, i, [0.0, 1e-8, 0.5]) for i, name in enumerate(ODD_NAMES)]
    charts = [
        Chart("gradient", "frame", "norm", curves, log=True),
        Chart("nothing", "frame", "norm", [curve("a", 0, [0.0, 0.0, 0.0])], log=True),
        Chart("x", "number", "y", curves, xticks={1: "1", 2: "2", 3: "all 3"}, reference=(0.2, "chance")),
    ]
    assert is_picture(diagrams.draw_charts(charts))


def test_a_single_chart_is_narrower_than_two():
    charts = [Chart("t", "x", "y", [curve("a", 0, [1.0, 2.0])])] * 2
    assert diagrams.draw_charts(charts[:1]).shape[1] < diagrams.draw_charts(charts).shape[1]


def test_points_with_odd_names_and_unknown_intervals():
    found = [*estimates(3), Estimate(0.5, float("nan"), float("nan"))]
    points = [
        Point(name, i, 0.01 * 10**i, estimate) for i, (name, estimate) in enumerate(zip(ODD_NAMES, found))
    ]
    pixels = diagrams.draw_points(points, xlabel="minutes", ylabel="accuracy")
    assert is_picture(pixels)
    assert {rgb(canvas.COLOURS[i]) for i in range(len(points))} <= colours(pixels)
    assert is_picture(diagrams.draw_points(points[:1], xlabel="minutes", ylabel="accuracy"))


def test_ten_models_look_different():
    looks = [(canvas.colour(i), canvas.marker(i)) for i in range(10)]
    assert len(set(looks)) == 10


@pytest.mark.parametrize("path", DRAWING.glob("*.py"), ids=lambda path: path.stem)
def test_no_drawing_uses_the_global_state_of_pyplot(path):
    assert not any("pyplot" in module for module in imported_modules(path))
