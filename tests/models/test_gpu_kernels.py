"""Models run on GPUs as a whole: TensorFlow silently moves ops without a GPU kernel to the host."""

import pytest
import tensorflow as tf

from tests.dataset.test_gpu_kernels import missing, needs_a_build_with_gpus  # noqa: F401
from tests.models.test_encoders import OWN
from tests.models.test_models import make_spec
from ucf50_tfrecord import models
from ucf50_tfrecord.architectures import MODELS, THREE_BLOCK
from ucf50_tfrecord.models.dropout import RandomKey, random_key

# Recurrent layers use cuDNN there, see test_encoders; a graph built without a GPU has their loop.
CASES = [
    (name, THREE_BLOCK, {}) for name, traits in MODELS.items() if not traits.recurrent and name != "bilstm"
]
CASES += [("frame_pool", encoder, {}) for encoder in OWN if encoder != THREE_BLOCK]
CASES += [("two_path", THREE_BLOCK, {"motion_frames": 2})]
CASES += [("frame_pool", THREE_BLOCK, {"motion_frames": 2, "motion": True})]


@pytest.mark.parametrize("name, encoder, options", CASES)
@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param("float32", marks=pytest.mark.slow),
        pytest.param("mixed_bfloat16", marks=pytest.mark.slow),
        "mixed_float16",  # its variables and sums are float32
    ],
)
def test_forward_and_backward_pass_run_on_gpus(name, encoder, options, dtype):
    options = {"motion": MODELS[name].takes_motion} | options
    spec = make_spec(name, encoder=encoder, dropout=0.3, **options)
    model = models.build_model(spec, dtype=dtype)

    @tf.function
    def step(video, position, number):
        with (
            tf.GradientTape() as tape,
            random_key(RandomKey(seed=0, step=number, position=position, batch_size=4)),
        ):
            loss = tf.reduce_sum(model(video, training=True) ** 2)
        return tape.gradient(loss, model.trainable_variables)

    shape = (4, *spec.clip_shape)
    position, number = tf.TensorSpec([4], tf.int64), tf.TensorSpec([], tf.int64)
    assert missing(step, tf.TensorSpec(shape, tf.uint8), position, number) == set()
