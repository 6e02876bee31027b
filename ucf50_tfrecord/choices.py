"""The options that take one word of a fixed list, each as an enum.

Each member is a str too: it equals its word, and is written as that word in JSON and in flags.
"""

from __future__ import annotations

import enum

from ucf50_tfrecord.errors import UserError


class Choice(enum.StrEnum):
    """Base class of options that take one word of a fixed list.

    A call such as `Encoding("raw")` converts a word; an unknown word raises a UserError that lists the known
    words.
    """

    @classmethod
    def expected(cls) -> str:
        """Describes the known words, for the message of an error."""
        return f"{_spell(cls)} out of {tuple(cls)}"

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise UserError(f"Expected {cls.expected()}. Received: {value!r}")

    def __repr__(self) -> str:
        return repr(self.value)


def _spell(kind: type[Choice]) -> str:
    """Returns the name of an option's class in words, with an article: FrameOrder gives "a frame order"."""
    words = "".join(f" {c.lower()}" if c.isupper() else c for c in kind.__name__).strip()
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


class Encoding(Choice):
    """How a clip's frames are stored; RAW_AND_JPEG stores them twice, for two kinds of readers."""

    RAW = "raw"
    JPEG = "jpeg"
    PNG = "png"
    RAW_AND_JPEG = "raw+jpeg"


class Spacing(Choice):
    """How the chosen frames of a video are evenly spaced: by frame number, or by presentation time."""

    INDEX = "index"
    TIME = "time"


class Playback(Choice):
    """The direction in which a clip plays a video: as it was recorded, or from its end to its start."""

    FORWARD = "forward"
    BACKWARD = "backward"


class Quantization(Choice):
    """How a TFLite file stores weights: in float32, in float16, or in 8-bit integers, in which it then computes."""

    NONE = "none"
    FLOAT16 = "float16"
    INT8 = "int8"


class Resize(Choice):
    """How a frame is fitted to the clip's size.

    STRETCH ignores the aspect ratio, CROP keeps the frame's middle, PAD adds black bars.
    """

    STRETCH = "stretch"
    CROP = "crop"
    PAD = "pad"


class FoldBy(Choice):
    """How videos get their folds: by recording group, which keeps a group in one fold, or one by one."""

    GROUP = "group"
    VIDEO = "video"


class Sandbox(Choice):
    """Whether processes that decode videos are restricted to these videos, as far as the kernel can."""

    AUTO = "auto"
    OFF = "off"


class Optimizer(Choice):
    """The optimizer of a training."""

    ADAM = "adam"
    ADAMW = "adamw"


class Schedule(Choice):
    """How the learning rate changes during a training."""

    CONSTANT = "constant"
    COSINE = "cosine"


class ClassWeight(Choice):
    """How much a training clip counts in the loss.

    NONE: all clips count alike. BALANCED: all classes count alike, since a clip counts in inverse proportion to its
    class's number of training clips.
    """

    NONE = "none"
    BALANCED = "balanced"


class Sampler(Choice):
    """Which training clips an epoch holds.

    ALL: each clip once. BALANCED: as many clips, of each class equally many, so that clips of rare classes come
    several times.
    """

    ALL = "all"
    BALANCED = "balanced"


class Precision(Choice):
    """The number format of computation; weights are always float32.

    AUTO chooses a format in which the devices compute fast.
    """

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Strategy(Choice):
    """The devices and workers (processes) that a training runs on."""

    AUTO = "auto"
    ONE = "one"
    MIRRORED = "mirrored"
    MULTI_WORKER = "multi_worker"


class FrameOrder(Choice):
    """The order of frames in training clips: kept, shuffled at random, or a single frame repeated."""

    KEPT = "kept"
    SHUFFLED = "shuffled"
    SINGLE = "single"


class Pretext(Choice):
    """The task that labels clips in place of their classes, for pretraining: none, or to tell shuffled frames."""

    NONE = "none"
    ORDER = "order"


class Cache(Choice):
    """Where decoded clips are kept between epochs.

    NONE reads them again each epoch, HOST keeps them in host memory, DEVICE keeps them in the memory of each
    device, and AUTO chooses one of these by the free memory.
    """

    AUTO = "auto"
    NONE = "none"
    HOST = "host"
    DEVICE = "device"


class OnBadRecord(Choice):
    """Whether training stops at a record that cannot be read, or skips that record's clip."""

    STOP = "stop"
    SKIP = "skip"


class FetchMethod(Choice):
    """How shards in an object store are read: by copying whole shards, or by streaming each clip."""

    COPY = "copy"
    STREAM = "stream"


class VideoSet(Choice):
    """A published set of action videos that can be fetched."""

    UCF50 = "ucf50"
    UCF101 = "ucf101"
    HMDB51 = "hmdb51"


class CorruptionFamily(Choice):
    """What a corruption of clips changes: pixels, the order and timing of frames, or the coded video."""

    SPATIAL = "spatial"
    TEMPORAL = "temporal"
    CODEC = "codec"


class Recoding(Choice):
    """How a video is coded again, with a strength for each.

    QUALITY: by H.264 with a constant rate factor. BIT_RATE: by H.264 at a fraction of the video's bit rate.
    LOSS: by H.264, a fraction of whose slices is lost. FRAME_RATE: without loss, at frames per second.
    HEIGHT: without loss, scaled down to a fraction of the clips' height in between.
    """

    QUALITY = "quality"
    BIT_RATE = "bit_rate"
    LOSS = "loss"
    FRAME_RATE = "frame_rate"
    HEIGHT = "height"


class Measure(Choice):
    """What is compared between a stream of videos and a run's held-out clips.

    SOFTMAX: the probability of each class. CLASSES: the most probable class. CONFIDENCE: its probability.
    BRIGHTNESS, MOTION_ENERGY: see inference.pictures. FRAME_RATE: as the container states it.
    """

    SOFTMAX = "softmax"
    CLASSES = "classes"
    CONFIDENCE = "confidence"
    BRIGHTNESS = "brightness"
    MOTION_ENERGY = "motion_energy"
    FRAME_RATE = "frame_rate"


class BatchBy(Choice):
    """How a stream of videos is divided: by the day of each file's last change, by number, or not at all."""

    ALL = "all"
    BATCH = "batch"
    DAY = "day"


class Finding(Choice):
    """The result of comparing a stream of videos with a reference."""

    DRIFT = "drift"
    NO_DRIFT = "no drift found"
    TOO_FEW = "too few videos to tell"
