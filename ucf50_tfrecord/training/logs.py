"""TensorBoard: curves, pictures and texts of a run."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Mapping, Sequence

import matplotlib.figure
import numpy as np
import tensorflow as tf


class TensorBoardLog:
    """Writes a run's event files; the x axis of every curve is the training step."""

    def __init__(self, run_dir: str):
        folder = pathlib.Path(run_dir, "tensorboard")
        self._writers = {
            split: tf.summary.create_file_writer(str(folder / split)) for split in ("train", "validation")
        }

    def scalars(self, split: str, values: Mapping[str, float], step: int) -> None:
        with self._writers[split].as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def text(self, name: str, table: Mapping[str, object]) -> None:
        """Writes a two-column table, such as the flags of the run."""
        rows = "".join(f"|`{key}`|`{value}`|\n" for key, value in table.items())
        with self._writers["train"].as_default(step=0):
            tf.summary.text(name, f"|name|value|\n|---|---|\n{rows}")

    def clips(self, name: str, video: np.ndarray) -> None:
        """Shows clips, uint8 [N, T, H, W, 3], each as a strip of its frames from left to right."""
        strips = [np.concatenate(list(frames), axis=1) for frames in video]
        with self._writers["train"].as_default(step=0):
            tf.summary.image(name, np.concatenate(strips, axis=0)[np.newaxis])

    def confusion(self, matrix: np.ndarray, classes: Sequence[str], step: int) -> None:
        """Shows a confusion matrix (counts, rows are the true classes) as a picture."""
        with self._writers["validation"].as_default(step=step):
            tf.summary.image("confusion", draw_confusion(matrix, classes)[np.newaxis])

    def flush(self) -> None:
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


def draw_confusion(matrix: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Draws a confusion matrix, rows normalised to shares of the true class.

    Args:
      matrix: counts [C, C], rows are the true classes.
      classes: C names.

    Returns:
      uint8 [height, width, 3].
    """
    size = max(4.0, 0.28 * len(classes) + 2.0)  # inches: keeps the names of 50 classes apart
    figure = matplotlib.figure.Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.add_subplot()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1)
    ticks = np.arange(len(classes))
    axes.set_xticks(ticks, classes, rotation=90)
    axes.set_yticks(ticks, classes)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    figure.colorbar(image, ax=axes, label="share of the true class's clips")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return tf.io.decode_png(buffer.getvalue(), channels=3).numpy()
