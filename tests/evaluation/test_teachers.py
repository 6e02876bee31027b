"""Knowledge distillation: which runs may teach, what they predict, and trainings that they teach."""

import contextlib
import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
from scipy import special

import ucf50_tfrecord as ucf
from tests.conftest import build, make_videos, raises_with_remedies
from tests.features.test_encode import COLORS, own_module  # noqa: F401
from tests.features.test_encode import build as build_features
from tests.several_labels import make_data
from tests.untrained import write_run
from ucf50_tfrecord import job as job_lib
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import recipes
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.dataset.feed import Feed, read_clips
from ucf50_tfrecord.dataset.inputs import InputSpec
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import teachers as teachers_lib
from ucf50_tfrecord.inference import card, finished_run
from ucf50_tfrecord.specs import TrainSpec, to_json
from ucf50_tfrecord.training import logs
from ucf50_tfrecord.training import run as run_lib
from ucf50_tfrecord.training import strategy as strategy_lib
from ucf50_tfrecord.training.folds import Folds

SETTINGS = {"model": "seed_pool", "epochs": 2, "batch_size": 5, "precision": "float32"}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Leaves out TensorBoard's pictures, which take longer than these trainings."""
    monkeypatch.setattr(logs.TensorBoardLog, "evaluation", lambda *_: None)


@pytest.fixture(scope="module")
def large_dir(videos_dir, tmp_path_factory):
    """The same clips in larger frames, and in shards of other sizes."""
    folder = tmp_path_factory.mktemp("large") / "large"
    build(videos_dir, folder, height=24, width=32)
    return folder


@pytest.fixture(scope="module")
def large_run(large_dir, tmp_path_factory):
    return pathlib.Path(write_run(tmp_path_factory.mktemp("runs") / "large", large_dir, weight_std=0.1))


SILENT = job_lib.JobListener().predicting


def one_device():
    return strategy_lib.make_strategy("one", environment={})


def splits_of(data_dir, *folds):
    manifest = manifest_lib.load(str(data_dir))
    return [load_clips(manifest, part) for part in folds or ((3, 4, 5), (1, 2))]


def load(run_dir, splits, **options):
    [teacher] = teachers_lib.load([str(run_dir)], splits, InputSpec(), strategy=one_device(), **options)
    return teacher


def distill(data_dir, run_dir, *, listener=None, folds=None, **settings):
    """Trains on folds 3 to 5 as a job; returns the outcome and the weights."""
    manifest, settings = manifest_lib.load(str(data_dir)), SETTINGS | settings
    with contextlib.ExitStack() as stack:
        job = job_lib.prepare(
            manifest,
            folds or Folds(train=(3, 4, 5), val=(1, 2)),
            model=recipes.model_spec(settings, manifest),
            train=recipes.train_spec(settings),
            inputs=InputSpec(),
            strategy=one_device(),
            run_dir=str(run_dir),
            stack=stack,
        )
        outcome = job_lib.run(job, listener=job_lib.JobListener(**listener or {}))
    return outcome, outcome.trained.model.get_weights()


def change_config(run_dir, folder, change):
    """Copies a run, and changes its configuration."""
    shutil.copytree(run_dir, folder)
    path = folder / run_lib.CONFIG_FILENAME
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    return folder


