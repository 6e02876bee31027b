"""The settings of the system as frozen dataclasses, which check their values when they are built.

All of them are plain data that can be pickled, compared and turned into JSON. Both the write side (conversion
of videos) and the read side (training) use this module, so it loads nothing outside the standard library.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeAlias

from ucf50_tfrecord.architectures import (
    APPLICATIONS,
    EFFICIENTNET_LITE0,
    ENCODERS,
    MODELS,
    PRETRAINED,
    THREE_BLOCK,
    ModelTraits,
    is_own_code,
    model_traits,
)
from ucf50_tfrecord.choices import (
    ClassWeight,
    Encoding,
    FetchMethod,
    FoldBy,
    FrameOrder,
    Optimizer,
    Precision,
    Pretext,
    Resize,
    Sampler,
    Sandbox,
    Schedule,
    Spacing,
)
from ucf50_tfrecord.errors import UserError, expect
from ucf50_tfrecord.settings import Range, check_settings, read_choices, setting

_MAX_TIMEOUT_OF_SIZE_SECS = 3600.0
MAX_FOLD = 9999  # also the largest number of a recording group, which may become its videos' fold
# Largest size of a clip's pixels: that of 340 frames of 1024x1024. Batches hold several clips in memory, and
# without this limit a file could ask for half a terabyte per clip (10000x4096x4096).
MAX_CLIP_BYTES = 1 << 30
MAX_CLASSES = 1 << 16
MAX_FEATURES = 1 << 16
MAX_VIEWS = 64
MAX_MOTION_FRAMES = 8
# Default of the largest size of the pixels in one shard.
DEFAULT_SHARD_BYTES = 32 << 20


def parse_size(text: str) -> tuple[int, int]:
    """Parses a frame size into a tuple (height, width) in pixels: "64" is 64x64, "112x96" has height 112."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip())
    expect(match is not None, "a size such as 64 or 112x96 (height x width)", size=text)
    height = int(match[1])
    return height, int(match[2]) if match[2] else height


def is_fold_name(text: str) -> bool:
    """Tells whether a text may name a fold in a list of folds: no comma in it, and not like 7 or 1-5."""
    return re.fullmatch(r"(?!\d+(-\d+)?\Z)[^,\s]([^,]*[^,\s])?", text) is not None


def parse_folds(text: str, names: Mapping[str, int] = {}) -> tuple[int, ...]:
    """Parses a list of folds such as "1-5,9" or "val,test" into a sorted tuple without repetitions.

    Args:
      text: the list of folds: numbers, ranges of numbers, and names.
      names: a dictionary from the names of folds to their numbers.
    """
    folds: list[int] = []
    known = f", or out of {', '.join(list(names)[:10])}" if names else ""
    for part in text.split(","):
        if part.strip() in names:
            folds.append(names[part.strip()])
            continue
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        expect(match is not None, f"folds such as 1-5,9{known}", folds=text)
        first, last = int(match[1]), int(match[2] or match[1])
        expect(first <= last <= MAX_FOLD, f"folds such as 1-5,9, at most {MAX_FOLD}", folds=text)
        folds += range(first, last + 1)
    return tuple(sorted(set(folds)))


def check_folds(text: str) -> None:
    """Raises UserError if a text is no list of folds, whatever the names of a dataset's folds are."""
    for part in text.split(","):
        if not is_fold_name(part.strip()):
            parse_folds(part)


