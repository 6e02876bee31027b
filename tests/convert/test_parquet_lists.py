"""Lists of videos as Parquet files: the same as other lists, and files from strangers."""

import decimal
import io
import json
import sys

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.conftest import raises_with_remedies
from tests.convert.test_lists import find
from tests.convert.test_plan import make_plan
from ucf50_tfrecord.convert import lists, parquet_lists
from ucf50_tfrecord.errors import UserError

SCHEMA = pa.schema(
    [
        *(("path", pa.string()), ("label", pa.dictionary(pa.int8(), pa.string())), ("id", pa.large_string())),
        *(("group", pa.float64()), ("split", pa.string()), ("start", pa.float32()), ("end", pa.float64())),
    ]
)
ROWS = [
    {"path": "a.avi", "label": "x", "group": 3, "split": "test", "end": 2.5},
    {"path": "b.avi", "label": "y", "id": "one", "split": "train", "start": 1, "end": 2.5},
    {"path": "b.avi", "label": "y", "group": 2, "split": "train", "start": 3.25},
]


def write(folder, table, **options):
    """Writes a list, and an empty file for each path in it."""
    for name in table.column("path").to_pylist() if "path" in table.column_names else ():
        (folder / str(name)[:100]).touch()
    parquet.write_table(table, folder / "list.parquet", **options)
    return folder / "list.parquet"


def two(**columns):
    """Returns a table of two videos, and other columns."""
    return pa.table({"path": ["a.avi", "b.avi"], "label": ["x", "y"]} | columns)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"row_group_size": 1, "compression": "zstd"},
        {"use_dictionary": False, "store_schema": False},
        {"data_page_size": 1, "write_batch_size": 1},
    ],
)
def test_a_list_gives_the_same_plan_as_csv_jsonl_or_parquet(tmp_path, options):
    found = lists.find_videos(write(tmp_path, pa.Table.from_pylist(ROWS, SCHEMA), **options))
    lines = [",".join(str(row.get(name, "")) for name in SCHEMA.names) for row in ROWS]
    from_csv = find(tmp_path, "\n".join([",".join(SCHEMA.names), *lines]))
    from_json = find(tmp_path, "\n".join(map(json.dumps, ROWS)), "list.jsonl")
    assert found.videos == from_csv.videos == from_json.videos and len(found.videos) == 3
    plans = [make_plan(catalog) for catalog in (found, from_csv, from_json)]
    assert plans[0].jobs == plans[1].jobs == plans[2].jobs
    assert plans[0].fold_names == plans[1].fold_names and plans[0].origin == f"{tmp_path}/list.parquet"


LISTS = {"path": ["a.avi", "b.avi", "c.avi"], "label": ["x", "y", "x"], "split": ["train", "test", "train"]}
LISTS |= {"group": [3, None, 2], "start": [None, 1.5, None], "end": [2.5, 4.0, 3.0]}


def check_written(folder):
    """Checks that list.parquet says the same as LISTS, written as CSV."""
    rows = [
        ["" if value is None else str(value) for value in row] for row in zip(*LISTS.values(), strict=True)
    ]
    expected = find(folder, "\n".join(map(",".join, [list(LISTS), *rows])))
    assert lists.find_videos(folder / "list.parquet").videos == expected.videos


@pytest.mark.parametrize("compression", ["snappy", "gzip", "zstd", "lz4", "brotli", None])
def test_a_list_that_pandas_writes_is_read(tmp_path, compression):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(LISTS)
    for types in ({}, {"group": "Int64", "label": "category", "path": "string"}, {"label": object}):
        frame.astype(types).to_parquet(tmp_path / "list.parquet", compression=compression)
        check_written(tmp_path)


@pytest.mark.parametrize("compression", ["snappy", "gzip", "zstd", "lz4", "brotli", "uncompressed"])
def test_a_list_that_duckdb_writes_is_read(tmp_path, compression):
    """Among its types, enum has a dictionary, and numbers such as 1.5 are exact decimals."""
    duckdb = pytest.importorskip("duckdb")
    rows = [
        tuple("null" if value is None else repr(value) for value in row)
        for row in zip(*LISTS.values(), strict=True)
    ]
    values = ", ".join(f"({', '.join(row)})" for row in rows)
    names = ", ".join(f'"{name}"' for name in LISTS)
    with duckdb.connect() as database:
        database.execute(f"create table list as select * from (values {values}) as list({names})")
        database.execute("create type labels as enum ('x', 'y'); alter table list alter label type labels")
        options = f"(format parquet, compression {compression})"
        database.execute(f"copy list to '{tmp_path / 'list.parquet'}' {options}")
    check_written(tmp_path)


