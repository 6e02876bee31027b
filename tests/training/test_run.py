import dataclasses
import json
import re

import pytest

from pipelines import remedies
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.training import run


@pytest.fixture
def config(pool_run):
    return run.load_config(str(pool_run))


def test_a_folder_of_another_configuration_says_what_differs(pool_run, config):
    other = dataclasses.replace(
        config,
        fingerprint="0" * 64,
        classes=("A", "B", "C", "D"),
        model=dataclasses.replace(config.model, num_classes=4),
        train_folds=(2, 3, 4, 9),
        test_folds=(5,),
        train=dataclasses.replace(config.train, seed=7),
    )
    with pytest.raises(UserError) as raised:
        run.check_run(str(pool_run), other)
    assert str(raised.value) == (
        f"{pool_run} holds a run with another configuration: fingerprint was {config.fingerprint[:16]}…, is "
        "0000000000000000…; classes was 3 (Left, Middle, Right), is 4 (A, B, C, …); train_folds was 3-5, is 2-4,9; "
        "test_folds was none, is 5; num_classes was 3, is 4; seed was 0, is 7"
    )
    assert remedies.message(raised.value).endswith(". Try: another --run; in a comparison: another --output")


def test_a_setting_that_files_leave_out_by_default_is_compared_too(pool_run, config, tmp_path):
    mixed = dataclasses.replace(config, train=dataclasses.replace(config.train, mixup=0.2))
    with pytest.raises(UserError, match="another configuration: mixup was 0.0, is 0.2"):
        run.check_run(str(pool_run), mixed)
    with run.open_run(str(tmp_path), mixed):
        with pytest.raises(UserError, match="another configuration: mixup was 0.2, is 0.0"):
            run.check_run(str(tmp_path), config)


def test_a_file_is_no_folder_for_a_run(config, tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="Expected a folder for the run. Received: .*run, which is a file"):
        run.check_run(str(tmp_path / "run"), config)


def test_a_name_that_is_too_long_holds_no_run(config, tmp_path):
    path = str(tmp_path / ("x" * 300))
    run.check_run(path, config)
    with pytest.raises(UserError, match="Cannot make the folder .*: File name too long"):
        with run.open_run(path, config):
            pass


HOSTILE = {
    "model: Expected clips of at most": lambda v: v["model"].update(
        num_frames=10_000, height=4096, width=4096
    ),
    "clip_format: Expected clips of at": lambda v: v["clip_format"].update(
        num_frames=10_000, height=4096, width=4096
    ),
    "model: Expected 2 to 65536 classes": lambda v: v["model"].update(num_classes=10**9),
    "Expected distinct classes, as many as the model's 3": lambda v: v.update(classes=["a", "b"]),
    "Expected a clip_format of the size of the model's clips, and of as many frames or more": lambda v: v[
        "clip_format"
    ].update(num_frames=4),
    "train: Expected batch_size from 1 to 1000000": lambda v: v["train"].update(batch_size=10**9),
    "train: Expected epochs from 1 to 1000000": lambda v: v["train"].update(epochs=10**12),
    "train: Expected learning_rate above 0, to 1e+38": lambda v: v["train"].update(learning_rate=1e300),
    "train.seed: Expected int. Received: '0'": lambda v: v["train"].update(seed="0"),
    "train.augment: Expected crop_area above 0": lambda v: v["train"]["augment"].update(crop_area=0),
    "fingerprint: Expected str matching": lambda v: v.update(fingerprint="x"),
    "train_folds[0]: Expected int": lambda v: v.update(train_folds=["1"]),
    "Expected train_folds without repeated folds": lambda v: v.update(train_folds=[1, 1]),
    "video_secs[0]: Expected float > 0": lambda v: v.update(video_secs=[-1, 2]),
    "Expected video_secs to be the median and the largest duration": lambda v: v.update(video_secs=[3, 2]),
    "Expected known fields. Received: 'train.more'": lambda v: v["train"].update(more=1),
    "Expected a field model": lambda v: v.pop("model"),
}


@pytest.mark.parametrize("message", HOSTILE)
def test_a_hostile_configuration_is_refused_with_its_field(pool_run, tmp_path, message):
    value = json.loads((pool_run / "config.json").read_text())
    HOSTILE[message](value)
    (tmp_path / "config.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=re.escape(f"config.json is not a run's configuration: {message}")):
        run.load_config(str(tmp_path))


def test_runs_of_earlier_versions_are_read(pool_run, tmp_path, config):
    value = json.loads((pool_run / "config.json").read_text())
    for name in ("clip_split", "clip_format", "video_secs"):
        del value[name]
    del value["train"]["ema"], value["model"]["motion"]
    (tmp_path / "config.json").write_text(json.dumps(value))
    assert run.load_config(str(tmp_path)) == dataclasses.replace(config, clip_format=None, video_secs=None)
    summary = json.loads((pool_run / "summary.json").read_text())
    for name in ("num_devices", "environment", "fold_by"):
        del summary[name]
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert run.load_summary(tmp_path).num_devices is None


@pytest.mark.parametrize(
    "name", ["tensorboard", "checkpoints", "summary.json", "manifest.json", "results.json"]
)
def test_a_folder_of_something_else_is_no_run(config, tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(
        UserError, match=f"a run's folder. Received: .*, which holds {name} but no config.json"
    ):
        with run.open_run(str(tmp_path), config):
            pass
    assert not (tmp_path / "config.json").exists()


def test_a_new_run_may_find_a_log_in_its_folder(config, tmp_path):
    (tmp_path / "log.txt").touch()
    with run.open_run(str(tmp_path), config):
        assert run.load_config(str(tmp_path)) == config
