"""Measures of predictions that the literature on action recognition defines; pure numpy.

docs/comparing.md describes each measure, and the question that it answers. Confidence intervals are computed
elsewhere: most functions return one value per clip, whose mean is the measure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def log_losses(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Computes -ln(probability of the true class) of each clip, in nats, float64 [N].

    Probabilities below the precision of float64 (2.2e-16) count as this precision, as in scikit-learn, so that
    no loss is infinite.

    Args:
      probabilities: float [N, C], each clip's class probabilities.
      labels: int [N], the true class of each clip.
    """
    likely = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return -np.log(np.maximum(likely, np.finfo(np.float64).eps))


def brier_scores(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Computes the Brier score of each clip, from 0 (sure and right) to 2 (sure and wrong), float64 [N].

    The score is the sum over classes of (probability - truth) squared, where the truth is 1 for the true class
    and 0 for others. Source: Brier 1950, "Verification of Forecasts Expressed in Terms of Probability".

    Args:
      probabilities: float [N, C], each clip's class probabilities.
      labels: int [N], the true class of each clip.
    """
    truth = labels[:, np.newaxis] == np.arange(probabilities.shape[1])
    return ((probabilities - truth) ** 2).sum(axis=1)


def risk_coverage_area(
    confidence: np.ndarray, wrong: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Computes the area under the risk-coverage curve.

    A model may refuse to answer for clips below some confidence. The coverage is the fraction of clips that it
    answers, the risk is the fraction of these that are wrong. The area is the mean risk over the thresholds at
    each clip's confidence. Clips with equal confidence are answered together, so their order does not matter.
    Sources: Geifman and El-Yaniv 2017, "Selective Classification for Deep Neural Networks" (the curve); Geifman,
    Uziel and El-Yaniv 2019, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers" (the area).

    Args:
      confidence: float [N], the confidence in each clip's prediction.
      wrong: bool [N], whether the prediction is wrong.
      weights: float [..., N], how often each clip counts; None for once.

    Returns:
      The area, float64 [...], from 0 to 1.
    """
    order = np.argsort(-confidence, kind="stable")
    falling = -confidence[order]
    # The position of the last clip with the same confidence.
    last = np.searchsorted(falling, falling, side="right") - 1
    weights = np.ones(len(order)) if weights is None else weights[..., order]
    covered = np.cumsum(weights, axis=-1)[..., last]
    errors = np.cumsum(weights * wrong[order], axis=-1)[..., last]
    risk = np.divide(errors, covered, out=np.zeros_like(errors, np.float64), where=covered > 0)
    return (weights * risk).sum(axis=-1) / weights.sum(axis=-1)


def auroc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Computes the area under the ROC curve: the probability that a positive clip has the larger score.

    A clip is drawn from each side; equal scores count one half. Source: Hanley and McNeil 1982, "The Meaning and Use
    of the Area under a Receiver Operating Characteristic (ROC) Curve".

    Args:
      scores: float [N], a score of each clip, such as its confidence.
      positive: bool [N], whether the clip is of the side that should have larger scores.
      weights: float [..., N], how often each clip counts; None for once.

    Returns:
      The area, float64 [...], from 0 to 1; 0.5 where one side has no weight.
    """
    order = np.argsort(scores, kind="stable")
    rising = scores[order]
    weights = np.ones(len(order)) if weights is None else weights[..., order]
    above, below = weights * positive[order], weights * ~positive[order]
    # Sums of the other side's weights before the first, and up to the last, clip with the same score.
    sums = np.concatenate([np.zeros((*below.shape[:-1], 1)), np.cumsum(below, axis=-1)], axis=-1)
    less, equal_or_less = (
        sums[..., np.searchsorted(rising, rising, side=side)] for side in ("left", "right")
    )
    pairs = above.sum(axis=-1) * below.sum(axis=-1)
    won = (above * (less + equal_or_less) / 2).sum(axis=-1)
    return np.divide(won, pairs, out=np.full(np.shape(pairs), 0.5), where=pairs > 0)


def generalized_risk_area(
    confidence: np.ndarray, wrong: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Computes the area under the generalized risk-coverage curve (AUGRC): the mean risk of a silent failure.

    A model may refuse to answer for clips below some confidence. The generalized risk is the fraction of all clips
    that it answers and gets wrong. The area is its mean over all coverages; unlike risk_coverage_area, it does not
    weigh the most confident errors more than others. The area follows from the error rate and from how well
    confidence separates right from wrong predictions. Source: Traub et al. 2024, "Overcoming Common Flaws in the
    Evaluation of Selective Classification Systems".

    Args:
      confidence: float [N], the confidence in each clip's prediction.
      wrong: bool [N], whether the prediction is wrong.
      weights: float [..., N], how often each clip counts; None for once.

    Returns:
      The area, float64 [...], from 0 to 0.5.
    """
    weights = np.ones(len(wrong)) if weights is None else weights
    error = (weights * wrong).sum(axis=-1) / weights.sum(axis=-1)
    return (1 - auroc(confidence, ~wrong, weights)) * error * (1 - error) + error**2 / 2


def oracle_right(right: Sequence[np.ndarray]) -> np.ndarray:
    """Computes whether any of a clip's frames alone is predicted right: the best frame, known in hindsight.

    Source: Huang et al. 2018, "What Makes a Video a Video: Analyzing Temporal Information in Video Understanding
    Models and Datasets".

    Args:
      right: for each tested frame, whether a model is right about clips frozen to it (1 or 0), float [S, N];
        NaN for untested clips.

    Returns:
      The largest of these values, float [S, N]; NaN for clips that are untested on some frame.
    """
    return np.max(right, axis=0)


def contrasted_right(swapped: np.ndarray, frozen: np.ndarray) -> np.ndarray:
    """Computes whether a model is right about a clip with a foreign background, and wrong about its frozen frame.

    A model that recognises the static foreground is right about both; this measure does not count it. Source: Li
    et al. 2023, "Mitigating and Evaluating Static Bias of Action Representations in the Background and the
    Foreground".

    Args:
      swapped: whether the model is right about clips with another background (1 or 0), float [S, N].
      frozen: whether it is right about clips frozen to one frame, like `swapped`.

    Returns:
      1 if both hold, else 0, float [S, N]; NaN for untested clips.
    """
    return swapped * (1 - frozen)


def find_twins(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Finds pairs of classes that show the same action in opposite directions of time, such as open and close.

    Two classes are twins if most clips of each are recognised as they are, and are most often predicted as the
    other class when their frames are reversed. Source of the idea that reversal turns some classes into others:
    Price and Damen 2019, "Retro-Actions: Learning 'Close' by Time-Reversing 'Open' Videos".

    Args:
      forward: numbers of predictions for clips as they are, by true class (rows) and predicted class, [C, C].
      backward: numbers of predictions for reversed clips, like `forward`.

    Returns:
      The index of each class's twin, int64 [C]; -1 for classes without one.
    """
    every = np.arange(len(forward))
    recognised = (forward.argmax(axis=1) == every) & forward.any(axis=1) & backward.any(axis=1)
    reverse = backward.argmax(axis=1)
    mutual = recognised & recognised[reverse] & (reverse[reverse] == every) & (reverse != every)
    return np.where(mutual, reverse, -1)


def pair_right(
    forward: np.ndarray, backward: np.ndarray, labels: np.ndarray, twins: np.ndarray
) -> np.ndarray:
    """Computes whether a model is right about both a clip and its reverse, whose class is the clip's twin class.

    Counting a pair only if both of its members are right is usual for data sets of minimal pairs (Thrush et al.
    2022, "Winoground: Probing Vision and Language Models for Visio-Linguistic Compositionality"). A model that
    cannot see the direction of time gets 0.

    Args:
      forward: predicted classes of clips as they are, int [S, N].
      backward: predicted classes of the same clips with reversed frames, int [S, N].
      labels: the true class of each clip, int [N].
      twins: the twin of each class, from find_twins.

    Returns:
      1 if both are right, else 0, float64 [S, N]; NaN for clips whose class has no twin.
    """
    expected = twins[labels]
    both = (forward == labels) & (backward == expected)
    return np.where(expected < 0, np.nan, both)


def shapley_values(orders: np.ndarray, values: np.ndarray, empty: float) -> np.ndarray:
    """Estimates Shapley values of T frames: what each adds on average to a score, over orders of adding frames.

    If each frame is equally often the first, the second and so on, as with all rotations of an order, the estimate
    is exact for scores that depend on the number of frames alone. Source: Shapley 1953, "A Value for n-Person
    Games"; for frames of a video: Price and Damen 2020, "Play Fair: Frame Attributions in Video Models".

    Args:
      orders: int [P, T], orders in which the frames are added.
      values: float [P, T], the score after each addition, with the first k + 1 frames of the order at column k.
      empty: the score without any frame.

    Returns:
      The values, float64 [T]. They sum to the score with all frames minus `empty`.
    """
    gains = np.diff(values, axis=1, prepend=empty)
    return np.bincount(orders.ravel(), weights=gains.ravel(), minlength=orders.shape[1]) / len(orders)
