import numpy as np
import pytest

from ucf50_tfrecord.monitoring.resampling import Pool


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_streams_are_whole_recordings_of_which_only_the_last_is_cut(rng):
    recordings = np.array([0, 0, 0, 1, 2, 2, 0])  # sizes 4, 1 and 2
    pool = Pool(recordings, recordings, 3)  # a video's bin tells its recording
    counts = pool.draw_streams(500, 5, rng)
    assert counts.shape == (500, 3) and (counts.sum(axis=1) == 5).all()
    for row in counts.tolist():
        # All of the recordings but one are whole.
        assert sum(count % size != 0 for count, size in zip(row, (4, 1, 2))) <= 1
    one = pool.draw_streams(3000, 1, rng)
    np.testing.assert_allclose(one.mean(axis=0), 1 / 3, atol=0.03)  # recordings are equally likely


def test_chunks_change_nothing_about_the_sizes(rng, monkeypatch):
    monkeypatch.setattr("ucf50_tfrecord.monitoring.resampling._CHUNK_VALUES", 64)
    pool = Pool(np.array([0, 1, 1]), np.array([0, 1, 1]), 2)
    counts = pool.draw_streams(101, 10, rng)
    assert counts.shape == (101, 2) and (counts.sum(axis=1) == 10).all()


def test_references_have_as_many_recordings(rng):
    pool = Pool(np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 1, 2, 2]), 4)
    drawn = pool.draw_references(2000, rng)
    assert (drawn.sum(axis=1) == 6).all() and (drawn[:, 3] == 0).all()
    np.testing.assert_allclose(drawn.mean(axis=0)[:3], 2, atol=0.1)


def test_made_up_recordings_occur_by_their_weight(rng):
    recordings = np.arange(8)
    pool = Pool(np.zeros(8, int), recordings, 3, unseen=[(1, 1.0), (2, 0.5)])
    fractions = pool.draw_streams(20000, 1, rng).mean(axis=0)
    np.testing.assert_allclose(fractions, np.array([8, 1, 0.5]) / 9.5, atol=0.01)
    assert pool.counts.tolist() == [8, 0, 0]
