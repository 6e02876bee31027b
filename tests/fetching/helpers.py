"""Small archives, and a listener that remembers."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Mapping

from ucf50_tfrecord.fetching.listener import FetchListener

# Two classes with two videos each, one of them with UCF50's misspelling.
VIDEOS = {
    f"UCF50/{folder}/v_{name}_g0{group}_c01.avi": random.Random(f"{name}{group}").randbytes(3000 + group)
    for folder, name in (("Billiards", "Billards"), ("Biking", "Biking"))
    for group in (1, 2)
}
PLACES = {name.removeprefix("UCF50/"): content for name, content in VIDEOS.items()}


def make_zip(files: Mapping[str, bytes], *, modes: Mapping[str, int] | None = None) -> bytes:
    """Returns a ZIP archive of files, by their names; `modes` are Unix modes to state."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (modes or {}).get(name, 0o100644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return file.getvalue()


class Remembering(FetchListener):
    """Remembers what it receives.

    steps: the names of the steps, with the units that were done at their start.
    num_units: units done in all steps.
    retries, restarts: the reasons.
    """

    def __init__(self):
        self.steps, self.num_units = [], 0
        self.retries, self.restarts = [], []

    def start(self, doing, total, *, unit, done=0):
        self.steps.append((doing, done))

    def update(self, num_units):
        self.num_units += num_units

    def retry(self, reason, wait_secs):
        self.retries.append(reason)

    def restart(self, reason):
        self.restarts.append(reason)
