"""Exports a run's model as a SavedModel, a .keras file or ONNX, and checks that the files predict alike.

An export is a folder:

<output>/saved_model/     serving_default: frames uint8 [B, T, H, W, 3] to probabilities float32 [B, C],
                         class_names string [B, C], confidence and unknown_score float32 [B], known and
                         confident bool [B]; with several labels per clip, predicted bool [B, C] in place of these
                         four; for TensorFlow and TensorFlow Serving
<output>/model.keras      frames to logits float32 [B, C]; with several labels per clip, to a dictionary of
                         probabilities float32 [B, C]; for Keras, with ucf50_tfrecord.models imported
<output>/model.onnx       frames to the same outputs but class_names; the metadata's class_names is a JSON list
<output>/model.tflite, model_float16.tflite, model_int8.tflite
                         the same for one clip; for LiteRT
<output>/export.json      the run, its classes, the thresholds of known and confident, or with several labels per clip
                         those of the classes, and the files' differences from the run's model; its presence marks
                         the folder as an export
<output>/MODEL_CARD.md    the model card, see inference.card

`confidence` is the highest probability, `unknown_score` the energy -log(sum(exp(logits))). `confident` is there if an
export names the wanted largest fraction of wrong answers. See inference.abstention for both.

With several labels per clip, a probability is the sigmoid of its logit, and `predicted` says whether it reaches the class's
threshold. These are the thresholds of predictions of videos, see inference.held_out.

All files but the last two compute in float32 on any device, whatever precision the run was trained in.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Collection, Sequence

import keras
import numpy as np
import tensorflow as tf

from ucf50_tfrecord import record, storage
from ucf50_tfrecord.dataset import reader, segments
from ucf50_tfrecord.dataset.clips import ClipIndex, frames_of, load_clips
from ucf50_tfrecord.errors import Action, Remedy, UserError, expect
from ucf50_tfrecord.evaluation import multi_label
from ucf50_tfrecord.evaluation.results import Condition, Results
from ucf50_tfrecord.evaluation.verdicts import ensemble
from ucf50_tfrecord.features import frame_model
from ucf50_tfrecord.inference import card, export_files, field_tests, tflite
from ucf50_tfrecord.inference.abstention import Rules
from ucf50_tfrecord.inference.card_files import Export, ExportedFile, RunDifference
from ucf50_tfrecord.inference.finished_run import FinishedRun
from ucf50_tfrecord.inference.formats import DEFAULT_FORMATS, FORMATS
from ucf50_tfrecord.inference.held_out import Thresholds
from ucf50_tfrecord.specs import to_json

EXPORT_FILENAME = "export.json"
# Allowed difference of the model's probabilities from those that the run stored: the mean over clips of the
# largest difference in each clip. For an LSTM on UCF50's clips, it was 0.003 after training in bfloat16, and
# 0.12 with the weights of another epoch.
OWN_TOLERANCE = 0.05
_NUM_CLIPS = 16
_MAX_CLIP_BYTES = 64 << 20  # limit on the clips' pixels; a model's layers take some fifty times as much
_MAX_REPRESENTATIVE = 64  # clips on which the ranges of 8-bit values are measured
_NUM_TIMED = 5  # calls with one clip, of which the median time is stated


def check_formats(formats: Sequence[str]) -> None:
    """Raises UserError unless all export formats are known and the packages that they need are installed."""
    expect(formats and set(formats) <= set(FORMATS), f"formats out of {tuple(FORMATS)}", formats=formats)
    for name in formats:
        kind = FORMATS[name]
        missing = [package for package in kind.packages if importlib.util.find_spec(package) is None]
        if missing:
            raise UserError(
                f"The format {name} needs packages that are missing: {', '.join(missing)}",
                Remedy(Action.INSTALL, extras=f"convert,train,{kind.extra}"),
            )


def export_run(
    run: FinishedRun,
    output: str,
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
    max_error: float | None = None,
    warn: Callable[[str], None] = lambda text: None,
    allowed_code: Collection[str] = (),
    comparison: Results | None = None,
) -> Export:
    """Exports a run's model to a folder: files in some formats, and the model card.

    Each file is read back, and its probabilities are compared with the model's. The folder appears when
    everything has succeeded, and replaces an earlier export.

    Args:
      run: the run, from finished_run.load.
      output: path of the folder to write.
      formats: names of export formats, keys of FORMATS.
      max_error: wanted largest fraction of wrong answers, above 0 and below 1: the files say whether the model is
        confident of a clip. None for files that do not say it; it must be None if clips have several labels.
      warn: called with a sentence if the comparison uses random pixels, because the run's clips are missing, no
        clip would be answered, or no thresholds of classes could be chosen.
      allowed_code: names of the model builders, as <module>:<builder>, that may be imported; see
        trained.load_model.
      comparison: a comparison with trainings of the run's model without some classes, for the card.

    Returns:
      The written files, and their differences from the model and the run.

    Raises:
      UserError: if a format cannot be written, max_error is out of range, a file's outputs differ by more than
        its format allows or from the run's predictions by more than OWN_TOLERANCE, `output` holds something else,
        the card cannot be made from the comparison, or max_error or a comparison is given for a run on clips with
        several labels.
    """
    check_formats(formats)
    if comparison:
        field_tests.models_without_classes(run, comparison)
    rules = run.thresholds if run.thresholds and max_error is None else run.rules(max_error)
    if isinstance(rules, Thresholds):
        if rules.reason:
            warn(f"Each class is predicted from a probability of {multi_label.THRESHOLD} on: {rules.reason}")
    elif rules.why_never:
        warn(f"The files call no clip confident: {rules.why_never}")
    formats = [name for name in FORMATS if name in formats]
    names = {*(kind.filename for kind in FORMATS.values()), card.CARD_FILENAME, EXPORT_FILENAME}
    with storage.atomic_folder(output, names=names, mark=EXPORT_FILENAME) as folder:
        model = load_for_export(run, allowed_code)
        clips = choose_clips(run, warn, with_representative="tflite_int8" in formats)
        classify = export_files.classifier(model, several_labels=run.config.multi_label)
        probabilities = classify(clips.frames)
        own = compare_with_run(run, clips.ids, probabilities) if clips.ids else None
        files = []
        for name in formats:
            path = folder / FORMATS[name].filename
            export_files.write(name, path, model, run.config.classes, rules, clips.representative)
            others = [kind for kind in formats if kind != name]
            files.append(_check_file(run, name, path, clips.frames, probabilities, others))
        export = Export(
            files=tuple(files),
            num_clips=len(clips.frames),
            num_representative=0 if clips.representative is None else len(clips.representative),
            num_cores=len(os.sched_getaffinity(0)),
            own=own,
        )
        _write_export(folder / EXPORT_FILENAME, run, export, rules)
        card.write(folder / card.CARD_FILENAME, run, export, comparison)
    return export


def load_for_export(run: FinishedRun, allowed_code: Collection[str] = ()) -> keras.Model:
    """Builds a run's model with its trained weights, in float32 and without kernels of one device type."""
    config = run.config
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, precision="float32"))
    strategy = tf.distribute.get_strategy()
    model = frame_model.load_frame_model(
        run.run_dir, config, run.weights, strategy=strategy, allowed_code=allowed_code
    )
    export_files.prepare(model)
    return model