def format_folds(folds: Iterable[int]) -> str:
    """Formats folds as a text that parse_folds reads: (1, 2, 3, 9) gives "1-3,9"."""
    runs: list[list[int]] = []
    for fold in sorted(folds):
        if runs and fold == runs[-1][1] + 1:
            runs[-1][1] = fold
        else:
            runs.append([fold, fold])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def expect_clip_size(num_frames: int, height: int, width: int, channels: int = 3) -> None:
    """Raises UserError unless clips of this number of frames, height and width (in pixels) are supported."""
    expect(1 <= num_frames <= 10_000, "1 to 10000 frames per clip", num_frames=num_frames)
    expect(8 <= height <= 4096, "a height of 8 to 4096 pixels", height=height)
    expect(8 <= width <= 4096, "a width of 8 to 4096 pixels", width=width)
    expect(
        num_frames * height * width * channels <= MAX_CLIP_BYTES,
        f"clips of at most {MAX_CLIP_BYTES} bytes of pixels",
        clip=f"{num_frames}x{height}x{width}x{channels}",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipFormat:
    """The format of stored clips: uint8 frames of shape [num_frames, height, width, 3 * (1 + motion_frames)].

    height and width are in pixels. A video with K clips is sampled at K * num_frames evenly spaced frames;
    clip k takes every K-th of these frames, starting with frame k.
    The first 3 channels of a frame are its own RGB. Channels 3i to 3i + 2 are the RGB of the frame that the video
    shows i frames later: its neighbours, which tell how the picture moves. Thus whatever moves, cuts or reorders
    frames does so with their neighbours.
    """

    num_frames: int = setting(15, "Frames per clip, evenly spaced over the video.")
    height: int = 64
    width: int = 64
    encoding: str = setting(
        Encoding.RAW, "How frames are stored; raw+jpeg stores them twice, for other readers."
    )
    jpeg_quality: int = setting(95, "1 to 100 as in libjpeg, for frames stored as JPEG.", Range(1, 100))
    spacing: str = setting(
        Spacing.INDEX,
        "Space frames evenly by their number (index), or by the time when they are shown (time), which differs if "
        "the frame rate varies.",
    )
    resize: str = setting(
        Resize.STRETCH,
        "How a frame of another shape is fitted to the size: stretch it, crop its middle, or pad it with black.",
    )
    clips_per_video: int = setting(
        1, "Clips of each video, their frames evenly shifted against each other.", Range(1, 1000)
    )
    motion_frames: int = setting(
        0,
        "Store beside each frame the frames right after it, this many of them, for models that see motion.",
        Range(0, MAX_MOTION_FRAMES),
        omit_default=True,
    )

    def __post_init__(self):
        check_settings(self)
        expect_clip_size(self.num_frames, self.height, self.width, self.channels)
        # What differs between neighbouring frames is small, and the noise of compression would drown it.
        expect(
            not self.motion_frames or self.encoding == Encoding.RAW,
            "raw frames if there are motion frames",
            encoding=self.encoding,
            motion_frames=self.motion_frames,
        )
        expect(
            "jpeg" in self.encoding or self.jpeg_quality == ClipFormat.jpeg_quality,
            "an encoding with jpeg if there is a JPEG quality",
            jpeg_quality=self.jpeg_quality,
            encoding=self.encoding,
        )

    dtype: ClassVar[str] = "uint8"

    @property
    def channels(self) -> int:
        """Number of values of a pixel: 3 of the frame itself, and 3 of each neighbour."""
        return 3 * (1 + self.motion_frames)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.num_frames, self.height, self.width, self.channels

    @property
    def num_bytes(self) -> int:
        """Size of one clip's decoded pixels, in bytes."""
        return math.prod(self.shape)

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
        if self.motion_frames:
            parts.append(f"motion{self.motion_frames}")
        return "-".join(parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """How a frozen frame encoder turns the frames of stored clips into features.

    An encoder sees frames of its own size; frames of another size are scaled to it (bilinear).
    """

    encoder: str = setting(
        "",
        "Frame encoder whose features are stored once, and trained on in place of frames: a model of "
        f"keras.applications, {EFFICIENTNET_LITE0}, the folder of a run (its encoder), a .keras file, or "
        "<module>:<builder>.",
    )
    size: str = setting(
        "", "Frame size that the encoder sees, such as 128 or 112x96. Default: that of the frames."
    )
    grid: int = setting(
        1, "Average features over the cells of a grid of this many cells per side.", Range(1, 16)
    )
    precision: str = setting(Precision.FLOAT32, "Precision in which the encoder computes.")
    num_views: int = setting(
        1,
        "Views of each clip to store: the clip itself, and random crops of it, half of them mirrored. Training "
        "draws one of them per clip and epoch.",
        Range(1, MAX_VIEWS),
    )

    def __post_init__(self):
        check_settings(self)
        expect(bool(self.encoder), "a frame encoder", features=self.encoder)
        expect(
            self.precision != Precision.AUTO,
            "a precision other than auto, as features of two precisions differ",
            feature_precision=self.precision,
        )
        if self.size:
            parse_size(self.size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureFormat:
    """The format of stored features: float16 of shape [num_frames, num_features], or with a grid
    [num_frames, grid, grid, num_features]. With several views of each clip, their number comes first in the shape.

    encoder: the encoder, as FeatureSpec names it.
    weights: hex sha256 of the encoder's weights.
    height, width: size of the frames that the encoder sees, in pixels.
    grid, precision: as in FeatureSpec.
    intervention: the change of the clips before they were encoded, see evaluation.interventions; "none" if they
      are as stored.
    num_views: number of views of each clip, see features.encode.make_view. View 0 is the clip as it is stored.
    """

    encoder: str
    weights: str
    num_frames: int
    num_features: int
    height: int
    width: int
    grid: int = 1
    precision: str = Precision.FLOAT32
    intervention: str = "none"
    # Left out of JSON while it is 1, so that datasets of one view keep their fingerprints.
    num_views: int = dataclasses.field(default=1, metadata={"omit_default": True})

    dtype: ClassVar[str] = "float16"

    def __post_init__(self):
        read_choices(self)
        expect_clip_size(self.num_frames, self.height, self.width)
        expect(re.fullmatch("[0-9a-f]{64}", self.weights) is not None, "a sha256", weights=self.weights)
        expect(1 <= self.grid <= 16, "a grid of 1 to 16 cells per side", grid=self.grid)
        expect(1 <= self.num_views <= MAX_VIEWS, f"1 to {MAX_VIEWS} views", num_views=self.num_views)
        expect(
            self.num_views == 1 or self.intervention == "none",
            "one view of clips that an intervention changes",
            num_views=self.num_views,
            intervention=self.intervention,
        )
        expect(
            1 <= self.num_features <= MAX_FEATURES,
            f"1 to {MAX_FEATURES} features",
            num_features=self.num_features,
        )
        expect(
            self.num_bytes <= MAX_CLIP_BYTES,
            f"clips of at most {MAX_CLIP_BYTES} bytes of features",
            clip="x".join(map(str, self.shape)),
        )

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """The shape of one frame's features: (F,) or (grid, grid, F)."""
        cells = (self.grid, self.grid) if self.grid > 1 else ()
        return *cells, self.num_features

    @property
    def shape(self) -> tuple[int, ...]:
        views = (self.num_views,) if self.num_views > 1 else ()
        return *views, self.num_frames, *self.frame_shape

    @property
    def num_bytes(self) -> int:
        """Size of one clip's features, of all views, in bytes."""
        return 2 * math.prod(self.shape)

    def __str__(self) -> str:
        changed = f" under {self.intervention}" if self.intervention != "none" else ""
        views = f"{self.num_views} views of " if self.num_views > 1 else ""
        shape = "x".join(map(str, (self.num_frames, *self.frame_shape)))
        return f"{views}{shape} features of {self.encoder} at {self.height}x{self.width}{changed}"


# The format of what a record holds for each clip: frames, or features of frames.
StoredFormat: TypeAlias = ClipFormat | FeatureFormat


@dataclasses.dataclass(frozen=True, kw_only=True)
class WindowSpec:
    """How a long video is cut into overlapping windows, each of which is treated as a video.

    whole_secs: a video of at most this duration is not cut, nor is a video of at most `window_secs`.
    window_secs: duration of each window.
    stride_secs: time from the start of one window to the start of the next.
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
    """The rule that assigns each video to a fold.

    fold_by="group": the video's fold is the number of its recording group, NN in a UCF name with `_gNN_`. So
    no recording is on both sides of a split. A video without a group gets a fold by a hash of its id.
    A list of videos, or folders such as train/ and test/, may give the folds; and group_pattern, a regular
    expression with a group named "group", finds the recording group in other names.
    split_files: the videos that an official split names get the folds train and test, and others are left out; see
    convert.official_splits.
    fold_by="video": every video gets a fold from 1 to num_folds by a hash of its id. This is the random split
    of clips in most published notebooks; it puts clips of one recording on both sides of the split.
    """

    fold_by: str = setting(
        FoldBy.GROUP,
        "What keeps clips together in a fold: group (the recording, from UCF names), or video (each video by "
        "itself: the random split, which leaks recordings).",
    )
    group_pattern: str = dataclasses.field(
        default="",
        metadata={
            "help": r"Regular expression that finds the recording group in a video's path, such as "
            r"'(?P<group>cam\d+)_'. Default: the group in UCF names.",
            "omit_default": True,
        },
    )
    num_folds: int = setting(
        25, "Folds for videos without a group, or with folds by video.", Range(2, MAX_FOLD)
    )
    split_files: str = dataclasses.field(
        default="",
        metadata={
            "help": "Folder of the published files of UCF101's or HMDB51's official splits, which become the folds "
            "train and test. Other videos are left out. Default: no official split.",
            "omit_default": True,
        },
    )
    official_split: int = dataclasses.field(
        default=1,
        metadata={
            "help": "Number of the official split, if split files are given.",
            "range": Range(1, 3),
            "omit_default": True,
        },
    )

    def __post_init__(self):
        check_settings(self)
        if self.group_pattern:
            try:
                names = re.compile(self.group_pattern).groupindex
            except re.error as error:
                raise UserError(
                    f"Expected a regular expression. Received: group_pattern={self.group_pattern!r}: {error}"
                ) from error
            expect(
                "group" in names,
                "a group named group, such as (?P<group>cam\\d+)_",
                group_pattern=self.group_pattern,
            )
        if self.split_files:
            expect(self.fold_by == FoldBy.GROUP, "fold_by=group with split_files", fold_by=str(self.fold_by))
        else:
            expect(
                self.official_split == 1,
                "split_files with official_split",
                official_split=self.official_split,
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """Limits on what decoding one video may cost, and on what the decoding process may access."""

    timeout_secs: float = setting(
        120.0,
        "Seconds that decoding a video may take, plus one per MB of its file, at most an hour.",
        Range(0, 10**6, excludes_low=True),
    )
    memory_mib: int = setting(2048, "Memory that decoding a video may take, in MiB.", Range(16, 1 << 20))
    sandbox: str = setting(
        Sandbox.AUTO,
        "Whether processes that decode are restricted to their videos, as far as the kernel can.",
    )

    def __post_init__(self):
        check_settings(self)

    def timeout_of(self, num_bytes: int) -> float:
        """Returns the time limit in seconds for decoding a video whose file occupies num_bytes on disk."""
        return self.timeout_secs + min(num_bytes / 1e6, _MAX_TIMEOUT_OF_SIZE_SECS)


# A video to predict may be a whole recording, while the videos of a conversion are short clips.
PREDICTION_LIMITS = DecodeLimits(timeout_secs=600.0)


def _names_with(trait: str) -> tuple[str, ...]:
    return tuple(name for name, traits in MODELS.items() if getattr(traits, trait))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The settings of a model: its architecture, its encoder, and the shape of its input and output.

    num_frames: frames per clip that the model takes, at most those that are stored; see dataset.segments.
    feature_shape: the shape of a frame's stored features, (F,) or (grid, grid, F), if the model takes features
      in place of frames. Empty for a model of frames.
    motion_frames: number of neighbours that are stored beside each frame, see ClipFormat. Motion input then
      consists of the neighbours' differences from their frame.
    """

    name: str = dataclasses.field(
        metadata={"help": f"The model: one of {', '.join(MODELS)}, or <module>:<builder>."}
    )
    num_classes: int
    num_frames: int = dataclasses.field(
        metadata={
            "help": "Frames per clip that the model takes, if clips store more: one of each of this many equal segments, "
            "drawn anew each time in training, the middle one in tests. 0 takes all stored frames."
        }
    )
    height: int
    width: int
    feature_shape: tuple[int, ...] = ()
    dropout: float = setting(0.0, "Dropout, in models that have it.", Range(0, 1, excludes_high=True))
    encoder: str = setting(
        THREE_BLOCK,
        f"The frame encoder, in models that leave the choice: "
        f"{', '.join(name for name in ENCODERS if name not in APPLICATIONS)}, a model of keras.applications, or "
        f"<module>:<builder>.",
    )
    encoder_weights: str = setting(
        "none", "Initial weights of the encoder: none, imagenet, or a file of its weights (.weights.h5)."
    )
    freeze_encoder: bool = setting(False, "Train everything but the encoder.")
    motion: bool = setting(
        False,
        "Give the model each frame's differences from the frames right after it, where the clips have motion frames; "
        "elsewhere its difference from the sampled frame before.",
    )
    stochastic_depth: float = setting(
        0.0,
        "Rate at which residual blocks are skipped in training, in the last block; linearly less in earlier ones.",
        Range(0, 1, excludes_high=True),
        omit_default=True,
    )
    # Left out of JSON while it is 0, so that runs on clips without motion frames are stored as before.
    motion_frames: int = dataclasses.field(default=0, metadata={"omit_default": True})

    def __post_init__(self):
        check_settings(self)
        traits = model_traits(self.name)
        expect(
            2 <= self.num_classes <= MAX_CLASSES, f"2 to {MAX_CLASSES} classes", num_classes=self.num_classes
        )
        expect(
            0 <= self.motion_frames <= MAX_MOTION_FRAMES,
            f"0 to {MAX_MOTION_FRAMES} motion frames",
            motion_frames=self.motion_frames,
        )
        expect_clip_size(self.num_frames, self.height, self.width, 3 * (1 + self.motion_frames))
        if self.feature_shape:
            self._check_features(traits)
        expect(
            self.encoder in ENCODERS or is_own_code(self.encoder),
            f"an encoder out of {tuple(ENCODERS)}, or of your own as <module>:<builder>",
            encoder=self.encoder,
        )
        expect(
            traits.takes_encoder or not self.chooses_encoder,
            f"a model out of {_names_with('takes_encoder')} if an encoder is chosen",
            model=self.name,
            encoder=self.encoder,
            encoder_weights=self.encoder_weights,
            freeze_encoder=self.freeze_encoder,
        )
        expect(
            self.encoder in PRETRAINED or self.encoder_weights != "imagenet",
            f"a pretrained encoder if its weights are ImageNet's: one of {PRETRAINED}",
            encoder=self.encoder,
            encoder_weights=self.encoder_weights,
        )
        expect(
            not self.freeze_encoder or self.encoder_weights != "none",
            "encoder_weights if the encoder is frozen",
            encoder_weights=self.encoder_weights,
        )
        expect(
            not self.stochastic_depth or traits.has_residuals,
            f"a model out of {_names_with('has_residuals')} if there is stochastic depth",
            model=self.name,
            stochastic_depth=self.stochastic_depth,
        )
        trait = "takes_neighbours" if self.motion_frames else "takes_motion"
        expect(
            not self.motion or getattr(traits, trait),
            f"a model out of {_names_with(trait)} if there is motion input from "
            f"{'motion frames' if self.motion_frames else 'sampled frames'}",
            model=self.name,
            motion_frames=self.motion_frames,
        )
        expect(
            not self.motion or self.encoder not in PRETRAINED,
            "an encoder that is not pretrained if there is motion input",
            encoder=self.encoder,
        )

    def _check_features(self, traits: ModelTraits) -> None:
        """Raises UserError unless the model may take stored features in place of frames."""
        sizes = self.feature_shape
        expect(
            len(sizes) in (1, 3) and min(sizes) >= 1 and math.prod(sizes) <= MAX_CLIP_BYTES,
            "feature_shape (F,) or (grid, grid, F)",
            feature_shape=sizes,
        )
        expect(
            traits.takes_features,
            f"a model out of {_names_with('takes_features')} where features are stored in place of frames",
            model=self.name,
        )
        expect(
            not self.chooses_encoder and not self.motion and not self.motion_frames,
            "no encoder and no motion input where features are stored in place of frames",
            encoder=self.encoder,
            encoder_weights=self.encoder_weights,
            motion=self.motion,
            motion_frames=self.motion_frames,
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of the model's input, without the batch: clip_shape, or [T, *feature_shape]."""
        return (self.num_frames, *self.feature_shape) if self.feature_shape else self.clip_shape

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """The shape of a clip, [T, H, W, 3 * (1 + motion_frames)], also where the model takes features of it."""
        return self.num_frames, self.height, self.width, 3 * (1 + self.motion_frames)

    @property
    def input_dtype(self) -> str:
        return FeatureFormat.dtype if self.feature_shape else ClipFormat.dtype

    @property
    def chooses_encoder(self) -> bool:
        """Whether any setting of the encoder differs from its default."""
        return (self.encoder, self.encoder_weights, self.freeze_encoder) != (THREE_BLOCK, "none", False)

    @property
    def own_code(self) -> tuple[str, ...]:
        """The user's own builders, as <module>:<builder>, that build the model or its encoder."""
        return tuple(name for name in (self.name, self.encoder) if is_own_code(name))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentSpec:
    """Settings of augmentation: random changes of training clips. With the defaults nothing changes.

    Every change is the same for all frames of a clip.
    """

    horizontal_flip: bool = setting(False, "Mirror half of the training clips, anew each epoch.")
    crop_area: float = setting(
        1.0,
        "Cut a rectangle of at least this fraction of each training frame out, and scale it back; 1 is off.",
        Range(0, 1, excludes_low=True),
    )
    brightness: float = setting(0.0, "Scale training clips' brightness by 1 - x to 1 + x.", Range(0, 1))
    contrast: float = setting(0.0, "Scale training clips' contrast by 1 - x to 1 + x.", Range(0, 1))
    saturation: float = setting(0.0, "Scale training clips' saturation by 1 - x to 1 + x.", Range(0, 1))
    temporal_shift: int = setting(
        0, "Move training clips by up to this many frames either way in time.", Range(0, 9999)
    )
    randaugment_ops: int = setting(
        0,
        "Number of changes of each training clip, drawn from 13 of shape and color (RandAugment); 0 is off.",
        Range(0, 10),
        omit_default=True,
    )
    randaugment_magnitude: float = setting(
        9.0, "Strength of RandAugment's changes; 30 is the strongest.", Range(0, 30), omit_default=True
    )
    erase: float = setting(
        0.0, "Fraction of training clips in which a rectangle is painted over.", Range(0, 1)
    )
    frame_order: str = setting(
        FrameOrder.KEPT,
        "Train on clips with their frames kept, shuffled anew each time, or replaced by a single one: what order is "
        "worth.",
    )

    def __post_init__(self):
        check_settings(self)
        expect(
            self.randaugment_ops or self.randaugment_magnitude == type(self).randaugment_magnitude,
            "randaugment_ops if there is a magnitude of RandAugment",
            randaugment_magnitude=self.randaugment_magnitude,
            randaugment_ops=self.randaugment_ops,
        )

    def check_chooses_frames(self) -> None:
        """Raises UserError unless the augmentation only chooses frames, which stored features allow, too."""
        changes = dataclasses.replace(
            self, temporal_shift=AugmentSpec.temporal_shift, frame_order=AugmentSpec.frame_order
        )
        expect(
            changes == AugmentSpec(),
            "only temporal_shift and frame_order as augmentation, where features are stored in place of frames",
            **{
                name: value for name, value in to_json(changes).items() if value != getattr(AugmentSpec, name)
            },
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """The settings of a training.

    batch_size counts the clips of a global batch, over all replicas (copies of the model, one per device).
    """

    epochs: int = setting(20, "Passes over the training clips.", Range(1, 10**6))
    batch_size: int = setting(16, "Clips per step, over all devices.", Range(1, 10**6))
    optimizer: str = setting(Optimizer.ADAM, "The optimizer.")
    learning_rate: float = setting(1e-3, "The (peak) learning rate.", Range(0, 1e38, excludes_low=True))
    schedule: str = setting(Schedule.CONSTANT, "How the learning rate changes over the steps.")
    warmup_epochs: float = setting(0.0, "Epochs of linear warm-up, with the schedule cosine.")
    weight_decay: float = setting(0.0, "Weight decay, with the optimizer adamw.", Range(0, 10**6))
    label_smoothing: float = setting(
        0.0, "Fraction of the target that is spread over all classes.", Range(0, 1, excludes_high=True)
    )
    mixup: float = setting(
        0.0,
        "Blend each training clip with another of its batch, and their targets alike; the fraction is drawn from "
        "Beta(x, x). 0 is off.",
        Range(0, 100),
        omit_default=True,
    )
    cutmix: float = setting(
        0.0,
        "Replace a rectangle of each training clip by that of another of its batch, and as large a part of the target; "
        "1 minus its area is drawn from Beta(x, x). 0 is off. With mixup, each clip gets either.",
        Range(0, 100),
        omit_default=True,
    )
    teachers: str = setting(
        "",
        "Folders of finished runs, separated by commas, whose predictions the model is also trained towards "
        "(knowledge distillation): the mean of their probabilities for each training clip.",
        omit_default=True,
    )
    distillation: float = setting(
        0.5,
        "With teachers: weight of their probabilities in the loss; the labels have the rest.",
        Range(0, 1),
        omit_default=True,
    )
    temperature: float = setting(
        2.0,
        "With teachers: number that divides their logits and the model's before the softmax; above 1, improbable classes "
        "count more.",
        Range(0, 100, excludes_low=True),
        omit_default=True,
    )
    clip_norm: float = setting(
        0.0, "Norm that the gradient of the global batch is cut down to; 0 is off.", Range(0, 1e30)
    )
    ema: float = setting(
        0.0,
        "Decay of an exponential moving average of the weights, which replaces them in evaluation; 0 is off.",
        Range(0, 1, excludes_high=True),
    )
    early_stopping: int = setting(
        0,
        "Stop after this many epochs without a better validation macro F1 (with several labels per clip, mean average "
        "precision), and take the best epoch's weights; needs test folds. 0 is off.",
        Range(0, 10**6),
    )
    unfreeze_after_epoch: int = setting(
        0,
        "With freeze_encoder: train the encoder, except its batch norm, after this many epochs; 0 keeps it frozen.",
        Range(0, 10**6),
    )
    unfrozen_rate_factor: float = setting(
        0.1, "Factor of the learning rate for the unfrozen encoder.", Range(0, 1, excludes_low=True)
    )
    augment: AugmentSpec = AugmentSpec()
    class_weight: str = setting(
        ClassWeight.NONE,
        "Weight of a training clip in the loss: none (all clips count alike) or balanced (all classes count alike).",
    )
    sampler: str = setting(
        Sampler.ALL,
        "Training clips of an epoch: all (each clip once) or balanced (as many, equally many of each class).",
    )
    shuffle_shards: int = setting(
        0,
        "Number of shards whose clips are shuffled together, for shards that are far away; 0 means all shards.",
        Range(0, 10**9),
    )
    pretext: str = setting(
        Pretext.NONE,
        "Pretrain the encoder without the clips' classes: order trains to tell clips whose frames are shuffled from clips "
        "in order; none is off.",
        omit_default=True,
    )
    seed: int = setting(
        0, "Seed of the weights, the order of clips and everything else that is random.", Range(0, 2**31 - 1)
    )
    precision: str = setting(Precision.AUTO, "Precision of the computation; weights are float32.")
    xla: bool = setting(False, "Compile the forward and backward pass by XLA; on one device.")

    def __post_init__(self):
        check_settings(self)
        expect(
            0 <= self.warmup_epochs <= self.epochs,
            f"a warm-up of 0 to {self.epochs} epochs",
            warmup_epochs=self.warmup_epochs,
        )
        expect(
            not self.weight_decay or self.optimizer == Optimizer.ADAMW,
            "optimizer adamw if there is weight decay",
            optimizer=self.optimizer,
            weight_decay=self.weight_decay,
        )
        expect(
            not self.warmup_epochs or self.schedule == Schedule.COSINE,
            "schedule cosine if there is a warm-up",
            schedule=self.schedule,
            warmup_epochs=self.warmup_epochs,
        )
        expect(
            self.unfreeze_after_epoch < self.epochs,
            f"unfreeze_after_epoch below the {self.epochs} epochs of the training",
            unfreeze_after_epoch=self.unfreeze_after_epoch,
        )
        expect(
            self.unfreeze_after_epoch or self.unfrozen_rate_factor == type(self).unfrozen_rate_factor,
            "unfreeze_after_epoch if there is a rate factor of the unfrozen encoder",
            unfreeze_after_epoch=self.unfreeze_after_epoch,
            unfrozen_rate_factor=self.unfrozen_rate_factor,
        )
        expect(
            not self.mixes_clips or self.batch_size > 1,
            "a batch of at least 2 clips if clips are mixed",
            batch_size=self.batch_size,
            mixup=self.mixup,
            cutmix=self.cutmix,
        )
        if self.sampler == Sampler.BALANCED:
            self._check_balanced_sampler()
        if self.has_pretext:
            self._check_pretext()
        self._check_distillation()

    @property
    def teacher_runs(self) -> tuple[str, ...]:
        """The folders of the runs that teach the model."""
        return tuple(run.strip() for run in self.teachers.split(",")) if self.teachers else ()

    @property
    def distills(self) -> bool:
        """Whether the loss holds the teachers' probabilities."""
        return bool(self.teachers) and self.distillation > 0

    @property
    def mixes_clips(self) -> bool:
        """Whether training clips are mixed with others of their batch, by mixup or CutMix."""
        return bool(self.mixup or self.cutmix)

    @property
    def has_pretext(self) -> bool:
        """Whether the training's labels are those of a pretext task, not the clips' classes."""
        return self.pretext != Pretext.NONE

    def check_fits_features(self) -> None:
        """Raises UserError if a setting changes pixels, which stored features do not hold."""
        self.augment.check_chooses_frames()
        expect(
            not self.cutmix,
            "mixup in place of cutmix, where features are stored in place of frames: features have no rectangles",
            cutmix=self.cutmix,
        )

    def _check_pretext(self) -> None:
        """Raises UserError if another setting contradicts a pretext task, whose labels are made in the step."""
        expect(
            self.augment.frame_order == FrameOrder.KEPT,
            "frame_order=kept with a pretext task, which shuffles frames itself",
            frame_order=self.augment.frame_order,
            pretext=self.pretext,
        )
        expect(
            self.class_weight == ClassWeight.NONE and self.sampler == Sampler.ALL,
            "no class_weight and no sampler with a pretext task, which does not use the clips' classes",
            class_weight=self.class_weight,
            sampler=self.sampler,
            pretext=self.pretext,
        )
        expect(
            not self.teachers,
            "no teachers with a pretext task: they predict the clips' classes",
            teachers=self.teachers,
            pretext=self.pretext,
        )
        expect(
            not self.mixes_clips,
            "no mixup and no cutmix with a pretext task: a mixture of two clips has no order",
            mixup=self.mixup,
            cutmix=self.cutmix,
            pretext=self.pretext,
        )

    def check_fits_comparison(self) -> None:
        """Raises UserError if the trainings of a comparison, which hold out different clips, cannot have a setting."""
        expect(
            not self.teachers,
            "no teachers in a comparison: its trainings hold out different clips, and a teacher has seen some of them",
            teachers=self.teachers,
        )
        expect(
            not self.has_pretext,
            "no pretext task in a comparison, whose models predict the clips' classes",
            pretext=self.pretext,
        )

    def _check_distillation(self) -> None:
        """Raises UserError if settings of the distillation have no teachers, or do not fit other settings."""
        given = {name: getattr(self, name) for name in ("distillation", "temperature")}
        defaults = {name: getattr(type(self), name) for name in given}
        expect(self.teachers or given == defaults, "teachers if there are settings of distillation", **given)
        runs = self.teacher_runs
        expect(
            all(runs) and len(set(runs)) == len(runs),
            "folders of different runs, separated by commas",
            teachers=self.teachers,
        )
        expect(
            not (self.teachers and self.mixes_clips),
            "neither mixup nor cutmix with teachers, whose probabilities are those of unmixed clips",
            mixup=self.mixup,
            cutmix=self.cutmix,
        )

    def _check_balanced_sampler(self) -> None:
        """Raises UserError if another setting contradicts the balanced sampler."""
        expect(
            self.class_weight == ClassWeight.NONE,
            "a balanced class_weight or a balanced sampler, not both: rare classes would count more than frequent ones",
            class_weight=self.class_weight,
            sampler=self.sampler,
        )
        expect(
            not self.shuffle_shards,
            "shuffle_shards=0 with a balanced sampler, which takes clips from all shards",
            shuffle_shards=self.shuffle_shards,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchSpec:
    """Settings for reading shards from an object store.

    method: "copy" copies whole shards into a local folder; "stream" reads each clip from the object store
      through TensorFlow's file systems.
    cache_dir: the folder of the copies; several processes may share it.
    cache_bytes: largest total size of the copies.
    """

    method: str = FetchMethod.COPY
    cache_dir: str = ""
    cache_bytes: int = 0

    def __post_init__(self):
        check_settings(self)
        expect(self.cache_bytes >= 0, "0 bytes or more", cache_bytes=self.cache_bytes)


def format_bytes(num_bytes: int) -> str:
    """Formats a size in bytes for people: "1.25 GB", "320.5 MB"."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def printable(text: str) -> str:
    """Returns a text with its unprintable characters escaped, so that it cannot disturb a terminal.

    These are control characters, line breaks, marks of the writing direction, and bytes that are not UTF-8.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shorten(text: str, length: int, *, keep_end: bool = False) -> str:
    """Escapes a text for display, as `printable` does, and cuts it to `length` characters.

    Args:
      text: the text.
      length: largest number of characters, at least 1. It counts the "…" that replaces what is cut off.
      keep_end: whether the start is cut off, because texts such as paths differ at their ends. By default,
        the end is.
    """
    text = printable(text)
    if len(text) <= length:
        return text
    return "…" + text[len(text) - length + 1 :] if keep_end else text[: length - 1] + "…"


def to_json(value: Any) -> Any:
    """Turns a dataclass instance, or a dict or sequence of these, into values that json.dumps accepts.

    A field with "omit_default" in its metadata is left out while it has its default.
    """
    if value is None or isinstance(value, (str, int, float)):  # first, because most values are
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_json(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not ("omit_default" in field.metadata and getattr(value, field.name) == field.default)
        }
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value
