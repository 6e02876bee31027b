"""The cells of a comparison: lists them, assigns the clips that each cell tests on, and tests their models.

A cell is one training: a model, an order of training frames, a split of the clips, a part of the split that
is held out and tested on, a seed, and the classes that are left out of training.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ucf50_tfrecord.architectures import model_traits
from ucf50_tfrecord.choices import FoldBy, FrameOrder
from ucf50_tfrecord.dataset import segments
from ucf50_tfrecord.dataset.clips import ClipIndex, name_hash
from ucf50_tfrecord.dataset.feed import Feed, read_clips
from ucf50_tfrecord.errors import Action, Remedy, UserError, expect
from ucf50_tfrecord.evaluation import attribution, interventions, recurrence, unknown
from ucf50_tfrecord.evaluation.audit import NOT_TESTED
from ucf50_tfrecord.evaluation.interventions import PLAIN, SHUFFLES
from ucf50_tfrecord.evaluation.results import Cell, CellResult, video_of
from ucf50_tfrecord.evaluation.runner import Evaluator
from ucf50_tfrecord.evaluation.workbench import CompiledModel
from ucf50_tfrecord.specs import ModelSpec, TrainSpec, format_folds, to_json
from ucf50_tfrecord.training.listener import Listener, TrainProgress

TEST_BATCH_SIZE = 32
# Upper limits on the clips, and on their bytes, that are read of training and of test clips to inspect a
# recurrence.
_MAX_INSPECTED_CLIPS, _MAX_INSPECTED_BYTES = 512, 256 << 20
_NUM_ATTRIBUTED = 2  # test clips of each cell whose predictions are attributed to their frames
# How much an order-blind model's logits may change when frames are reordered, as a fraction of the largest
# logit: sums over frames are rounded differently in another order.
_ROUNDING = {"float32": 2e-4, "bfloat16": 0.05, "float16": 0.01}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonListener:
    """Functions that a comparison calls while it trains and tests its cells; by default they do nothing.

    A cell is one training of the comparison.

    start: called before each cell that is trained or tested. Its arguments are the cell, the number of other
      cells that are finished or running, and the number of all cells.
    report: called with the cell and the progress of its training, as often as Listener.report.
    finish: called when a cell that was started is finished.
    fail: called with a cell whose processes crashed twice, and the reason.
    warn, should_stop: as in Listener.
    """

    start: Callable[[Cell, int, int], None] = lambda cell, number, total: None
    report: Callable[[Cell, TrainProgress], None] = lambda cell, progress: None
    finish: Callable[[Cell], None] = lambda cell: None
    fail: Callable[[Cell, str], None] = lambda cell, reason: None
    warn: Callable[[str], None] = lambda text: None
    should_stop: Callable[[], bool] = lambda: False

    def of(self, cell: Cell) -> Listener:
        """Returns a Listener that passes the progress of one cell's training on to this object's functions."""
        return Listener(
            report=functools.partial(self.report, cell), warn=self.warn, should_stop=self.should_stop
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A compared model and its training; each cell (one training) replaces the seed and the frame order."""

    model: ModelSpec
    train: TrainSpec

    @property
    def is_order_blind(self) -> bool:
        """Whether the model's logits are the same for every order of a clip's frames."""
        return model_traits(self.model.name).is_order_blind


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonSpec:
    """The models of a comparison, and how they are trained and tested.

    recipes: dictionary from a model's name in the comparison to its recipe.
    num_parts: number of parts of the cross-validation. Each part is held out once, and the models trained on
      the other parts are tested on it. If 0, there is no cross-validation, and `val_folds` are held out.
    val_folds: folds that are held out and tested on, if `num_parts` is 0; else empty.
    num_seeds: trainings of each model per part and frame order, with seeds from 0 on.
    orders: values of choices.FrameOrder. Models that see frame order are also trained with each of these
      arrangements of the frames.
    audited: names of models that are also trained and tested on a split by video. In such a split, clips of
      one recording are in both training and test. Empty if `num_parts` is 0.
    held_out: sets of classes, each as indices in ascending order. Each model is also trained without the classes
      of each set, to test how it treats clips of unknown classes.
    inside: whether recurrent layers are inspected (see evaluation.recurrence), and the predictions for a few
      clips are attributed to their frames (see evaluation.attribution).
    """

    recipes: Mapping[str, Recipe]
    num_parts: int = 5
    val_folds: tuple[int, ...] = ()
    num_seeds: int
    orders: tuple[str, ...] = (FrameOrder.SHUFFLED, FrameOrder.SINGLE)
    audited: tuple[str, ...] = ()
    held_out: tuple[tuple[int, ...], ...] = ()
    inside: bool = True

    def __post_init__(self):
        expect(len(self.recipes) >= 1, "at least 1 model", models=list(self.recipes))
        counts = {name: recipe.model.num_frames for name, recipe in self.recipes.items()}
        for recipe in self.recipes.values():
            recipe.train.check_fits_comparison()
        # A number of frames in an intervention's name, such as first4, must mean the same for all.
        expect(len(set(counts.values())) == 1, "models that take equally many frames", sample_frames=counts)
        expect(self.num_parts >= 2 or self.val_folds, "at least 2 parts", parts=self.num_parts)
        expect(
            not self.num_parts or not self.val_folds,
            "either parts or val_folds, not both",
            val_folds=self.val_folds,
        )
        expect(self.num_seeds >= 1, "at least 1 seed", seeds=self.num_seeds)
        others = sorted(set(self.audited) - set(self.recipes))
        expect(
            not others, f"only audited models that are compared ({', '.join(self.recipes)})", audited=others
        )
        expect(
            self.num_parts or not self.audited,
            "a cross-validation if models are audited",
            audited=self.audited,
        )

    @property
    def num_frames(self) -> int:
        """Frames per clip that the models take."""
        return next(iter(self.recipes.values())).model.num_frames

    def cells(self) -> list[Cell]:
        """Lists the cells; usual trainings come first, so that an interrupted comparison covers all models.

        Each set of held-out classes is tested on one part, and the sets take the parts in turn. The sets are what
        their scores are averaged over, so more parts per set would cost much and tell little.
        """
        parts, seeds = range(max(1, self.num_parts)), range(self.num_seeds)
        kept = [
            Cell(model=model, part=part, seed=seed)
            for seed, part, model in itertools.product(seeds, parts, self.recipes)
        ]
        by_video = [
            dataclasses.replace(cell, split=FoldBy.VIDEO) for cell in kept if cell.model in self.audited
        ]
        rearranged = [
            dataclasses.replace(cell, training=order)
            for order in self.orders
            for cell in kept
            if not self.recipes[cell.model].is_order_blind
        ]
        without_classes = [
            Cell(model=model, part=number % len(parts), seed=seed, held_out=classes)
            for seed, (number, classes), model in itertools.product(
                seeds, enumerate(self.held_out), self.recipes
            )
        ]
        return [*kept, *rearranged, *by_video, *without_classes]


