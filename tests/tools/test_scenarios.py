import pathlib

import av
import numpy as np
import pytest
from absl import flags

from tests.conftest import run_module
from tools import make_demo_videos, scenarios
from tools.scenarios import SCENARIOS, Scenario, Traits
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import verdicts

RECORDING = ("leak", "leak_order", "appearance_leak")
CLASS_PLACES = ("background", "background_order")
FRAME_COUNTS = (4, 5, 6, 7, 8, 15, 16)


def clip_of(name, class_name, *, group=1, clip=1, seed=0, num_frames=8):
    return scenarios.render_clip(
        SCENARIOS[name], class_name, group=group, clip=clip, seed=seed, num_frames=num_frames
    )


def place_of(name, class_name, group=1):
    return scenarios.render_background(SCENARIOS[name], class_name, group=group, seed=0)


def drawn(path, num_frames, seed):
    return getattr(scenarios, path)(num_frames, np.random.default_rng(seed))


def median_background(frames):
    return np.sort(frames, axis=0)[len(frames) // 2].astype(float)


def actor_pixels(frames, background):
    """Returns where frames differ from their background: bool [T, H, W]."""
    return np.abs(frames - background).max(axis=-1) > 60


def shown_color(name, class_name, **numbers):
    """Returns the index of the actor colour nearest to a clip."""
    frames = clip_of(name, class_name, **numbers)
    color = frames[actor_pixels(frames, place_of(name, class_name, numbers["group"]))].mean(axis=0)
    return int(np.linalg.norm(color - np.array(list(scenarios.ACTOR_COLORS.values())), axis=1).argmin())


def test_equal_arguments_give_equal_bytes():
    frames = clip_of("appearance", "Red")
    assert frames.shape == (8, scenarios.SIZE, scenarios.SIZE, 3) and frames.dtype == np.uint8
    assert np.array_equal(frames, clip_of("appearance", "Red"))
    for change in ({"group": 2}, {"clip": 2}, {"seed": 1}):
        assert not np.array_equal(frames, clip_of("appearance", "Red", **change))


# Says nothing about the data: shuffled frames are new to any model that was trained on ordered ones.
UNPLANTED = {"disturbed_by_shuffling"}


def test_every_verdict_is_planted_in_one_scenario_and_absent_in_another():
    truths = [item for scenario in SCENARIOS.values() for item in scenario.truth.items()]
    for answer in (True, False):
        assert {kind for kind, truth in truths if truth is answer} == verdicts.KINDS.keys() - UNPLANTED


def test_all_scenarios_render():
    assert len(SCENARIOS) >= 14
    for name, scenario in SCENARIOS.items():
        assert all(isinstance(value, bool) for value in scenario.truth.values())
        assert scenario.description.endswith(".") and all(c.isalnum() for c in scenario.classes)
        for class_name in scenario.classes:
            frames = clip_of(name, class_name, num_frames=15)
            area = actor_pixels(frames, place_of(name, class_name)).sum(axis=(1, 2))
            assert area.min() > 20, (name, class_name)  # the actor shows in every frame


@pytest.mark.parametrize("one, other", [("rise", "sink"), ("slow", "fast"), ("flicker", "slow_flicker")])
def test_an_order_blind_model_sees_the_same_positions(one, other):
    for num_frames in FRAME_COUNTS:
        if (one, num_frames) in (("slow", 4), ("slow", 6)):
            continue
        for seed in range(4):
            first, second = drawn(one, num_frames, seed), drawn(other, num_frames, seed)
            assert np.array_equal(sorted(first[:, 0]), sorted(second[:, 0]))
            assert np.array_equal(sorted(map(tuple, first)), sorted(map(tuple, second)))
            assert not np.array_equal(first, second) and 0 < first.min() and first.max() < 1


def test_rising_is_sinking_backwards_with_the_same_middle_frame():
    for num_frames in FRAME_COUNTS:
        up, down = drawn("rise", num_frames, 0), drawn("sink", num_frames, 0)
        assert np.array_equal(up, down[::-1]) and up[0, 1] > 0.9 and up[-1, 1] < 0.1
        assert np.all(np.diff(up[:, 1]) <= 0) and len(set(up[:, 0])) == 1
        assert up[num_frames // 2, 1] == down[num_frames // 2, 1]


def test_fast_is_faster_and_not_slow_backwards():
    assert {n: scenarios.fast_turns(n) for n in (5, 7, 8, 15, 16)} == {5: 3, 7: 3, 8: 3, 15: 4, 16: 3}
    for num_frames in (4, 6):
        with pytest.raises(UserError, match="not 4 or 6.* Received: frames="):
            drawn("fast", num_frames, 0)
    steps = {
        path: np.linalg.norm(np.diff(drawn(path, 15, 0), axis=0), axis=1).mean() for path in ("slow", "fast")
    }
    assert steps["fast"] > 2 * steps["slow"]


def test_half_the_frame_rate_makes_flicker_slow():
    for num_frames in FRAME_COUNTS:
        halved = 2 * (np.arange(num_frames) // 2)
        for seed in range(4):
            quick, slow = drawn("flicker", num_frames, seed), drawn("slow_flicker", num_frames, seed)
            assert np.array_equal(quick[halved], slow[halved])
            jumps = (np.diff(quick[:, 0]) != 0).sum(), (np.diff(slow[:, 0]) != 0).sum()
            assert jumps[0] == num_frames - 2 and jumps[0] > jumps[1]
    assert np.array_equal(slow[halved], slow)  # of a multiple of 4 frames


@pytest.mark.parametrize("num_frames", [8, 15])
@pytest.mark.parametrize("path", ["circle", "rise", "sink", "slow", "fast"])
def test_the_median_over_frames_shows_no_actor(path, num_frames):
    one = Traits(color=scenarios.ACTOR_COLORS["Red"], path=getattr(scenarios, path))
    scenario = Scenario("", {"One": one, "Two": Traits()})
    for group in range(1, 21):
        frames = scenarios.render_clip(scenario, "One", group=group, clip=1, seed=0, num_frames=num_frames)
        background = scenarios.render_background(scenario, "One", group=group, seed=0)
        assert np.abs(median_background(frames) - background).max() < 15  # the noise's deviation is 3


@pytest.mark.parametrize("name", RECORDING)
def test_a_recording_has_a_place_of_its_own(name):
    one, other = list(SCENARIOS[name].classes)[:2]
    takes = [median_background(clip_of(name, one, clip=clip)) for clip in (1, 2)]
    assert np.abs(takes[0] - takes[1]).mean() < 3
    for stranger in (place_of(name, other), place_of(name, one, group=2)):
        assert np.abs(place_of(name, one) - stranger).mean() > 10


@pytest.mark.parametrize("name", sorted(SCENARIOS.keys() - {*RECORDING, *CLASS_PLACES}))
def test_in_other_scenarios_the_classes_of_a_group_share_its_place(name):
    places = [place_of(name, class_name) for class_name in SCENARIOS[name].classes]
    assert all(np.array_equal(places[0], place) for place in places)
    assert np.abs(places[0] - place_of(name, next(iter(SCENARIOS[name].classes)), group=2)).mean() > 5


def test_a_class_has_its_place_in_all_groups():
    classes = list(SCENARIOS["background"].classes)
    tints = {
        c: [place_of("background", c, group).mean(axis=(0, 1)) for group in range(1, 9)] for c in classes
    }
    within = max(np.linalg.norm(a - b) for c in classes for a in tints[c] for b in tints[c])
    between = min(
        np.linalg.norm(a - b) for c in classes for d in classes if c != d for a in tints[c] for b in tints[d]
    )
    assert between > within


@pytest.mark.parametrize("name, quarters", [("start", slice(0, 1)), ("end", slice(3, 4))])
@pytest.mark.parametrize("num_frames", [8, 16])
def test_the_colour_shows_in_one_quarter(name, quarters, num_frames):
    for class_name in SCENARIOS[name].classes:
        frames = clip_of(name, class_name, num_frames=num_frames).astype(int)
        is_colored = ((frames.max(axis=-1) - frames.min(axis=-1)) > 120).any(axis=(1, 2))
        expected = np.zeros(4, bool)
        expected[quarters] = True
        assert is_colored.tolist() == np.repeat(expected, num_frames // 4).tolist()


def test_the_classes_of_scenario_nothing_do_not_differ():
    scenario = SCENARIOS["nothing"]
    assert set(scenario.classes.values()) == {Traits()} and not scenario.recording_backgrounds
    assert scenario.truth == dict.fromkeys(verdicts.KINDS.keys() - UNPLANTED, False)
    colors = []
    for class_name in scenario.classes:
        clips = np.concatenate([clip_of("nothing", class_name, clip=clip) for clip in range(1, 9)])
        colors.append(clips[actor_pixels(clips, place_of("nothing", class_name))].mean(axis=0))
    assert np.ptp(colors, axis=0).max() < 20  # the group's, within its clips' jitter


def test_some_recordings_show_the_colour_of_another_class():
    true = {"appearance": 0, "appearance_leak": 0}
    for name in true:
        for group in range(1, 21):
            for number, class_name in enumerate(SCENARIOS[name].classes):
                colors = {shown_color(name, class_name, group=group, clip=clip) for clip in (1, 2)}
                assert len(colors) == 1
                true[name] += colors == {number}
    assert true["appearance"] == 80 and 0.6 < true["appearance_leak"] / 80 < 0.8  # 0.6 + 0.4 / 4


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Scenario("", {"One": Traits()}), "at least 2 classes"),
        (
            lambda: Scenario(
                "",
                {"A": Traits(background=scenarios.CLASS_PLACES["Pool"]), "B": Traits()},
                recording_backgrounds=True,
            ),
            "of either classes or recordings",
        ),
    ],
)
def test_wrong_scenarios_fail_when_built(build, message):
    with pytest.raises(UserError, match=message):
        build()


def test_worker_processes_write_the_same_corpus(tmp_path, monkeypatch):
    arguments = [f"--output={tmp_path / 'one'}", "--scenario=full_rate", "--groups=2", "--clips=2"]
    result = run_module("tools.make_demo_videos", *arguments, "--frames=8", "--workers=2")
    assert result.returncode == 0, result.stderr
    assert "8 videos, 2 classes, 2 groups" in result.stdout

    monkeypatch.delattr("concurrent.futures.ProcessPoolExecutor")
    numbers = {"groups": 2, "clips": 2, "seed": 0, "num_frames": 8, "workers": 1}
    count = make_demo_videos.make_scenario(tmp_path / "two", SCENARIOS["full_rate"], **numbers)
    written = {path.relative_to(tmp_path / "one"): path for path in (tmp_path / "one").rglob("*.avi")}
    assert count == len(written) == len(list((tmp_path / "two").rglob("*.avi"))) == 8
    for class_name in ("Flicker", "SlowFlicker"):
        for group in (1, 2):
            for clip in (1, 2):
                path = written[make_path(class_name, group, clip)]
                assert (
                    path.read_bytes() == (tmp_path / "two" / make_path(class_name, group, clip)).read_bytes()
                )
                check_video(path, clip_of("full_rate", class_name, group=group, clip=clip))


def make_path(class_name, group, clip):
    return pathlib.Path(class_name, f"v_{class_name}_g{group:02d}_c{clip:02d}.avi")


def check_video(path, frames):
    """Checks that a video shows the frames, each a keyframe of its own packet."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    with av.open(str(path)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(packets) == len(decoded) == len(frames) and all(packet.is_keyframe for packet in packets)
    error = np.abs(np.stack(decoded).astype(int) - frames).mean(axis=(1, 2, 3))
    assert error.max() < 6


def test_a_corpus_that_fails_leaves_nothing_behind(tmp_path):
    numbers = {"groups": 1, "clips": 1, "seed": 0, "workers": 1}
    with pytest.raises(UserError, match="not 4 or 6"):
        make_demo_videos.make_scenario(tmp_path / "six", SCENARIOS["speed"], num_frames=6, **numbers)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="exists already"):
        make_demo_videos.make_scenario(tmp_path, SCENARIOS["speed"], num_frames=8, **numbers)


def test_importing_the_tool_defines_no_flags():
    assert "tools.make_demo_videos" not in flags.FLAGS.flags_by_module_dict()


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["--scenario=unknown"], 1, "flag --scenario=unknown: value should be one of <appearance|"),
        (["--scenario=order", "--frames=3"], 2, "error: Expected at least 4 frames. Received: frames=3"),
        (["--frames=8"], 2, "error: Expected --frames with a --scenario only. Received: frames=8"),
    ],
)
def test_wrong_flags_are_reported_in_one_line(arguments, status, message, tmp_path):
    result = run_module("tools.make_demo_videos", f"--output={tmp_path / 'none'}", *arguments)
    assert (result.returncode, list(tmp_path.iterdir())) == (status, [])
    assert message in result.stderr.splitlines()[0] and "Traceback" not in result.stderr
