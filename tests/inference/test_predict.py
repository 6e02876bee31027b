"""A video's prediction equals that of its clip in an evaluation."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from tests.conftest import build, raises_with_remedies
from tests.untrained import write_run
from ucf50_tfrecord import storage
from ucf50_tfrecord.choices import Encoding
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.inference import decoding, predict
from ucf50_tfrecord.specs import ClipFormat, DecodeLimits, to_json
from ucf50_tfrecord.training import run as run_lib
from ucf50_tfrecord.training import strategy as strategy_lib
from ucf50_tfrecord.training import trained


def predict_all(run_dir, videos_dir, *, window_secs=None, stride_secs=None, temperature=1.0):
    """Predicts all videos below a folder, as the entry point does."""
    config = predict.complete_config(run_lib.load_config(str(run_dir)), None)
    strategy = strategy_lib.make_strategy("one")
    model = trained.load_model(str(run_dir), config, "last", strategy=strategy)
    predictor = predict.Predictor(model, config.clip_format, batch_size=3, temperature=temperature)
    decoder = decoding.Decoder(
        clip_format=config.clip_format,
        windows=predict.choose_windows(config.video_secs, window_secs, stride_secs),
        limits=DecodeLimits(),
        num_workers=2,
    )
    videos, _ = decoding.find_videos([str(videos_dir)])
    return [predictor(video, decoded) for video, decoded in decoder(videos)]


@pytest.mark.parametrize(
    "clip_format",
    [
        {},
        {"motion_frames": 2, "clips_per_video": 2},
        {"encoding": "jpeg", "jpeg_quality": 60, "resize": "crop", "spacing": "time", "clips_per_video": 2},
        *({"encoding": encoding} for encoding in Encoding if encoding not in ("raw", "jpeg")),
    ],
    ids=lambda options: options.get("encoding", "motion" if options else "raw"),
)
def test_logits_are_those_of_evaluation(tmp_path, videos_dir, pool_run, clip_format):
    if clip_format:
        build(videos_dir, tmp_path / "data", **clip_format)
        name = "two_path" if "motion_frames" in clip_format else "seed_pool"
        run_dir = pathlib.Path(write_run(tmp_path / "run", tmp_path / "data", name=name, weight_std=0.5))
    else:
        run_dir = pool_run
    config = run_lib.load_config(str(run_dir))
    lines = (run_dir / run_lib.PREDICTIONS_FILENAME).read_text().splitlines()
    expected = {
        line["clip_id"]: line["logits"] for line in map(json.loads, lines) if line["perturbation"] == "none"
    }
    num_clips = config.clip_format.clips_per_video
    assert len(expected) == 12 * num_clips
    assert np.std(list(expected.values()), axis=0).min() > 0.01  # clips can be told apart
    num_compared = 0
    for prediction in predict_all(run_dir, videos_dir):
        path = pathlib.Path(prediction.video.path)
        clip_id = path.relative_to(videos_dir).with_suffix("").as_posix()
        assert prediction.logits.shape == (1, num_clips, 3)
        for number, logits in enumerate(prediction.logits[0]):
            name = clip_id if num_clips == 1 else f"{clip_id}#{number}"
            if name in expected:
                np.testing.assert_allclose(logits, expected[name], rtol=1e-4, atol=1e-4)
                num_compared += 1
        assert predict.folder_class(prediction.video, config.classes) == clip_id.split("/")[0]
    assert num_compared == len(expected)


def test_a_videos_probabilities_are_the_mean_of_its_windows(videos_dir, pool_run):
    classes = run_lib.load_config(str(pool_run)).classes
    path = videos_dir / "Left" / "v_Left_g01_c01.avi"
    [prediction] = predict_all(pool_run, path, window_secs=0.4, stride_secs=0.2, temperature=2.0)
    # 22 frames, 25 a second
    assert prediction.windows_secs == [(0.0, 0.4), (0.2, 0.6), (0.4, 0.8), (0.48, 0.88)]
    assert prediction.logits.shape == (4, 1, 3)
    expected = special.softmax(prediction.logits[:, 0] / 2, axis=1).mean(axis=0)
    np.testing.assert_allclose(prediction.probabilities, expected, rtol=1e-6)
    document = prediction.to_json(classes, top=2)
    assert [item["class"] for item in document["top"]] == [
        classes[label] for label in np.argsort(-expected)[:2]
    ]
    assert document["num_frames"] == 22 and len(document["windows"]) == 4
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_nan_from_the_model_costs_one_video(videos_dir, tmp_path):
    clip_format = ClipFormat(num_frames=5, height=16, width=24)
    predictor = predict.Predictor(
        lambda frames, training: tf.math.log(
            tf.reduce_min(tf.cast(frames, tf.float32), axis=(2, 3))[..., 0] - 1
        ),
        clip_format,
        batch_size=1,
        temperature=1.0,
    )
    frames = open(tmp_path / "frames", "w+b", buffering=0)
    frames.write(bytes(clip_format.num_bytes))
    decoded = decoding.DecodedVideo(
        frames=frames,
        places=np.arange(5).reshape(1, 1, 5),
        windows_us=[(0, 1)],
        num_frames=5,
        end_us=1,
        frame_rate=25.0,
    )
    failed = predictor(decoding.VideoFile(path="a.avi"), decoded)
    assert failed == decoding.Failed("the model returns NaN or infinity for it", "model")
    frames.truncate(10)  # by a worker that has been taken over
    failed = predictor(decoding.VideoFile(path="a.avi"), decoded)
    assert failed == decoding.Failed("its process changed the frames after its answer", "crash")


def test_runs_of_earlier_versions_look_into_their_shards(tmp_path, data_dir, pool_run):
    new = run_lib.load_config(str(pool_run))
    value = to_json(new)
    del value["clip_format"], value["video_secs"]
    storage.write_json(tmp_path / "run" / run_lib.CONFIG_FILENAME, value)
    old = run_lib.load_config(str(tmp_path / "run"))
    assert (old.clip_format, old.video_secs) == (None, None)
    assert predict.complete_config(old, None) == new
    run_lib.check_run(str(tmp_path / "run"), new)  # it goes on as the run that it is
    assert run_lib.digest(old) == run_lib.digest(new)
    moved = dataclasses.replace(old, data_dir=str(tmp_path / "gone"))
    with raises_with_remedies("no shards in .*gone. To name the folder of its shards: --data="):
        predict.complete_config(moved, None)
    assert predict.complete_config(moved, str(data_dir)).clip_format == new.clip_format
    warned = []
    predict.complete_config(dataclasses.replace(old, fingerprint="other"), None, warned.append)
    assert "other shards" in warned[0]


def test_windows_have_defaults_from_the_runs_videos():
    choose = predict.choose_windows

    def values(spec):
        return spec.whole_secs, spec.window_secs, spec.stride_secs

    assert values(choose((4.0, 9.0), None, None)) == (9.0, 4.0, 2.0)
    assert values(choose((4.0, 9.0), 3.0, None)) == (0.0, 3.0, 1.5)
    assert values(choose((4.0, 9.0), None, 1.0)) == (9.0, 4.0, 1.0)
    with pytest.raises(UserError, match="stride_secs=0"):
        choose((4.0, 9.0), None, 0.0)
