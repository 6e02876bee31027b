"""Command-line tools beside the pipelines."""

import pipelines  # noqa: F401 - ends tools without a traceback on Ctrl-C, until they handle it
