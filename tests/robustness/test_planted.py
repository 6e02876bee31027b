"""Corpora whose classes differ by a known cause: each model fails under the corruption that removes its cause."""

import itertools
import json

import pytest

from tests.conftest import run_module
from tools import make_demo_videos
from tools.actor_paths import rise, sink
from tools.scenarios import ACTOR_COLORS, SCENARIOS, Scenario, Traits

MIN_LOSS, MAX_LOSS = 0.3, 0.1  # of accuracy, where the cause is removed, and where it is not
NUM_FRAMES = 8
# As the scenario "order", but all actors are yellow: without colour, some others vanish before their background.
ORDER = Scenario(
    "One class shows the other's frames backwards.",
    {
        name: Traits(color=ACTOR_COLORS["Yellow"], path=path)
        for name, path in (("Rise", rise), ("Sink", sink))
    },
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "scenario, clips, removed_by, kept_by",
    [
        pytest.param(SCENARIOS["color_only"], 3, ("grey", "hue"), ("jumble",), id="colour"),
        pytest.param(ORDER, 6, ("jumble",), ("grey", "hue"), id="order"),
    ],
)
def test_a_model_fails_where_its_cause_is_removed_and_only_there(
    scenario, clips, removed_by, kept_by, tmp_path
):
    for item in itertools.product(scenario.classes, range(1, 13), range(1, clips + 1)):
        make_demo_videos.write_clip(
            tmp_path / "videos", item, scenario=scenario, seed=0, num_frames=NUM_FRAMES
        )
    run = tmp_path / "run"
    settings = ["--recipe=lstm", "--epochs=15", "--batch_size=16", "--precision=float32", "--val_folds=1-4"]
    clip_format = [f"--frames={NUM_FRAMES}", "--size=32", f"--data={tmp_path / 'data'}"]
    for step in (
        ["pipelines.train", f"--videos={tmp_path / 'videos'}", f"--run={run}", *settings, *clip_format],
        ["pipelines.robustness", f"--run={run}", f"--corruptions={','.join((*removed_by, *kept_by))}"],
    ):
        result = run_module(*step)
        assert result.returncode == 0, result.stderr
    found = json.loads((run / "robustness-last-1-4" / "robustness.json").read_text())
    assert found["plain"][0] > 0.9

    def loss(name):
        return found["plain"][0] - found["corruptions"][name]["severities"][4]["accuracy"][0]

    losses = {name: loss(name) for name in (*removed_by, *kept_by)}
    assert all(losses[name] > MIN_LOSS for name in removed_by), losses
    assert all(losses[name] < MAX_LOSS for name in kept_by), losses
