"""The file of a comparison's predictions: its round trip, how little of it is read, and hostile files."""

import collections
import dataclasses
import os
import re
import weakref

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import compute, parquet

from tests.report.tiny import NUM_FRAMES, tiny_cell, tiny_results
from ucf50_tfrecord import storage
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.evaluation import interventions, predictions, verdicts
from ucf50_tfrecord.evaluation.results import Condition, Results
from ucf50_tfrecord.report import build

NONE_OF_LSTM, REVERSE_OF_LSTM, NONE_OF_POOL = range(3)  # row groups


@pytest.fixture
def results():
    cells = [tiny_cell("lstm", "aabbcc", reverse="aabbca"), tiny_cell("frame_pool", "aabbca")]
    return tiny_results(cells)


@pytest.fixture
def path(results, tmp_path):
    path = tmp_path / "predictions.parquet"
    predictions.write(path, results, results.cells)
    return path


def read(path, results):
    return predictions.read(path, results, [result.cell for result in results.cells])


def loaded(path, results):
    found = read(path, results)
    cells = [dataclasses.replace(result, logits=found[result.cell]) for result in results.cells]
    return dataclasses.replace(results, cells=tuple(cells))


def test_every_float_is_kept_and_equal_predictions_give_equal_bytes(results, path, tmp_path):
    rng = np.random.default_rng(0)
    odd = np.array([[-0.0, 1e-42, np.finfo(np.float32).max]] * 6, np.float32)
    cell = dataclasses.replace(
        results.cells[0], logits={"none": rng.normal(size=(6, 3)).astype(np.float32), "first2": odd}
    )
    results = dataclasses.replace(results, cells=(cell, results.cells[1]))
    predictions.write(path, results, results.cells)
    found = read(path, results)
    for result in results.cells:
        assert list(found[result.cell]) == list(result.logits)
        for name, logits in result.logits.items():
            assert found[result.cell][name].tobytes() == logits.tobytes()
            assert found[result.cell][name].dtype == np.float32
        np.testing.assert_array_equal(found[result.cell].clips, result.clips)
    again = tmp_path / "again.parquet"
    predictions.write(again, results, loaded(path, results).cells)  # from the first file
    assert again.read_bytes() == path.read_bytes()


def test_names_that_are_not_unicode_are_escaped(results, path):
    ids = (os.fsdecode(b"a/v\xff"), *results.ids[1:])
    odd = dataclasses.replace(results, ids=ids, classes=(os.fsdecode(b"a\xfe"), "b", "c"))
    predictions.write(path, odd, odd.cells)
    assert read(path, odd)[odd.cells[0].cell].clips[0] == 0
    row = parquet.read_table(path).slice(0, 1).to_pylist()[0]
    assert (row["clip"], row["class_name"]) == (r"a/v\udcff", r"a\udcfe")


def test_fewer_clips_than_classes_are_read(path):
    results = tiny_results([tiny_cell("lstm", "b"), tiny_cell("frame_pool", "c")], labels="b")
    predictions.write(path, results, results.cells)
    assert loaded(path, results).correct(Condition("lstm")) == [1]


def test_the_table_says_all_about_a_prediction(path):
    rows = parquet.read_table(path).to_pylist()
    assert len(rows) == 18
    assert rows[11] == {
        **{"model": "lstm", "training": "kept", "split": "group", "part": 0, "seed": 0, "held_out": ""},
        **{"intervention": "reverse", "clip": "c/v5", "group": 3, "fold": 3, "label": 2, "class_name": "c"},
        "logits": [4.0, 0.0, 0.0],
    }


def test_held_out_classes_are_part_of_the_key(results, tmp_path):
    cells = [
        dataclasses.replace(one, cell=dataclasses.replace(one.cell, held_out=held_out))
        for one in results.cells
        for held_out in ((), (0,), (0, 2))
    ]
    several = dataclasses.replace(results, cells=tuple(cells))
    path = tmp_path / "several.parquet"
    predictions.write(path, several, cells)
    assert list(read(path, several)) == [result.cell for result in cells]
    assert set(parquet.read_table(path).column("held_out").to_pylist()) == {"", "0", "0+2"}


def test_a_file_of_a_version_that_held_no_classes_out_is_read(results, path):
    rewrite(path, all_groups(lambda table: table.drop_columns("held_out")))
    assert "held_out" not in parquet.read_schema(path).names
    for result in results.cells:
        found = read(path, results)[result.cell]
        np.testing.assert_array_equal(found.clips, result.clips)
        for name, logits in result.logits.items():
            np.testing.assert_array_equal(found[name], logits)


