"""Command-line tools beside the pipelines."""

import pipelines  # noqa: F401 - exits without a traceback on Ctrl-C while modules are imported
