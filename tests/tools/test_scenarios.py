import pathlib

import av
import numpy as np
import pytest
from absl import flags

from tests.conftest import run_module
from tests.evaluation import made_up
from tools import actor_paths, make_demo_videos, scenario_clips, scenarios
from tools.scenarios import SCENARIOS, Scenario, Traits
from ucf50_tfrecord.architectures import MODELS
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import audit, verdicts

RECORDING = ("leak", "leak_order", "appearance_leak", "appearance_leak_twice", "wrong_groups")
CLASS_PLACES = ("background", "background_order")
TWO = {"One": Traits(), "Two": Traits()}
FRAME_COUNTS = (4, 5, 6, 7, 8, 15, 16)


def clip_of(name, class_name, *, group=1, clip=1, seed=0, num_frames=8):
    return scenario_clips.render_clip(
        SCENARIOS[name], class_name, group=group, clip=clip, seed=seed, num_frames=num_frames
    )


def place_of(name, class_name, group=1):
    return scenario_clips.render_background(SCENARIOS[name], class_name, group=group, seed=0)


def drawn(path, num_frames, seed):
    return getattr(actor_paths, path)(num_frames, np.random.default_rng(seed))


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
    assert frames.shape == (8, scenario_clips.SIZE, scenario_clips.SIZE, 3) and frames.dtype == np.uint8
    assert np.array_equal(frames, clip_of("appearance", "Red"))
    for change in ({"group": 2}, {"clip": 2}, {"seed": 1}):
        assert not np.array_equal(frames, clip_of("appearance", "Red", **change))


# Says nothing about the data: shuffled frames are new to any model that was trained on ordered ones.
UNPLANTED = {"disturbed_by_shuffling"}


def test_every_verdict_is_planted_in_one_scenario_and_absent_in_another():
    truths = [item for scenario in SCENARIOS.values() for item in scenario.truth.items()]
    for answer in (verdicts.Answer.YES, verdicts.Answer.NO):
        assert {kind for kind, truth in truths if truth == answer} == verdicts.KINDS.keys() - UNPLANTED


def test_short_trainings_leave_all_verdicts_undecided_that_rest_on_what_was_learned():
    assert SCENARIOS["undertrained"].epochs == {"frame_pool": 1, "lstm": 1}
    above_chance = {"above_chance", "appearance_suffices"}  # about the weights: "no" is true
    decided = verdicts.KINDS.keys() - UNPLANTED - above_chance
    assert SCENARIOS["undertrained"].truth == dict.fromkeys(decided, verdicts.Answer.UNKNOWN)


def test_every_contrast_between_trainings_is_a_null_of_a_recipe_compared_with_itself():
    results = made_up.make_results({("lstm", "kept", "none"): 0.5})
    contrasts = [
        kind
        for kind, asked in verdicts.KINDS.items()
        if asked.conditions is None
        or (
            asked.order_blind is not True
            and verdicts.Contrast(kind, ("lstm",), *asked.conditions(results, "lstm")).is_about_recipes
        )
    ]
    for name in ("speed_twice", "appearance_leak_twice"):
        assert SCENARIOS[name].truth == dict.fromkeys(contrasts, verdicts.Answer.NO)
        single = SCENARIOS[name.removesuffix("_twice")]
        assert SCENARIOS[name].classes == single.classes
        assert SCENARIOS[name].true_colors == single.true_colors
        assert SCENARIOS[name].is_one_recipe and not single.is_one_recipe


def test_all_scenarios_render():
    assert len(SCENARIOS) >= 20
    for name, scenario in SCENARIOS.items():
        assert scenario.truth.keys() <= verdicts.KINDS.keys() - UNPLANTED
        assert {*scenario.models} <= MODELS.keys() and scenario.sequence_model == "lstm"
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
    assert {n: actor_paths.fast_turns(n) for n in (5, 7, 8, 15, 16)} == {5: 3, 7: 3, 8: 3, 15: 4, 16: 3}
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
    one = Traits(color=scenarios.ACTOR_COLORS["Red"], path=getattr(actor_paths, path))
    scenario = Scenario("", {"One": one, "Two": Traits()})
    for group in range(1, 21):
        frames = scenario_clips.render_clip(
            scenario, "One", group=group, clip=1, seed=0, num_frames=num_frames
        )
        background = scenario_clips.render_background(scenario, "One", group=group, seed=0)
        assert np.abs(median_background(frames) - background).max() < 15  # the noise's deviation is 3


@pytest.mark.parametrize("name", RECORDING)
def test_a_recording_has_a_place_of_its_own(name):
    one, other = list(SCENARIOS[name].classes)[:2]
    takes = [median_background(clip_of(name, one, clip=clip)) for clip in (1, 2)]
    assert np.abs(takes[0] - takes[1]).mean() < 3
    for stranger in (place_of(name, other), place_of(name, one, group=3)):
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


