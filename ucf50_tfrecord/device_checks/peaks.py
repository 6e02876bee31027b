"""Peak rates of NVIDIA's cards, and the fraction of them that a training reaches. Does not load TensorFlow."""

from __future__ import annotations

import dataclasses
import re

from ucf50_tfrecord.choices import Precision


@dataclasses.dataclass(frozen=True)
class Peak:
    """The peak rates of a card's matrix products, dense (without the sparsity of data sheets), in TFLOP/s.

    float32: with ordinary float32.
    tensor_float32: with TensorFloat-32, which TensorFlow takes for float32 where the card has it; None if the
      card has no such units.
    float16, bfloat16: accumulated in float32; None if the card does not compute in it.
    source: the document that states them.
    """

    float32: float
    tensor_float32: float | None
    float16: float | None
    bfloat16: float | None
    source: str


def _sixteen(float32: float, tensor_float32: float, sixteen_bits: float, source: str) -> Peak:
    """Returns the peak of a card that is as fast in bfloat16 as in float16."""
    return Peak(float32, tensor_float32, sixteen_bits, sixteen_bits, source)


_HOPPER = "NVIDIA H100 Tensor Core GPU datasheet (values with sparsity, halved)"
_AMPERE = "NVIDIA A100 Tensor Core GPU datasheet"
# By the whole name that the driver gives a card. A part of a card (MIG) has another name, and no entry.
_PEAKS = {
    r"NVIDIA H200": _sixteen(67, 494.5, 989.5, "NVIDIA H200 Tensor Core GPU datasheet (halved likewise)"),
    r"NVIDIA H100 80GB HBM3": _sixteen(67, 494.5, 989.5, _HOPPER),
    r"NVIDIA H100 PCIe": _sixteen(51, 378, 756.5, _HOPPER),
    r"NVIDIA H100 NVL": _sixteen(60, 417.5, 835.5, _HOPPER),
    r"(NVIDIA )?A100-(SXM4|PCIE)-(40|80)GB|NVIDIA A100 80GB PCIe": _sixteen(19.5, 156, 312, _AMPERE),
    r"NVIDIA A30": _sixteen(10.3, 82, 165, "NVIDIA A30 Tensor Core GPU datasheet"),
    r"NVIDIA A40": _sixteen(37.4, 74.8, 149.7, "NVIDIA A40 datasheet"),
    r"NVIDIA A10": _sixteen(31.2, 62.5, 125, "NVIDIA A10 Tensor Core GPU datasheet"),
    r"NVIDIA L4": _sixteen(30.3, 60, 121, "NVIDIA L4 Tensor Core GPU datasheet (halved likewise)"),
    r"NVIDIA L40S": _sixteen(91.6, 183, 362, "NVIDIA L40S datasheet"),
    r"NVIDIA L40": _sixteen(90.5, 90.5, 181, "NVIDIA L40 datasheet"),
    r"NVIDIA GeForce RTX 4090": _sixteen(82.6, 82.6, 165.2, "NVIDIA Ada GPU architecture, appendix A"),
    r"NVIDIA GeForce RTX 3090": _sixteen(35.6, 35.6, 71, "NVIDIA Ampere GA102 GPU architecture, appendix A"),
    r"Tesla V100-SXM2-(16|32)GB": Peak(15.7, None, 125, None, "NVIDIA V100 Tensor Core GPU datasheet"),
    r"Tesla V100-PCIE-(16|32)GB": Peak(14, None, 112, None, "NVIDIA V100 Tensor Core GPU datasheet"),
    r"Tesla T4": Peak(8.1, None, 65, None, "NVIDIA T4 Tensor Core GPU datasheet"),
}


def find(card: str) -> Peak | None:
    """Returns the peak rates of a card by the name that the driver gives it; None if they are unknown."""
    return next((peak for name, peak in _PEAKS.items() if re.fullmatch(name, card.strip())), None)


def rate(card: str, precision: str, *, tensor_float32: bool) -> float | None:
    """Returns a card's peak rate in a precision, in FLOP/s; None if it is unknown.

    Args:
      card: the name that the driver gives the card.
      precision: the precision of the computation.
      tensor_float32: whether TensorFlow may take TensorFloat-32 for products of float32.
    """
    peak = find(card)
    if peak is None:
        return None
    found = {
        Precision.FLOAT32: (tensor_float32 and peak.tensor_float32) or peak.float32,
        Precision.FLOAT16: peak.float16,
        Precision.BFLOAT16: peak.bfloat16,
    }[Precision(precision)]
    return None if found is None else found * 1e12


def fraction(operations_per_clip: float, clips_per_sec: float, peak_rate: float) -> float:
    """Returns the fraction of the peak that a training reaches (model FLOPs utilization, MFU).

    Only operations of the model's products count, none that a device repeats to save memory. Source: PaLM
    (Chowdhery et al. 2022), appendix B.

    Args:
      operations_per_clip: floating-point operations of a training step per clip, see operations.count.
      clips_per_sec: clips trained on per second, on one device.
      peak_rate: the device's peak rate, in FLOP/s.
    """
    return operations_per_clip * clips_per_sec / peak_rate
