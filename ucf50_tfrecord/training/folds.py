"""Chooses the folds of a training: those to train on, to validate on and to test on.

A fold is a numbered subset of a dataset's clips, such as the clips of one recording group. This module does
not load TensorFlow.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.manifest import Manifest
from ucf50_tfrecord.specs import TrainSpec, check_folds, format_folds, parse_folds

# Names of folds that are validated on by default, best first.
_VALIDATION = ("val", "validation", "valid")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folds:
    """The folds of a training's three sets of clips. None means that the caller did not choose a set's folds.

    train: the folds to train on.
    val: the folds to validate on after each epoch.
    test: the folds to test the trained model on.
    """

    train: tuple[int, ...] | None = None
    val: tuple[int, ...] | None = None
    test: tuple[int, ...] | None = None

    @property
    def sets(self) -> list[tuple[int, ...]]:
        """The sets that hold folds, in the order train, val, test."""
        return [part for part in (self.train, self.val, self.test) if part]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskedFolds:
    """The folds that a caller asks for, as texts such as "1-5,9" or "val": a dataset's manifest knows the names.

    If a text is empty, the caller does not choose that set's folds.
    """

    train: str = ""
    val: str = ""
    test: str = ""

    def __post_init__(self):
        for text in dataclasses.astuple(self):
            if text:
                check_folds(text)

    def read(self, manifest: Manifest) -> Folds:
        """Returns the folds' numbers in a dataset.

        Raises:
          UserError: if a text is no list of folds.
        """
        names = manifest.fold_numbers
        texts = dataclasses.asdict(self)
        return Folds(**{name: parse_folds(text, names) if text else None for name, text in texts.items()})


def check_early_stopping(train: TrainSpec, asked: Folds | AskedFolds) -> None:
    """Raises UserError if a training with early stopping has no test folds.

    Without test folds, the final scores would be computed on the validation folds. They would be too high,
    because the validation folds also choose the best epoch.
    """
    expect(
        not train.early_stopping or asked.test,
        "test_folds with early_stopping: scores on the folds that chose the epoch would be too high",
        test_folds=asked.test,
    )


def choose_folds(
    manifest: Manifest, asked: AskedFolds, warn: Callable[[str], None] = lambda text: None
) -> Folds:
    """Chooses the training folds and the validation folds that the caller did not choose.

    A fold named train is the default to train on, and one named val the default to validate on; without val, one
    named test. If the caller chooses nothing, and there are val and test, the model is tested on test.

    Args:
      manifest: the dataset's manifest, which lists its folds.
      asked: the folds that the caller asks for.
      warn: called with one sentence for each set that lacks clips of some class.

    Returns:
      The folds of all sets; `test` may be None.

    Raises:
      UserError: if a text is no list of folds, a fold does not exist or is in two sets, or no fold is left for a
        set.
    """
    folds = _fill(manifest, _fill_by_name(manifest, asked.read(manifest)))
    named = {f"{name}_folds": part for name, part in dataclasses.asdict(folds).items() if part is not None}
    for (name, part), (other_name, other) in itertools.combinations(named.items(), 2):
        if both := sorted(set(part) & set(other)):
            raise UserError(f"Folds {format_folds(both)} are in both {name} and {other_name}")
    for name, part in named.items():
        unknown = sorted(set(part) - set(manifest.folds))
        if unknown or not part:
            raise UserError(
                f"Expected {name} out of folds {format_folds(manifest.folds)} of {manifest.data_dir}. "
                f"Received: {format_folds(unknown) or 'none'}"
            )
        if missing := manifest.missing_classes(part):
            warn(f"no clip of {', '.join(missing)} in {name}={format_folds(part)}")
    return folds


def _fill_by_name(manifest: Manifest, folds: Folds) -> Folds:
    """Fills the sets that are not chosen with the folds named train, val and test, as choose_folds says."""
    numbers = {name: number for name, number in manifest.fold_numbers.items() if number in manifest.folds}
    if "train" not in numbers:
        return folds
    used = {fold for part in folds.sets for fold in part}
    free = {name: (number,) for name, number in numbers.items() if number not in used}
    val = next((free[name] for name in _VALIDATION if name in free), None)
    test = free.get("test")
    if folds.val is None and folds.train is None:
        chosen = val or (test if folds.test is None else None)
        is_unchosen = folds.test is None and val is not None
        folds = dataclasses.replace(folds, val=chosen, test=test if is_unchosen else folds.test)
    if folds.train is None and folds.val is not None:
        folds = dataclasses.replace(folds, train=free.get("train"))
    return folds


def _fill(manifest: Manifest, folds: Folds) -> Folds:
    """Fills the sets that are not chosen: a fifth of the folds to validate on, and all others to train on."""
    test, val, train = folds.test or (), folds.val, folds.train
    if val is None and train is None:
        val = manifest_lib.default_val_folds(manifest, without=test)
    if val is None:
        val = tuple(fold for fold in manifest.folds if fold not in (*(train or ()), *test))
    if train is None:
        train = tuple(fold for fold in manifest.folds if fold not in (*val, *test))
    return Folds(train=train, val=val, test=folds.test)
