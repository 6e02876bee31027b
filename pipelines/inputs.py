"""Flags of the input: how clips are read."""

from pipelines import spec_flags
from ucf50_tfrecord.dataset.inputs import InputSpec

INPUTS = spec_flags.SpecFlags(InputSpec)