def test_soft_targets_are_the_mean_of_the_teachers_probabilities(data_dir, large_dir, large_run, tmp_path):
    """One reads the student's clips, the other one larger frames of the same videos, in another order."""
    training, held_out = splits_of(data_dir)
    training = training.select(np.random.default_rng(0).permutation(len(training)))
    own_run = write_run(tmp_path / "own", data_dir, weight_std=0.1)
    found = [load(run, [training, held_out]) for run in (own_run, large_run)]
    assert found[0].clips is None and found[1].clips.ids == training.ids
    large = load_clips(manifest_lib.load(str(large_dir)), (3, 4, 5))
    assert large.ids != training.ids
    order = [large.ids.index(clip_id) for clip_id in training.ids]
    clips = [read_clips(training), read_clips(large)[order]]
    expected = np.mean(
        [
            special.softmax(teacher.model(frames, training=False).numpy() / 3, axis=1)
            for teacher, frames in zip(found, clips)
        ],
        axis=0,
    )
    feed = Feed(training, strategy=one_device())
    train = TrainSpec(batch_size=4, teachers="a,b", temperature=3.0)
    counted = []
    taught = teachers_lib.teach(
        feed,
        found,
        train,
        strategy=one_device(),
        predicting=lambda name, count: contextlib.nullcontext(
            lambda done: counted.append((name, count, done))
        ),
    )
    assert counted == [(name, 18, done) for name in ("own", "large") for done in (4, 4, 4, 4, 2)]
    np.testing.assert_allclose(taught.clips.soft_targets, expected, atol=1e-5)
    assert taught.clips.soft_targets.dtype == np.float32 and expected.std(axis=0).min() > 0.01
    assert feed.clips.soft_targets is None
    chosen = taught.select(np.array([7, 2]))
    batches = [*chosen.batches(batch_size=2)]
    np.testing.assert_array_equal(batches[0]["soft_target"], taught.clips.soft_targets[[7, 2]])
    assert "soft_target" not in next(feed.batches(batch_size=2))


def test_features_teach_a_model_of_frames(data_dir, tmp_path, own_module):  # noqa: F811
    """The first of two stored views, by whose features the run predicts as it does from frames."""
    build_features(data_dir, tmp_path / "features", grid=3, num_views=2)
    options = {"val_folds": "1,2", "epochs": 2, "learning_rate": 0.01}
    run = ucf.train(tmp_path / "features", "features_lstm", tmp_path / "teacher", **options)
    splits = splits_of(data_dir)
    teacher = load(run.run_dir, splits)
    assert teacher.clips.manifest.features and teacher.clips.ids == splits[0].ids
    feed, train = (
        Feed(splits[0], strategy=one_device()),
        TrainSpec(batch_size=4, teachers="a", temperature=1.0),
    )
    taught = teachers_lib.teach(feed, [teacher], train, strategy=one_device(), predicting=SILENT)
    model = ucf.api.Run(run.run_dir, allowed_code=[COLORS]).model
    expected = special.softmax(model(read_clips(splits[0]), training=False).numpy(), axis=1)
    np.testing.assert_allclose(taught.clips.soft_targets, expected, atol=0.01)
    assert expected.std(axis=0).min() > 0.02


def test_a_distillation_of_weight_0_trains_as_without_teachers(data_dir, pool_run, large_run, tmp_path):
    settings = {"epochs": 1, "teachers": f"{pool_run},{large_run}"}
    _, plain = distill(data_dir, tmp_path / "plain", epochs=1)
    _, taught = distill(data_dir, tmp_path / "zero", distillation=0.0, **settings)
    _, moved = distill(data_dir, tmp_path / "half", **settings)
    for one, other in zip(plain, taught, strict=True):
        np.testing.assert_array_equal(one, other)
    assert any((one != other).any() for one, other in zip(plain, moved, strict=True))
    assert "taught_by" not in json.loads((tmp_path / "plain" / "config.json").read_text())


def test_a_distillation_resumes_in_mid_epoch_to_the_same_weights(data_dir, pool_run, large_run, tmp_path):
    """The teachers predict again, from folders that were moved meanwhile."""
    settings = {"teachers": f"{pool_run},{large_run}", "distillation": 0.8}
    _, whole = distill(data_dir, tmp_path / "whole", **settings)
    seen = []
    listener = {"report": seen.append, "should_stop": lambda: len(seen) == 2}
    stopped, _ = distill(data_dir, tmp_path / "cut", listener=listener, **settings)
    assert stopped.summary is None and stopped.trained.step == 3
    moved = [shutil.copytree(run, tmp_path / "moved" / run.name) for run in (pool_run, large_run)]
    outcome, resumed = distill(
        data_dir, tmp_path / "cut", **settings | {"teachers": ",".join(map(str, moved))}
    )
    for one, other in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(one, other)
    assert outcome.summary.teachers == (pool_run.name, large_run.name)
    assert run_lib.load_config(str(tmp_path / "cut")).taught_by[1].name == large_run.name