def assign_parts(clips: ClipIndex, spec: ComparisonSpec, split: FoldBy) -> np.ndarray:
    """Assigns each clip to the part of a split that it is tested in.

    In a split by group, whole folds are assigned to the parts in turn. In a split by video, the videos of
    each class are sorted by the hashes of their ids, and assigned to the parts in turn. All parts have about
    the same size.

    Returns:
      The index of each clip's part, int64 [N]; NOT_TESTED for clips that are only trained on.

    Raises:
      UserError: if clips have several labels, a fold does not exist, there are fewer folds than parts, or a split by
        video lacks a cross-validation. Also if all clips of a class are in one part, so that none is left to train on.
    """
    clips.manifest.expect_one_label("a comparison")
    if split == FoldBy.VIDEO:
        expect(spec.num_parts > 0, "a cross-validation for a split by video", parts=spec.num_parts)
        parts = _assign_videos(clips, spec.num_parts)
    elif spec.num_parts:
        folds = np.unique(clips.folds)
        expect(
            spec.num_parts <= len(folds),
            f"at most {len(folds)} parts, because only {len(folds)} folds hold clips",
            Remedy(Action.SET, num_parts=len(folds)),
            parts=spec.num_parts,
        )
        parts = np.searchsorted(folds, clips.folds) % spec.num_parts
    else:
        missing_folds = sorted(set(spec.val_folds) - set(clips.folds.tolist()))
        expect(
            not missing_folds,
            f"folds out of {format_folds(folds_of(clips.folds))}",
            val_folds=format_folds(missing_folds),
        )
        parts = np.where(np.isin(clips.folds, spec.val_folds), 0, NOT_TESTED)
    for part in range(max(1, spec.num_parts)):
        missing = np.setdiff1d(np.unique(clips.labels), clips.labels[parts != part])
        if len(missing):
            names = ", ".join(clips.manifest.classes[label] for label in missing)
            holder, remedy = f"Part {part + 1} of {spec.num_parts}", "another number of parts"
            if not spec.num_parts:
                holder, remedy = f"The test on folds {format_folds(spec.val_folds)}", "other folds"
            raise UserError(
                f"{holder} takes all clips of {names}, so none is left to train on. Try {remedy}."
            )
    return parts


