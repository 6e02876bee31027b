"""Defines the flags of the input, which decide how clips are read and where they are kept."""

from pipelines import spec_flags
from ucf50_tfrecord.dataset.inputs import InputSpec

INPUTS = spec_flags.SpecFlags(InputSpec)
