"""Accuracy, F1 and confusion matrix of predicted classes, computed by scikit-learn."""

from __future__ import annotations

import numpy as np
from sklearn import metrics


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Computes the fraction of N clips whose predicted class equals the label; both arrays are int [N]."""
    return float(metrics.accuracy_score(labels, predictions))


def macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Computes macro F1: the mean F1 of the classes that occur among the labels.

    A class that is never predicted has F1 0. A class without clips is left out, because its F1 is undefined.
    A clip that is wrongly predicted as a class without clips still lowers the recall of its true class. If
    every class has clips, the result equals that of scikit-learn's f1_score(average="macro").
    """
    present = np.unique(labels)
    return float(metrics.f1_score(labels, predictions, labels=present, average="macro", zero_division=0))


def class_f1(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Computes each class's F1, float64 [num_classes]; NaN for a class that does not occur in `labels`."""
    every = np.arange(num_classes)
    f1 = metrics.f1_score(labels, predictions, labels=every, average=None, zero_division=0)
    return np.where(np.isin(every, labels), f1, np.nan)


def confusion(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts clips by true class (rows) and predicted class (columns): int64 [num_classes, num_classes]."""
    return metrics.confusion_matrix(labels, predictions, labels=np.arange(num_classes))
