"""Chooses which frames of a video become its clips, and which part of each frame is kept."""

from __future__ import annotations

import bisect
import dataclasses
import fractions
import functools
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from ucf50_tfrecord.choices import Playback, Resize, Spacing
from ucf50_tfrecord.specs import ClipFormat, WindowSpec


@dataclasses.dataclass(frozen=True)
class Timeline:
    """The presentation times of a video's frames, in the order of display.

    times: the frames' times in units of time_base_secs; None for a frame without a time.
    time_base_secs: the unit of `times`, in seconds.
    frame_rate: mean frames per second that the container states; 0.0 if it states none.
    """

    times: Sequence[int | None]
    time_base_secs: float
    frame_rate: float

    def secs(self, index: int) -> float:
        """Returns the time of a frame in seconds; computes it from the frame's position if it is unknown."""
        time = self.times[index]
        return index * self._frame_secs if time is None else time * self.time_base_secs

    def microseconds(self, index: int) -> int:
        """Returns the time of a frame in microseconds from the first frame."""
        return round((self.secs(index) - self.secs(0)) * 1e6)

    @functools.cached_property
    def shown_us(self) -> list[int]:
        """The times when the frames are shown, in microseconds from the first frame, in ascending order.

        If a frame's own time is before an earlier frame's time, it is replaced by the earlier frame's time.
        """
        return list(itertools.accumulate(map(self.microseconds, range(len(self.times))), max))

    @property
    def end_us(self) -> int:
        """The time in microseconds from the start of the first frame to the end of the last frame."""
        return round((self.secs(len(self.times) - 1) - self.secs(0) + self._frame_secs) * 1e6)

    @property
    def latest_us(self) -> int:
        """The end of the video in microseconds from the first frame, even if frames' times are not ascending.

        It is the later of end_us and the last of shown_us.
        """
        return max(self.end_us, self.shown_us[-1])

    @property
    def _frame_secs(self) -> float:
        return 1 / self.frame_rate if self.frame_rate else 0.0


def choose_frames(
    times: Sequence[int | None], clip_format: ClipFormat, playback: Playback = Playback.FORWARD
) -> np.ndarray:
    """Chooses the frames of all clips of a video, evenly spaced.

    Args:
      times: the times of the video's frames in any unit, in the order of display. If a time is None, frames
        are spaced by their numbers, whatever the format's spacing.
      clip_format: the format of the clips. With K clips per video, clip k gets every K-th of K * num_frames
        evenly spaced frames, starting with frame k.
      playback: the direction in which the clips play. Both directions choose the same frames.

    Returns:
      The numbers of the chosen frames, int64 [clips_per_video, num_frames * (1 + motion_frames)]. In each row every
      frame of the clip is followed by its neighbours, the frames that are played right after it; a neighbour beyond
      the last frame is the last frame. Without neighbours, each row is ascending, or descending for clips that play
      backward.
    """
    num_clips = clip_format.clips_per_video
    num_frames = num_clips * clip_format.num_frames
    if clip_format.spacing == Spacing.TIME and None not in times:
        picked = even_times(times, num_frames)
    else:
        picked = even_indices(len(times), num_frames)
    chosen = picked.reshape(clip_format.num_frames, num_clips).T
    step = 1
    if playback == Playback.BACKWARD:
        chosen, step = chosen[:, ::-1], -1
    neighbours = chosen[..., np.newaxis] + step * np.arange(1 + clip_format.motion_frames)
    return np.clip(neighbours, 0, len(times) - 1).reshape(num_clips, -1)


def cut_windows(timeline: Timeline, windows: WindowSpec) -> list[tuple[int, int]]:
    """Cuts a video into overlapping windows.

    A video of at most windows.whole_secs, or of at most the length of a window, is one window. A longer video
    has a window every windows.stride_secs, and a last window that ends with the video. Windows in which no
    new frame appears are dropped. So a long still picture does not count more than others, and jumps in time,
    as in joined recordings, do not give hours of empty windows.

    Args:
      timeline: the times of the video's frames.
      windows: the length and the distance of windows.

    Returns:
      A list of tuples (start, end), one per window, in microseconds from the video's first frame.
    """
    cutter = WindowCutter(windows)
    shown_us, end_us = timeline.shown_us, timeline.latest_us
    if end_us <= max(round(windows.whole_secs * 1e6), cutter.window_us):
        return [(0, end_us)]
    last = end_us - cutter.window_us
    starts = list(cutter.starts(shown_us, last))
    if last <= shown_us[-1]:
        starts.append(last)
    return [(start, start + cutter.window_us) for start in starts]


