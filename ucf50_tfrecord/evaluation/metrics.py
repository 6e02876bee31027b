"""Scores of predictions, computed by scikit-learn."""

from __future__ import annotations

import numpy as np
from sklearn import metrics


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Computes the fraction of clips whose class is predicted: int [N], int [N] to [0, 1]."""
    return float(metrics.accuracy_score(labels, predictions))


def macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Computes the mean F1 of the classes that occur among the labels.

    A class that is never predicted counts 0. A class without clips is left out: its F1 is undefined, and wrong
    predictions of it already cost the missed class. Where every class has clips, this equals scikit-learn's
    f1_score(average="macro").
    """
    present = np.unique(labels)
    return float(metrics.f1_score(labels, predictions, labels=present, average="macro", zero_division=0))


def class_f1(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Computes the F1 of each class: float64 [C], NaN for a class that does not occur among the labels."""
    every = np.arange(num_classes)
    f1 = metrics.f1_score(labels, predictions, labels=every, average=None, zero_division=0)
    return np.where(np.isin(every, labels), f1, np.nan)


def confusion(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts predictions: int64 [C, C], rows are true classes, columns are predicted ones."""
    return metrics.confusion_matrix(labels, predictions, labels=np.arange(num_classes))
