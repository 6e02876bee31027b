"""Models and encoders of the user's own, named as <module>:<builder>."""

import dataclasses
import functools
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.models.test_models import make_spec, make_video
from ucf50_tfrecord import models
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import TrainSpec
from ucf50_tfrecord.training import trained
from ucf50_tfrecord.training.run import RunConfig


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("encoder", ["three_block", "tests.models.own:encode"])
def test_a_model_and_an_encoder_of_ones_own_are_built(encoder, dtype):
    spec = make_spec("tests.models.own:build", encoder=encoder)
    model = models.build_model(spec, dtype=dtype)
    logits = model(make_video(spec))
    assert logits.shape == (3, 7) and logits.dtype == "float32"
    assert model.get_layer("encoder").output.shape == (
        None,
        5 if encoder == "tests.models.own:encode" else 256,
    )


def test_an_encoder_of_ones_own_serves_the_projects_models_and_takes_motion():
    spec = make_spec("lstm", encoder="tests.models.own:encode", motion=True)
    model = models.build_model(spec)
    assert model.get_layer("encoder").input.shape == (None, 16, 24, 6)
    assert model(make_video(spec)).shape == (3, 7)


def test_an_encoder_of_ones_own_loads_its_weights_and_stays_frozen(tmp_path):
    path = tmp_path / "own.weights.h5"
    spec = make_spec("lstm", encoder="tests.models.own:encode")
    first = models.build_model(spec).get_layer("encoder")
    first.save_weights(path)
    again = models.build_model(dataclasses.replace(spec, encoder_weights=str(path), freeze_encoder=True))
    for one, other in zip(again.get_layer("encoder").get_weights(), first.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not again.get_layer("encoder").trainable_variables


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "absent_models:build",
            "Cannot import absent_models .*ModuleNotFoundError: No module named 'absent_models'",
        ),
        (
            "tests.models.broken:build",
            r"Cannot import tests.models.broken .*ZeroDivisionError: .*broken.py:3\)",
        ),
        ("tests.models.own:absent", "a function absent in tests.models.own. Received: found='NoneType'"),
        ("tests.models.own:table", "a function table in tests.models.own. Received: found='dict'"),
        ("tests.models.own:number", "a keras.Model from tests.models.own:number. Received: found='int'"),
        ("tests.models.own:fails", r"tests.models.own:fails failed: ZeroDivisionError: .*own.py:\d+\)"),
        (
            "tests.models.own:more_logits",
            r"one output of .*, float32 \(None, 7\)\. Received: found=\[\(\(None, 8\), \'float32\'\)\]",
        ),
        (
            "tests.models.own:half_logits",
            r"one output of .*, float32 \(None, 7\)\. Received: found=\[\(\(None, 7\), 'float16'\)\]",
        ),
        ("tests.models.own:float_clips", r"one input of .*, uint8 \(None, 4, 16, 24, 3\).*'float32'"),
        (
            "tests.models.own:other_clips",
            r"one input of .*, uint8 \(None, 4, 16, 24, 3\).*\(None, 5, 16, 24, 3\)",
        ),
        ("no module", "a model out of .*, or of your own as <module>:<builder>"),
        ("os.path", "a model out of .*, or of your own as <module>:<builder>"),
    ],
)
def test_a_wrong_model_is_a_clear_error(name, message):
    with pytest.raises(UserError, match=message):
        models.build_model(make_spec(name))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"encoder": "tests.models.own:number"}, "a keras.Model from tests.models.own:number"),
        (
            {"encoder": "tests.models.own:maps"},
            r"features \[N, F\] from tests.models.own:maps. Received: shape=\(None, 14, 22, 4\)",
        ),
        (
            {"encoder": "tests.models.own:encode", "encoder_weights": "imagenet"},
            "if its weights are ImageNet's",
        ),
        (
            {"encoder": "tests.models.own:encode", "encoder_weights": "nowhere.h5"},
            "nowhere.h5, which is not a file",
        ),
        (
            {"name": "tests.models.own:without_encoder", "encoder": "tests.models.own:encode"},
            'a layer named "encoder" in tests.models.own:without_encoder',
        ),
        (
            {"name": "seed_lstm", "encoder": "tests.models.own:encode"},
            "a model out of .* if an encoder is chosen",
        ),
    ],
)
def test_a_wrong_encoder_is_a_clear_error(changes, message):
    with pytest.raises(UserError, match=message):
        models.build_model(make_spec(**{"name": "lstm"} | changes))


def test_a_run_imports_only_code_that_the_user_allows(tmp_path, monkeypatch):
    """The configuration of a stranger's run may name any module."""
    (tmp_path / "strangers.py").write_text("raise SystemExit('executed')\n")
    monkeypatch.syspath_prepend(tmp_path)
    spec = make_spec("strangers:build", encoder="strangers:encode")
    config = RunConfig(
        data_dir="data",
        fingerprint="0" * 64,
        classes=tuple("abcdefg"),
        train_folds=(2,),
        val_folds=(1,),
        test_folds=(),
        model=spec,
        train=TrainSpec(epochs=1, batch_size=2, precision="float32"),
    )
    load = functools.partial(
        trained.load_model, "a/run", config, "last", strategy=tf.distribute.get_strategy()
    )
    for allowed in ((), ("strangers",), ("strangers:build",), ("strangers:encode", "strangers:other")):
        with pytest.raises(
            UserError, match="a/run would execute .*strangers:.*, which is code outside this package"
        ):
            load(allowed_code=allowed)
    assert "strangers" not in sys.modules
    with pytest.raises(SystemExit, match="executed"):
        load(allowed_code=["strangers:build", "strangers:encode"])
