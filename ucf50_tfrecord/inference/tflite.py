"""Writes models as TFLite files, for LiteRT on phones and small computers, and reads them.

A file takes one clip at a time. It holds TFLite's own operations alone, without TensorFlow's ("Flex"), which
small runtimes lack.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf

from ucf50_tfrecord.choices import Quantization
from ucf50_tfrecord.errors import Action, Remedy, UserError
from ucf50_tfrecord.inference.formats import DEFAULT_FORMATS
from ucf50_tfrecord.texts import tensorflow_reason


def write(
    path: pathlib.Path,
    model: keras.Model,
    outputs: Callable[[tf.Tensor], Mapping[str, tf.Tensor]],
    *,
    quantization: Quantization,
    representative: np.ndarray | None = None,
) -> None:
    """Writes a model as a TFLite file.

    Args:
      path: path of the file.
      model: the model, from clips, uint8 [B, T, H, W, 3], to logits, float32 [B, C].
      outputs: maps logits, float32 [1, C], to a dictionary of the tensors that the file returns.
      quantization: how weights are stored. INT8 also computes in 8-bit integers, where TFLite can (post-training
        quantization: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference").
      representative: for INT8, clips uint8 [N, T, H, W, 3], from which the ranges of all values are measured.

    Raises:
      UserError: if the model cannot be converted; for INT8, also if there are no representative clips, or the model
        returns the same number for all of them.
    """
    if quantization == Quantization.INT8:
        _check_representative(model, representative)

    def serve(frames: tf.Tensor) -> Mapping[str, tf.Tensor]:
        return outputs(model(frames, training=False))

    with tempfile.TemporaryDirectory() as folder, _unrolled(model):
        signature = [tf.TensorSpec((1, *model.input.shape[1:]), tf.uint8, name="frames")]
        archive = keras.export.ExportArchive()
        archive.add_endpoint("serve", serve, input_signature=signature)
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if quantization != Quantization.NONE:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantization == Quantization.FLOAT16:
            converter.target_spec.supported_types = [tf.float16]
        if quantization == Quantization.INT8:
            converter.representative_dataset = lambda: (
                {"frames": clip[np.newaxis]} for clip in representative
            )
        try:
            path.write_bytes(converter.convert())
        except OSError:
            raise
        except Exception as error:  # the converter documents no exception types
            raise UserError(
                f"TensorFlow cannot write this model ({model.name}) as TFLite: {tensorflow_reason(error)}",
                Remedy(Action.SET, "to leave it out", formats=[*DEFAULT_FORMATS]),
            ) from error


def _check_representative(model: keras.Model, clips: np.ndarray | None) -> None:
    """Raises UserError unless there are clips, uint8 [N, T, H, W, 3], from which the ranges of values can be measured."""
    if clips is None:
        raise UserError(
            "Expected clips of the run for the format tflite_int8, which measures the ranges of values on them. "
            "Found no held-out clips of another recording group than those on which the files are compared"
        )
    if not np.ptp(model.predict_on_batch(clips[:16])):
        # LiteRT would end this process at a range of length 0.
        raise UserError(
            f"Expected a model with different outputs for the format tflite_int8. This one ({model.name}) returns the "
            "same number for all classes and clips"
        )


def read(path: pathlib.Path, *, num_threads: int | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """Reads a TFLite file.

    Args:
      path: path of the file.
      num_threads: number of threads that a clip is computed with; None for one per CPU core.

    Returns:
      A function from clips, uint8 [B, T, H, W, 3], to probabilities, float32 [B, C].
    """
    from ai_edge_litert.interpreter import Interpreter

    threads = num_threads or len(os.sched_getaffinity(0))
    runner = Interpreter(model_content=path.read_bytes(), num_threads=threads).get_signature_runner()

    def classify(frames: np.ndarray) -> np.ndarray:
        return np.concatenate([runner(frames=clip[np.newaxis])["probabilities"] for clip in frames])

    return classify


@contextlib.contextmanager
def _unrolled(model: keras.Model) -> Iterator[None]:
    """Has a model's recurrent layers build a graph without a loop while the block runs: TFLite has no such loops."""
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.RNN)]
    before = [layer.unroll for layer in layers]
    for layer in layers:
        layer.unroll = True
    try:
        yield
    finally:
        for layer, unroll in zip(layers, before):
            layer.unroll = unroll