@pytest.mark.parametrize("compression", ["snappy", "gzip", "zstd", "lz4", "brotli", "uncompressed"])
def test_a_list_that_polars_writes_is_read(tmp_path, compression):
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(LISTS)
    categories = {"label": polars.Categorical, "split": polars.Enum(["train", "test"]), "group": polars.Int8}
    for types in ({}, categories):
        frame.cast(types).write_parquet(tmp_path / "list.parquet", compression=compression)
        check_written(tmp_path)


def test_exact_decimals_are_numbers(tmp_path):
    decimals = pa.array([decimal.Decimal(1), decimal.Decimal(2)], pa.decimal128(18, 1))
    path = write(tmp_path, two(start=decimals, group=decimals), store_decimal_as_integer=True)
    found = lists.find_videos(path).videos
    assert [video.segment.start_us for video in found] == [1_000_000, 2_000_000]
    assert [video.group for video in found] == [1, 2]


def test_mistakes_are_named_with_their_row_and_column(tmp_path):
    table = pa.table(
        {
            "path": ["a.avi", "b.avi", None, "c.avi", "d.avi", "e.avi"],
            "label": ["x", "y", "x", "x;", "x", "x"],
            "start": [0.0, -1.0, None, None, float("nan"), None],
            "group": [1.5, 2.0, None, None, None, None],
        }
    )
    with pytest.raises(UserError) as raised:
        lists.find_videos(write(tmp_path, table, row_group_size=2))
    assert str(raised.value) == (
        f"{tmp_path}/list.parquet has 5 mistakes. row 1: group: Expected int | str | null. Received: 1.5; "
        "row 2: start: Expected float >= 0.0. Received: -1.0; row 3: Expected a field path. Received: none; "
        "row 4: Expected a name before, between and after each separator of labels. Received: label='x;'; "
        "row 5: start: Expected float >= 0.0. Received: nan"
    )


@pytest.mark.parametrize(
    "table, message",
    [
        (two(lenght=[1, 2]), "Expected columns out of path, label, .*Received: columns=.'lenght'"),
        (pa.table({"path": ["a.avi"]}), "Expected a column label. Received: columns=.'path'"),
        (two().slice(0, 0), "list.parquet names no video"),
        (two(fold=[[1], [2]]), "columns=.'fold.list.element'"),
        (two(fold=[{"a": 1}, {"a": 2}]), "columns=.'fold.a'"),
        (two(group=[b"1", b"2"]), "texts or numbers in column group. Received: type='BYTE_ARRAY NONE'"),
        (two(group=[True, False]), "texts or numbers in column group. Received: type='BOOLEAN NONE'"),
        (
            two(start=pa.array([1, 2], pa.timestamp("us"))),
            "texts or numbers in column start. Received: type='INT64 TIMESTAMP'",
        ),
        (two(start=pa.array([1, 2], pa.duration("us"))), "column start. Received: type='duration.us.'"),
        (two(fold=pa.array([2**64 - 1, 1], pa.uint64())), "Expected folds up to number 9999"),
        (pa.table({"path": ["a.avi", "b.avi"], "label": [0, 1]}), "row 1: label: Expected .* Received: 0"),
        (pa.table([["a"], ["b"], ["c"]], ["path", "label", "label"]), "Expected distinct columns"),
    ],
)
def test_a_wrong_list_is_refused(tmp_path, table, message):
    with pytest.raises(UserError, match=message):
        lists.find_videos(write(tmp_path, table))


def refusal(path, max_bytes=2**28):
    """Returns why the worker's function refuses a list; called in this process."""
    with open(path, "rb", buffering=0) as file:
        found = parquet_lists.read_table(parquet_lists._Item(str(path), lists.COLUMNS, max_bytes), file)
    return getattr(found, "reason", None)


