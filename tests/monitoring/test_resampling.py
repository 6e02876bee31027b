import numpy as np

from ucf50_tfrecord.monitoring import resampling
from ucf50_tfrecord.monitoring.resampling import Resampler, Table


def resampler(recordings, num_draws):
    return Resampler(np.array(recordings), num_draws)


def test_streams_are_whole_recordings_of_which_only_the_last_is_cut():
    recordings = [0, 0, 0, 1, 2, 2, 0]  # of 4, 1 and 2 videos; those that are made up have 2
    bins = np.array([*recordings, 3, 4])  # a video's bin tells its recording
    [counts] = resampler(recordings, 500).streams([Table(bins, 5)], 5)
    assert counts.shape == (500, 5) and (counts.sum(axis=1) == 5).all()
    for row in counts.tolist():
        assert sum(count % size != 0 for count, size in zip(row, (4, 1, 2, 2, 2))) <= 1
    [single] = resampler(recordings, 5000).streams([Table(bins, 5)], 1)
    np.testing.assert_allclose(single.mean(axis=0), 1 / 5, atol=0.02)  # recordings are equally likely


def test_parts_of_the_draws_have_the_same_sizes(monkeypatch):
    monkeypatch.setattr(resampling, "_CHUNK_VALUES", 64)
    table = Table(np.array([0, 1, 1, 0, 1]), 2)
    [counts] = resampler([0, 1, 1], 101).streams([table], 10)
    [drawn] = resampler([0, 1, 1], 101).references([table])
    assert counts.shape == (101, 2) and (counts.sum(axis=1) == 10).all()
    assert drawn.shape == (101, 2)


def test_measures_share_the_draws():
    draws = resampler([0, 0, 1, 2, 2, 2], 50)
    bins = np.array([0, 1, 1, 2, 0, 2, 1, 0])
    tables = [Table(bins, 3), Table(2 - bins, 3)]
    one, other = draws.streams(tables, 7)
    np.testing.assert_array_equal(one, other[:, ::-1])
    np.testing.assert_array_equal(one, draws.streams(tables, 7)[0])
    one, other = draws.references(tables)
    np.testing.assert_array_equal(one, other[:, ::-1])


def test_references_have_as_many_recordings_none_of_them_made_up():
    table = Table(np.array([0, 0, 1, 1, 2, 2, 3, 3]), 4)
    [drawn] = resampler([0, 0, 1, 1, 2, 2], 2000).references([table])
    assert (drawn.sum(axis=1) == 6).all() and (drawn[:, 3] == 0).all() and (drawn % 2 == 0).all()
    np.testing.assert_allclose(drawn.mean(axis=0)[:3], 2, atol=0.1)
