"""Parquet files are decoded in a worker process first: damage that aborts PyArrow ends only that process."""

import io

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.conftest import run_code, run_module
from ucf50_tfrecord import parquet_check
from ucf50_tfrecord.errors import UserError

# Decodes a file in the process that needs its values.
READ = (
    "import sys; from ucf50_tfrecord import parquet_check; parquet_check.decode('', open(sys.argv[1], 'rb'))"
)


def content(**options):
    """Returns a file with two row groups of texts, numbers and lists, as bytes."""
    table = pa.table(
        {
            "clip": pa.array(["a", "b"]).dictionary_encode(),
            "group": [1, 2],
            "logits": pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32())),
        }
    )
    written = io.BytesIO()
    parquet.write_table(table, written, row_group_size=1, **options)
    return written.getvalue()


def aborting():
    """Returns a file at which PyArrow aborts: its metadata say that a column of optional values has required ones.

    In the schema, the column's repetition precedes its name: a field 0x25 of Thrift's compact protocol, and its value.
    """
    optional, required = b"\x25\x02\x18\x04clip", b"\x25\x00\x18\x04clip"
    good = content()
    assert good.count(optional) == 1
    return good.replace(optional, required)


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_file_that_can_be_decoded_is_accepted(tmp_path, compression):
    path = tmp_path / "good.parquet"
    path.write_bytes(content(compression=compression))
    parquet_check.check(path)


def test_damage_at_which_pyarrow_aborts_is_an_error_of_the_user(tmp_path):
    path = tmp_path / "aborting.parquet"
    path.write_bytes(aborting())
    assert run_code(READ, path).returncode < 0  # it would end the process that needs the values
    with pytest.raises(UserError, match=f"Cannot read {path}: its process crashed with SIGABRT"):
        parquet_check.check(path)


def reason(path, damaged):
    """Returns why a damaged file cannot be decoded; called in this process."""
    path.write_bytes(damaged)
    with open(path, "rb", buffering=0) as file:
        return parquet_check.decode("", file)


def test_damage_that_pyarrow_reports_is_an_error_of_the_user(tmp_path, monkeypatch):
    path, good = tmp_path / "damaged.parquet", content(compression="zstd")
    assert reason(path, good) == ""
    assert reason(path, good[:-1]).startswith("Expected a Parquet file")
    assert reason(path, good[:4] + bytes(40) + good[44:]).startswith(
        "Expected pages of values in column clip"
    )
    first = good.index(b"\x28\xb5\x2f\xfd")  # the start of the first compressed page
    damaged = good[:first] + b"x" + good[first + 1 :]
    assert reason(path, damaged).startswith("PyArrow cannot decode it: ")
    with pytest.raises(UserError, match=f"{path} is damaged: PyArrow cannot decode it"):
        parquet_check.check(path)
    monkeypatch.setattr(parquet_check, "_MAX_COLUMN_BYTES", 10)
    assert reason(path, good).startswith("Expected at most 10 bytes in column clip")


def test_a_missing_file_is_an_error_of_the_user(tmp_path):
    with pytest.raises(UserError, match=f"Cannot read {tmp_path}/nothing: FileNotFoundError"):
        parquet_check.check(tmp_path / "nothing")


def test_a_report_of_damaged_predictions_stops_with_an_error_of_the_user(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "predictions.parquet").write_bytes(aborting())
    result = run_module("pipelines.compare", f"--results={tmp_path / 'results.json'}")
    assert result.returncode == 2 and "its process crashed with SIGABRT" in result.stderr
