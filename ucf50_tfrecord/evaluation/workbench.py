"""Keeps what the cells of one process share: the clips in memory and the compiled models.

To compile a model's training steps takes seconds, as long as a short training. So cells whose trainings differ
only in their seed, their clips and the length of an epoch share a compiled model.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import gc
from typing import NamedTuple

import keras
import tensorflow as tf
from tensorflow.python.framework import ops as tf_ops

from ucf50_tfrecord.choices import Cache
from ucf50_tfrecord.dataset.clips import ClipIndex
from ucf50_tfrecord.dataset.feed import Feed
from ucf50_tfrecord.evaluation.recurrence import StepwiseModel
from ucf50_tfrecord.evaluation.runner import Predictor
from ucf50_tfrecord.specs import ModelSpec, TrainSpec
from ucf50_tfrecord.training import loop

# Limits on the number of compiled models that a process keeps, and on the bytes of their variables. A comparison's
# cells of one kind, such as those on shuffled frames, follow each other, with one compiled model per compared model.
_MAX_PROGRAMS, _MAX_BYTES = 12, 1 << 30


class CompiledModel:
    """A model's compiled functions for tests.

    predictor: the model's forward pass.
    """

    def __init__(self, model: keras.Model, strategy: tf.distribute.Strategy):
        """Compiles nothing yet; `strategy` are the devices to test on."""
        self.predictor, self._strategy = Predictor(model, strategy), strategy

    @functools.cached_property
    def features(self) -> Predictor:
        """The forward pass up to the classifier: it returns the classifier's inputs [B, F] in place of logits."""
        model = self.predictor.model
        return Predictor(keras.Model(model.inputs, model.get_layer("logits").input), self._strategy)

    @functools.cached_property
    def stepwise(self) -> StepwiseModel:
        """The copy of the model whose recurrent layer is inspected; the model must have exactly one."""
        return StepwiseModel(self.predictor.model)


class Program(NamedTuple):
    """A model that several trainings use, one after another.

    state: the model, its optimizer and its compiled training steps.
    compiled: the model's functions for tests.
    """

    state: loop.State
    compiled: CompiledModel


class Workbench:
    """The clips and the compiled models that the cells of one process share.

    strategy: distribution strategy of the process's devices.
    """

    def __init__(
        self,
        clips: ClipIndex,
        *,
        strategy: tf.distribute.Strategy,
        cache: Cache,
        skip_bad_records: bool = False,
        shared_dir: str | None = None,
    ):
        """Prepares a workbench; clips are loaded, and models compiled, at their first use.

        Args:
          clips: index of all clips of the cells.
          strategy: distribution strategy of the devices.
          cache: where clips are kept; not AUTO.
          skip_bad_records: whether unreadable clips are left out; otherwise, they are errors.
          shared_dir: as in Feed.
        """
        self.strategy = strategy
        self._load_feed = functools.partial(
            Feed,
            clips,
            strategy=strategy,
            cache=cache,
            skip_bad_records=skip_bad_records,
            shared_dir=shared_dir,
        )
        self._programs: collections.OrderedDict[tuple[ModelSpec, TrainSpec], Program] = (
            collections.OrderedDict()
        )

    @functools.cached_property
    def feed(self) -> Feed:
        """The feed of all clips. Feeds of some of them, by Feed.select, share the clips in memory.

        Raises:
          UserError: if a clip cannot be read.
        """
        return self._load_feed()

    def program(self, model: ModelSpec, train: TrainSpec, *, num_clips: int) -> Program:
        """Returns a compiled model with the initial weights of a training.

        Args:
          model: the specification of the model.
          train: the settings of the training.
          num_clips: training clips per epoch.

        Raises:
          UserError: as loop.build_state does.
        """
        key = model, dataclasses.replace(train, seed=0)
        program = self._programs.pop(key, None)
        if program is None:
            self._make_room()
        state = loop.build_state(model, train, num_clips=num_clips, strategy=self.strategy)
        if program is None:
            program = Program(state, CompiledModel(state.model, self.strategy))
        else:
            program.state.restart(state)
        self._programs[key] = program
        return program

    def _make_room(self) -> None:
        """Forgets the models that were not used for longest, until there is room for another one."""
        sizes = {key: program.state.num_bytes for key, program in self._programs.items()}
        # A new model is taken to be as large as the largest one.
        while (
            len(sizes) >= _MAX_PROGRAMS or sum(sizes.values()) + max(sizes.values(), default=0) > _MAX_BYTES
        ):
            oldest = next(iter(sizes))
            del sizes[oldest], self._programs[oldest]
        forget_models()


def forget_inputs() -> None:
    """Frees the memory that TensorFlow keeps for batches that are no longer read.

    TensorFlow keeps each function that a dataset calls by tf.numpy_function, with the clips that it reads, as long as
    the default graph, to which all compiled models refer. Datasets that were made before `forget_inputs` is called
    can no longer be read afterwards.
    """
    graph = tf.compat.v1.get_default_graph()
    getattr(graph, "_py_funcs_used_in_graph", []).clear()  # it has no public way to remove a function


def forget_models() -> None:
    """Frees the memory that Keras and TensorFlow keep for models that are no longer used.

    Each call of a function decorated with tf.custom_gradient adds an entry to TensorFlow's gradient registry.
    TensorFlow never removes such entries. TensorFlow's all_reduce and the batch norm of models/frames.py are
    such functions. An entry keeps the call's graph in memory, with the weights and cached clips that it uses.
    Functions that were traced before `forget_models` is called can no longer be differentiated afterwards;
    compiled training steps hold their gradients already.
    """
    keras.backend.clear_session()
    gradients = tf_ops.gradient_registry._registry  # it has no public way to remove an entry
    for name in [name for name in gradients if name.startswith("CustomGradient-")]:
        del gradients[name]
    gc.collect()
