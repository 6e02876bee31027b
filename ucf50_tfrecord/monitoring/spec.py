"""The options of monitoring."""

from __future__ import annotations

import dataclasses
import math

from ucf50_tfrecord.choices import BatchBy
from ucf50_tfrecord.settings import Range, check_settings, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class MonitorSpec:
    """How a stream of videos is divided, and how often it may raise a false alarm."""

    by: BatchBy = setting(
        BatchBy.ALL,
        "How to divide the stream: by the day of each file's last change (UTC), into batches of batch_videos videos in "
        "its order, or not at all.",
    )
    batch_videos: int = setting(
        100, "Videos per batch, if the stream is divided by batch.", Range(1, math.inf)
    )
    alarm_level: float = setting(
        0.05,
        "Probability of an alarm, in any batch and any measure, if nothing has drifted.",
        Range(1e-4, 0.5),
    )

    def __post_init__(self):
        check_settings(self)
