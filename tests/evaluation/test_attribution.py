"""Attributions of predictions to frames, on models whose Shapley values are known."""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from ucf50_tfrecord.evaluation import attribution, measures
from ucf50_tfrecord.evaluation.runner import Predictor


def test_shapley_values_over_all_orders_are_those_of_the_definition():
    worth = np.random.default_rng(0).random(8)  # of each subset of three frames, as a number of three bits

    def score(frames):
        return worth[sum(1 << frame for frame in frames)]

    orders = np.array(list(itertools.permutations(range(3))))
    values = np.array([[score(order[: k + 1]) for k in range(3)] for order in orders.tolist()])
    found = measures.shapley_values(orders, values, worth[0])
    # By the definition: over the subsets without a frame, weighted by their sizes.
    first = (
        (score([0]) - score([])) / 3
        + (score([0, 1]) - score([1])) / 6
        + (score([0, 2]) - score([2])) / 6
        + (score([0, 1, 2]) - score([1, 2])) / 3
    )
    assert found[0] == pytest.approx(first)
    assert found.sum() == pytest.approx(worth[7] - worth[0])


@pytest.mark.parametrize("num_frames, count", [(1, 1), (5, 5), (16, 16), (40, 6), (300, 1)])
def test_orders_rotate_so_that_each_frame_takes_each_position(num_frames, count):
    orders = attribution.draw_orders("a/v1", num_frames)
    assert orders.shape == (count, num_frames)
    assert (np.sort(orders, axis=1) == np.arange(num_frames)).all()
    if count == num_frames:
        assert (np.sort(orders, axis=0) == np.arange(num_frames)[:, np.newaxis]).all()
    assert (attribution.draw_orders("a/v1", num_frames) == orders).all()


def test_missing_frames_are_replaced_by_the_one_before_or_the_first():
    kept = np.array([[0, 1, 0, 0, 1], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    expected = [[1, 1, 1, 1, 4], [0, 0, 0, 0, 0], [0, 1, 2, 3, 4]]
    assert attribution.replace_missing(kept).tolist() == expected


def model_of(function, num_frames):
    """The predictions of a model whose logits for two classes are 0 and `function` of the frames' values, [B, T]."""
    video = keras.Input((num_frames, 2, 2, 3), dtype="uint8")
    values = keras.ops.cast(video[..., 0, 0, 0], "float32")
    logit = function(values)[:, np.newaxis]
    model = keras.Model(video, keras.ops.concatenate([keras.ops.zeros_like(logit), logit], axis=1))
    return functools.partial(Predictor(model, tf.distribute.get_strategy()).predict, batch_size=4)


def numbered(values):
    video = np.zeros((len(values), 2, 2, 3), np.uint8)
    return video + np.array(values, np.uint8)[:, np.newaxis, np.newaxis, np.newaxis]


def test_the_frame_that_a_model_looks_for_gets_the_contribution():
    model = model_of(lambda values: 8 * keras.ops.max(values, axis=1) - 4, 5)
    found = attribution.attribute(model, numbered([0, 0, 1, 0, 0]), 1, 0.25, clip_id="a/v1")
    unlikely, likely = special.expit([-4, 4])
    assert found.sum() == pytest.approx(likely - 0.25)
    # Without frames the score is 0.25; whichever frame comes first moves it to `unlikely`, unless it is the third.
    assert found[[0, 1, 3, 4]] == pytest.approx(np.full(4, (unlikely - 0.25) / 5))
    assert found[2] == pytest.approx((likely - 0.25) - 4 * (unlikely - 0.25) / 5)


def test_equal_frames_contribute_equally():
    model = model_of(lambda values: keras.ops.mean(values, axis=1), 15)
    found = attribution.attribute(model, numbered([2] * 15), 1, 0.5, clip_id="a/v1")
    assert found == pytest.approx(np.full(15, (special.expit(2.0) - 0.5) / 15))


def test_attributions_name_the_clip_and_its_class_frequency():
    model = model_of(lambda values: keras.ops.mean(values, axis=1), 3)
    videos = np.stack([numbered([1, 1, 1]), numbered([2, 2, 2])])
    found = attribution.attribute_clips(
        model,
        videos,
        np.array([1, 0]),
        places=[7, 9],
        clip_ids=["b/v1", "a/v2"],
        train_labels=np.array([0, 0, 0, 1]),
    )
    assert [(a.clip, a.prior) for a in found] == [(7, 0.25), (9, 0.75)]
    assert sum(found[0].contributions) == pytest.approx(special.expit(1.0) - 0.25)
    assert sum(found[1].contributions) == pytest.approx(special.expit(-2.0) - 0.75)
