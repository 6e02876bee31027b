"""Measures time and memory of planning conversions of many videos.

  python -m benchmarks.plan

A plan assigns the videos of a catalogue to shards. The catalogue is simulated:
50 classes, names like UCF50's, files of 300 to 800 KB. Each number of videos is
planned in a process of its own, whose peak memory includes the catalogue.
"""

from __future__ import annotations

import dataclasses
import resource
import time

from absl import flags

from benchmarks.measuring import in_fresh_process, peak_mb, whole_numbers, write_figures
from pipelines import console, terminal
from ucf50_tfrecord.convert import plan
from ucf50_tfrecord.jobs import Catalog, Video
from ucf50_tfrecord.specs import ClipFormat, FoldRule, to_json

_SIZES = flags.DEFINE_list("sizes", ["10000", "100000", "1000000"], "Numbers of videos.")
_OUTPUT = flags.DEFINE_string("output", "bench_results/plan.json", "File for the figures.")

NUM_CLASSES, NUM_GROUPS = 50, 25


@dataclasses.dataclass(frozen=True)
class Row:
    """The cost of planning the conversion of a number of videos."""

    num_videos: int
    num_shards: int
    catalog_secs: float  # to make the simulated catalogue
    plan_secs: float
    base_mb: float  # peak memory of the process before the catalogue was made
    peak_mb: float  # and at the end


def simulate(num_videos: int) -> Catalog:
    """Makes a catalogue of videos that do not exist, such as catalog.find_videos returns for real videos."""
    classes = tuple(f"Class{label:02d}" for label in range(NUM_CLASSES))
    videos = []
    for number in range(num_videos):
        position, label = divmod(number, NUM_CLASSES)
        number_in_group, group = 1 + position // NUM_GROUPS, 1 + position % NUM_GROUPS
        video_id = f"{classes[label]}/v_{classes[label]}_g{group:02d}_c{number_in_group:02d}"
        videos.append(
            Video(
                relative_path=f"{video_id}.avi",
                video_id=video_id,
                class_name=classes[label],
                label=label,
                group=group,
                num_bytes=300_000 + number % 1000 * 500,
                mtime_ns=1_700_000_000_000_000_000 + number,
            )
        )
    videos.sort(key=lambda video: video.video_id)
    return Catalog(videos_dir="/videos", classes=classes, videos=tuple(videos))


def measure(num_videos: int) -> Row:
    """Measures planning the conversion of `num_videos` simulated videos. Runs in a fresh process."""
    base_mb = peak_mb(resource.RUSAGE_SELF)
    started = time.perf_counter()
    catalog = simulate(num_videos)
    catalogued = time.perf_counter()
    planned = plan.plan_shards(
        catalog, name="bench", clip_format=ClipFormat(), fold_rule=FoldRule(), decoder="bench"
    )
    return Row(
        num_videos=num_videos,
        num_shards=len(planned.jobs),
        catalog_secs=catalogued - started,
        plan_secs=time.perf_counter() - catalogued,
        base_mb=base_mb,
        peak_mb=peak_mb(resource.RUSAGE_SELF),
    )


def main() -> None:
    rows = []
    terminal.say(f"{'videos':>9}{'shards':>8}{'catalogue s':>13}{'plan s':>8}{'us/video':>10}{'peak MB':>9}")
    for size in whole_numbers(_SIZES.value):
        row = in_fresh_process(measure, size)
        rows.append(row)
        terminal.say(
            f"{row.num_videos:>9}{row.num_shards:>8}{row.catalog_secs:>13.2f}{row.plan_secs:>8.2f}"
            f"{row.plan_secs / row.num_videos * 1e6:>10.1f}{row.peak_mb:>9.0f}"
        )
    write_figures(_OUTPUT.value, {"rows": to_json(rows)})


if __name__ == "__main__":
    console.run(main)
