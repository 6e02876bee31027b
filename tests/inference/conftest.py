import pytest

from tests.untrained import write_run
from ucf50_tfrecord.inference import finished_run


@pytest.fixture(scope="session")
def run_dir(data_dir, tmp_path_factory):
    """The folder of a finished, untrained run of the model lstm. Read only."""
    return write_run(tmp_path_factory.mktemp("runs") / "lstm", data_dir, name="lstm")


@pytest.fixture(scope="session")
def run(run_dir):
    return finished_run.load(run_dir)