class CountedReads:
    """Counts reads of row groups by their numbers and whether they are of logits."""

    def __init__(self, monkeypatch):
        self.counts = collections.Counter()
        plain = parquet.ParquetFile.read_row_group

        def read_row_group(file, number, columns, **options):
            self.counts[number, columns == ["logits"]] += 1
            return plain(file, number, columns=columns, **options)

        monkeypatch.setattr(parquet.ParquetFile, "read_row_group", read_row_group)


def test_only_the_logits_that_are_asked_for_are_read(results, path, monkeypatch):
    reads = CountedReads(monkeypatch)
    from_file = loaded(path, results)
    assert reads.counts == {(number, False): 1 for number in range(3)}
    assert from_file.interventions("lstm") == ("none", "reverse")
    assert not from_file.logits(Condition("lstm", intervention="first2")).size
    reads.counts.clear()
    from_file.logits(Condition("lstm", intervention="reverse"))
    assert reads.counts == {(REVERSE_OF_LSTM, True): 1}


def test_a_report_keeps_few_conditions_in_memory(results, path, tmp_path, monkeypatch):
    """Of 9 conditions; a table of logits is alive as long as its array is."""
    tests = dict.fromkeys(("shuffle1", "reverse", "middle1", "first1", "first2", "last1", "last2"), "aabbca")
    cells = [tiny_cell("lstm", "aabbcc", **tests), tiny_cell("frame_pool", "aabbca")]
    results = tiny_results(cells)
    predictions.write(path, results, results.cells)
    alive, most = [], 0
    plain = Results.logits

    def counted(self, condition):
        nonlocal most
        table = plain(self, condition)
        alive.append(weakref.ref(table.base if table.base is not None else table))
        most = max(most, sum(ref() is not None for ref in alive))
        return table

    monkeypatch.setattr(Results, "logits", counted)
    from_file = loaded(path, results)
    build.write(tmp_path / "report", from_file, verdicts.judge(from_file))
    assert len(alive) > 20 and most <= 3


# --- Hostile files


def replaced(name, values):
    """A change of a table: other values in one column, of the same type."""

    def change(table):
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        new = pa.array(
            values(table.column(name).to_pylist()), field.type.value_type if is_text(field) else field.type
        )
        return table.set_column(place, field, new.dictionary_encode() if is_text(field) else new)

    return change


def is_text(field):
    return pa.types.is_dictionary(field.type)


def retyped(name, kind, nullable=False):
    def change(table):
        place = table.schema.get_field_index(name)
        return table.set_column(place, pa.field(name, kind, nullable), compute.cast(table.column(name), kind))

    return change


def rewrite(path, changes):
    """Writes a file of predictions again, with row groups (by number) changed; None removes one."""
    with parquet.ParquetFile(path) as file:
        tables = [file.read_row_group(number) for number in range(file.num_row_groups)]
    for number, change in changes.items():
        tables[number] = change and change(tables[number])
    schema = next((table.schema for table in tables if table is not None), predictions._SCHEMA)
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in filter(None, tables):
            writer.write_table(table)


def all_groups(change):
    return dict.fromkeys(range(3), change)


