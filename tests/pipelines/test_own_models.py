"""A model of the user's own, from its training to its export."""

import json
import re

import pytest

from tests.warm import run_module
from ucf50_tfrecord import Run, UserError

MODEL, ENCODER = "tests.models.own:build", "tests.models.own:encode"


@pytest.fixture(scope="module")
def own_run(data_dir, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "own"
    flags = [f"--data={data_dir}", f"--run={run_dir}", "--epochs=1", "--batch_size=4", "--val_folds=1,2"]
    result = run_module("pipelines.train", *flags, f"--model={MODEL}", f"--encoder={ENCODER}")
    assert result.returncode == 0, result.stderr
    return run_dir


def test_a_run_of_a_model_of_ones_own_names_it(own_run):
    config = json.loads((own_run / "config.json").read_text())
    assert (config["model"]["name"], config["model"]["encoder"]) == (MODEL, ENCODER)
    assert json.loads((own_run / "summary.json").read_text())["model"] == MODEL
    assert (own_run / "encoder.weights.h5").exists()


@pytest.mark.parametrize("pipeline", ["evaluate", "export", "predict"])
def test_a_run_is_loaded_with_the_code_that_the_user_allows(own_run, pipeline, tmp_path, videos_dir):
    arguments = [f"pipelines.{pipeline}", f"--run={own_run}"]
    if pipeline == "predict":
        arguments += [f"--video={videos_dir}", f"--output={tmp_path / 'predicted'}"]
    refused = run_module(*arguments)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    message = f"{re.escape(MODEL)} and {re.escape(ENCODER)}, which is code outside this package"
    assert re.search(message, refused.stderr)
    [advice] = re.findall(r"--allow_code=\S+", refused.stderr)
    allowed = run_module(*arguments, advice)
    assert allowed.returncode == 0, allowed.stderr


def test_a_run_in_a_notebook_loads_the_code_that_the_user_allows(own_run):
    with pytest.raises(UserError, match="code outside this package"):
        Run(own_run).model
    assert Run(own_run, allowed_code=[MODEL, ENCODER]).model.get_layer("encoder").output.shape == (None, 5)
