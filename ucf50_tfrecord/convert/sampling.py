"""Chooses the frames of clips, and the part of a frame that is kept."""

from __future__ import annotations

import bisect
import dataclasses
import fractions
import functools
import itertools
from collections.abc import Sequence

import numpy as np

from ucf50_tfrecord.choices import Resize, Spacing
from ucf50_tfrecord.specs import ClipFormat, WindowSpec


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Presentation times of a video's frames, in the order of display.

    times: in units of time_base_secs; None if the file states none.
    frame_rate: mean frames per second that the container states, or 0.0.
    """

    times: Sequence[int | None]
    time_base_secs: float
    frame_rate: float

    def secs(self, index: int) -> float:
        """Returns a frame's time; a frame without one is placed by its position."""
        time = self.times[index]
        return index * self._frame_secs if time is None else time * self.time_base_secs

    def microseconds(self, index: int) -> int:
        """Returns a frame's time from the first frame."""
        return round((self.secs(index) - self.secs(0)) * 1e6)

    @functools.cached_property
    def shown_us(self) -> list[int]:
        """Times of all frames, in microseconds from the first, ascending as in even_times."""
        return list(itertools.accumulate(map(self.microseconds, range(len(self.times))), max))

    @property
    def end_us(self) -> int:
        """Microseconds from the first frame to the end of the last."""
        return round((self.secs(len(self.times) - 1) - self.secs(0) + self._frame_secs) * 1e6)

    @property
    def latest_us(self) -> int:
        """The later of end_us and the last frame shown: the last frame's time may go back."""
        return max(self.end_us, self.shown_us[-1])

    @property
    def _frame_secs(self) -> float:
        return 1 / self.frame_rate if self.frame_rate else 0.0


def choose_frames(times: Sequence[int | None], clip_format: ClipFormat) -> np.ndarray:
    """Chooses the frames of all clips of a video.

    Args:
      times: the frames' times in any unit, in the order of display. If one is None, frames are chosen by their
        number, whatever the format's spacing.
      clip_format: clip k of K gets every K-th of K * num_frames frames, from k on.

    Returns:
      int64 [clips_per_video, num_frames], each row ascending.
    """
    num_clips = clip_format.clips_per_video
    num_frames = num_clips * clip_format.num_frames
    if clip_format.spacing == Spacing.TIME and None not in times:
        picked = even_times(times, num_frames)
    else:
        picked = even_indices(len(times), num_frames)
    return picked.reshape(clip_format.num_frames, num_clips).T


def cut_windows(timeline: Timeline, windows: WindowSpec) -> list[tuple[int, int]]:
    """Cuts a video into windows; returns (start, end) of each, in microseconds from the first frame.

    A video of at most `whole_secs` is one window. A longer one has a window every `stride_secs`; the last ends with
    the video. Windows in which no frame appears are dropped: a still picture does not count more, and jumps in time,
    as in joined recordings, do not give hours of empty windows.
    """
    window_us, stride_us = round(windows.window_secs * 1e6), round(windows.stride_secs * 1e6)
    shown_us, end_us = timeline.shown_us, timeline.latest_us
    if end_us <= max(round(windows.whole_secs * 1e6), window_us):
        return [(0, end_us)]
    starts, start, last = [], 0, end_us - window_us
    while start < last and start <= shown_us[-1]:
        next_us = shown_us[bisect.bisect_left(shown_us, start)]
        if next_us < start + window_us:
            starts.append(start)
            start += stride_us
        else:  # skips to the first window that holds the next frame
            start = ((next_us - window_us) // stride_us + 1) * stride_us
    if last <= shown_us[-1]:
        starts.append(last)
    return [(start, start + window_us) for start in starts]


def choose_window_frames(timeline: Timeline, clip_format: ClipFormat, windows: WindowSpec) -> np.ndarray:
    """Chooses the frames of all clips of each window, as choose_frames does for a video.

    A window's frames are those shown from its start to before its end. A video in one window gives the result of
    choose_frames.

    Returns:
      int64 [windows, clips_per_video, num_frames].
    """
    shown_us, end_us = timeline.shown_us, timeline.latest_us
    chosen = []
    for start, end in cut_windows(timeline, windows):
        first = bisect.bisect_left(shown_us, start)
        # If the length of frames is unknown, the video ends when its last frame appears.
        stop = bisect.bisect_left(shown_us, end) if end < end_us else len(shown_us)
        chosen.append(first + choose_frames(timeline.times[first:stop], clip_format))
    return np.stack(chosen)


def even_indices(num_available: int, num_frames: int) -> np.ndarray:
    """Chooses `num_frames` evenly spaced frames out of `num_available`, both ends included.

    Frame i is round(i * (num_available - 1) / (num_frames - 1)), halves up, in integer arithmetic so that all
    platforms agree. One frame is the middle one; if there are too few frames, some repeat.

    Returns:
      int64 [num_frames], ascending.
    """
    last = num_available - 1
    if num_frames == 1:
        return np.array([last // 2], np.int64)
    steps = np.arange(num_frames, dtype=np.int64)
    return (2 * steps * last + num_frames - 1) // (2 * (num_frames - 1))


def even_times(times: Sequence[int], num_frames: int) -> np.ndarray:
    """Chooses the frames nearest to evenly spaced times, first and last time included.

    Of frames with the same time the first is chosen. Of two equally near frames the later is chosen, so that a
    constant rate gives even_indices.

    Args:
      times: the frames' times, in any unit.

    Returns:
      int64 [num_frames], ascending.
    """
    # Times of damaged files go back; a frame is not shown before its predecessor.
    times = [time - times[0] for time in itertools.accumulate(times, max)]
    parts = max(2, 2 * (num_frames - 1))
    picked = []
    for i in range(num_frames):
        # Times are compared in fractions of their unit, as whole numbers of any size.
        target = 2 * i * times[-1] if num_frames > 1 else times[-1] - 1
        later = bisect.bisect_left(times, -(-target // parts))
        earlier = times[max(0, later - 1)]
        is_later = times[later] * parts - target <= target - earlier * parts
        picked.append(later if is_later else bisect.bisect_left(times, earlier))
    return np.array(picked, np.int64)


def fit_size(shown: tuple[int, fractions.Fraction], size: tuple[int, int], resize: str) -> tuple[int, int]:
    """Returns the height and width to scale a frame to, keeping its aspect ratio.

    Args:
      shown: the frame's height and width as displayed, in pixels.
      size: the height and width wanted.
      resize: `crop` to cover the wanted size, `pad` to fit into it.
    """
    fits_height = size[0] * shown[1] >= size[1] * shown[0]  # too wide at the wanted height
    if fits_height == (resize == Resize.CROP):
        return size[0], max(1, round(shown[1] * size[0] / shown[0]))
    return max(1, round(shown[0] * size[1] / shown[1])), size[1]


def place_centred(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Crops a centred part of an image, or pads it with black, on each axis.

    Args:
      image: uint8 [h, w, 3].

    Returns:
      uint8 [height, width, 3].
    """
    if image.shape[:2] == (height, width):
        return image
    for axis, size in enumerate((height, width)):
        excess = image.shape[axis] - size
        if excess > 0:
            image = image.take(range(excess // 2, excess // 2 + size), axis)
        elif excess < 0:
            before = -excess // 2
            around = [(0, 0)] * 3
            around[axis] = (before, -excess - before)
            image = np.pad(image, around)
    return image
