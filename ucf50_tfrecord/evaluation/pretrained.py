"""Finds the runs that an encoder was pretrained by, and checks that they have not seen the held-out clips.

The encoder is that of a model, or the frozen one that a dataset's features were made with.

Scores on clips that the encoder was trained on are too high. That is so even if it was trained without their labels: it
has learned from the very clips that should tell how well it does on new ones (transductive learning).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from ucf50_tfrecord import remote
from ucf50_tfrecord.architectures import PRETRAINED, is_own_code
from ucf50_tfrecord.dataset.clips import ClipIndex, load_clips
from ucf50_tfrecord.errors import Action, Change, Remedy, UserError
from ucf50_tfrecord.evaluation.results import video_of
from ucf50_tfrecord.specs import FeatureFormat, ModelSpec, format_folds
from ucf50_tfrecord.training import trained
from ucf50_tfrecord.training.run import CONFIG_FILENAME, ENCODER_FILENAME, RunConfig, load_config


def find_origin(model: ModelSpec, features: FeatureFormat | None) -> tuple[str, RunConfig] | None:
    """Finds the run whose encoder's weights a model starts with, or whose encoder its features were made with.

    Args:
      model: the specification of the model.
      features: the format of the features that the model takes; None if it takes frames.

    Returns:
      A tuple of the run's folder and its configuration; None if the encoder is not out of a run's folder.

    Raises:
      UserError: if the run's configuration is damaged.
    """
    path = model.encoder_weights
    if features and _is_of_run(features):
        path = os.path.join(features.encoder, ENCODER_FILENAME)
    run_dir, name = os.path.split(os.path.abspath(path))
    if name != ENCODER_FILENAME or not os.path.isfile(os.path.join(run_dir, CONFIG_FILENAME)):
        return None
    return run_dir, load_config(run_dir)


def check_held_out(
    model: ModelSpec, held_out: Sequence[ClipIndex], warn: Callable[[str], None] = lambda text: None
) -> None:
    """Checks that the runs by which an encoder was pretrained have not trained on the clips that are held out.

    Those runs may have read other clips of the same videos, such as larger frames, whose ids are equal. The encoder is
    that of the model or, if the clips are stored as features, the one that they were made with. Runs are found by the
    paths that were given: it is not noticed if another run took the place of one.

    Args:
      model: the specification of the model.
      held_out: the validation clips of the model's training and, if there are any, its test clips.
      warn: called with a sentence if it cannot be told, as such a run or its shards are gone.

    Raises:
      UserError: if such a run has trained on a held-out clip.
    """
    features = held_out[0].manifest.features
    origins = list(_origins(model, features))
    if features and _is_of_run(features) and not origins:
        warn(
            f"Whether the encoder {features.encoder} of the features in {held_out[0].manifest.data_dir} was trained on "
            "held-out clips cannot be told: there is no run of this name"
        )
    for run_dir, origin in origins:
        trained_on = (
            f"The encoder's weights in {run_dir} were trained on folds {format_folds(origin.train_folds)}"
        )
        folds = [{*clips.folds.tolist()} for clips in held_out]
        if origin.fingerprint == held_out[0].manifest.fingerprint:
            leaked = {*origin.train_folds}.intersection(set().union(*folds))
        else:
            videos, why = _trained_videos(origin)
            if videos is None:
                warn(
                    f"{trained_on}. Whether this training holds out some of their clips cannot be told: {why}"
                )
                continue
            trained_on += f" of {origin.data_dir}"
            leaked = {*find_clips(held_out, videos)}
        if leaked:
            raise UserError(
                f"{trained_on}. This training validates on folds {format_folds(folds[0])} and tests on "
                f"{format_folds(folds[1]) if len(folds) > 1 else 'none'}: its scores on clips of folds "
                f"{format_folds(leaked)}, which the encoder has seen, would be too high",
                Remedy(Action.SET, **{"features" if features else "encoder_weights": Change.OTHER}),
                Remedy(Action.SET, val_folds=Change.OTHER),
            )


def videos_of(clips: ClipIndex) -> set[str]:
    """Returns the ids of clips' videos."""
    return {video_of(clip_id) for clip_id in clips.ids}


def find_clips(splits: Sequence[ClipIndex], videos: set[str]) -> dict[int, str]:
    """Finds the folds in which clips are of some videos; returns the id of one of these clips for each fold."""
    return {
        fold: clip_id
        for clips in splits
        for fold, clip_id in zip(clips.folds.tolist(), clips.ids)
        if video_of(clip_id) in videos
    }


def _is_of_run(features: FeatureFormat) -> bool:
    """Tells whether features were made with the encoder of a run, by its name; see features.encoders."""
    name = features.encoder
    return not (name in PRETRAINED or is_own_code(name) or name.endswith(".keras"))


def _origins(model: ModelSpec, features: FeatureFormat | None) -> Iterator[tuple[str, RunConfig]]:
    """Yields the run whose encoder a model starts with, the run whose encoder that one started with, and so on."""
    seen: set[str] = set()
    found = find_origin(model, features)
    while found is not None and found[0] not in seen:
        seen.add(found[0])
        yield found
        found = find_origin(found[1].model, found[1].features)


def _trained_videos(config: RunConfig) -> tuple[set[str] | None, str]:
    """Returns the ids of the videos that a run was trained on, and ""; or None and the reason why they are unknown."""
    if remote.is_remote(config.data_dir):  # a stranger's file must not make this process send requests
        return None, f"{config.data_dir} is behind a URL"
    manifest, why = trained.find_manifest(config)
    if manifest is None:
        return None, why
    try:
        return videos_of(load_clips(manifest, config.train_folds, check_shards=False)), ""
    except UserError as error:
        return None, str(error)
