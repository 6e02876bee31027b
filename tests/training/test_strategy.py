import pytest
import tensorflow as tf

from ucf50_tfrecord.specs import UserError
from ucf50_tfrecord.training import strategy


@pytest.mark.parametrize(
    "gpus, flags, precision",
    [
        ([], {"avx512_bf16"}, "bfloat16"),
        ([], {"amx_bf16"}, "bfloat16"),
        ([], {"avx2"}, "float32"),
        ([(9, 0)], set(), "bfloat16"),
        ([(8, 0), (7, 5)], set(), "float16"),
        ([(6, 1)], {"avx512_bf16"}, "float32"),
    ],
)
def test_auto_precision_follows_the_device(monkeypatch, gpus, flags, precision):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(range(len(gpus))))
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda gpu: {"compute_capability": gpus[gpu]}
    )
    monkeypatch.setattr(strategy, "_cpu_flags", lambda: flags)
    assert strategy.choose_precision("auto") == precision


def test_a_precision_can_be_asked_for():
    assert strategy.choose_precision("float16") == "float16"
    assert strategy.keras_policy("float32") == "float32"
    assert strategy.keras_policy("float16") == "mixed_float16"
    with pytest.raises(UserError, match="a precision out of"):
        strategy.choose_precision("int8")
    with pytest.raises(UserError, match="Received: precision='auto'"):
        strategy.keras_policy("auto")


def test_strategies():
    assert isinstance(strategy.make_strategy("one"), tf.distribute.OneDeviceStrategy)
    assert isinstance(strategy.make_strategy("mirrored"), tf.distribute.MirroredStrategy)
    with pytest.raises(UserError, match="a strategy out of"):
        strategy.make_strategy("many")
