"""Trainings on stored features, and the models of frames that they give."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import shutil

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

import ucf50_tfrecord as ucf
from pipelines import features, terminal
from tests.conftest import raises_with_remedies
from tests.features.test_encode import COLORS, build, build_for_module, clips_of, own_module  # noqa: F401
from tests.warm import run_module
from ucf50_tfrecord import building, manifest, recipes, storage
from ucf50_tfrecord.dataset.clips import frames_of, load_clips
from ucf50_tfrecord.dataset.feed import read_clips
from ucf50_tfrecord.dataset.inputs import InputSpec
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import assembly, compare, compare_runs, interventions
from ucf50_tfrecord.evaluation.cells import ComparisonListener, ComparisonSpec, Recipe
from ucf50_tfrecord.evaluation.results import Cell, CellResult, Condition
from ucf50_tfrecord.features import encode
from ucf50_tfrecord.features.encoders import load_encoder
from ucf50_tfrecord.specs import FeatureSpec
from ucf50_tfrecord.training import logs
from ucf50_tfrecord.training import strategy as strategy_lib
from ucf50_tfrecord.training import trained as trained_lib

PIXELS = tuple(entry.name for entry in interventions.INTERVENTIONS.values() if entry.needs_pixels)


@pytest.fixture(scope="module")
def grid_dir(data_dir, tmp_path_factory, own_module):  # noqa: F811
    """The folder of features that keep the third of the frame that is bright, which tells the classes."""
    return build_for_module(data_dir, tmp_path_factory, grid=3)


@pytest.fixture(scope="module")
def run(grid_dir, tmp_path_factory):
    return ucf.train(
        grid_dir,
        "features_lstm",
        tmp_path_factory.mktemp("runs") / "lstm",
        epochs=6,
        learning_rate=3e-3,
        seed=1,
    )


def test_a_head_learns_and_scores_held_out_groups(run):
    assert run.summary.accuracy > 0.8
    assert run.config.features.shape == (5, 3, 3, 3) and run.config.model.feature_shape == (3, 3, 3)


def test_its_model_maps_frames_to_the_logits_of_their_features(run, data_dir):
    lines = [
        json.loads(line) for line in pathlib.Path(run.run_dir, "predictions.jsonl").read_text().splitlines()
    ]
    stored = {line["clip_id"]: line["logits"] for line in lines if line["perturbation"] == "none"}
    clips = clips_of(data_dir)
    clips = clips.select(np.array([clip_id in stored for clip_id in clips.ids]))
    model = ucf.api.Run(run.run_dir, allowed_code=[COLORS]).model
    assert model.input.shape == (None, 5, 16, 24, 3)
    logits = model(read_clips(clips), training=False)
    np.testing.assert_allclose(logits, [stored[clip_id] for clip_id in clips.ids], atol=0.05)


def test_a_strangers_encoder_is_not_loaded_unasked(run):
    with raises_with_remedies(
        f"made by the encoder {COLORS}, which is outside this package.*--allow_code={COLORS}"
    ):
        ucf.api.Run(run.run_dir).model


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"horizontal_flip": True}, "only temporal_shift and frame_order as augmentation"),
        ({"cutmix": 1.0}, "mixup in place of cutmix, where features are stored"),
        ({"model": "conv3d"}, "a model out of .*'lstm'.* where features are stored"),
        ({"encoder": "MobileNetV2"}, "no encoder and no motion input where features are stored"),
        ({"motion": True}, "no encoder and no motion input where features are stored"),
    ],
)
def test_settings_of_frames_are_refused(grid_dir, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        ucf.train(grid_dir, "features_lstm", tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_weights_do_not_depend_on_where_features_are_kept(grid_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(
        logs.TensorBoardLog, "evaluation", lambda *_: None
    )  # drawing takes longer than training
    options = {
        "epochs": 1,
        "temporal_shift": 2,
        "frame_order": "shuffled",
        "precision": "float32",
        "mixup": 0.4,
    }
    weights = []
    for cache in ("none", "host", "device"):
        trained = ucf.train(
            grid_dir, "features_gru", tmp_path / cache, inputs=InputSpec(cache=cache), **options
        )
        devices = strategy_lib.make_strategy("one", environment={})
        model = trained_lib.load_model(trained.run_dir, trained.config, "last", strategy=devices)
        weights.append(model.get_weights())
    for others in weights[1:]:
        for one, other in zip(weights[0], others, strict=True):
            np.testing.assert_array_equal(one, other)


def test_frames_are_found_again(grid_dir, data_dir):
    chosen = np.array([7, 3, 21])
    clips = clips_of(grid_dir).select(chosen)
    np.testing.assert_array_equal(read_clips(frames_of(clips)), read_clips(clips_of(data_dir).select(chosen)))


def test_a_run_on_frames_does_not_fit_features(grid_dir, pool_run):
    result = run_module("pipelines.evaluate", f"--run={pool_run}", f"--data={grid_dir}")
    assert result.returncode == 2
    assert f"{grid_dir} holds 5x3x3x3 features of {COLORS}" in result.stderr
    assert "the run was trained on frames" in result.stderr


@pytest.fixture(scope="module")
def changed_dirs(data_dir, tmp_path_factory, own_module):  # noqa: F811
    """Folders of the features of clips under each intervention that changes pixels."""
    source = manifest.load(str(data_dir))
    encoder = load_encoder(FeatureSpec(encoder=COLORS, grid=3), source.format)
    folder, built = tmp_path_factory.mktemp("changed"), {}
    for name in PIXELS:
        planned = encode.plan_features(source, dataclasses.replace(encoder.format, intervention=name))
        change = encode.intervene(name, load_clips(source, source.folds))
        run = functools.partial(encode.run_encoder, encoders=[encoder], change=change)
        built[name] = building.build_dataset(planned, str(folder / name), run=run)
    return built


def test_changed_clips_are_encoded_as_the_intervention_shows_them(data_dir, changed_dirs):
    grey = changed_dirs["grey"]
    features = read_clips(load_clips(grey, grey.folds))
    np.testing.assert_array_equal(features[..., 0], features[..., 1])  # the three colors are one
    frames = read_clips(clips_of(data_dir))
    assert not np.array_equal(frames[..., 0], frames[..., 1])
    assert len({built.fingerprint for built in changed_dirs.values()}) == len(PIXELS)


def test_the_donors_of_changed_clips_are_found_again_from_the_results(data_dir, grid_dir):
    clips = clips_of(data_dir)
    frames, tested = read_clips(clips), np.flatnonzero(np.isin(clips.folds, [1, 2]))
    changed = encode.intervene("background_swap", clips)(frames, clips.ids)
    cell = CellResult(
        cell=Cell(model="lstm"),
        architecture="lstm",
        clips=tested,
        logits={"background_swap": np.zeros((len(tested), 3), np.float32)},
        recurrence=None,
        run_dir="",
        precision="float32",
    )
    results = assembly.assemble(clips_of(grid_dir), [cell], audit=None)
    [donors] = results.donors(Condition("lstm", intervention="background_swap"))
    assert (donors[clips.folds > 2] == -1).all()
    backgrounds = interventions.find_backgrounds(clips)
    differences = np.abs(frames.astype(int) - backgrounds[:, np.newaxis].astype(int)).max(
        axis=-1, keepdims=True
    )
    expected = np.where(differences > 30, frames, backgrounds[donors][:, np.newaxis])
    np.testing.assert_array_equal(changed[tested], expected[tested])


@pytest.mark.parametrize("num_views, heads", [(1, ("frame_pool", "lstm")), (2, ("frame_pool",))])
def test_a_comparison_tests_heads_on_changed_clips(data_dir, changed_dirs, tmp_path, num_views, heads):
    built = build(data_dir, tmp_path / "features", grid=3, num_views=num_views)
    settings = {name: recipes.load(f"features_{name}") | {"epochs": 1} for name in heads}
    spec = ComparisonSpec(
        recipes={
            name: Recipe(
                model=recipes.model_spec(values, built),
                train=recipes.train_spec(values | {"precision": "float32"}),
            )
            for name, values in settings.items()
        },
        num_parts=0,
        num_seeds=1,
        val_folds=(1, 2),
        orders=(),
    )
    comparison = compare.Comparison(
        folder=str(tmp_path / "out"),
        spec=spec,
        clips=clips_of(tmp_path / "features"),
        changed={name: load_clips(found, found.folds) for name, found in changed_dirs.items()},
    )
    assert comparison.run(ComparisonListener(), strategy=strategy_lib.make_strategy("one", environment={}))
    results = comparison.results()
    for cell in results.cells:
        assert set(cell.logits) == set(interventions.names(5))
        assert not np.array_equal(cell.logits["grey"], cell.logits["none"])
    assert results.audit is not None
    cell = results.cells[0]
    again = compare_runs.examine_runs(
        [cell.run_dir],
        comparison.clips,
        changed=comparison.changed,
        strategy=strategy_lib.make_strategy("one", environment={}),
        listener=ComparisonListener(),
    )
    for name, logits in again.cells[0].logits.items():
        np.testing.assert_array_equal(logits, cell.logits[name], err_msg=name)


def test_a_strangers_dataset_of_features_opens_no_url(grid_dir, tmp_path):
    folder = shutil.copytree(grid_dir, tmp_path / "features")
    value = json.loads((folder / "manifest.json").read_text())
    value["frames_dir"] = "http://127.0.0.1:9/frames"
    (folder / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(
        UserError, match="Expected a local folder of the frames that the features were made from"
    ):
        frames_of(clips_of(folder))


def test_a_comparison_loads_no_encoder_that_only_the_dataset_names(grid_dir, tmp_path, own_module):  # noqa: F811
    result = run_module(
        *(
            "pipelines.compare",
            f"--data={grid_dir}",
            "--models=features_frame_pool,features_gru",
            "--epochs=1",
        ),
        f"--output={tmp_path / 'out'}",
    )
    assert result.returncode == 2
    assert f"made by the encoder {COLORS}, which is outside this package" in result.stderr
    assert not (tmp_path / "out").exists()


def test_tasks_wait_for_the_one_that_encodes_changed_clips(
    grid_dir,
    tmp_path,
    monkeypatch,
    own_module,  # noqa: F811
):
    folder = shutil.copytree(grid_dir, tmp_path / "features")
    other = tmp_path / "features-grey"  # as another task, which encodes it, locks it
    other.mkdir()
    monkeypatch.setattr(features, "_WAIT_SECS", 0.05)
    with contextlib.ExitStack() as lock, flagsaver.flagsaver():
        flags.FLAGS(["features", f"--features={COLORS}"])
        lock.enter_context(storage.folder_lock(other))
        said = []
        monkeypatch.setattr(terminal, "note", lambda text: (said.append(text), lock.close()))
        built = features.encode_changed(manifest.load(str(folder)))
    assert said == [f"Waiting for another process that is encoding {other}"]
    assert set(built) == set(PIXELS) and built["grey"].num_clips == 30
