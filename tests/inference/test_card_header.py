"""The header of a model card holds the scores of the run's predictions, as the Hugging Face Hub reads them."""

import dataclasses

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from tests.inference.test_card import EXPORT, read_predictions
from tests.test_markdown import read_header
from ucf50_tfrecord.inference import card, card_header


def test_the_card_begins_with_the_scores_of_the_predictions(run, run_dir, tmp_path):
    card.write(tmp_path / "card.md", run, EXPORT)
    text = (tmp_path / "card.md").read_text()
    assert text.split("---\n\n", 1)[1].startswith("# Model card: lstm on small\n")
    found = read_header(text)
    assert found["datasets"] == ["small"] and found["metrics"] == ["accuracy", "f1"]
    assert found["license"] == "unknown" and found["pipeline_tag"] == "video-classification"
    [model] = found["model-index"]
    [result] = model["results"]
    assert model["name"] == "lstm on small" and result["task"]["type"] == "video-classification"
    assert result["dataset"] == {
        "name": "small",
        "type": "small",
        "split": "validation",
        "args": {"folds": "1-2", "fold_by": "group", "fingerprint": run.config.fingerprint},
    }
    said = read_predictions(run_dir, "none")
    f1 = sklearn_metrics.f1_score(said["label"], said["predicted"], average="macro", zero_division=0)
    assert result["metrics"] == [
        {
            "type": "accuracy",
            "name": "Accuracy",
            "value": pytest.approx(np.mean(said["predicted"] == said["label"]), abs=5e-5),
        },
        {"type": "f1", "name": "Macro F1", "value": pytest.approx(f1, abs=5e-5)},
    ]


def test_scores_on_test_folds_are_named_so(run):
    config = dataclasses.replace(run.config, test_folds=(1, 2))
    [model] = read_header(card_header.header(dataclasses.replace(run, config=config)))["model-index"]
    assert model["results"][0]["dataset"]["split"] == "test"


def test_weights_selected_by_the_scored_clips_are_marked(run):
    [model] = read_header(card_header.header(dataclasses.replace(run, weights="best")))["model-index"]
    assert "too high" in model["results"][0]["dataset"]["args"]["weights"]


def test_names_cannot_break_the_header(run):
    results = dataclasses.replace(run.results, name="x: y\n---\n# z")
    found = read_header(card_header.header(dataclasses.replace(run, results=results)))
    assert found["datasets"] == ["x: y\\n---\\n# z"] and len(found["model-index"]) == 1
