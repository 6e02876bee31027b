"""Makes optimizers with learning-rate schedules, and keeps the moving average of a model's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf

from ucf50_tfrecord.choices import Optimizer, Schedule
from ucf50_tfrecord.specs import TrainSpec


class _Adam(keras.optimizers.Adam):
    """Keras's Adam for gradients that are already summed over the replicas; it updates a variable in one op.

    Keras's own optimizer sums gradients in the update, after each replica has checked its own gradients for
    overflows of float16. If they overflow on one replica only, the replicas would diverge. Clipping by norm
    needs the summed gradients, too. Besides, Keras updates a variable by a dozen ops, and each op passes over
    the memory.

    Some variables may be trained from a later step on; see `train_later`.
    """

    _late_keys: frozenset[str] = frozenset()
    _late_factor = 1.0

    def train_later(self, variables: Sequence[keras.Variable], factor: float) -> None:
        """Prepares variables to be trained later than the others, with `factor` times the learning rate.

        Their training starts with the first call of apply_gradients that includes them. Adam's bias
        correction counts their updates from that call on. If it counted all updates instead, the first
        updates of these variables would be several times too large. Call this method before `build`.
        """
        self._late_keys = frozenset(self._var_key(variable) for variable in variables)
        self._late_factor = factor
        self._updates_before = self.add_variable(
            (), dtype="int", aggregation="only_first_replica", name="updates_before_late_variables"
        )

    def apply(
        self, grads: Sequence[tf.Tensor], trainable_variables: Sequence[keras.Variable] | None = None
    ) -> None:
        super().apply(grads, trainable_variables)
        if self._late_keys and not any(map(self._is_late, trainable_variables or self._trainable_variables)):
            self._updates_before.assign(self.iterations)

    def _is_late(self, variable: keras.Variable | tf.Variable) -> bool:
        return self._var_key(variable) in self._late_keys

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return list(grads_and_vars)

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        index = self._get_variable_index(variable)
        number = self.iterations + 1
        if self._is_late(variable):
            number, learning_rate = number - self._updates_before, learning_rate * self._late_factor
        step = tf.cast(number, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.cast(self.beta_1, variable.dtype) ** step,
            beta2_power=tf.cast(self.beta_2, variable.dtype) ** step,
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(gradient, variable.dtype),
        )


class _AdamW(_Adam, keras.optimizers.AdamW):
    """Like _Adam, but with decoupled weight decay."""

    weight_decay: float

    def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
        """Decays each variable by the weight decay times the variable's own learning rate."""
        super()._apply_weight_decay([variable for variable in variables if not self._is_late(variable)])
        late = [variable for variable in variables if self._is_late(variable)]
        if late:
            decay = self.weight_decay
            self.weight_decay = decay * self._late_factor
            super()._apply_weight_decay(late)
            self.weight_decay = decay


class CosineSchedule(keras.optimizers.schedules.CosineDecay):
    """The schedule of the learning rate: a linear warm-up, then half a cosine down to 0.

    Its lengths are variables. So a compiled training step also serves trainings with other numbers of steps.

    variables: the numbers of steps after the warm-up and of the warm-up, each float32 [].
    """

    def __init__(self, spec: TrainSpec, steps_per_epoch: int):
        """Makes the schedule of a training with `steps_per_epoch` steps per epoch."""
        warmup_steps = round(spec.warmup_epochs * steps_per_epoch)
        self.variables = [
            tf.Variable(float(steps), trainable=False)
            for steps in (max(1, spec.epochs * steps_per_epoch - warmup_steps), warmup_steps)
        ]
        super().__init__(
            initial_learning_rate=0.0 if spec.warmup_epochs else spec.learning_rate,
            decay_steps=self.variables[0],
            warmup_target=spec.learning_rate if spec.warmup_epochs else None,
            warmup_steps=self.variables[1],
        )


def make_optimizer(
    spec: TrainSpec, steps_per_epoch: int, policy: str, late: Sequence[keras.Variable] = ()
) -> keras.optimizers.Optimizer:
    """Builds an optimizer with its learning-rate schedule, and with loss scaling for float16.

    The optimizer expects gradients that are already summed over the replicas.

    Args:
      spec: the settings of the training.
      steps_per_epoch: number of training steps per epoch, for the schedule.
      policy: the name of the model's Keras dtype policy, such as "mixed_float16".
      late: variables that are trained only after epoch TrainSpec.unfreeze_after_epoch, with the learning rate
        times TrainSpec.unfrozen_rate_factor.
    """
    learning_rate = spec.learning_rate
    if spec.schedule == Schedule.COSINE:
        learning_rate = CosineSchedule(spec, steps_per_epoch)
    if spec.optimizer == Optimizer.ADAMW:
        optimizer = _AdamW(learning_rate, weight_decay=spec.weight_decay, name="adamw")
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    else:
        optimizer = _Adam(learning_rate, name="adam")
    if late:
        optimizer.train_later(late, spec.unfrozen_rate_factor)
    if policy == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def optimizer_variables(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable | tf.Variable]:
    """Returns all that an optimizer of `make_optimizer` changes or depends on, with its schedule's variables."""
    schedule = getattr(optimizer, "inner_optimizer", optimizer)._learning_rate
    lengths = schedule.variables if isinstance(schedule, CosineSchedule) else []
    return [*optimizer.variables, *lengths]


class WeightAverages(tf.Module):
    """Exponential moving averages of a model's trainable weights. Make an instance within strategy.scope().

    The decay after step n, counted from 1, is min(decay, (1 + n) / (10 + n)), as in
    tf.train.ExponentialMovingAverage: it starts low, so that the averages soon forget the initial weights.
    The statistics of batch norm are not averaged, because they are moving averages already.

    averages: a variable for each trainable weight of the model.
    """

    def __init__(self, model: keras.Model, decay: float):
        super().__init__()
        self._decay = decay
        self._weights = [variable.value for variable in model.trainable_variables]
        self.averages = [tf.Variable(weight, trainable=False) for weight in self._weights]

    def update(
        self, strategy: tf.distribute.Strategy, step: tf.Tensor, variables: Sequence[keras.Variable]
    ) -> None:
        """Moves the averages towards the model's weights. Call it after each step, in cross-replica context.

        Args:
          strategy: the devices that train.
          step: the step that was just taken, int64 [], counted from 0.
          variables: the variables that the step trained. The averages of other variables stay as they are: an
            update would make them differ from their equal weights by rounding.
        """
        trained = {id(variable.value) for variable in variables}
        number = tf.cast(step, tf.float32) + 1
        decay = tf.minimum(self._decay, (1 + number) / (10 + number))
        for average, weight in zip(self.averages, self._weights):
            if id(weight) not in trained:
                continue
            strategy.extended.update(
                average,
                lambda average, weight: average.assign(decay * average + (1 - decay) * weight),
                args=(weight,),
            )

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Sets the model's weights to their averages while the block runs, then restores them."""
        weights = [weight.numpy() for weight in self._weights]
        self.apply()
        try:
            yield
        finally:
            for variable, weight in zip(self._weights, weights):
                variable.assign(weight)

    def apply(self) -> None:
        """Sets the model's weights to their averages for good."""
        for variable, average in zip(self._weights, self.averages):
            variable.assign(average.numpy())
