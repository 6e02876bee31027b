import pytest

from ucf50_tfrecord import specs
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import AugmentSpec, ClipFormat, FoldRule, ModelSpec, TrainSpec


@pytest.mark.parametrize("text, size", [("64", (64, 64)), ("112x96", (112, 96)), (" 8x9 ", (8, 9))])
def test_parse_size_reads_height_times_width(text, size):
    assert specs.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "64x", "64x64x3", "-4", "6.4"])
def test_parse_size_names_the_wrong_value(text):
    with pytest.raises(UserError, match="Expected a size.*Received: size="):
        specs.parse_size(text)


@pytest.mark.parametrize("folds, text", [((1, 2, 3, 9), "1-3,9"), ((7,), "7"), ((), ""), ((3, 1), "1,3")])
def test_format_folds(folds, text):
    assert specs.format_folds(folds) == text


@pytest.mark.parametrize("text, folds", [("1-3,9", (1, 2, 3, 9)), ("9, 2,2", (2, 9)), ("0", (0,))])
def test_parse_folds(text, folds):
    assert specs.parse_folds(text) == folds


@pytest.mark.parametrize("text", ["", "a", "1-", "1,,2", "-3", "3-1", "1-2000000000"])
def test_parse_folds_names_the_wrong_value(text):
    with pytest.raises(UserError, match="Expected folds"):
        specs.parse_folds(text)


MODEL = dict(name="lstm", num_classes=3, num_frames=5, height=16, width=16)
TRAIN = dict(epochs=2, batch_size=4)


@pytest.mark.parametrize(
    "spec, base, wrong",
    [
        (ClipFormat, {}, {"num_frames": 0}),
        (ClipFormat, {}, {"height": 4}),
        (ClipFormat, {}, {"width": 9999}),
        (ClipFormat, {}, {"encoding": "gif"}),
        (FoldRule, {}, {"fold_by": "clip"}),
        (FoldRule, {}, {"num_folds": 1}),
        (ModelSpec, MODEL, {"name": "resnet"}),
        (ModelSpec, MODEL, {"num_classes": 1}),
        (ModelSpec, MODEL, {"dropout": 1.0}),
        (TrainSpec, TRAIN, {"epochs": 0}),
        (TrainSpec, TRAIN, {"batch_size": 0}),
        (TrainSpec, TRAIN, {"learning_rate": 0.0}),
        (TrainSpec, TRAIN, {"optimizer": "sgd"}),
        (TrainSpec, TRAIN, {"schedule": "step"}),
        (TrainSpec, TRAIN, {"warmup_epochs": 3.0}),
        (TrainSpec, TRAIN, {"weight_decay": -1.0}),
        (TrainSpec, TRAIN, {"weight_decay": 0.1}),
        (TrainSpec, TRAIN, {"warmup_epochs": 1.0}),
        (TrainSpec, TRAIN, {"unfreeze_after_epoch": -1}),
        (TrainSpec, TRAIN, {"unfreeze_after_epoch": 2}),
        (TrainSpec, TRAIN, {"unfrozen_rate_factor": 0.5}),
        (TrainSpec, TRAIN, {"unfreeze_after_epoch": 1, "unfrozen_rate_factor": 0.0}),
        (TrainSpec, TRAIN, {"label_smoothing": 1.0}),
        (TrainSpec, TRAIN, {"mixup": -0.1}),
        (TrainSpec, TRAIN, {"cutmix": 101.0}),
        (TrainSpec, TRAIN, {"mixup": 0.2, "batch_size": 1}),
        (TrainSpec, TRAIN, {"cutmix": 1.0, "batch_size": 1}),
        (TrainSpec, TRAIN, {"distillation": 0.7}),
        (TrainSpec, TRAIN, {"temperature": 3.0}),
        (TrainSpec, TRAIN, {"teachers": "a", "distillation": 1.1}),
        (TrainSpec, TRAIN, {"teachers": "a", "temperature": 0.0}),
        (TrainSpec, TRAIN, {"teachers": "a,"}),
        (TrainSpec, TRAIN, {"teachers": "a, a"}),
        (TrainSpec, TRAIN, {"teachers": "a", "mixup": 0.2}),
        (TrainSpec, TRAIN, {"teachers": "a", "cutmix": 1.0}),
        (TrainSpec, TRAIN, {"class_weight": "all"}),
        (TrainSpec, TRAIN, {"sampler": "none"}),
        (TrainSpec, TRAIN, {"sampler": "balanced", "class_weight": "balanced"}),
        (TrainSpec, TRAIN, {"sampler": "balanced", "shuffle_shards": 2}),
        (TrainSpec, TRAIN, {"pretext": "color"}),
        (TrainSpec, TRAIN, {"pretext": "order", "mixup": 0.2}),
        (TrainSpec, TRAIN, {"seed": -1}),
        (TrainSpec, TRAIN, {"precision": "int8"}),
    ],
)
def test_specs_refuse_wrong_values_when_built(spec, base, wrong):
    spec(**base)
    with pytest.raises(UserError, match=r"Expected .*\. Received: "):
        spec(**{**base, **wrong})


