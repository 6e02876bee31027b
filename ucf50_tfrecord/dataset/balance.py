"""Balances the classes of training clips: by weights in the loss, or by epochs that hold classes equally often.

Without it, a class with ten times as many clips has ten times as much influence on the weights, and a rare class is
predicted too rarely.
"""

from __future__ import annotations

import numpy as np

_CLASS_STREAM = 2  # separates the random numbers for the order within a class from those for epochs and views


def clip_weights(labels: np.ndarray) -> np.ndarray:
    """Returns the weight of each training clip in the loss, such that all classes count alike.

    The weight is n / (C * n_c), with n clips of C classes, of which n_c are of the clip's class. So the weights of a
    class's clips sum to n / C, and the mean weight is 1. Classes without clips do not count in C. Source: the class
    weights "balanced" of scikit-learn, after King and Zeng, Logistic Regression in Rare Events Data (2001).

    Args:
      labels: the clips' classes, int [N].

    Returns:
      The weights, float32 [N].
    """
    counts = np.bincount(labels)
    return (len(labels) / (np.count_nonzero(counts) * counts[labels])).astype(np.float32)


def balanced_order(labels: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of an epoch that holds all classes equally often, drawn from (seed, epoch).

    An epoch has as many places as there are clips. In the endless row of the places of all epochs, the classes take
    turns. The places of a class hold its clips in turn: in each turn, every clip once, in an order drawn from the
    seed. So two classes, or two clips of a class, never differ by more than one in the number of their places up to
    the end of any epoch. Last, the places of each epoch are shuffled.

    Args:
      labels: the clips' classes, int [N].
      seed: seed of the order.
      epoch: number of the epoch, counted from 0.

    Returns:
      The clips' indices, int64 [N]. A clip may come several times, or not at all.
    """
    num_clips, classes = len(labels), np.unique(labels)
    draws, turns = np.divmod(np.arange(epoch * num_clips, (epoch + 1) * num_clips), len(classes))
    chosen = np.empty(num_clips, np.int64)
    for turn, label in enumerate(classes.tolist()):
        places = turns == turn
        chosen[places] = _draw(np.flatnonzero(labels == label), draws[places], seed=seed, label=label)
    return np.random.default_rng([seed, epoch]).permutation(chosen)


def _draw(own: np.ndarray, draws: np.ndarray, *, seed: int, label: int) -> np.ndarray:
    """Returns what is at some places of a class's endless row of clips.

    Args:
      own: indices of the class's clips, int64 [M].
      draws: the places, ascending, int64 [K].
      seed: seed of the order.
      label: the class.

    Returns:
      The clips' indices, int64 [K].
    """
    turns, places = np.divmod(draws, len(own))
    chosen = np.empty(len(draws), np.int64)
    for turn in np.unique(turns).tolist():
        order = np.random.default_rng([seed, turn, _CLASS_STREAM, label]).permutation(own)
        chosen[turns == turn] = order[places[turns == turn]]
    return chosen
