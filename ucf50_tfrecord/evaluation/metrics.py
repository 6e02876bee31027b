"""Scores from labels and predictions, by scikit-learn."""

from __future__ import annotations

import numpy as np
from sklearn import metrics


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Share of clips whose class is predicted: int [N], int [N] to [0, 1]."""
    return float(metrics.accuracy_score(labels, predictions))


def macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Mean F1 over the classes that occur among the labels, each weighing the same.

    A class that is never predicted counts as 0. A class that has no clip here is left
    out: its F1 is not defined, and wrong predictions of it already cost the class that
    was missed. Where every class has clips this is scikit-learn's f1_score(average="macro").
    """
    present = np.unique(labels)
    return float(metrics.f1_score(labels, predictions, labels=present, average="macro", zero_division=0))


def class_f1(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """F1 of each class, float64 [C]; NaN for a class that does not occur among the labels."""
    every = np.arange(num_classes)
    f1 = metrics.f1_score(labels, predictions, labels=every, average=None, zero_division=0)
    return np.where(np.isin(every, labels), f1, np.nan)


def confusion(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts int64 [C, C]: rows are true classes, columns predicted ones."""
    return metrics.confusion_matrix(labels, predictions, labels=np.arange(num_classes))
