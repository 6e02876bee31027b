"""The cells of a comparison: which there are, and what each one's training and tests are."""

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
from ucf50_tfrecord.dataset import perturb
from ucf50_tfrecord.dataset.clips import ClipIndex
from ucf50_tfrecord.dataset.feed import Feed, read_clips
from ucf50_tfrecord.errors import Action, Remedy, UserError, expect
from ucf50_tfrecord.evaluation import recurrence
from ucf50_tfrecord.evaluation.results import LOGIT_DECIMALS, Cell, CellResult, video_of
from ucf50_tfrecord.evaluation.runner import Evaluator
from ucf50_tfrecord.specs import ModelSpec, TrainSpec, format_folds, to_json
from ucf50_tfrecord.training.listener import Listener

NOT_TESTED = -1
EVALUATED_AT_ONCE = 32  # clips
# Of what looks inside a recurrence: so many clips of the training and of the test part, or bytes.
_MAX_INSPECTED_CLIPS = 512
_MAX_INSPECTED_BYTES = 256 << 20
# How far the logits of a model that is blind to order may move, as a share of their size: the frames'
# sum rounds differently in another order.
_ROUNDING = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.01}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonListener(Listener):
    """Functions that a comparison calls, also between tests; by default they ignore everything and never stop it.

    start: receives a cell before it is trained, and the numbers of finished and of all cells.
    """

    start: Callable[[Cell, int, int], None] = lambda cell, done, total: None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model of the comparison is built and trained; seed and frame order are the cell's."""

    model: ModelSpec
    train: TrainSpec

    @property
    def is_order_blind(self) -> bool:
        return model_traits(self.model.name).is_order_blind


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be compared.

    recipes: by the model's name in the comparison.
    num_parts: the clips are cut into so many parts, each of which is tested once; 0 stands for `val_folds`.
    val_folds: the only part that is tested, where num_parts is 0.
    num_seeds: trainings of each, from seed 0 on.
    orders: other frame orders to train models with that are not blind to them, of choices.FrameOrder.
    audited: models to train on clips split by video, too.
    inside: whether to look inside recurrences.
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
        """Lists the cells, those that answer most first: an interrupted comparison has all models."""
        parts, seeds = range(max(1, self.num_parts)), range(self.num_seeds)
        kept = [
            Cell(model=model, part=part, seed=seed)
            for seed, part, model in itertools.product(seeds, parts, self.recipes)
        ]
        by_video = [dataclasses.replace(cell, split="video") for cell in kept if cell.model in self.audited]
        rearranged = [
            dataclasses.replace(cell, training=order)
            for order in self.orders
            for cell in kept
            if not self.recipes[cell.model].is_order_blind
        ]
        return [*kept, *rearranged, *by_video]


def deal_parts(clips: ClipIndex, plan: Plan, split: str) -> np.ndarray:
    """Deals clips into the parts that are tested, one by one: int64 [N], NOT_TESTED for others.

    Split by group, whole folds are dealt in turn. Split by video, the videos of each class are dealt
    in turn, in the order of their ids' hashes: so both have parts of about the same size.

    Raises:
      UserError: if a fold does not exist, or some class would not be trained on.
    """
    if split == FoldBy.VIDEO:
        parts = _deal_videos(clips, plan.num_parts)
    elif plan.num_parts:
        folds = np.unique(clips.folds)
        expect(
            plan.num_parts <= len(folds),
            f"at most {len(folds)} parts, as many as folds with clips",
            Remedy(Action.SET, num_parts=len(folds)),
            parts=plan.num_parts,
        )
        parts = np.searchsorted(folds, clips.folds) % plan.num_parts
    else:
        unknown = sorted(set(plan.val_folds) - set(clips.folds.tolist()))
        expect(not unknown, f"folds out of {format_folds(folds_of(clips))}", val_folds=format_folds(unknown))
        parts = np.where(np.isin(clips.folds, plan.val_folds), 0, NOT_TESTED)
    for part in range(max(1, plan.num_parts)):
        missing = np.setdiff1d(np.unique(clips.labels), clips.labels[parts != part])
        if len(missing):
            names = ", ".join(clips.manifest.classes[label] for label in missing)
            raise UserError(
                f"Part {part + 1} of {plan.num_parts} holds all clips of {names}: nothing is left to train on. "
                "Another number of parts may do."
            )
    return parts


def describe_split(cell: Cell, num_parts: int) -> str:
    """Returns what a run's configuration says of clips that are not split by folds."""
    return f"by video, part {cell.part + 1} of {num_parts}" if cell.split == FoldBy.VIDEO else ""


def cell_recipe(recipe: Recipe, cell: Cell) -> Recipe:
    """Returns the recipe with the cell's seed and frame order."""
    augment = dataclasses.replace(recipe.train.augment, frame_order=cell.training)
    return dataclasses.replace(
        recipe, train=dataclasses.replace(recipe.train, seed=cell.seed, augment=augment)
    )


