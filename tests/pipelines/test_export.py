"""Exporting as users run it."""

import re
import shutil

from tests.warm import run_module
from ucf50_tfrecord.inference.formats import DEFAULT_FORMATS, FORMATS


def test_a_run_is_exported_into_its_folder(pool_run, tmp_path):
    run_dir = shutil.copytree(pool_run, tmp_path / "run")
    result = run_module("pipelines.export", f"--run={run_dir}")
    assert result.returncode == 0, result.stderr
    assert re.search(
        r"^  saved_model +\d+\.\d +\d+\.\d +0  \S+ \(allowed: 0\.0001\)$", result.stdout, re.MULTILINE
    )
    assert re.search(
        r"^  model\.keras +\d+\.\d +\d+\.\d +0  0 \(allowed: 0\.0001\)$", result.stdout, re.MULTILINE
    )
    assert "compared with the model on 12 clips of the run:" in result.stdout
    assert f"Model card: {run_dir}/export/MODEL_CARD.md\n" in result.stdout
    assert "Traceback" not in result.stderr
    files = {FORMATS[name].filename for name in DEFAULT_FORMATS} | {"MODEL_CARD.md", "export.json"}
    assert {path.name for path in (run_dir / "export").iterdir()} == files
