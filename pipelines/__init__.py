"""Command-line entry points: flags to specs to the library."""

import os

# TensorFlow's own notices drown what these programs print; errors still come through.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