def test_a_run_is_not_resumed_with_other_teachers(data_dir, pool_run, tmp_path):
    distill(data_dir, tmp_path / "run", teachers=str(pool_run), epochs=1)
    other = pathlib.Path(write_run(tmp_path / pool_run.name, data_dir, weight_std=0.6))
    message = r"another configuration: taught_by was pool \(weights \w{16}…\), is pool \(weights \w{16}…\)\."
    with raises_with_remedies(message):
        distill(data_dir, tmp_path / "run", teachers=str(other), epochs=1)
    with pytest.raises(UserError, match=r"taught_by was pool \(.*\), is none$"):
        distill(data_dir, tmp_path / "run", epochs=1)


def test_a_teacher_has_not_seen_clips_that_are_held_out(pool_run, data_dir, tmp_path):
    message = f"The teacher {pool_run} was trained on clips of folds 3,5, such as .*_g0[35]_.*, which this training "
    remedy = "To hold out the clips that the teacher held out: --val_folds=1-2; try: another --teachers"
    with raises_with_remedies(f"{message}holds out: its scores would be too high. {remedy}"):
        ucf.train(
            data_dir, "seed_pool", tmp_path / "run", val_folds="3", test_folds="5", teachers=str(pool_run)
        )
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="was trained on clips of folds 3, such as"):
        load(pool_run, splits_of(data_dir, (1, 4), (2,), (3,)))
    assert (
        load(pool_run, splits_of(data_dir, (3,), (1,), (2,))).clips is None
    )  # on fewer clips than the teacher


def test_other_shards_are_matched_by_video_in_the_search_for_leaks(data_dir, large_run, videos_dir, tmp_path):
    """The folds of the teacher's shards are other ones, and it has another number of clips per video."""
    with raises_with_remedies(
        r"trained on clips of folds 4, such as .*_g04_.*high\. Try: another --val_folds or another --teach"
    ):
        load(large_run, splits_of(data_dir, (3, 5), (4,)))
    build(videos_dir, tmp_path / "by_video", height=24, width=32, fold_by="video")
    by_video = manifest_lib.load(str(tmp_path / "by_video"))
    own = {
        "data_dir": by_video.data_dir,
        "fingerprint": by_video.fingerprint,
        "train_folds": [1, 2, 3],
        "val_folds": [4],
    }
    run = change_config(large_run, tmp_path / "run", lambda config: config.update(own))
    trained_on = load_clips(by_video, [1, 2, 3])
    assert {1, 2} <= set(trained_on.groups)  # its folds are not the student's
    with pytest.raises(UserError, match="was trained on clips of folds 1-2, such as"):
        load(run, splits_of(data_dir))
    build(videos_dir, tmp_path / "two", clips_per_video=2)
    with pytest.raises(
        UserError, match="The teacher .* was trained on clips of folds 4, such as .*#[01], which"
    ):
        load(large_run, splits_of(tmp_path / "two", (3, 5), (4,)))


def test_a_teacher_was_not_selected_by_the_clips_of_the_final_scores(pool_run, data_dir, tmp_path):
    def stop_early(config):
        config["train"]["early_stopping"] = 2
        config.update(val_folds=[1], test_folds=[2])

    run = change_config(pool_run, tmp_path / "run", stop_early)
    with raises_with_remedies(
        "was selected by its scores on clips of folds 1, such as .*--val_folds=1 --test_folds=2"
    ):
        load(run, splits_of(data_dir, (3, 4), (2,), (1,)))
    assert load(run, splits_of(data_dir, (3, 4), (1,), (2,)))


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda config: config.update(classes=["Left", "Middle", "Up"]),
            r"predicts 3 classes \(Left, Middle, Up, …\), but .* out of 3 classes \(Left, Middle, Right, …\)",
        ),
        (lambda config: config.update(multi_label=True), r"predicts several labels per clip \(Left"),
        (
            lambda config: config.update(clip_split="part 1 of 5"),
            "Expected a teacher that is trained on all clips",
        ),
        (
            lambda config: config.update(
                taught_by=[{"name": "first", "fingerprint": "0" * 64, "weights": "0" * 64}],
                train=config["train"] | {"teachers": "first"},
            ),
            r"Expected a teacher without teachers of its own in .* Received: teachers=\['first'\]",
        ),
        (
            lambda config: config.update(fingerprint="0" * 64),
            "cannot predict the training clips: .* now holds other shards than those the run was trained on",
        ),
        (
            lambda config: config.update(fingerprint="0" * 64, data_dir="http://127.0.0.1:9/set"),
            "cannot predict the training clips: http://127.0.0.1:9/set is not a local folder",
        ),
        (
            lambda config: config.update(fingerprint="0" * 64, data_dir="/nowhere"),
            "cannot predict the training clips: there is no set of shards in /nowhere any more",
        ),
        (
            lambda config: config["model"].update(name="strange.module:build"),
            "would execute strange.module:build, which is code outside this package",
        ),
        (lambda config: config.update(train_folds=[3, 77]), "Expected folds out of 1-5"),
    ],
)
def test_runs_that_cannot_teach_are_refused(pool_run, data_dir, tmp_path, change, message):
    run = change_config(pool_run, tmp_path / "run", change)
    with pytest.raises(UserError, match=message):
        load(run, splits_of(data_dir))


