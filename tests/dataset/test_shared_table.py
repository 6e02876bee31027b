"""Tables of clips that processes share, made by real processes that race, fail or are killed."""

import json
import os
import pathlib

import numpy as np
import pytest

from tests.warm import run_code, start_code
from ucf50_tfrecord import manifest
from ucf50_tfrecord.dataset import shared_table
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.dataset.feed import Feed
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.training.strategy import make_strategy

OPEN = """
import os, signal, sys, time
from ucf50_tfrecord.dataset import shared_table
folder, dies = sys.argv[1], sys.argv[2] == "dies"
def fill(table):
    print("filled", flush=True)
    table[:2] = 7
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.3)
    table[2:] = 8
    return {3: "damaged"}
table, skipped = shared_table.open_table(folder, (4, 5), "uint8", fill)
print(int(table.sum()), skipped, flush=True)
"""


def test_one_of_several_processes_fills_the_table(tmp_path):
    started = [start_code(OPEN, str(tmp_path), "lives") for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0] for process in started]
    text = [output.decode() if isinstance(output, bytes) else output for output in outputs]
    assert sum("filled" in output for output in text) == 1
    assert all(f"{10 * 7 + 10 * 8} {{3: 'damaged'}}" in output for output in text)


def test_a_process_that_is_killed_leaves_no_unfinished_table(tmp_path):
    assert run_code(OPEN, str(tmp_path), "dies", timeout=60).returncode != 0
    result = run_code(OPEN, str(tmp_path), "lives", timeout=60)
    assert result.stdout.split("\n")[0] == "filled" and "150" in result.stdout


def test_a_table_without_space_is_an_error(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(UserError, match="Cannot keep 2.0 MB of clips in .*: No space left on device"):
        shared_table.open_table(str(tmp_path), (2, 10**6), "uint8", lambda table: {})
    assert not any("clips" in path.name for path in pathlib.Path(tmp_path).iterdir())


def test_feeds_share_a_table_and_the_second_reads_no_record(data_dir, tmp_path):
    clips, strategy = load_clips(manifest.load(str(data_dir)), [1, 2]), make_strategy("one")
    loaded = [[], []]
    feeds = [
        Feed(clips, strategy=strategy, cache="host", shared_dir=str(tmp_path), on_loaded=told.append)
        for told in loaded
    ]
    alone = Feed(clips, strategy=strategy, cache="host")
    assert sum(loaded[0]) == len(clips) and not loaded[1]
    for batches in zip(*(feed.batches(batch_size=5) for feed in (*feeds, alone))):
        for batch in batches[:2]:
            np.testing.assert_array_equal(batch["video"], batches[2]["video"])
    assert json.loads((tmp_path / "skipped.json").read_text()) == {}