def describe_split(cell: Cell, num_parts: int, classes: Sequence[str]) -> str:
    """Describes how a cell divides the clips into training and test clips, for RunConfig.clip_split.

    Returns "" if the cell divides whole folds, because the run's configuration lists the folds.

    Args:
      cell: the cell.
      num_parts: number of parts of the cross-validation.
      classes: names of all classes.
    """
    if cell.held_out:
        return f"by fold, and without {', '.join(classes[label] for label in cell.held_out)} in training"
    return f"by video, part {cell.part + 1} of {num_parts}" if cell.split == FoldBy.VIDEO else ""


def find_trained(clips: ClipIndex, parts: np.ndarray, cell: Cell) -> np.ndarray:
    """Returns a mask of the clips that a cell trains on, bool [N].

    Args:
      clips: index of all N clips.
      parts: the part in which each clip is tested, as assign_parts returns it for the cell's split.
      cell: the cell.
    """
    return (parts != cell.part) & ~np.isin(clips.labels, cell.held_out)


def cell_recipe(recipe: Recipe, cell: Cell) -> Recipe:
    """Returns a copy of `recipe` with the seed and the frame order of `cell`, one training."""
    augment = dataclasses.replace(recipe.train.augment, frame_order=cell.training)
    return dataclasses.replace(
        recipe, train=dataclasses.replace(recipe.train, seed=cell.seed, augment=augment)
    )


