"""The sizes that the pages of a Parquet file state: those of real files, and headers that are wrong."""

import pyarrow as pa
import pytest
from pyarrow import parquet

from ucf50_tfrecord import parquet_pages
from ucf50_tfrecord.errors import UserError


@pytest.mark.parametrize(
    "options", [{}, {"use_dictionary": False}, {"data_page_size": 64, "write_batch_size": 8}]
)
def test_pages_state_what_the_metadata_say(tmp_path, options):
    values = [f"clip {number % 40}" * 3 for number in range(500)]
    parquet.write_table(pa.table({"clip": values}), tmp_path / "table", compression="zstd", **options)
    column = parquet.read_metadata(tmp_path / "table").row_group(0).column(0)
    starts = [column.data_page_offset] + [column.dictionary_page_offset] * column.has_dictionary_page
    with open(tmp_path / "table", "rb") as file:
        found = parquet_pages.measure(file.fileno(), min(starts), column.total_compressed_size)
        assert found.num_values == 500
        assert found.num_distinct == (40 if column.has_dictionary_page else 0)
        assert 0 < found.num_bytes < column.total_uncompressed_size  # which counts headers, too
        for start, size in (
            (min(starts) + 1, column.total_compressed_size - 1),
            (min(starts), column.total_compressed_size - 1),
            (min(starts), 3),
        ):
            with pytest.raises(ValueError, match="a page"):
                parquet_pages.measure(file.fileno(), start, size)


DATA_PAGE = bytes([0x15, 0, 0x15, 20, 0x15, 0, 0x2C, 0x15, 6, 0, 0])  # of 3 values, 10 bytes decompressed
HEADERS = {
    "is no number of bytes": bytes([0x15, 0, 0x15, 19, *DATA_PAGE[4:]]),  # -10 bytes
    "of more than 63 bits": bytes([0x15, *[255] * 10]),
    "nested too deeply": bytes([0x1C] * 4),
    "an unknown field": bytes([0xF5, 0, 0x15, 0]),
    "an unusual field": bytes([0x05, 0x02, 0]),
    "a value of kind 9": bytes([0x19, 0x05]),
    "a page of kind 3": bytes([0x15, 6, 0x15, 20, 0x15, 0, 0x4C, 0x15, 6, 0, 0]),
    "a page with a second dictionary": DATA_PAGE + bytes([0x15, 4, 0x15, 0, 0x15, 0, 0x4C, 0x15, 0, 0, 0]),
    "a page whose values share their beginnings": bytes([*DATA_PAGE[:-2], 0x15, 14, 0, 0]),
    "without field 5": bytes([0x15, 0, 0x15, 20, 0x15, 0, 0]),
    "does not end": DATA_PAGE[:-1],
}


@pytest.mark.parametrize("message", HEADERS)
def test_wrong_headers_of_pages_are_refused(tmp_path, message):
    (tmp_path / "page").write_bytes(DATA_PAGE)
    with open(tmp_path / "page", "rb") as file:
        assert parquet_pages.measure(file.fileno(), 0, len(DATA_PAGE)) == (3, 0, 10)
    (tmp_path / "page").write_bytes(HEADERS[message])
    with open(tmp_path / "page", "rb") as file, pytest.raises(ValueError, match=message):
        parquet_pages.measure(file.fileno(), 0, len(HEADERS[message]))


def test_metadata_longer_than_allowed_are_refused(tmp_path):
    parquet.write_table(pa.table({"clip": ["a"]}), tmp_path / "table")
    with open(tmp_path / "table", "rb") as file:
        parquet_pages.check_metadata_size(file.fileno(), 1000)
        with pytest.raises(UserError, match="Expected at most 10 bytes of metadata. Received: bytes="):
            parquet_pages.check_metadata_size(file.fileno(), 10)
