"""Benchmarks of conversion, input, training steps and accuracy, some in comparison with other tools."""

import pipelines  # noqa: F401 - exits without a traceback on Ctrl-C while modules are imported