def interventions(cell: Cell, num_frames: int) -> tuple[str, ...]:
    """Which tests a cell's model undergoes: all, or where it answers one question those that belong to it."""
    if cell.split == FoldBy.VIDEO:
        return (perturb.PLAIN,)
    if cell.training == "shuffled":
        return (perturb.PLAIN, *perturb.SHUFFLES)
    if cell.training == "single":
        return (perturb.PLAIN, "middle1")
    return perturb.names(num_frames)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained model that is to be tested, and what it is in the comparison.

    recipe: how it was trained, with the cell's seed and frame order. run_dir: where its weights are.
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
    """Tests a model with all interventions that are meant for its cell, and looks inside its recurrence.

    Args:
      subject: the model.
      train, test: the clips that it was trained on, and those that it is tested on.
      all_ids: of the comparison's clips.
      strategy: the devices.
      listener: receives warnings, and may stop the tests.
      look_inside: whether to look inside the recurrence of a model that was trained as usual.

    Returns:
      None if it is stopped meanwhile.

    Raises:
      UserError: if a model that must not see order does, or a clip cannot be read.
    """
    cell, recipe = subject.cell, subject.recipe
    names = interventions(cell, recipe.model.num_frames)
    evaluate = Evaluator(
        subject.model,
        test,
        strategy=strategy,
        batch_size=EVALUATED_AT_ONCE,
        perturbations=names,
        warn=listener.warn,
    )
    found = evaluate.evaluate_each(names, listener.should_stop)
    if found is None:
        return None
    logits = {name: evaluation.logits for name, evaluation in found.items()}
    if recipe.is_order_blind:
        check_order_blind(str(cell), logits, recipe.train.precision)
    tested = found[perturb.PLAIN].clips
    as_usual = cell == Cell(model=cell.model, part=cell.part, seed=cell.seed)
    inside = None
    if look_inside and as_usual and model_traits(recipe.model.name).recurrent:
        inside = to_json(recurrence.inspect(subject.model, _some(train), _some(tested)))
    place = {clip_id: i for i, clip_id in enumerate(all_ids)}
    return CellResult(
        cell=cell,
        architecture=recipe.model.name,
        clips=np.array([place[clip_id] for clip_id in tested.ids], np.int64),
        # As files keep them, so that a report is the same before and after.
        logits={name: np.round(values, LOGIT_DECIMALS) for name, values in logits.items()},
        recurrence=inside,
        run_dir=subject.run_dir,
        precision=recipe.train.precision,
    )


def check_order_blind(name: str, logits: Mapping[str, np.ndarray], precision: str) -> None:
    """Checks that a model says the same of clips in whatever order their frames come.

    It proves more than the model's blindness: that interventions change what they say they change,
    and that clips and predictions belong together.

    Args:
      name: the cell's.
      logits: float [N, C] for each intervention.
      precision: of the computation, whose rounding is allowed for.

    Raises:
      UserError: if it does not.
    """
    plain = logits[perturb.PLAIN]
    # Logits may have been rounded to be kept, each by half a last decimal; float32 is not exact there.
    allowed = _ROUNDING[precision] * max(1.0, float(np.abs(plain).max())) + 1.01 * 10**-LOGIT_DECIMALS
    for perturbation in (*perturb.SHUFFLES, "reverse"):
        if perturbation not in logits:
            continue
        change = float(np.abs(logits[perturbation] - plain).max())
        if not change <= allowed:
            raise UserError(
                f"{name} must not see the order of frames, but {perturbation} changes its logits by up to "
                f"{change:.3g}; rounding explains {allowed:.1g}. The comparison cannot be trusted."
            )


def folds_of(clips: ClipIndex) -> tuple[int, ...]:
    return tuple(np.unique(clips.folds).tolist())


def _deal_videos(clips: ClipIndex, num_parts: int) -> np.ndarray:
    videos = np.array([video_of(clip_id) for clip_id in clips.ids], object)
    parts = np.empty(len(clips), np.int64)
    for label in np.unique(clips.labels):
        own = np.flatnonzero(clips.labels == label)
        names = sorted(set(videos[own]), key=lambda name: (_hash(name), name))
        place = {name: i for i, name in enumerate(names)}
        # Classes start at different parts, so that what is left over spreads.
        parts[own] = [(place[name] + label) % num_parts for name in videos[own]]
    return parts


def _hash(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogateescape"))


def _some(clips: ClipIndex) -> tuple[np.ndarray, np.ndarray]:
    """Reads some clips, evenly spread: uint8 [N, T, H, W, 3], and their labels."""
    count = min(_MAX_INSPECTED_CLIPS, max(1, _MAX_INSPECTED_BYTES // clips.manifest.format.num_bytes))
    chosen = clips.spread(count)
    return read_clips(chosen), chosen.labels
