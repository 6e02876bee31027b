"""Downloads a published video set and unpacks it into class folders.

  python -m pipelines.fetch ucf50
  python -m pipelines.fetch ucf101 --output=/data/UCF101
  python -m pipelines.fetch ucf50 --archive=UCF50.zip

The sets are ucf50, ucf101 and hmdb51. A stopped download continues with the
same command. If the set is complete, the command compares its videos with their
checksums.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os

from absl import flags

from pipelines import console, remedies, terminal
from pipelines.spec_flags import SpecFlags
from ucf50_tfrecord.choices import VideoSet
from ucf50_tfrecord.convert.catalog import CHECKSUMS_FILENAME
from ucf50_tfrecord.fetching import video_set
from ucf50_tfrecord.fetching.download import DownloadOptions
from ucf50_tfrecord.fetching.listener import FetchListener
from ucf50_tfrecord.fetching.sources import SOURCES, Source
from ucf50_tfrecord.fetching.video_set import FetchedSet, FetchOptions
from ucf50_tfrecord.specs import format_bytes

_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for the class folders. Default: data/<name of the set>."
)
_ARCHIVE = flags.DEFINE_string(
    "archive", None, "RAR or ZIP archive of the set that is there already; nothing is downloaded."
)
_URL = flags.DEFINE_string(
    "url", None, "Another address of the archive: https, or http on this machine. Default: the publisher's."
)
_ARCHIVE_BYTES = flags.DEFINE_integer(
    "archive_bytes",
    None,
    "Expected size of the downloaded archive; 0 accepts the size that the server states. Default: the published "
    "size, if --url is not given.",
    lower_bound=0,
)
_RESTART = flags.DEFINE_boolean("restart", False, "Discard what was downloaded before.")
_KEEP_ARCHIVE = flags.DEFINE_boolean(
    "keep_archive", False, "Keep the downloaded archive after it is unpacked."
)
_DOWNLOAD = SpecFlags(DownloadOptions)


def main(name: str) -> None:
    source = SOURCES[VideoSet(name)]
    output = _OUTPUT.value or os.path.join("data", source.title)
    options = FetchOptions(_ARCHIVE.value, _RESTART.value, _KEEP_ARCHIVE.value, _DOWNLOAD.build())
    terminal.say_wrapped(
        f"{source.title}. {source.license} Terms, and the paper to cite: {source.page}",
        break_long_words=False,
        break_on_hyphens=False,
        flush=True,
    )
    with _Display() as display:
        fetched = video_set.fetch(_chosen(source), output, options, display)
    _print_result(source, output, fetched)


def _chosen(source: Source) -> Source:
    """Returns the source with the address and the size that the flags choose."""
    num_bytes = None if _URL.value else source.num_bytes
    if _ARCHIVE_BYTES.value is not None:
        num_bytes = _ARCHIVE_BYTES.value or None
    return dataclasses.replace(source, url=_URL.value or source.url, num_bytes=num_bytes)


def _print_result(source: Source, output: str, fetched: FetchedSet) -> None:
    found, expected = (
        f"{counts.num_videos} videos in {counts.num_classes} classes" for counts in (fetched, source)
    )
    done = "compared with their sha256" if fetched.was_complete else "their sha256"
    terminal.say(
        f"{output}: {found}, {format_bytes(fetched.num_bytes)}; {done}: {os.path.join(output, CHECKSUMS_FILENAME)}"
    )
    if fetched.num_ignored:
        terminal.note(f"{fetched.num_ignored} files of the archive are left out: hidden, or no videos")
    if found != expected:
        terminal.warn(f"{source.title} has {expected}, but this archive had {found}")
    terminal.say(f"To train on them: make train {remedies.make_variable('VIDEOS', output)}")


class _Display(FetchListener):
    """Shows the progress of a fetch: a bar for each step (on a terminal only), and a line for each new try."""

    def __init__(self):
        self._stack = contextlib.ExitStack()
        self._bar: console.ProgressBar | None = None

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def start(self, doing: str, total: int, *, unit: str, done: int = 0) -> None:
        self._stack.close()
        if unit == "B" and doing == "downloading":
            before = f", {format_bytes(done)} of them already here" if done else ""
            size = format_bytes(total) if total else "a file of unknown size"
            terminal.say(f"Downloading {size}{before}", flush=True)
        self._bar = self._stack.enter_context(console.progress_bar(total, unit, doing, done=done))

    def update(self, num_units: int) -> None:
        self._bar.update(num_units)

    def retry(self, reason: str, wait_secs: float) -> None:
        self._stack.close()
        terminal.note(f"the download stopped: {reason}; next try in {wait_secs:.0f} s")

    def restart(self, reason: str) -> None:
        terminal.note(f"the download begins again: {reason}")


if __name__ == "__main__":
    console.run(main, arguments=[f"the set ({', '.join(VideoSet)})"])