@dataclasses.dataclass(frozen=True)
class ChosenClips:
    """Clips for which exported files are made and tested.

    frames: the clips on which the files are compared with the model, uint8 [N, T, H, W, 3].
    ids: their ids, or None if they are random pixels.
    representative: clips of other recording groups for the format tflite_int8, uint8 [M, T, H, W, 3]; None if there
      are none, or none were asked for.
    """

    frames: np.ndarray
    ids: tuple[str, ...] | None
    representative: np.ndarray | None = None


def choose_clips(
    run: FinishedRun, warn: Callable[[str], None], *, with_representative: bool = False
) -> ChosenClips:
    """Reads some of a run's held-out clips.

    Args:
      run: the run.
      warn: called with a sentence if the clips cannot be read, and random pixels are used instead.
      with_representative: whether clips for the format tflite_int8 are chosen, too. Every second recording group
        then serves for them, and the others for the comparison.
    """
    manifest, spec = run.manifest, run.config.model
    shape = spec.clip_shape
    most = max(2, int(_MAX_CLIP_BYTES // np.prod(shape)))
    why = run.no_manifest
    if manifest is not None:
        try:
            clips = frames_of(load_clips(manifest, np.unique(run.results.folds).tolist()))
            tested = set(run.results.ids)
            clips = clips.select(np.array([clip_id in tested for clip_id in clips.ids]))
            representative = None
            if with_representative:
                is_other = _every_second_group(clips.groups)
                others = clips.select(is_other).spread(min(most, _MAX_REPRESENTATIVE))
                representative = _read(others, shape) if len(others) else None
                clips = clips.select(~is_other)
            clips = clips.spread(min(most, _NUM_CLIPS))
            return ChosenClips(_read(clips, shape), clips.ids, representative)
        except UserError as error:
            why = str(error)
    warn(f"The files are compared on random pixels, not on clips of the run: {why}")
    count = min(most, _NUM_CLIPS)
    return ChosenClips(np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8), None)


def _every_second_group(groups: np.ndarray) -> np.ndarray:
    """Returns a mask, bool [N], of the clips of every second recording group; a clip without one is a group itself."""
    single = groups.max(initial=0) + 1 + np.arange(len(groups))
    _, numbers = np.unique(np.where(groups == record.UNKNOWN_GROUP, single, groups), return_inverse=True)
    return numbers % 2 == 1


def _read(clips: ClipIndex, shape: tuple[int, ...]) -> np.ndarray:
    """Reads clips, uint8 [N, *shape], without those of their frames and channels that the model does not take."""
    pixels = [reader.read_record(clips, index)[record.VIDEO] for index in range(len(clips))]
    return segments.take_middles(np.stack(pixels), shape[0])[..., : shape[-1]]


def compare_with_run(run: FinishedRun, ids: Sequence[str], probabilities: np.ndarray) -> RunDifference:
    """Compares the exported model's probabilities with those that the run stored for the same clips.

    Args:
      run: the run.
      ids: ids of N of the run's held-out clips.
      probabilities: the exported model's probabilities for these clips, float [N, C].

    Raises:
      UserError: if the probabilities differ too much to be of the same weights and clips.
    """
    place = {clip_id: i for i, clip_id in enumerate(run.results.ids)}
    logits = run.results.logits(Condition(run.model))[:, [place[clip_id] for clip_id in ids]]
    stored = multi_label.probabilities(logits[0]) if run.config.multi_label else ensemble(logits)
    largest = np.abs(stored - probabilities).max(axis=1)
    own = RunDifference(
        mean=float(largest.mean()),
        largest=float(largest.max()),
        num_other=_count_other(run, stored, probabilities),
    )
    if not own.mean <= OWN_TOLERANCE:
        raise UserError(
            f"On {len(ids)} clips the model's probabilities differ from those in {run.predictions_path} by "
            f"{own.mean:.2g} on average (tolerance {OWN_TOLERANCE}): the file holds predictions of other weights "
            f"than the {run.weights} ones, or of other clips. Evaluate the run again."
        )
    return own


def _count_other(run: FinishedRun, one: np.ndarray, other: np.ndarray) -> int:
    """Counts the clips for which two files' probabilities, float [N, C], do not predict the same classes."""
    is_other = run.decide(one) != run.decide(other)  # [N], or with several labels [N, C]
    return int(is_other.reshape(len(one), -1).any(axis=1).sum())


def _check_file(
    run: FinishedRun,
    name: str,
    path: pathlib.Path,
    frames: np.ndarray,
    expected: np.ndarray,
    others: Sequence[str],
) -> ExportedFile:
    """Compares an exported file with the model, and times it.

    Args:
      run: the run.
      name: name of its format.
      path: path of the file or folder.
      frames: clips, uint8 [N, T, H, W, 3].
      expected: the model's probabilities for them, float [N, C].
      others: names of the other requested formats.

    Raises:
      UserError: if a probability differs by more than the format allows, or is NaN.
    """
    classify, tolerance = export_files.READERS[name](path), FORMATS[name].tolerance
    found = np.concatenate([classify(frames[:1]), classify(frames)[1:]])
    difference = float(np.abs(found - expected).max())
    if not difference <= (1.0 if tolerance is None else tolerance):  # NaN too
        raise UserError(
            f"{path.name} gives other probabilities than the model, by up to {difference:.2g} "
            f"(tolerance {tolerance}). Nothing is exported",
            Remedy(Action.SET, f"to leave {name} out", formats=others or ...),
        )
    of_one_thread = tflite.read(path, num_threads=1) if name in export_files.QUANTIZATIONS else None
    return ExportedFile(
        format=name,
        num_bytes=_num_bytes(path),
        difference=difference,
        num_other=_count_other(run, found, expected),
        millis=_millis(classify, frames[:1]),
        one_thread_millis=_millis(of_one_thread, frames[:1]) if of_one_thread else None,
    )


def _millis(classify: export_files.Classify, clip: np.ndarray) -> float:
    """Returns the median time of a call with one clip, in milliseconds. The first call, which compiles, is left out."""
    classify(clip)
    times = []
    for _ in range(_NUM_TIMED):
        started = time.perf_counter()
        classify(clip)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def _write_export(path: pathlib.Path, run: FinishedRun, export: Export, rules: Rules | Thresholds) -> None:
    spec, answers = run.config.model, {"answers": to_json(rules)}
    if isinstance(rules, Thresholds):
        answers = {"multi_label": True, "thresholds": to_json(rules)}
    storage.write_json(
        path,
        {
            "run": run.run_dir,
            "weights": run.weights,
            "fingerprint": run.config.fingerprint,
            "classes": run.config.classes,
            "input": {"dtype": "uint8", "shape": [None, *spec.clip_shape]},
            **answers,
            "export": to_json(export),
        },
    )


def _num_bytes(path: pathlib.Path) -> int:
    paths = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in paths if file.is_file())
