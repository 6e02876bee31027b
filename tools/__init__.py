"""Command-line tools of this project besides the entry points in `pipelines`."""

import pipelines  # noqa: F401 - exits without a traceback on Ctrl-C while modules are imported
