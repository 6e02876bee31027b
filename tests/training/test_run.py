import dataclasses

import pytest

from ucf50_tfrecord.specs import UserError
from ucf50_tfrecord.training import run


@pytest.fixture
def config(pool_run):
    return run.load_config(str(pool_run))


def test_a_folder_of_another_configuration_says_what_differs(pool_run, config):
    other = dataclasses.replace(
        config,
        fingerprint="0" * 64,
        classes=("A", "B", "C", "D"),
        train_folds=(2, 3, 4, 9),
        test_folds=(5,),
        train=dataclasses.replace(config.train, seed=7),
    )
    with pytest.raises(UserError) as raised:
        run.check_run(str(pool_run), other)
    assert str(raised.value) == (
        f"{pool_run} holds a run with another configuration: fingerprint was {config.fingerprint[:16]}…, is "
        "0000000000000000…; classes was 3 (Left, Middle, Right), is 4 (A, B, C, …); train_folds was 3-5, is 2-4,9; "
        "test_folds was none, is 5; seed was 0, is 7. Choose another --run, or of a comparison another --output."
    )


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