def test_clip_format_describes_a_clip():
    clip_format = ClipFormat(num_frames=15, height=64, width=48)
    assert clip_format.shape == (15, 64, 48, 3)
    assert clip_format.num_bytes == 15 * 64 * 48 * 3
    assert str(clip_format) == "15x64x48"


def test_motion_frames_add_channels_and_leave_other_formats_and_models_as_they_were():
    clip_format = ClipFormat(num_frames=15, height=64, width=48, motion_frames=2)
    assert clip_format.shape == (15, 64, 48, 9) and clip_format.num_bytes == 15 * 64 * 48 * 9
    assert str(clip_format) == "15x64x48-motion2"
    assert specs.to_json(clip_format)["motion_frames"] == 2
    assert "motion_frames" not in specs.to_json(ClipFormat())  # so that fingerprints stay
    assert "motion_frames" not in specs.to_json(ModelSpec(**MODEL))
    assert (
        ModelSpec(**MODEL | {"name": "frame_pool", "motion_frames": 1, "motion": True}).input_shape[-1] == 6
    )


def test_trainings_without_newer_settings_are_stored_as_before():
    newer = {"mixup", "cutmix", "teachers", "distillation", "temperature"}
    assert not newer & specs.to_json(TrainSpec(**TRAIN)).keys()
    assert specs.to_json(TrainSpec(**TRAIN, mixup=0.2))["mixup"] == 0.2
    assert TrainSpec(**TRAIN, teachers="runs/a, runs/b").teacher_runs == ("runs/a", "runs/b")
    assert not any("randaugment" in name for name in specs.to_json(AugmentSpec()))


@pytest.mark.parametrize(
    "spec, wrong, message",
    [
        (ClipFormat, {"motion_frames": 9}, "motion_frames from 0 to 8"),
        (ClipFormat, {"motion_frames": 1, "encoding": "png"}, "raw frames if there are motion frames"),
        (ClipFormat, {"motion_frames": 8, "num_frames": 10_000, "height": 64}, "bytes of pixels"),
        (ModelSpec, {"name": "frame_pool", "motion": True}, "motion input from sampled frames"),
        (
            ModelSpec,
            {"name": "two_path", "motion": True, "motion_frames": 2},
            "motion input from motion frames",
        ),
        (
            ModelSpec,
            {"name": "seed_pool", "motion": True, "motion_frames": 2},
            "motion input from motion frames",
        ),
        (ModelSpec, {"name": "lstm", "feature_shape": (8,), "motion_frames": 2}, "no motion input"),
    ],
)
def test_motion_frames_are_refused_where_nothing_could_use_them(spec, wrong, message):
    with pytest.raises(UserError, match=message):
        spec(**(MODEL if spec is ModelSpec else {}) | wrong)


@pytest.mark.parametrize(
    "length, keep_end, cut",
    [
        (5, False, "a\\nbc"),
        (4, False, "a\\n…"),
        (4, True, "…nbc"),
        (1, False, "…"),
        (1, True, "…"),
    ],
)
def test_a_text_is_escaped_and_then_cut(length, keep_end, cut):
    assert specs.shorten("a\nbc", length, keep_end=keep_end) == cut


def test_features_allow_only_augmentations_that_choose_frames():
    AugmentSpec(temporal_shift=2, frame_order="shuffled").check_chooses_frames()
    with pytest.raises(UserError, match="only temporal_shift and frame_order .* Received: crop_area=0.5"):
        AugmentSpec(crop_area=0.5, temporal_shift=2).check_chooses_frames()
    with pytest.raises(UserError, match="only temporal_shift and frame_order .* Received: randaugment_ops=2"):
        AugmentSpec(randaugment_ops=2).check_chooses_frames()
