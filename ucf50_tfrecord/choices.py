"""The fixed vocabularies of options. A member equals its plain string, also in JSON and in flags."""

from __future__ import annotations

import enum

from ucf50_tfrecord.errors import UserError


class Choice(enum.StrEnum):
    """One of several words. `Encoding("raw")` reads a word; an unknown one raises a UserError that lists all."""

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise UserError(f"Expected {_spell(cls)} out of {tuple(cls)}. Received: {value!r}")

    def __repr__(self) -> str:
        return repr(self.value)


def _spell(kind: type[Choice]) -> str:
    """Returns a class's name in words with its article: "a frame order"."""
    words = "".join(f" {c.lower()}" if c.isupper() else c for c in kind.__name__).strip()
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


class Encoding(Choice):
    """How frames are stored; RAW_AND_JPEG stores them twice, for two kinds of readers."""

    RAW = "raw"
    JPEG = "jpeg"
    PNG = "png"
    RAW_AND_JPEG = "raw+jpeg"


class Spacing(Choice):
    """How frames are evenly spaced: by their number, or by the time when they are shown."""

    INDEX = "index"
    TIME = "time"


class Resize(Choice):
    """How a frame gets its size: stretched whatever its aspect ratio, its middle cropped, or padded with black."""

    STRETCH = "stretch"
    CROP = "crop"
    PAD = "pad"


class FoldBy(Choice):
    """How videos get their folds: by recording group, so that a group stays together, or each by itself."""

    GROUP = "group"
    VIDEO = "video"


class Sandbox(Choice):
    """Whether decoding processes are restricted to their videos, as far as the kernel can."""

    AUTO = "auto"
    OFF = "off"


class Optimizer(Choice):
    """The optimizer."""

    ADAM = "adam"
    ADAMW = "adamw"


class Schedule(Choice):
    """How the learning rate changes over the epochs."""

    CONSTANT = "constant"
    COSINE = "cosine"


class Precision(Choice):
    """The precision of computation; weights are float32. AUTO takes what the devices are fast in."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Strategy(Choice):
    """Devices and workers that train."""

    AUTO = "auto"
    ONE = "one"
    MIRRORED = "mirrored"
    MULTI_WORKER = "multi_worker"


class FrameOrder(Choice):
    """How training clips' frames are arranged: as they are, in a random order, or one frame for all."""

    KEPT = "kept"
    SHUFFLED = "shuffled"
    SINGLE = "single"


class Cache(Choice):
    """Where decoded clips are kept: nowhere, in host memory, or on each device. AUTO decides by free memory."""

    AUTO = "auto"
    NONE = "none"
    HOST = "host"
    DEVICE = "device"


class OnBadRecord(Choice):
    """Whether training stops at an unreadable record or skips its clip."""

    STOP = "stop"
    SKIP = "skip"


class FetchMethod(Choice):
    """How shards in an object store are read: whole shards copied, or each clip streamed."""

    COPY = "copy"
    STREAM = "stream"