class WindowCutter:
    """Finds the starts of windows one after the other, of a whole video or while its frames become known.

    window_us: length of a window, in microseconds.
    start_us: the earliest start of the next window, in microseconds from the first frame.
    """

    def __init__(self, windows: WindowSpec):
        self.window_us, self._stride_us = round(windows.window_secs * 1e6), round(windows.stride_secs * 1e6)
        self.start_us = 0

    def starts(self, shown_us: Sequence[int], before_us: int) -> Iterator[int]:
        """Yields the starts of the next windows in which new frames appear, and which start before `before_us`.

        Args:
          shown_us: the times when frames are shown, ascending, in microseconds from the first frame; all that are
            known from start_us on.
          before_us: end of the search, in microseconds from the first frame.
        """
        while self.start_us < before_us and self.start_us <= shown_us[-1]:
            start = self.start_us
            next_us = shown_us[bisect.bisect_left(shown_us, start)]
            if next_us < start + self.window_us:
                self.start_us = start + self._stride_us
                yield start
            else:  # skips to the first window that holds the next frame
                self.start_us = ((next_us - self.window_us) // self._stride_us + 1) * self._stride_us


def choose_window_frames(timeline: Timeline, clip_format: ClipFormat, windows: WindowSpec) -> np.ndarray:
    """Chooses the frames of all clips of each window of a video, as choose_frames does for a whole video.

    The frames of a window are those shown from its start to before its end. If the whole video is one window,
    the result is that of choose_frames.

    Args:
      timeline: the times of the video's frames.
      clip_format: the format of the clips.
      windows: how the video is cut into windows.

    Returns:
      The numbers of the chosen frames in the video, int64 [windows, clips_per_video, num_frames * (1 + motion_frames)].
    """
    shown_us, end_us = timeline.shown_us, timeline.latest_us
    chosen = []
    for start, end in cut_windows(timeline, windows):
        first = bisect.bisect_left(shown_us, start)
        # The last frame belongs to the window even if it appears at the video's end (unknown frame rate).
        stop = bisect.bisect_left(shown_us, end) if end < end_us else len(shown_us)
        chosen.append(first + choose_frames(timeline.times[first:stop], clip_format))
    return np.stack(chosen)


def even_indices(num_available: int, num_frames: int) -> np.ndarray:
    """Chooses `num_frames` evenly spaced frames out of `num_available`, the first and the last included.

    The i-th choice is frame round(i * (num_available - 1) / (num_frames - 1)). Halves are rounded up, in
    integer arithmetic so that all platforms agree. If num_frames is 1, the middle frame is chosen. If
    num_available is too small, some frames are chosen repeatedly.

    Returns:
      The numbers of the chosen frames, int64 [num_frames], ascending.
    """
    last = num_available - 1
    if num_frames == 1:
        return np.array([last // 2], np.int64)
    steps = np.arange(num_frames, dtype=np.int64)
    return (2 * steps * last + num_frames - 1) // (2 * (num_frames - 1))


def even_times(times: Sequence[int], num_frames: int) -> np.ndarray:
    """Chooses the frames nearest to evenly spaced times, the first and the last time included.

    Of several frames with the same time, the first is chosen. Of two equally near frames, the later is chosen:
    at a constant frame rate, the result then equals that of even_indices.

    Args:
      times: the times of the frames, in any unit.
      num_frames: number of frames to choose.

    Returns:
      The numbers of the chosen frames, int64 [num_frames], ascending.
    """
    # In damaged files times may go back, but a frame is not shown before its predecessor.
    times = [time - times[0] for time in itertools.accumulate(times, max)]
    parts = max(2, 2 * (num_frames - 1))
    picked = []
    for i in range(num_frames):
        # Times are compared exactly: they are scaled by `parts`, so that all numbers are integers.
        target = 2 * i * times[-1] if num_frames > 1 else times[-1] - 1
        later = bisect.bisect_left(times, -(-target // parts))
        earlier = times[max(0, later - 1)]
        is_later = times[later] * parts - target <= target - earlier * parts
        picked.append(later if is_later else bisect.bisect_left(times, earlier))
    return np.array(picked, np.int64)


def fit_size(shown: tuple[int, fractions.Fraction], size: tuple[int, int], resize: str) -> tuple[int, int]:
    """Computes the size to scale a frame to before it is cropped or padded, keeping the frame's aspect ratio.

    Args:
      shown: height and width of the frame as displayed, in pixels.
      size: height and width that the frame must have after cropping or padding, in pixels.
      resize: Resize.CROP if the scaled frame must cover `size`, Resize.PAD if it must fit into `size`.

    Returns:
      A tuple of the height and width of the scaled frame.
    """
    fits_height = size[0] * shown[1] >= size[1] * shown[0]  # at the wanted height, it is at least as wide
    if fits_height == (resize == Resize.CROP):
        return size[0], max(1, round(shown[1] * size[0] / shown[0]))
    return max(1, round(shown[0] * size[1] / shown[1])), size[1]


def place_centred(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Crops an image to its centre, or pads it with black on both sides, separately for height and width.

    Args:
      image: the image, uint8 [h, w, 3].
      height, width: the wanted size in pixels.

    Returns:
      The cropped or padded image, uint8 [height, width, 3].
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
