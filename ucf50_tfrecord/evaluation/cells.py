"""The cells of a comparison: the list of them, and the training and the tests of each."""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from ucf50_tfrecord.architectures import model_traits
from ucf50_tfrecord.choices import FoldBy, FrameOrder
from ucf50_tfrecord.dataset.clips import ClipIndex
from ucf50_tfrecord.dataset.feed import Feed, read_clips
from ucf50_tfrecord.errors import Action, Remedy, UserError, expect
from ucf50_tfrecord.evaluation import interventions, recurrence
from ucf50_tfrecord.evaluation.interventions import PLAIN, SHUFFLES
from ucf50_tfrecord.evaluation.results import LOGIT_DECIMALS, Cell, CellResult, video_of
from ucf50_tfrecord.evaluation.runner import Evaluator
from ucf50_tfrecord.specs import ModelSpec, TrainSpec, format_folds, to_json
from ucf50_tfrecord.training.listener import Listener

NOT_TESTED = -1  # the part of clips that are only trained on
TEST_BATCH_SIZE = 32
# At most so many training clips, test clips, and bytes of either are read to inspect a recurrence.
_MAX_INSPECTED_CLIPS, _MAX_INSPECTED_BYTES = 512, 256 << 20
# How far an order-blind model's logits may move, as a fraction of their size: sums over frames are rounded
# differently in another order.
_ROUNDING = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.01}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonListener(Listener):
    """Functions that a comparison calls, also between tests; by default they ignore everything and never stop it.

    start: receives a cell before its training, and the numbers of finished and of all cells.
    """

    start: Callable[[Cell, int, int], None] = lambda cell, done, total: None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """The model and training of a comparison's entry; a cell replaces the seed and the frame order."""

    model: ModelSpec
    train: TrainSpec

    @property
    def is_order_blind(self) -> bool:
        return model_traits(self.model.name).is_order_blind


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonSpec:
    """The models of a comparison and how they are trained and tested.

    recipes: by the model's name in the comparison.
    num_parts: of the cross-validation, each tested once; 0 tests `val_folds` alone.
    val_folds: the only part that is tested, with num_parts=0.
    num_seeds: trainings of each, from seed 0 on.
    orders: of choices.FrameOrder; models that see order are also trained on clips in these.
    audited: models that are also trained on clips split by video.
    inside: whether recurrences are inspected.
    """

    recipes: Mapping[str, Recipe]
    num_parts: int = 5
    val_folds: tuple[int, ...] = ()
    num_seeds: int = 1
    orders: tuple[str, ...] = (FrameOrder.SHUFFLED, FrameOrder.SINGLE)
    audited: tuple[str, ...] = ()
    inside: bool = True

    def __post_init__(self):
        expect(len(self.recipes) >= 1, "at least 1 model", models=list(self.recipes))
        expect(self.num_parts >= 2 or self.val_folds, "at least 2 parts", parts=self.num_parts)
        expect(not self.num_parts or not self.val_folds, "parts or folds", folds=self.val_folds)
        expect(self.num_seeds >= 1, "at least 1 seed", seeds=self.num_seeds)
        unknown = sorted(set(self.audited) - set(self.recipes))
        expect(not unknown, f"audited models out of {', '.join(self.recipes)}", models=unknown)

    def cells(self) -> list[Cell]:
        """Lists the cells, the most informative first: an interrupted comparison has all models."""
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
        return [*kept, *rearranged, *by_video]


def assign_parts(clips: ClipIndex, spec: ComparisonSpec, split: FoldBy) -> np.ndarray:
    """Assigns clips to the parts that are tested: int64 [N], NOT_TESTED for the others.

    By group, whole folds are assigned in turn. By video, the videos of each class are assigned in turn, in the
    order of their ids' hashes. Either way the parts are of about the same size.

    Raises:
      UserError: if a fold does not exist, or a class has no clips to train on.
    """
    if split == FoldBy.VIDEO:
        parts = _assign_videos(clips, spec.num_parts)
    elif spec.num_parts:
        folds = np.unique(clips.folds)
        expect(
            spec.num_parts <= len(folds),
            f"at most {len(folds)} parts, as many as folds with clips",
            Remedy(Action.SET, num_parts=len(folds)),
            parts=spec.num_parts,
        )
        parts = np.searchsorted(folds, clips.folds) % spec.num_parts
    else:
        unknown = sorted(set(spec.val_folds) - set(clips.folds.tolist()))
        expect(not unknown, f"folds out of {format_folds(folds_of(clips))}", val_folds=format_folds(unknown))
        parts = np.where(np.isin(clips.folds, spec.val_folds), 0, NOT_TESTED)
    for part in range(max(1, spec.num_parts)):
        missing = np.setdiff1d(np.unique(clips.labels), clips.labels[parts != part])
        if len(missing):
            names = ", ".join(clips.manifest.classes[label] for label in missing)
            raise UserError(
                f"Part {part + 1} of {spec.num_parts} holds all clips of {names}: none is left to train on. "
                "Try another number of parts."
            )
    return parts


def describe_split(cell: Cell, num_parts: int) -> str:
    """Describes a split that folds do not, for the run's configuration; "" for a split by folds."""
    return f"by video, part {cell.part + 1} of {num_parts}" if cell.split == FoldBy.VIDEO else ""


