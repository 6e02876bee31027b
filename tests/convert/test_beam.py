"""Beam's DirectRunner in several processes writes what the local engine writes."""

import pytest

from tests.conftest import build, run_module
from ucf50_tfrecord import manifest

pytest.importorskip("apache_beam")
BEAM_ARGS = "--runner=DirectRunner --direct_running_mode=multi_processing --direct_num_workers=2"


def convert(videos_dir, data, *flags):
    return run_module(
        "pipelines.convert",
        f"--videos={videos_dir}",
        f"--data={data}",
        "--name=small",
        "--size=16x24",
        "--frames=5",
        "--engine=beam",
        *flags,
    )


def test_shards_equal_the_local_engines(tmp_path, videos_dir):
    result = convert(videos_dir, tmp_path / "data", f"--beam_args={BEAM_ARGS}")
    assert result.returncode == 0, result.stderr
    assert "30 videos, 30 clips, 0 quarantined" in result.stdout
    built, local = manifest.load(str(tmp_path / "data")), build(videos_dir, tmp_path / "local")
    assert len(built.shards) == 5 and built.shards == local.shards
    for shard in local.shards:
        made, expected = (tmp_path / name / shard.filename for name in ("data", "local"))
        assert made.read_bytes() == expected.read_bytes()
    again = convert(videos_dir, tmp_path / "data", f"--beam_args={BEAM_ARGS}")
    assert again.returncode == 0 and "nothing to convert" in again.stdout


def test_flags_of_the_other_engine_are_refused(tmp_path, videos_dir):
    assert "no --workers with --engine=beam" in convert(videos_dir, tmp_path / "a", "--workers=2").stderr
    refused = convert(videos_dir, tmp_path / "a", "--engine=local", f"--beam_args={BEAM_ARGS}")
    assert refused.returncode == 2 and "Expected --engine=beam with --beam_args" in refused.stderr
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "args, message", [("'", "Cannot read --beam_args"), ("--runner=Nope", "Beam refuses its options")]
)
def test_options_that_beam_refuses_are_an_error(tmp_path, videos_dir, args, message):
    result = convert(videos_dir, tmp_path / "a", f"--beam_args={args}")
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr
