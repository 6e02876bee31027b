"""The nouns of the system: frozen dataclasses that validate when they are built.

Everything here is plain data that pickles, compares and turns into JSON. Both
sides of the record contract use it, so it loads nothing outside the standard
library.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

from ucf50_tfrecord.architectures import (
    APPLICATIONS,
    ENCODERS,
    MODELS,
    THREE_BLOCK,
    is_own_code,
    model_traits,
)
from ucf50_tfrecord.choices import (
    Encoding,
    FetchMethod,
    FoldBy,
    FrameOrder,
    Optimizer,
    Precision,
    Resize,
    Sandbox,
    Schedule,
    Spacing,
    read_choices,
)
from ucf50_tfrecord.errors import expect

_MAX_TIMEOUT_OF_SIZE_SECS = 3600.0
MAX_FOLD = 9999
# Pixels of one clip, at most: 340 frames of 1024x1024. A batch holds several clips in memory, and a file that
# asks for 10000x4096x4096 (half a terabyte) must not be obeyed.
MAX_CLIP_BYTES = 1 << 30
MAX_CLASSES = 1 << 16
# At most so many bytes of pixels go into a shard, unless asked for otherwise.
DEFAULT_SHARD_BYTES = 32 << 20


def parse_size(text: str) -> tuple[int, int]:
    """Reads a frame size: "64" is 64x64, "112x96" is height 112 and width 96 (pixels)."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip())
    expect(match is not None, "a size such as 64 or 112x96 (height x width)", size=text)
    height = int(match[1])
    return height, int(match[2]) if match[2] else height


def parse_folds(text: str) -> tuple[int, ...]:
    """Reads a list of folds such as "1-5,9"."""
    folds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        expect(match is not None, "folds such as 1-5,9", folds=text)
        first, last = int(match[1]), int(match[2] or match[1])
        expect(first <= last <= MAX_FOLD, f"folds such as 1-5,9, at most {MAX_FOLD}", folds=text)
        folds += range(first, last + 1)
    return tuple(sorted(set(folds)))


def format_folds(folds: Iterable[int]) -> str:
    """Writes folds as parse_folds reads them: (1, 2, 3, 9) is "1-3,9"."""
    runs: list[list[int]] = []
    for fold in sorted(folds):
        if runs and fold == runs[-1][1] + 1:
            runs[-1][1] = fold
        else:
            runs.append([fold, fold])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def expect_clip_size(num_frames: int, height: int, width: int) -> None:
    """Raises UserError unless clips of this size can be stored and trained on."""
    expect(1 <= num_frames <= 10_000, "1 to 10000 frames a clip", num_frames=num_frames)
    expect(8 <= height <= 4096, "a height of 8 to 4096 pixels", height=height)
    expect(8 <= width <= 4096, "a width of 8 to 4096 pixels", width=width)
    expect(
        num_frames * height * width * 3 <= MAX_CLIP_BYTES,
        f"clips of at most {MAX_CLIP_BYTES} bytes of pixels",
        clip=f"{num_frames}x{height}x{width}x3",
    )


def setting(default: Any, text: str, choices: tuple[str, ...] = ()) -> Any:
    """Returns a dataclass field with a default and metadata: help, and the choices if there are some."""
    return dataclasses.field(
        default=default, metadata={"help": text} | ({"choices": choices} if choices else {})
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipFormat:
    """What one stored clip looks like: uint8 frames of shape [num_frames, height, width, 3].

    encoding: how the pixels are stored; `raw+jpeg` stores them twice, for two kinds of readers.
    jpeg_quality: 1 to 100, as libjpeg has it.
    spacing: `index`, frames evenly spaced by their number; `time`, by when they are shown,
      which differs where the frame rate varies.
    resize: `stretch` to the size whatever the aspect ratio; `crop` the middle; `pad` with black.
    clips_per_video: clip k of K takes every K-th of K * num_frames evenly spaced frames, from k on.
    """

    num_frames: int = setting(15, "Frames per clip, evenly spaced over the video.")
    height: int = 64
    width: int = 64
    encoding: str = setting(
        Encoding.RAW, "How frames are stored; raw+jpeg stores them twice, for other readers."
    )
    jpeg_quality: int = setting(95, "1 to 100, for frames stored as JPEG.")
    spacing: str = setting(
        Spacing.INDEX, "Frames evenly spaced by their number, or by the time when they are shown."
    )
    resize: str = setting(
        Resize.STRETCH, "How a frame of another shape is fitted to the size; pad adds black."
    )
    clips_per_video: int = setting(1, "Clips of each video, their frames evenly shifted against each other.")

    def __post_init__(self):
        read_choices(self)
        expect_clip_size(self.num_frames, self.height, self.width)
        expect(1 <= self.jpeg_quality <= 100, "a JPEG quality of 1 to 100", jpeg_quality=self.jpeg_quality)
        expect(
            "jpeg" in self.encoding or self.jpeg_quality == ClipFormat.jpeg_quality,
            "an encoding with jpeg where there is a JPEG quality",
            jpeg_quality=self.jpeg_quality,
            encoding=self.encoding,
        )
        expect(
            1 <= self.clips_per_video <= 1000, "1 to 1000 clips a video", clips_per_video=self.clips_per_video
        )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.num_frames, self.height, self.width, 3

    @property
    def num_bytes(self) -> int:
        """Bytes of one clip's pixels."""
        return self.num_frames * self.height * self.width * 3

    def __str__(self) -> str:
        parts = [f"{self.num_frames}x{self.height}x{self.width}"]
        if self.encoding != Encoding.RAW:
            quality = self.jpeg_quality if "jpeg" in self.encoding else ""
            parts.append(f"{self.encoding.replace('+', '_')}{quality}")
        if self.spacing != Spacing.INDEX:
            parts.append(self.spacing)
        if self.resize != Resize.STRETCH:
            parts.append(self.resize)
        if self.clips_per_video > 1:
            parts.append(f"{self.clips_per_video}clips")
        return "-".join(parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowSpec:
    """How a long video is cut into windows that overlap, each of which gives what a video gives.

    whole_secs: a video that lasts no longer is not cut, nor is one no longer than a window.
    window_secs: how long a window lasts.
    stride_secs: from one window's start to the next one's.
    """

    whole_secs: float
    window_secs: float
    stride_secs: float

    def __post_init__(self):
        for name in ("window_secs", "stride_secs"):
            value = getattr(self, name)
            expect(0.01 <= value <= 1e6, f"{name} from 0.01 to 1e6", **{name: value})
        expect(self.whole_secs >= 0, "whole_secs of 0 or more", whole_secs=self.whole_secs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldRule:
    """How a video gets its fold.

    `group`: the recording group of its UCF name (`_gNN_`), so that one recording
    never stands on both sides of a split; a video without a group is hashed.
    `video`: the hash of the video's id, into folds 1..num_folds. This is the
    random clip split of most published notebooks, which leaks recordings.
    """

    fold_by: str = setting(
        FoldBy.GROUP,
        "What keeps clips together in a fold: group (the recording, from UCF names), or video (each video by "
        "itself: the random split, which leaks recordings).",
    )
    num_folds: int = setting(25, "Folds for videos without a group, or with folds by video.")

    def __post_init__(self):
        read_choices(self)
        expect(2 <= self.num_folds <= MAX_FOLD, f"2 to {MAX_FOLD} folds", num_folds=self.num_folds)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Video:
    """One catalogued video file.

    `relative_path` is relative to the catalogue's folder, with forward slashes.
    `video_id` is that path without its suffix: "Biking/v_Biking_g01_c02".
    `group` and `clip` come from UCF names and are None elsewhere.
    `sha256` (hex, of the contents) is None where it was not asked for.
    """

    relative_path: str
    video_id: str
    class_name: str
    label: int
    group: int | None
    clip: int | None
    num_bytes: int
    mtime_ns: int
    sha256: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """Limits on what decoding one video may cost and do.

    timeout_secs: for any video; one second per megabyte of its file comes on top, at most an hour.
    memory_mib: memory that decoding may take.
    sandbox: "auto" restricts the decoding process to its video as far as the kernel can, "off" does not.
    """

    timeout_secs: float = setting(
        120.0, "Seconds that decoding a video may take, plus one per MB of its file, at most an hour."
    )
    memory_mib: int = setting(2048, "Memory that decoding a video may take, in MiB.")
    sandbox: str = setting(
        Sandbox.AUTO,
        "Whether processes that decode are restricted to their videos, as far as the kernel can.",
    )

    def __post_init__(self):
        read_choices(self)
        expect(0 < self.timeout_secs <= 1e6, "a time limit above 0, to 1e6 s", timeout_secs=self.timeout_secs)
        expect(
            16 <= self.memory_mib <= 1 << 20,
            "a memory limit of 16 to 1048576 MiB",
            memory_mib=self.memory_mib,
        )

    def timeout_of(self, num_bytes: int) -> float:
        """Returns the seconds that a video may take, by the bytes that its file takes on disk."""
        return self.timeout_secs + min(num_bytes / 1e6, _MAX_TIMEOUT_OF_SIZE_SECS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Catalog:
    """All videos of a folder-per-class set, ordered by id; `classes[label]` is a name.

    `warnings` are sentences about what was passed over, for the user to read.
    """

    videos_dir: str
    classes: tuple[str, ...]
    videos: tuple[Video, ...]
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardJob:
    """The unit of conversion: which videos go into one shard, and how.

    `fingerprint` (hex sha256) covers all that decides the shard's bytes but the videos'
    contents: the format, the code's schema, the decoder's version, the videos' paths and labels.
    """

    videos_dir: str
    filename: str
    fold: int
    format: ClipFormat
    videos: tuple[Video, ...]
    fingerprint: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole conversion: the dataset's name and rules, and its shards' jobs by file name.

    shard_bytes: what a shard's pixels take at most.
    """

    name: str
    videos_dir: str
    classes: tuple[str, ...]
    format: ClipFormat
    fold_rule: FoldRule
    decoder: str
    shard_bytes: int
    jobs: tuple[ShardJob, ...]


def _names_with(trait: str) -> tuple[str, ...]:
    return tuple(name for name, traits in MODELS.items() if getattr(traits, trait))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Which model, for which clips.

    name: of architectures.MODELS, or a builder of the user's own as <module>:<builder>.
    dropout: a fraction, used by models that have dropout.
    encoder: the frame encoder, in models that leave the choice: "three_block", a keras.applications name, or a
      builder of the user's own as <module>:<builder>.
    encoder_weights: "none", "imagenet", or a file of the encoder's weights (.weights.h5).
    freeze_encoder: whether the encoder keeps the weights it starts with.
    motion: whether each frame comes with its difference from the frame before.
    """

    name: str = dataclasses.field(
        metadata={"help": f"The model: one of {', '.join(MODELS)}, or <module>:<builder>."}
    )
    num_classes: int
    num_frames: int
    height: int
    width: int
    dropout: float = setting(0.0, "Dropout, in models that have it.")
    encoder: str = setting(
        THREE_BLOCK,
        "The frame encoder, in models that leave the choice: three_block, a model of keras.applications, or "
        "<module>:<builder>.",
    )
    encoder_weights: str = setting(
        "none", "Initial weights of the encoder: none, imagenet, or a file of its weights."
    )
    freeze_encoder: bool = setting(False, "Train everything but the encoder.")
    motion: bool = setting(False, "Give the model each frame's difference from the frame before.")

    def __post_init__(self):
        traits = model_traits(self.name)
        expect(
            2 <= self.num_classes <= MAX_CLASSES, f"2 to {MAX_CLASSES} classes", num_classes=self.num_classes
        )
        expect_clip_size(self.num_frames, self.height, self.width)
        expect(0 <= self.dropout < 1, "a dropout from 0 to below 1", dropout=self.dropout)
        expect(
            self.encoder in ENCODERS or is_own_code(self.encoder),
            f"an encoder out of {tuple(ENCODERS)}, or of your own as <module>:<builder>",
            encoder=self.encoder,
        )
        expect(
            traits.takes_encoder or not self.chooses_encoder,
            f"a model out of {_names_with('takes_encoder')} where an encoder is chosen",
            model=self.name,
            encoder=self.encoder,
            encoder_weights=self.encoder_weights,
            freeze_encoder=self.freeze_encoder,
        )
        expect(
            self.encoder in APPLICATIONS or self.encoder_weights != "imagenet",
            f"an encoder of keras.applications where its weights are ImageNet's: one of {APPLICATIONS}",
            encoder=self.encoder,
            encoder_weights=self.encoder_weights,
        )
        expect(
            not self.freeze_encoder or self.encoder_weights != "none",
            "encoder_weights where the encoder is frozen",
            encoder_weights=self.encoder_weights,
        )
        expect(
            not self.motion or traits.takes_motion,
            f"a model out of {_names_with('takes_motion')} where there is motion input",
            model=self.name,
        )
        expect(
            not self.motion or self.encoder not in APPLICATIONS,
            "encoder three_block, or one of your own, where there is motion input",
            encoder=self.encoder,
        )

    @property
    def chooses_encoder(self) -> bool:
        """Whether anything about the encoder differs from the default."""
        return (self.encoder, self.encoder_weights, self.freeze_encoder) != (THREE_BLOCK, "none", False)

    @property
    def own_code(self) -> tuple[str, ...]:
        """The builders outside this package that the model is made by."""
        return tuple(name for name in (self.name, self.encoder) if is_own_code(name))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentSpec:
    """How training clips are changed by chance, each clip's frames alike. The defaults change nothing.

    horizontal_flip: mirror half of the clips.
    crop_area: cut out a rectangle of at least this share of the frame, and scale it back.
    brightness, contrast, saturation: scale by a factor from 1 - x to 1 + x.
    temporal_shift: move by up to this many frames either way.
    erase: the share of clips in which a rectangle is painted over.
    frame_order: kept, shuffled (anew each time), or single: a frame of the clip stands for all.
    """

    horizontal_flip: bool = setting(False, "Mirror half of the training clips, anew each epoch.")
    crop_area: float = setting(
        1.0, "Cut at least this fraction of each training frame out, and scale it back; 1 is off."
    )
    brightness: float = setting(0.0, "Scale training clips' brightness by 1 - x to 1 + x.")
    contrast: float = setting(0.0, "Scale training clips' contrast by 1 - x to 1 + x.")
    saturation: float = setting(0.0, "Scale training clips' saturation by 1 - x to 1 + x.")
    temporal_shift: int = setting(0, "Move training clips by up to this many frames in time.")
    erase: float = setting(0.0, "Fraction of training clips in which a rectangle is painted over.")
    frame_order: str = setting(
        FrameOrder.KEPT,
        "Train on clips with their frames shuffled, or with a single frame in place of all: what order is worth.",
    )

    def __post_init__(self):
        read_choices(self)
        expect(0 < self.crop_area <= 1, "a crop area above 0, to 1", crop_area=self.crop_area)
        for name in ("brightness", "contrast", "saturation", "erase"):
            expect(0 <= getattr(self, name) <= 1, f"{name} from 0 to 1", **{name: getattr(self, name)})
        expect(
            0 <= self.temporal_shift < 10_000,
            "a shift of 0 to 9999 frames",
            temporal_shift=self.temporal_shift,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """How to train. `batch_size` is global, over all replicas; the rates are per step.

    clip_norm: the norm that the gradient of the global batch is cut down to; 0 leaves it as it is.
    ema: the decay of an exponential moving average of the weights, which is then what is evaluated;
      0 is none.
    early_stopping: end after so many epochs without a better validation macro F1, with the best
      epoch's weights; 0 is off.
    shuffle_shards: of how many shards the clips are mixed at a time; 0 is all, a complete shuffle.
    xla: whether forward and backward pass are compiled by XLA.
    """

    epochs: int = setting(20, "Passes over the training clips.")
    batch_size: int = setting(16, "Clips per step, over all devices.")
    optimizer: str = setting(Optimizer.ADAM, "The optimizer.")
    learning_rate: float = setting(1e-3, "The (peak) learning rate.")
    schedule: str = setting(Schedule.CONSTANT, "How the learning rate changes over the steps.")
    warmup_epochs: float = setting(0.0, "Epochs of linear warm-up, with the schedule cosine.")
    weight_decay: float = setting(0.0, "Weight decay, with the optimizer adamw.")
    label_smoothing: float = setting(0.0, "Fraction of the target that is spread over all classes.")
    clip_norm: float = setting(0.0, "Norm that the gradient is cut down to; 0 is off.")
    ema: float = setting(
        0.0, "Decay of a moving average of the weights, which replaces them in evaluation; 0 is off."
    )
    early_stopping: int = setting(
        0,
        "Stop after this many epochs without a better validation macro F1, and take the best epoch's weights; "
        "needs test folds. 0 is off.",
    )
    augment: AugmentSpec = AugmentSpec()
    shuffle_shards: int = setting(
        0, "Number of shards whose clips are mixed at a time, for shards that are far away; 0 mixes all."
    )
    seed: int = setting(0, "Seed of the weights, the order of clips and everything else that is random.")
    precision: str = setting(Precision.AUTO, "Precision of the computation; weights are float32.")
    xla: bool = setting(False, "Compile the forward and backward pass by XLA; on one device.")

    def __post_init__(self):
        read_choices(self)
        expect(1 <= self.epochs <= 10**6, "1 to 1000000 epochs", epochs=self.epochs)
        expect(1 <= self.batch_size <= 10**6, "a batch of 1 to 1000000 clips", batch_size=self.batch_size)
        expect(
            0 < self.learning_rate <= 1e38,
            "a learning rate above 0, to 1e38",
            learning_rate=self.learning_rate,
        )
        expect(
            0 <= self.warmup_epochs <= self.epochs,
            f"a warm-up of 0 to {self.epochs} epochs",
            warmup_epochs=self.warmup_epochs,
        )
        expect(0 <= self.weight_decay <= 1e6, "a weight decay of 0 to 1e6", weight_decay=self.weight_decay)
        expect(
            not self.weight_decay or self.optimizer == Optimizer.ADAMW,
            "optimizer adamw where there is weight decay",
            optimizer=self.optimizer,
            weight_decay=self.weight_decay,
        )
        expect(
            not self.warmup_epochs or self.schedule == Schedule.COSINE,
            "schedule cosine where there is a warm-up",
            schedule=self.schedule,
            warmup_epochs=self.warmup_epochs,
        )
        expect(
            0 <= self.label_smoothing < 1,
            "a label smoothing from 0 to below 1",
            label_smoothing=self.label_smoothing,
        )
        expect(0 <= self.clip_norm <= 1e30, "a gradient norm of 0 to 1e30", clip_norm=self.clip_norm)
        expect(0 <= self.ema < 1, "a moving average's decay from 0 to below 1", ema=self.ema)
        expect(0 <= self.early_stopping <= 10**6, "0 to 1000000 epochs", early_stopping=self.early_stopping)
        expect(0 <= self.shuffle_shards <= 10**9, "0 to 1e9 shards", shuffle_shards=self.shuffle_shards)
        expect(0 <= self.seed < 2**31, "a seed from 0 to 2147483647", seed=self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchSpec:
    """How shards that lie in an object store are read.

    method: "copy" keeps whole shards in a local folder; "stream" reads each clip from the store by
      TensorFlow's file systems.
    cache_dir: the folder; processes may share it.
    cache_bytes: what the copies in it may take together.
    """

    method: str = FetchMethod.COPY
    cache_dir: str = ""
    cache_bytes: int = 0

    def __post_init__(self):
        read_choices(self)
        expect(self.cache_bytes >= 0, "0 bytes or more", cache_bytes=self.cache_bytes)


def format_bytes(num_bytes: int) -> str:
    """Writes a size as people read it: 1.25 GB, 320.5 MB."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def printable(text: str) -> str:
    """Escapes what a terminal does not show as a character: control characters, line breaks, directions of writing.

    Also what is no character at all: names of files need not be UTF-8.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def to_json(value: Any) -> Any:
    """Turns a spec (or a dict or sequence of specs) into JSON-ready values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value
