import pytest

from ucf50_tfrecord.device_checks import peaks
from ucf50_tfrecord.errors import UserError


@pytest.mark.parametrize(
    "card, precision, tensor_float32, expected",
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", True, 989.5e12),
        ("NVIDIA H100 PCIe", "bfloat16", True, 756.5e12),
        ("NVIDIA A100-SXM4-80GB", "float32", True, 156e12),
        ("A100-SXM4-40GB", "float32", False, 19.5e12),
        ("NVIDIA A100 80GB PCIe", "float16", True, 312e12),
        ("NVIDIA A10", "float16", True, 125e12),
        ("NVIDIA L4", "bfloat16", True, 121e12),
        ("NVIDIA L40S", "bfloat16", True, 362e12),
        ("Tesla V100-SXM2-16GB", "float32", True, 15.7e12),  # it has no TensorFloat-32
        ("Tesla T4", "float16", True, 65e12),
        ("Tesla T4", "bfloat16", True, None),
        ("NVIDIA A10G", "float16", True, None),  # another card than A10
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bfloat16", True, None),  # a part of a card
        ("", "float32", True, None),
    ],
)
def test_the_peak_follows_from_the_whole_name_of_the_card(card, precision, tensor_float32, expected):
    assert peaks.rate(card, precision, tensor_float32=tensor_float32) == expected


def test_an_unknown_precision_is_an_error():
    with pytest.raises(UserError, match="a precision out of"):
        peaks.rate("Tesla T4", "int8", tensor_float32=True)


def test_every_peak_is_plausible_and_has_a_source():
    for peak in peaks._PEAKS.values():
        assert peak.source and peak.float16 > peak.float32
        assert peak.tensor_float32 is None or peak.float32 <= peak.tensor_float32 < peak.float16


def test_the_fraction_of_the_peak():
    # 4 GFLOP per clip at 10,000 clips/s are 40 of 160 TFLOP/s.
    assert peaks.fraction(4e9, 10_000.0, 160e12) == 0.25