def test_a_stranger_cannot_state_large_sizes(tmp_path, monkeypatch):
    path = write(tmp_path, two(id=["x" * 2**20, "y" * 2**20]), compression="zstd")  # 2 MB out of 1 KB
    for limit, message in (
        (path.stat().st_size - 1, "a file of at most"),
        (2**20, "at most 1048576 bytes in column id"),
        (2**21 + 20, "at most 2097172 bytes of values"),
    ):
        assert refusal(path, limit).startswith(f"Expected {message}")
    monkeypatch.setattr(parquet_lists, "_MAX_ROWS", 1)
    assert refusal(path) == "Expected at most 1 rows. Received: rows=2"
    monkeypatch.setattr(parquet_lists, "_MAX_METADATA_BYTES", 100)
    assert refusal(path).startswith("Expected at most 100 bytes of metadata")


def test_many_copies_of_a_long_text_take_no_memory(tmp_path):
    """A file of a few KB that stands for 10 GB."""
    texts = pa.DictionaryArray.from_arrays(pa.array([1] + [0] * 9_999, pa.int32()), ["x" * 2**20, "a.avi"])
    parquet.write_table(
        pa.table({"path": texts, "label": texts}), tmp_path / "list.parquet", compression="zstd"
    )
    assert (tmp_path / "list.parquet").stat().st_size < 50_000
    message = "list.parquet is not a list of videos: row 2: path: Expected a text of at most 4096 characters"
    with pytest.raises(UserError, match=message):
        lists.find_videos(tmp_path / "list.parquet")


def test_texts_that_share_their_beginnings_are_refused(tmp_path):
    """Decoders write each of them out, so that a few bytes may become gigabytes."""
    options = {"use_dictionary": False, "column_encoding": {"path": "DELTA_BYTE_ARRAY"}}
    with pytest.raises(UserError, match="in column path. Received: a page whose values share their beginn"):
        lists.find_videos(write(tmp_path, two(), **options))


def damaged(path):
    """Yields a damaged version of a file for some of its bytes, and whether the byte is one of the metadata."""
    content = path.read_bytes()
    metadata = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for place in [*range(metadata), *range(metadata, metadata + 64, 11)]:
        yield (
            bytes([*content[:place], content[place] ^ 1 << place % 8, *content[place + 1 :]]),
            place >= metadata,
        )


def test_any_changed_byte_is_an_error_of_the_user_or_a_list(tmp_path):
    """Changed metadata may end the worker process."""
    path = write(tmp_path, two(fold=[1, 2]), compression="none")
    for content, is_metadata in damaged(path):
        path.write_bytes(content)
        if not is_metadata:
            assert refusal(path) != ""
            continue
        try:
            assert lists.read_list(path)
        except UserError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize(
    "columns",
    [
        {"size": parquet_lists._Column(None, [1])},
        {"path": parquet_lists._Column(["a"], [1])},
        {"path": parquet_lists._Column(["a"], [-1])},
        {"path": parquet_lists._Column(["a"], [0.0])},
        {"path": parquet_lists._Column(["a"], [0.0, 0]), "label": parquet_lists._Column(["a"], [0])},
        {},
    ],
)
def test_a_wrong_answer_of_the_worker_is_refused(columns):
    item = parquet_lists._Item("", lists.COLUMNS, 1)
    with pytest.raises(ValueError, match="a table of other|a text that is missing"):
        parquet_lists._check_answer(item, parquet_lists._Table(columns))


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "list.parquet"
    with pytest.raises(UserError, match=f"Cannot read the list of videos {path}: No such file"):
        lists.find_videos(path)
    written = io.BytesIO()
    parquet.write_table(two(), written)
    for content, message in ((b"path,label\n", "Expected a Parquet file"), (written.getvalue()[9:], "")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{path}.*{message}"):
            lists.find_videos(path)


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    path = write(tmp_path, two())
    monkeypatch.delitem(sys.modules, parquet_lists.__name__)
    monkeypatch.delattr("ucf50_tfrecord.convert.parquet_lists")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with raises_with_remedies("need PyArrow .*tools.install convert"):
        lists.find_videos(path)