@pytest.mark.parametrize(
    "name, eighths", [("start", "11000000"), ("middle", "00011000"), ("end", "00000011")]
)
@pytest.mark.parametrize("num_frames", [8, 16])
def test_the_colour_shows_in_one_quarter(name, eighths, num_frames):
    for class_name in SCENARIOS[name].classes:
        frames = clip_of(name, class_name, num_frames=num_frames).astype(int)
        is_colored = ((frames.max(axis=-1) - frames.min(axis=-1)) > 120).any(axis=(1, 2))
        assert is_colored.tolist() == [eighth == "1" for eighth in eighths for _ in range(num_frames // 8)]


def test_color_alone_marks_the_classes_of_color_only():
    paths = {"circle": 0, "rise": 0, "sink": 0, "slow": 0}
    for seed in range(200):
        places = drawn("any_of_four", 8, seed)
        rng = np.random.default_rng(seed)
        name = list(paths)[rng.integers(4)]
        assert np.array_equal(places, getattr(actor_paths, name)(8, rng))
        paths[name] += 1
    assert min(paths.values()) > 30
    traits = SCENARIOS["color_only"].classes.values()
    assert len({one.color for one in traits}) == 4
    assert {(one.path, one.background) for one in traits} == {(actor_paths.any_of_four, None)}


def test_the_classes_of_scenario_nothing_do_not_differ():
    scenario = SCENARIOS["nothing"]
    assert set(scenario.classes.values()) == {Traits()} and not scenario.recording_backgrounds
    assert scenario.truth == dict.fromkeys(verdicts.KINDS.keys() - UNPLANTED, verdicts.Answer.NO)
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


def test_three_clips_in_ten_show_another_class_than_their_label_says():
    classes = list(SCENARIOS["wrong_labels"].classes)
    shown = np.zeros((4, 4), int)  # by label, by class
    of_recordings = set()
    for group in range(1, 17):
        for label, class_name in enumerate(classes):
            colors = [shown_color("wrong_labels", class_name, group=group, clip=clip) for clip in range(1, 7)]
            of_recordings.add(len(set(colors)) > 1)
            for color in colors:
                shown[label, color] += 1
    assert shown.sum() == 384 and 0.25 < 1 - np.trace(shown) / 384 < 0.35
    assert (shown > 0).all()  # any class may take another's place
    assert of_recordings == {True, False}  # clips are labelled wrong, not recordings
    assert SCENARIOS["wrong_labels"].classes == SCENARIOS["appearance"].classes


def test_the_first_class_of_an_imbalanced_corpus_has_six_clips_for_one_of_the_other(tmp_path):
    numbers = {"groups": 2, "clips": 1, "seed": 0, "num_frames": 4, "workers": 1}
    count = make_demo_videos.make_scenario(tmp_path / "videos", SCENARIOS["imbalance"], **numbers)
    written = {
        class_name: sorted(path.name for path in (tmp_path / "videos" / class_name).iterdir())
        for class_name in ("Red", "Blue")
    }
    assert count == 14 and {name: len(videos) for name, videos in written.items()} == {"Red": 12, "Blue": 2}
    assert written["Blue"] == ["v_Blue_g01_c01.avi", "v_Blue_g02_c01.avi"]
    assert all(scenario.imbalance == 1 for name, scenario in SCENARIOS.items() if name != "imbalance")


def test_the_audit_finds_near_duplicates_in_the_scenario_with_wrong_groups_alone():
    found = {}
    for name, scenario in SCENARIOS.items():
        numbers = [(label, group) for label in range(len(scenario.classes)) for group in range(1, 9)]
        names = list(scenario.classes)
        clips = np.stack([clip_of(name, names[label], group=group) for label, group in numbers])
        labels, groups = np.array(numbers).T
        nearest = audit.find_nearest(audit.fingerprints([clips]), groups % 2, labels=labels, groups=groups)
        found[name] = nearest.near_duplicates
    expected = {name: float(scenario.copied_groups) for name, scenario in SCENARIOS.items()}
    assert found == expected and expected["wrong_groups"] == 1 and sum(expected.values()) == 1


def test_copied_groups_differ_in_noise_alone():
    one, copy, other = (clip_of("wrong_groups", "Alpha", group=group).astype(int) for group in (1, 2, 3))
    assert np.abs(one - copy).max() > 5 and np.abs(one - copy).mean() < 5 < np.abs(one - other).mean()


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Scenario("", {"One": Traits()}), "at least 2 classes"),
        (lambda: Scenario("", TWO, wrong_labels=1.5), "a fraction from 0 to 1"),
        (lambda: Scenario("", TWO, imbalance=0), "an imbalance of at least 1"),
        (lambda: Scenario("", TWO, models=()), "1 or 2 models"),
        (lambda: Scenario("", TWO, epochs={"rnn": 1}), "models out of frame_pool, lstm"),
        (lambda: Scenario("", TWO, ahead="rnn"), "models out of frame_pool, lstm"),
        (lambda: Scenario("", TWO, yes="needs_order", cannot_tell="needs_order"), "one right answer"),
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
