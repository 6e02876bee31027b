"""Programs that read the predictions of a comparison, as docs/comparing.md shows."""

import re

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.report.tiny import tiny_cell, tiny_results
from ucf50_tfrecord.evaluation import predictions


@pytest.mark.parametrize("reader", ["pandas", "duckdb"])
def test_other_programs_read_the_table_as_the_document_shows(tmp_path, monkeypatch, reader):
    for package in ("pandas", reader):
        pytest.importorskip(package, reason=f"{package} is not installed: make test-readers")
    text = (REPOSITORY / "docs" / "comparing.md").read_text()
    [code] = [
        block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if f"import {reader}" in block
    ]
    cells = [tiny_cell("lstm", "aabbcc", reverse="aabbca"), tiny_cell("frame_pool", "aabbca")]
    results = tiny_results(cells)
    folder = tmp_path / "runs" / "ucf50-15x64x64-compare"
    folder.mkdir(parents=True)
    predictions.write(folder / predictions.FILENAME, results, results.cells)
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(code, scope)
    table = scope["accuracy"]
    if reader == "duckdb":
        table = table.pivot(index="intervention", columns="model", values="accuracy")
    assert table.loc["none", "lstm"] == 1 and np.isnan(table.loc["reverse", "frame_pool"])
    assert table.loc["reverse", "lstm"] == table.loc["none", "frame_pool"] == pytest.approx(5 / 6)