def interventions_of(cell: Cell, num_frames: int, *, of_features: bool = False) -> tuple[str, ...]:
    """Lists the names of the interventions that a cell's model is tested under.

    The usual training (split by group, frames in order) is tested under all interventions. If the clips are
    stored as features, it is tested only under the interventions that choose or reorder frames; see
    interventions.names.

    The other trainings serve a single purpose each, and are tested only under the interventions that it needs:
    a split by video, or held-out classes, under no change; shuffled frames, under shuffles; one frame per clip, on
    the middle frame.
    """
    if cell.split == FoldBy.VIDEO or cell.held_out:
        return (PLAIN,)
    if cell.training == FrameOrder.SHUFFLED:
        return (PLAIN, *SHUFFLES)
    if cell.training == FrameOrder.SINGLE:
        return (PLAIN, "middle1")
    return interventions.names(num_frames, of_features=of_features)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained model to test, with the cell that it belongs to.

    cell: the training and the part of the clips that is tested on.
    recipe: specification of the model and its training, with the cell's seed and frame order.
    compiled: the model's compiled functions.
    run_dir: folder of the model's weights.
    """

    cell: Cell
    recipe: Recipe
    compiled: CompiledModel
    run_dir: str


def examine(
    subject: Subject,
    train: ClipIndex,
    test: Feed,
    *,
    changed: Mapping[str, Feed] | None = None,
    all_ids: Sequence[str],
    listener: Listener,
    look_inside: bool = True,
) -> CellResult | None:
    """Tests a cell's model under the cell's interventions, and looks inside it.

    Args:
      subject: the model and its cell.
      train: index of the clips that the model was trained on.
      test: feed of the clips to test on.
      changed: if the clips are stored as features, a dictionary from the name of each intervention that
        changes pixels to a feed. The feed holds the features of the changed clips.
      all_ids: ids of all clips of the comparison.
      listener: functions that receive warnings and may stop the tests.
      look_inside: whether to inspect the model's recurrent layer, if it has one, and to attribute its predictions
        for a few clips to their frames. Both are done only if the cell's training is the usual one.

    Returns:
      The predictions, or None if the listener stopped the tests.

    Raises:
      UserError: if the logits of an order-blind model depend on the order of frames, a clip cannot be read,
        or the model returns NaN or infinity.
    """
    cell, recipe = subject.cell, subject.recipe
    names = interventions_of(cell, recipe.model.num_frames, of_features=bool(recipe.model.feature_shape))
    make_evaluator = functools.partial(
        Evaluator, subject.compiled.predictor, batch_size=TEST_BATCH_SIZE, warn=listener.warn
    )
    found = make_evaluator(test, names=names).evaluate_each(names, listener.should_stop)
    if found is None:
        return None
    for name, feed in (changed or {}).items():
        of_changed = make_evaluator(feed, names=[PLAIN]).evaluate_each([PLAIN], listener.should_stop)
        if of_changed is None:
            return None
        expect(
            of_changed[PLAIN].clips.ids == found[PLAIN].clips.ids,
            f"exactly the tested clips, in the same order, in {feed.clips.manifest.data_dir}",
        )
        found[name] = of_changed[PLAIN]
    logits = {
        name: found[name].logits for name in interventions.names(recipe.model.num_frames) if name in found
    }
    if recipe.is_order_blind:
        check_order_blind(str(cell), logits, recipe.train.precision)
    tested = found[PLAIN].clips
    as_usual = cell == Cell(model=cell.model, part=cell.part, seed=cell.seed)
    place = {clip_id: i for i, clip_id in enumerate(all_ids)}
    inside: dict[str, Any] | None = None
    attributions: tuple[attribution.Attribution, ...] = ()
    if look_inside and as_usual:
        if model_traits(recipe.model.name).recurrent:
            some = functools.partial(_some, num_frames=recipe.model.num_frames)
            inside = to_json(recurrence.inspect(subject.compiled.stepwise, some(train), some(tested)))
        shown = tested.spread(_NUM_ATTRIBUTED)
        attributions = attribution.attribute_clips(
            functools.partial(subject.compiled.predictor.predict, batch_size=TEST_BATCH_SIZE),
            segments.take_middles(read_clips(shown), recipe.model.num_frames),
            shown.labels,
            places=[place[clip_id] for clip_id in shown.ids],
            clip_ids=shown.ids,
            train_labels=train.labels,
        )
    return CellResult(
        cell=cell,
        architecture=recipe.model.name,
        clips=np.array([place[clip_id] for clip_id in tested.ids], np.int64),
        logits=logits,
        recurrence=inside,
        attributions=attributions,
        run_dir=subject.run_dir,
        precision=recipe.train.precision,
    )


def measure_neighbors(compiled: CompiledModel, train: Feed, test: Feed) -> np.ndarray:
    """Computes the distance from each test clip to its nearest training clips, float64 [M]; see unknown.neighbor_scores.

    The clips' features are the inputs of the model's classifier.

    Args:
      compiled: the functions of the trained model.
      train, test: feeds of the clips to train and to test on. Unreadable clips that they skip are left out.
    """
    train_features, test_features = (
        Evaluator(compiled.features, feed, batch_size=TEST_BATCH_SIZE, names=[PLAIN])().logits
        for feed in (train, test)
    )
    return unknown.neighbor_scores(train_features, test_features)


def check_order_blind(name: str, logits: Mapping[str, np.ndarray], precision: str) -> None:
    """Checks that the logits of an order-blind model do not depend on the order of frames.

    This check also covers the comparison itself: it fails if reordering interventions change more than the
    order, or if predictions are stored with the wrong clips.

    Args:
      name: name of the cell, for the message.
      logits: mapping from the name of an intervention to logits, float [N, C].
      precision: floating-point precision that the model computes in; its rounding is tolerated.

    Raises:
      UserError: if the logits depend on the order of frames.
    """
    plain = logits[PLAIN]
    allowed = _ROUNDING[precision] * max(1.0, float(np.abs(plain).max()))
    for intervention in logits:
        if not interventions.find(intervention).permutes:
            continue
        largest = float(np.abs(logits[intervention] - plain).max())
        if not largest <= allowed:  # NaN too
            raise UserError(
                f"{name} must not see the order of frames, but {intervention} changes its logits by up to "
                f"{largest:.3g}; rounding explains only {allowed:.1g}. The comparison cannot be trusted."
            )


def folds_of(folds: np.ndarray) -> tuple[int, ...]:
    """Lists the folds of clips, each once and in ascending order.

    Args:
      folds: each clip's fold, int64 [N].
    """
    return tuple(np.unique(folds).tolist())


def _assign_videos(clips: ClipIndex, num_parts: int) -> np.ndarray:
    videos = np.array([video_of(clip_id) for clip_id in clips.ids], object)
    parts = np.empty(len(clips), np.int64)
    for label in np.unique(clips.labels):
        own = np.flatnonzero(clips.labels == label)
        names = sorted(set(videos[own]), key=lambda name: (name_hash(name), name))
        place = {name: i for i, name in enumerate(names)}
        # Each class starts at another part, so that the parts with one video more differ between classes.
        parts[own] = [(place[name] + label) % num_parts for name in videos[own]]
    return parts


def _some(clips: ClipIndex, *, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads evenly spread clips of an index, as tests do: frames, uint8 [N, num_frames, H, W, 3], and labels [N]."""
    count = min(_MAX_INSPECTED_CLIPS, max(1, _MAX_INSPECTED_BYTES // clips.manifest.stored.num_bytes))
    chosen = clips.spread(count)
    return segments.take_middles(read_clips(chosen), num_frames), chosen.labels
