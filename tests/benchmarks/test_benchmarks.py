"""Each benchmark runs at a small size and writes its figures."""

import json

import numpy as np
import pytest

from tests.conftest import build, run_code, run_module


def test_convert_measures_installed_decoders_and_writes_figures(videos_dir, tmp_path):
    output = tmp_path / "convert.json"
    flags = [f"--videos={videos_dir}", f"--output={output}", "--rounds=1", "--max_videos=2"]
    flags += ["--conversion_videos=10", "--long_frames=500"]
    result = run_module("benchmarks.convert", *flags)
    assert result.returncode == 0, result.stderr
    figures = json.loads(output.read_text())
    names = {row["name"] for row in figures["rows"]}
    assert names >= {"ours", "decode everything (PyAV)"} and figures["num_videos"] == 2
    assert all(name in result.stdout for name in names)
    assert all(row["videos_per_sec"] > 0 and row["ours_ratio"] > 0 for row in figures["rows"])
    assert [(row["num_workers"], row["num_videos"]) for row in figures["conversions"]] == [(1, 10), (2, 10)]
    assert figures["long_video"]["num_frames"] == 500


def test_plan_measures_each_size(tmp_path):
    output = tmp_path / "plan.json"
    result = run_module("benchmarks.plan", f"--output={output}", "--sizes=1000,20000")
    assert result.returncode == 0, result.stderr
    rows = json.loads(output.read_text())["rows"]
    assert [row["num_videos"] for row in rows] == [1000, 20000]
    assert all(row["num_shards"] >= 20 for row in rows)


def test_report_measures_each_step_of_a_small_comparison(tmp_path):
    output = tmp_path / "report.json"
    sizes = ["--models=frame_pool,lstm", "--seeds=1", "--parts=2", "--clips=100", "--classes=3", "--groups=6"]
    result = run_module("benchmarks.report", f"--output={output}", "--frames=8", *sizes)
    assert result.returncode == 0, result.stderr
    figures = json.loads(output.read_text())
    steps = [row["step"] for row in figures["rows"]]
    assert steps == ["write the results", "read the results", "verdicts", "report"]
    assert all(step in result.stdout for step in steps)
    assert min(row["peak_mb"] for row in figures["rows"]) > 100
    assert {"predictions.parquet", "results.json", "report.html"} <= set(figures["bytes"])


BENCH_INPUT = """
import json, sys
from absl import flags
from benchmarks import input as bench_input
flags.FLAGS(["bench", "--videos=unused"])
raw, jpeg = sys.argv[1:]
rates = {name: bench_input.measure_rate(name, {"raw": raw, "jpeg": jpeg}[encoding], 4, 0.1)
         for name, (_, encoding) in bench_input.METHODS.items()}
rates["floor"] = bench_input.measure_floor(raw, 0.1)
gather = bench_input.measure_gather(raw, 4)
memory = bench_input.measure_streaming_memory(raw, 4, 3)
print(json.dumps([rates, gather, memory.megabytes]))
"""


@pytest.mark.slow
def test_input_measures_rates_and_memory(data_dir, videos_dir, tmp_path):
    build(videos_dir, tmp_path / "jpeg", encoding="jpeg", shard_bytes=20_000)
    result = run_code(BENCH_INPUT, data_dir, tmp_path / "jpeg")
    assert result.returncode == 0, result.stderr
    rates, (step_secs, gather_secs), megabytes = json.loads(result.stdout)
    assert len(rates) == 7 and min(rates.values()) > 0
    assert gather_secs > 0 < step_secs and len(megabytes) == 3 and min(megabytes) > 100


@pytest.mark.slow
def test_accuracy_keeps_finished_runs_and_notices_other_flags(data_dir, tmp_path):
    arguments = [f"--data={data_dir}", "--val_folds=1", "--rows=seed_pool", f"--runs={tmp_path}"]
    first = run_module("benchmarks.accuracy", *arguments, "--seeds=0")
    assert first.returncode == 0, first.stderr
    second = run_module("benchmarks.accuracy", *arguments, "--seeds=0,1")
    assert second.returncode == 0, second.stderr
    [row] = json.loads((tmp_path / "accuracy.json").read_text())
    summaries = [json.loads((tmp_path / f"seed_pool-seed{seed}/summary.json").read_text()) for seed in (0, 1)]
    assert row["macro_f1"] == [summary["macro_f1"] for summary in summaries]
    assert [summary["seed"] for summary in summaries] == [0, 1]
    mean, deviation = np.mean(row["macro_f1"]), np.std(row["macro_f1"], ddof=1)
    assert f"{mean:.3f} ± {deviation:.3f}" in second.stdout
    cell = tmp_path / "seed_pool-seed0" / "row.json"
    cell.write_text(cell.read_text().replace("--epochs=5", "--epochs=6"))
    third = run_module("benchmarks.accuracy", *arguments, "--seeds=0")
    assert third.returncode == 2
    assert "was trained with other flags. Then: --epochs=6. Now: --epochs=5. Remove" in third.stderr


@pytest.mark.slow
def test_step_measures_without_pytorch(tmp_path):
    arguments = ["--batch_sizes=1", "--precisions=float32", "--rounds=1", "--secs=0.1"]
    result = run_module("benchmarks.step", *arguments, f"--output={tmp_path / 'step.json'}")
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "step.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["ours, float32", "Keras TimeDistributed, float32"]
    assert all(row["clips_per_sec"] > 0 and row["torch_ratio"] is None for row in rows)
    assert "Without --torch_python" in result.stdout


@pytest.mark.slow
def test_cells_measures_the_engine_and_a_restart(tmp_path):
    output = tmp_path / "cells.json"
    result = run_module("benchmarks.cells", "--cells=100", "--sleep=0.001", f"--output={output}")
    assert result.returncode == 0, result.stderr
    figures = json.loads(output.read_text())
    assert (figures["num_cells"], figures["num_processes"], figures["sleep_secs"]) == (100, 2, 0.001)
    assert figures["overhead_ms"] > 0 and figures["restart_secs"] > 0


def test_imbalance_thins_out_training_clips_of_half_of_the_classes(data_dir, tmp_path):
    """30 clips of 3 classes: the third is rare, and keeps one of its 4 or 6 clips outside a part."""
    output = tmp_path / "imbalance.json"
    arguments = [
        "--recipe=seed_pool",
        "--epochs=1",
        "--parts=2",
        "--seeds=1",
        "--ratio=4",
        f"--output={output}",
    ]
    result = run_module("benchmarks.imbalance", f"--data={data_dir}", *arguments)
    assert result.returncode == 0, result.stderr
    assert "by part: 8 + 1, 12 + 2" in result.stdout
    found = json.loads(output.read_text())
    assert set(found) == {"none", "class_weight", "sampler"}
    assert all(0 <= score <= 1 for [scores] in found.values() for score in scores.values())