def cell_recipe(recipe: Recipe, cell: Cell) -> Recipe:
    """Returns the recipe with the cell's seed and frame order."""
    augment = dataclasses.replace(recipe.train.augment, frame_order=cell.training)
    return dataclasses.replace(
        recipe, train=dataclasses.replace(recipe.train, seed=cell.seed, augment=augment)
    )


def interventions_of(cell: Cell, num_frames: int) -> tuple[str, ...]:
    """Lists the interventions that a cell's model is tested under: all, or those of the question it answers."""
    if cell.split == FoldBy.VIDEO:
        return (PLAIN,)
    if cell.training == FrameOrder.SHUFFLED:
        return (PLAIN, *SHUFFLES)
    if cell.training == FrameOrder.SINGLE:
        return (PLAIN, "middle1")
    return interventions.names(num_frames)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained model to test.

    recipe: with the cell's seed and frame order. run_dir: the folder of its weights.
    """

    cell: Cell
    recipe: Recipe
    model: keras.Model
    run_dir: str


def examine(
    subject: Subject,
    train: ClipIndex,
    test: Feed,
    *,
    all_ids: Sequence[str],
    strategy: tf.distribute.Strategy,
    listener: ComparisonListener,
    look_inside: bool = True,
) -> CellResult | None:
    """Tests a model under its cell's interventions, and inspects its recurrence.

    Args:
      subject: the model.
      train, test: its training clips and test clips.
      all_ids: of the comparison's clips.
      strategy: the devices.
      listener: receives warnings, and may stop the tests.
      look_inside: whether to inspect the recurrence of a model with the usual training.

    Returns:
      The result; None if the test was stopped.

    Raises:
      UserError: if an order-blind model sees order, or a clip cannot be read.
    """
    cell, recipe = subject.cell, subject.recipe
    names = interventions_of(cell, recipe.model.num_frames)
    evaluate = Evaluator(
        subject.model,
        test,
        strategy=strategy,
        batch_size=TEST_BATCH_SIZE,
        names=names,
        warn=listener.warn,
    )
    found = evaluate.evaluate_each(names, listener.should_stop)
    if found is None:
        return None
    logits = {name: evaluation.logits for name, evaluation in found.items()}
    if recipe.is_order_blind:
        check_order_blind(str(cell), logits, recipe.train.precision)
    tested = found[PLAIN].clips
    as_usual = cell == Cell(model=cell.model, part=cell.part, seed=cell.seed)
    inside = None
    if look_inside and as_usual and model_traits(recipe.model.name).recurrent:
        inside = to_json(recurrence.inspect(subject.model, _some(train), _some(tested)))
    place = {clip_id: i for i, clip_id in enumerate(all_ids)}
    return CellResult(
        cell=cell,
        architecture=recipe.model.name,
        clips=np.array([place[clip_id] for clip_id in tested.ids], np.int64),
        # Rounded as in files, so that a report is the same before and after loading.
        logits={name: np.round(values, LOGIT_DECIMALS) for name, values in logits.items()},
        recurrence=inside,
        run_dir=subject.run_dir,
        precision=recipe.train.precision,
    )


def check_order_blind(name: str, logits: Mapping[str, np.ndarray], precision: str) -> None:
    """Checks that a model's logits do not depend on the order of frames.

    This also proves that interventions change only what they claim to change, and that clips and predictions
    belong together.

    Args:
      name: the cell's.
      logits: float [N, C] by intervention.
      precision: of the computation, whose rounding is tolerated.

    Raises:
      UserError: if they do.
    """
    plain = logits[PLAIN]
    # Stored logits are rounded by up to half a decimal each; float32 is not exact there.
    allowed = _ROUNDING[precision] * max(1.0, float(np.abs(plain).max())) + 1.01 * 10**-LOGIT_DECIMALS
    for intervention in logits:
        if not interventions.find(intervention).permutes:
            continue
        largest = float(np.abs(logits[intervention] - plain).max())
        if not largest <= allowed:  # NaN too
            raise UserError(
                f"{name} must not see the order of frames, but {intervention} changes its logits by up to "
                f"{largest:.3g}; rounding explains {allowed:.1g}. The comparison cannot be trusted."
            )


def folds_of(clips: ClipIndex) -> tuple[int, ...]:
    return tuple(np.unique(clips.folds).tolist())


def _assign_videos(clips: ClipIndex, num_parts: int) -> np.ndarray:
    videos = np.array([video_of(clip_id) for clip_id in clips.ids], object)
    parts = np.empty(len(clips), np.int64)
    for label in np.unique(clips.labels):
        own = np.flatnonzero(clips.labels == label)
        names = sorted(set(videos[own]), key=lambda name: (_hash(name), name))
        place = {name: i for i, name in enumerate(names)}
        # Classes start at different parts, which spreads the remainders.
        parts[own] = [(place[name] + label) % num_parts for name in videos[own]]
    return parts


def _hash(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogateescape"))


def _some(clips: ClipIndex) -> tuple[np.ndarray, np.ndarray]:
    """Reads evenly spread clips: uint8 [N, T, H, W, 3], and their labels."""
    count = min(_MAX_INSPECTED_CLIPS, max(1, _MAX_INSPECTED_BYTES // clips.manifest.format.num_bytes))
    chosen = clips.spread(count)
    return read_clips(chosen), chosen.labels
