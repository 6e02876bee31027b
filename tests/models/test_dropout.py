import keras
import numpy as np
import pytest
import tensorflow as tf

from ucf50_tfrecord.models.dropout import Dropout, RandomKey, random_key


def drop(values, position, *, rate=0.25, stream=0, seed=0, step=0, batch_size=8, **options):
    layer = Dropout(rate, stream=stream, dtype=keras.dtype_policies.get("float32"), **options)
    position, step = tf.constant(position, tf.int64), tf.constant(step, tf.int64)
    with random_key(RandomKey(seed=seed, step=step, position=position, batch_size=batch_size)):
        return layer(tf.constant(values, tf.float32), training=True).numpy()


def test_a_fraction_is_dropped_and_the_rest_scaled():
    dropped = drop(np.ones((8, 5000)), range(8))
    assert set(np.unique(dropped)) == {0, np.float32(1 / 0.75)}
    assert (dropped == 0).mean() == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_clips_dropout_follows_its_position_in_the_global_batch(rows):
    """Half of the batch, in another order, drops the same values as in the whole batch: replicas may split it."""
    whole = drop(np.ones((8 * rows, 50)), range(8)).reshape(8, rows, 50)
    half = drop(np.ones((4 * rows, 50)), [6, 1, 5, 0]).reshape(4, rows, 50)
    np.testing.assert_array_equal(half, whole[[6, 1, 5, 0]])


def test_rows_can_be_dropped_as_a_whole():
    dropped = drop(np.ones((8 * 500, 3, 2)), range(8), whole_rows=True).reshape(8 * 500, 6)
    assert (dropped == dropped[:, :1]).all() and (dropped == 0).mean() == pytest.approx(0.25, abs=0.03)


def test_clips_layers_steps_and_seeds_draw_different_numbers():
    base = drop(np.ones((8, 100)), range(8))
    assert len(np.unique(base, axis=0)) == 8
    for other in ({"stream": 1}, {"step": 1}, {"seed": 1}):
        changed = drop(np.ones((8, 100)), range(8), **other)
        assert 0.25 < (changed != base).mean() < 0.5  # of independent draws 2 * 0.25 * 0.75 differ
    np.testing.assert_array_equal(drop(np.ones((8, 100)), range(8)), base)


def test_evaluation_drops_nothing():
    layer = Dropout(0.5, stream=0, dtype=keras.dtype_policies.get("float32"))
    np.testing.assert_array_equal(layer(tf.ones([2, 3]), training=False), np.ones((2, 3)))


def test_training_without_a_random_key_is_an_error():
    layer = Dropout(0.5, stream=0, dtype=keras.dtype_policies.get("float32"))
    with pytest.raises(RuntimeError, match="within dropout.random_key"):
        layer(tf.ones([2, 3]), training=True)