LOGITS = pa.list_(pa.field("element", pa.float32(), nullable=False))
HOSTILE = {
    "Expected the columns model, training, .* Received: columns='model, split, ": all_groups(
        lambda table: table.drop_columns("training")
    ),
    "Expected int64 without nulls in column label. Received: type='int32'": all_groups(
        retyped("label", pa.int32())
    ),
    "Expected int64 without nulls in column seed": all_groups(retyped("seed", pa.int64(), nullable=True)),
    "Expected list<element: float not null> without nulls in column logits": all_groups(
        retyped("logits", pa.list_(pa.float64()))
    ),
    "Expected dictionary<.*> without nulls in column clip. Received: type='string'": all_groups(
        retyped("clip", pa.string())
    ),
    f"Expected 1 to {2 * len(interventions.names(NUM_FRAMES))} row groups. Received: row_groups=0": all_groups(
        None
    ),
    "row group 0: Expected 1 to 6 rows. Received: rows=12": {
        0: lambda table: pa.concat_tables([table, table])
    },
    "row group 1: Expected a cell and an intervention of the comparison in model, .*'cnn'": {
        1: replaced("model", lambda values: ["cnn"] * 6)
    },
    "row group 1: Expected a cell and an intervention of the comparison in .*'first3'": {
        1: replaced("intervention", lambda values: ["first3"] * 6)
    },
    "row group 1: Expected a cell and an intervention of the comparison in .* -1, '', 'reverse'": {
        1: replaced("seed", lambda values: [-1] * 6)
    },
    "row group 1: Expected one value in column part. Received: values=2": {
        1: replaced("part", lambda values: [*values[1:], 1])
    },
    "row group 1: Expected one value in column model. Received: values=2": {
        1: replaced("model", lambda values: [*values[1:], "frame_pool"])
    },
    "row group 1: Expected 'none' of lstm-part1-seed0 once": {
        1: replaced("intervention", lambda v: ["none"] * 6)
    },
    "Expected predictions for unchanged clips \\('none'\\) of frame_pool-part1-seed0": {2: None},
    "row group 0: Expected values of the comparison in column clip. Received: value='a/v9'": {
        0: replaced("clip", lambda values: ["a/v9", *values[1:]])
    },
    "row group 2: Expected each clip once in column clip": {
        2: replaced("clip", lambda values: [values[1], *values[1:]])
    },
    "row group 1: Expected the same clips under all interventions of lstm-part1-seed0 in column clip": {
        1: lambda table: pa.Table.from_pylist(table.to_pylist()[:5], table.schema)
    },
    "row group 2: Expected 0 in column label of clip 'a/v1'. Received: label=2": {
        2: replaced("label", lambda values: [0, 2, *values[2:]])
    },
    "row group 2: Expected 1 in column group of clip 'a/v0'. Received: group=7": {
        2: replaced("group", lambda values: [7, *values[1:]])
    },
    "row group 0: Expected 3 in column fold of clip 'c/v5'": {0: replaced("fold", lambda v: [*v[:-1], -1])},
    "row group 0: Expected 0 in column class_name of clip 'a/v0'. Received: class_name=1": {
        0: replaced("class_name", lambda values: ["b", *values[1:]])
    },
    "row group 0: Expected 18 values in column logits.list.element. Received: values=17": {
        0: replaced("logits", lambda rows: [rows[0][1:], *rows[1:]])
    },
    "row group 0: Expected 18 values in column logits.list.element. Received: values=1000015": {
        0: replaced("logits", lambda rows: [[0.0] * 1_000_000, *rows[1:]])  # 4 MB out of 1 KB
    },
    "row group 0: Expected at most 65758 bytes in column clip. Received: bytes=1000": {
        0: replaced("clip", lambda values: ["x" * 10_000_000, *values[1:]])
    },
}


@pytest.mark.parametrize("message", HOSTILE)
def test_hostile_predictions_are_refused_with_their_column(results, path, message):
    rewrite(path, HOSTILE[message])
    with pytest.raises(UserError, match=f"{path} does not hold predictions of this comparison: {message}"):
        read(path, results)


HOSTILE_LOGITS = {
    "finite numbers in column logits. Received: not_finite=2": lambda rows: [
        [float("nan"), 0.0, float("-inf")],
        *rows[1:],
    ],
    "3 numbers in each row of column logits. Received: fewest=2, most=4": lambda rows: [
        [0.0] * 2,
        [0.0] * 4,
        *rows[2:],
    ],
}


@pytest.mark.parametrize("message", HOSTILE_LOGITS)
def test_hostile_logits_are_refused_when_they_are_read(results, path, message):
    rewrite(path, {REVERSE_OF_LSTM: replaced("logits", HOSTILE_LOGITS[message])})
    from_file = loaded(path, results)
    assert from_file.logits(Condition("lstm")).shape == (1, 6, 3)
    problem = f"{path} does not hold predictions of this comparison: row group 1: Expected {message}"
    with pytest.raises(UserError, match=re.escape(problem)):
        verdicts.judge(from_file)


def test_row_groups_of_another_comparison_are_too_many(results, path):
    with pytest.raises(UserError, match="Expected 1 to 22 row groups|Expected a cell and an intervention of"):
        predictions.read(path, results, [results.cells[0].cell])


def test_a_file_of_another_kind_is_refused(results, tmp_path):
    path = tmp_path / "predictions.parquet"
    with pytest.raises(storage.MissingError, match=f"Cannot read {path}: No such file"):
        read(path, results)
    for content, message in (
        (b"", "Expected a Parquet file"),
        (b"PAR1", "Expected a Parquet file"),
        (b"x" * 100, "Expected a Parquet file"),
        (b"x" * 92 + (2**31 - 1).to_bytes(4, "little") + b"PAR1", "Expected at most 88 bytes of metadata"),
        (b"PAR1" + b"x" * 88 + (40).to_bytes(4, "little") + b"PAR1", "it is damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(
            UserError, match=f"{path} does not hold predictions of this comparison: {message}"
        ):
            read(path, results)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="Expected a regular file. .* named pipe"):
        read(path, results)


def test_any_changed_byte_is_an_error_of_the_user_or_changes_nothing_else(results, path):
    content = path.read_bytes()
    for place in range(0, len(content), 61):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            from_file = loaded(path, results)
            for condition in (
                Condition("lstm"),
                Condition("lstm", intervention="reverse"),
                Condition("frame_pool"),
            ):
                assert np.isfinite(from_file.logits(condition)).all()
        except UserError as error:
            assert str(path) in str(error)
