"""Tables of the models and the frame encoders: the builder and the traits of each.

Loads neither Keras nor TensorFlow.
"""

from __future__ import annotations

import dataclasses
import functools
import re

from ucf50_tfrecord.errors import expect


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedScores:
    """Scores of a baseline model that were published in a public notebook, and the model's title there.

    The notebook used all of UCF50, trained for 5 epochs, and tested on a random quarter of the clips.
    """

    title: str
    accuracy: float
    macro_f1: float


@dataclasses.dataclass(frozen=True)
class ModelTraits:
    """A model's builder and traits.

    builder: the builder function as <module>:<builder>. It maps (ModelSpec, keras.DTypePolicy) to a
      keras.Model from clips, uint8 [B, T, H, W, 3], to logits, float32 [B, num_classes].
    control: name of the order-blind model (one that ignores the order of frames) to compare this model with;
      it reads frames in a similar way. None if this model is order-blind itself.
    recurrent: whether the model has one recurrent layer over time, whose memory of earlier frames
      evaluation.recurrence inspects.
    takes_encoder: whether ModelSpec.encoder chooses the model's frame encoder.
    takes_features: whether the model may take stored features of frames in place of frames.
    takes_motion: whether ModelSpec.motion may add the differences of consecutive frames to the model's input.
      The controls, which must not see order, and the published models do not accept it.
    has_motion_path: whether a part of the model always sees motion, whatever ModelSpec.motion says.
    has_residuals: whether the model has residual blocks, which ModelSpec.stochastic_depth drops.
    improves_on: name of the model whose forgetting this model was designed to overcome, or None.
    published: the scores of the published baseline that the model reproduces, or None.
    """

    builder: str
    control: str | None
    _: dataclasses.KW_ONLY
    recurrent: bool = False
    takes_encoder: bool = False
    takes_features: bool = False
    takes_motion: bool = False
    has_motion_path: bool = False
    has_residuals: bool = False
    improves_on: str | None = None
    published: PublishedScores | None = None

    @property
    def takes_neighbours(self) -> bool:
        """Whether ModelSpec.motion may add the differences of stored neighbours of frames (ClipFormat.motion_frames).

        Controls accept them: a frame's neighbours move with the frame, so they do not tell the order of frames.
        """
        return self.takes_motion or (self.takes_encoder and not self.has_motion_path)

    @property
    def learns_order_in_encoder(self) -> bool:
        """Whether a task of frame order alone trains the model's frame encoder.

        A motion path would solve the task without the encoder of frames, whose features are averaged over time.
        """
        return self.takes_encoder and not self.is_order_blind and not self.has_motion_path

    @property
    def is_order_blind(self) -> bool:
        """Whether the model's logits do not depend on the order of a clip's frames."""
        return self.control is None


_M, _E = "ucf50_tfrecord.models", "ucf50_tfrecord.models.encoders"
_over_features = functools.partial(ModelTraits, takes_encoder=True, takes_features=True, takes_motion=True)
MODELS = {
    "frame_pool": ModelTraits(f"{_M}.pooling:frame_pool", None, takes_encoder=True, takes_features=True),
    "deviation_pool": ModelTraits(
        f"{_M}.pooling:deviation_pool", None, takes_encoder=True, takes_features=True
    ),
    "spread_pool": ModelTraits(
        f"{_M}.pooling:spread_pool", "deviation_pool", takes_encoder=True, takes_features=True
    ),
    "rnn": _over_features(f"{_M}.recurrent:rnn", "frame_pool", recurrent=True),
    "lstm": _over_features(f"{_M}.recurrent:lstm", "frame_pool", recurrent=True, improves_on="rnn"),
    "bilstm": _over_features(f"{_M}.recurrent:bilstm", "frame_pool"),
    "gru": _over_features(f"{_M}.recurrent:gru", "frame_pool", recurrent=True),
    "conv3d": ModelTraits(f"{_M}.conv3d:conv3d", "frame_pool", takes_motion=True),
    "r2plus1d": ModelTraits(f"{_M}.conv3d:r2plus1d", "frame_pool", takes_motion=True, has_residuals=True),
    "transformer": ModelTraits(
        f"{_M}.transformer:transformer",
        "frame_pool",
        takes_features=True,
        takes_motion=True,
        has_residuals=True,
    ),
    "two_path": ModelTraits(
        f"{_M}.two_path:two_path", "frame_pool", takes_encoder=True, has_motion_path=True
    ),
    "seed_pool": ModelTraits(f"{_M}.seed:seed_pool", None),
    "seed_rnn": ModelTraits(
        f"{_M}.seed:seed_rnn",
        "seed_pool",
        recurrent=True,
        published=PublishedScores(title="CNN + RNN", accuracy=0.4263, macro_f1=0.4071),
    ),
    "seed_lstm": ModelTraits(
        f"{_M}.seed:seed_lstm",
        "seed_pool",
        recurrent=True,
        improves_on="seed_rnn",
        published=PublishedScores(title="CNN + LSTM", accuracy=0.4734, macro_f1=0.4548),
    ),
}

# The project's own frame encoder, an image model of this package, and those of keras.applications.
THREE_BLOCK = "three_block"
EFFICIENTNET_LITE0 = "efficientnet_lite0"
APPLICATIONS = (
    *(f"ConvNeXt{size}" for size in ("Tiny", "Small", "Base", "Large", "XLarge")),
    *(f"DenseNet{depth}" for depth in (121, 169, 201)),
    *(f"EfficientNetB{number}" for number in range(8)),
    *(f"EfficientNetV2{size}" for size in ("B0", "B1", "B2", "B3", "S", "M", "L")),
    *("InceptionResNetV2", "InceptionV3", "MobileNet", "MobileNetV2", "MobileNetV3Large", "MobileNetV3Small"),
    *("NASNetLarge", "NASNetMobile"),
    *(f"ResNet{depth}{version}" for depth in (50, 101, 152) for version in ("", "V2")),
    *("VGG16", "VGG19", "Xception"),
)
# Encoders that ImageNet weights exist for.
PRETRAINED = (EFFICIENTNET_LITE0, *APPLICATIONS)
# The builder of each encoder, as <module>:<builder>. It maps (shape [H, W, C], ModelSpec, keras.DTypePolicy)
# to a keras.Model from frames, [N, H, W, C] with values in [0, 1], to features, [N, F].
ENCODERS = {
    THREE_BLOCK: f"{_E}:three_block",
    EFFICIENTNET_LITE0: f"{_E}:efficientnet_lite0",
    **dict.fromkeys(APPLICATIONS, f"{_E}:application"),
}


def is_own_code(name: str) -> bool:
    """Tells whether the name of a model or encoder has the form <module>:<builder>: the user's own code."""
    return re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", name, re.ASCII) is not None


def model_traits(name: str) -> ModelTraits:
    """Returns a model's traits. For a model of the user's own (<module>:<builder>) it returns assumed traits.

    Raises:
      UserError: if the name is neither in MODELS nor of the form <module>:<builder>.
    """
    expect(
        name in MODELS or is_own_code(name),
        f"a model out of {tuple(MODELS)}, or of your own as <module>:<builder>",
        model=name,
    )
    return MODELS.get(name) or _over_features(name, "frame_pool")
