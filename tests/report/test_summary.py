"""The first screen of the report, on results whose numbers are known."""

from tests.evaluation.made_up import make_results
from ucf50_tfrecord.drawing.document import Figure, Paragraph
from ucf50_tfrecord.evaluation import verdicts
from ucf50_tfrecord.report.scores import Scores
from ucf50_tfrecord.report.summary import first_screen


def screen(fractions, **options):
    results = make_results(fractions, **options)
    return list(first_screen(Scores(results), verdicts.judge(results)))


def test_it_names_the_best_model_its_lead_and_its_use_of_time():
    fractions = {
        ("frame_pool", "kept", "none"): 0.4,
        ("lstm", "kept", "none"): 0.9,
        ("lstm", "shuffled", "shuffle"): 0.4,
    }
    paragraph, figure = screen(fractions, num_seeds=3)
    assert isinstance(paragraph, Paragraph) and isinstance(figure, Figure)
    assert paragraph.text.startswith("lstm is the most accurate of 2 models, with an accuracy of 0.900 [")
    assert "lstm is ahead of frame_pool, the next best, by +0.5" in paragraph.text
    assert (
        "lstm uses the order of frames: trained and tested on shuffled frames, its accuracy changes by -0.5"
        in (paragraph.text)
    )
    assert figure.name == "summary" and figure.pixels.shape[0] > 50


def test_an_order_blind_winner_is_named_beside_the_best_model_that_sees_order():
    fractions = {
        ("frame_pool", "kept", "none"): 0.9,
        ("lstm", "kept", "none"): 0.9,
        ("lstm", "shuffled", "shuffle"): 0.9,
    }
    paragraph, _ = screen(fractions, num_seeds=3)
    assert "frame_pool cannot see the order of frames. Whether lstm uses" in paragraph.text or (
        "frame_pool cannot see the order of frames. lstm does not use" in paragraph.text
    )


def test_one_training_each_gives_no_claim_about_the_lead():
    fractions = {("rnn", "kept", "none"): 0.5, ("lstm", "kept", "none"): 0.9}
    paragraph, _ = screen(fractions, num_seeds=1)
    assert "Whether it is better than rnn, the next best, cannot be told" in paragraph.text
    assert "with one training of each recipe" in paragraph.text
    assert "Whether lstm uses the order of frames was not tested." in paragraph.text


def test_a_single_model_is_not_called_the_best():
    paragraph, figure = screen({("lstm", "kept", "none"): 0.5})
    assert (
        paragraph.text.startswith("lstm has an accuracy of 0.500 [") and "most accurate" not in paragraph.text
    )