def test_a_copy_of_a_teacher_is_not_another_one(pool_run, data_dir, tmp_path):
    copy = shutil.copytree(pool_run, tmp_path / "copy")
    with pytest.raises(
        UserError, match=r"teachers of different weights. Received: same_weights=\['pool', 'copy'\]"
    ):
        teachers_lib.load([str(pool_run), str(copy)], splits_of(data_dir), InputSpec(), strategy=one_device())


def test_an_unfinished_run_does_not_teach(pool_run, data_dir, tmp_path):
    run = change_config(pool_run, tmp_path / "run", lambda config: None)
    (run / "summary.json").unlink()
    with raises_with_remedies(
        f"The teacher {run} is not finished: it holds no summary.json. To finish it: make train RUN={run} and"
    ):
        load(run, splits_of(data_dir))
    with pytest.raises(UserError, match="nowhere is not a run's folder"):
        load("nowhere", splits_of(data_dir))


def test_a_teachers_shards_hold_all_training_clips_with_the_same_classes(data_dir, large_run, tmp_path):
    videos = make_videos(tmp_path / "videos")
    missing = videos / "Left" / "v_Left_g04_c01.avi"
    missing.unlink()
    build(videos, tmp_path / "few", height=24, width=32)
    run = write_run(tmp_path / "run", tmp_path / "few")
    with pytest.raises(
        UserError,
        match="few to hold all training clips, .* the teacher .*run. Received: missing='Left/v_Left_g04",
    ):
        load(run, splits_of(data_dir))
    [training, held_out] = splits_of(data_dir)
    others = dataclasses.replace(training, labels=(training.labels + 1) % 3)
    with pytest.raises(
        UserError, match="Expected the classes of all training clips in .*large.* the teacher"
    ):
        load(large_run, [others, held_out])


def test_clips_of_several_labels_are_not_distilled(pool_run, tmp_path):
    data = make_data(tmp_path)
    with pytest.raises(UserError, match="Expected one label per clip for knowledge distillation"):
        ucf.train(data, "seed_pool", tmp_path / "run", teachers=str(pool_run))


def test_a_damaged_configuration_describes_too_few_teachers(pool_run):
    config = run_lib.load_config(str(pool_run))
    with pytest.raises(UserError, match="taught_by to describe each of the teachers. Received: taught_by=0"):
        dataclasses.replace(config, train=dataclasses.replace(config.train, teachers="a"))


def test_the_card_names_the_teachers_without_their_paths(pool_run):
    run = finished_run.load(str(pool_run))
    assert not any("taught" in str(block) for block in card._training(run))
    train = dataclasses.replace(run.config.train, teachers="/home/me/first,second", temperature=3.0)
    identity = {"fingerprint": "0" * 64, "weights": "0" * 64}
    taught_by = tuple(run_lib.TeacherRun(name=name, **identity) for name in ("first", "second"))
    taught = dataclasses.replace(
        run,
        config=dataclasses.replace(run.config, train=train, taught_by=taught_by),
        summary=dataclasses.replace(run.summary, teachers=("first", "second")),
    )
    _, table = card._training(taught)
    assert table.rows[1] == ("taught by the runs", "first, second; weight 0.5 in the loss, temperature 3")
    assert "/home" not in str(table) and str(table).count("temperature") == 1
    assert to_json(taught.summary)["teachers"] == ["first", "second"]
