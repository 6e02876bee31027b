"""Cuts a stream of video into windows while it arrives, and takes clips from each as soon as it is complete.

Windows and frames are those that sampling.cut_windows and choose_window_frames choose in a recorded video. Of the
stream, only the frames that windows still need are kept: those of one window, as none can be chosen before the
window's last frame is known. So memory does not grow.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterator
from typing import Annotated, BinaryIO

import msgspec
import numpy as np

from ucf50_tfrecord import record
from ucf50_tfrecord.convert import decode, sampling
from ucf50_tfrecord.convert.container import Undecodable, VideoError, open_stream
from ucf50_tfrecord.specs import ClipFormat, WindowSpec

_PROGRESS_SECS = 0.25  # the progress is not reported more often
_Microseconds = Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)]


class Window(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    """A window of a stream, with its clips; a worker process's answer.

    start_us, end_us: its start and end, in microseconds from the stream's first frame.
    num_frames: number of frames that are shown in it.
    frame_rate: mean frames per second that the stream's container states; 0.0 if it states none.
    clips: the bytes of uint8 [clips_per_video, T, H, W, C], as ClipFormat describes them.
    """

    start_us: _Microseconds
    end_us: _Microseconds
    num_frames: Annotated[int, msgspec.Meta(ge=1, lt=1 << 53)]
    frame_rate: Annotated[float, msgspec.Meta(ge=0, le=1e9)]
    clips: bytes


class Progress(msgspec.Struct, tag=True, forbid_unknown_fields=True):
    """How much of a stream is decoded; a worker process's answer.

    num_frames: number of its frames.
    end_us: the end of its last frame, in microseconds from the stream's first frame.
    """

    num_frames: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
    end_us: _Microseconds


def decode_stream(
    clip_format: ClipFormat, windows: WindowSpec, name: str, file: BinaryIO
) -> Iterator[Window | Progress | Undecodable]:
    """Decodes a stream's first video stream frame by frame, as the bytes arrive; runs in a worker process.

    Args:
      clip_format: the format of the clips.
      windows: the length and the distance of windows; whole_secs does not count.
      name: the stream's name, which is not used.
      file: the open file, such as a pipe, that is read from its current position to its end.

    Yields:
      Each window once it is complete. The last one ends with the stream; it is shorter than others if it is the only
      one. Also the progress, regularly while frames arrive, and at the end. If the stream cannot be read, has no
      video, no frame decodes, or its frames have no times, Undecodable comes last.

    Raises:
      MemoryError: if memory runs out.
    """
    cutter, failed = None, None
    try:
        with open_stream(file) as source:
            cutter = StreamCutter(clip_format, windows, source.time_base_secs, source.frame_rate)
            said = time.monotonic()
            for frame in source.frames_once():
                yield from cutter.add(frame.pts, decode.fit_frame(frame, source.pixel_aspect, clip_format))
                if time.monotonic() >= said + _PROGRESS_SECS:
                    said = time.monotonic()
                    yield cutter.progress
            if not cutter.progress.num_frames:
                raise VideoError("no frame decodes")
            yield from cutter.finish()
    except VideoError as error:
        failed = Undecodable.of(error)
    if cutter:
        yield cutter.progress
    if failed:
        yield failed


class StreamCutter:
    """Cuts frames that arrive one by one into windows.

    Times that go back by less than a window count as the latest time before, as in a recorded video. If they go back
    further, the stream's clock was set back, as when its sender starts again or its counter overflows: the frame is
    then shown right after the frame before it. Otherwise no window would end until the clock had caught up.
    """

    def __init__(
        self, clip_format: ClipFormat, windows: WindowSpec, time_base_secs: float, frame_rate: float
    ):
        self._format, self._cutter = clip_format, sampling.WindowCutter(windows)
        self._time_base_secs, self._frame_rate = time_base_secs, frame_rate
        self._frame_secs = 1 / frame_rate if frame_rate else 0.0
        self._num_frames, self._end_us = 0, 0
        self._first_secs = 0.0
        self._shift = 0  # added to times, in units of time_base_secs
        # The times when the kept frames are shown, in microseconds from the first frame; their own times, in units of
        # time_base_secs; and their pixels.
        self._shown_us: list[int] = []
        self._times: list[int | None] = []
        self._pictures: list[np.ndarray] = []

    @property
    def progress(self) -> Progress:
        """The frames that are added so far."""
        return Progress(self._num_frames, self._end_us)

    def add(self, pts: int | None, picture: np.ndarray) -> Iterator[Window]:
        """Adds the next frame in the order of display; yields the windows that are complete now.

        Args:
          pts: the frame's time in units of time_base_secs; None if it is unknown.
          picture: the frame, uint8 [H, W, 3].

        Raises:
          VideoError: if neither the frame's time nor the frame rate is known.
        """
        if pts is None and not self._frame_rate:
            raise VideoError("its frames have no times, and it states no frame rate")
        pts, secs = self._place(pts)
        self._shown_us.append(max(self._shown_us[-1] if self._shown_us else 0, self._microseconds(secs)))
        self._times.append(pts)
        self._pictures.append(picture)
        self._num_frames += 1
        self._end_us = max(self._shown_us[-1], self._microseconds(secs, self._frame_secs))
        # At the end of a stream without a frame rate, a window may hold a frame that is shown when the window ends.
        # So a window is complete only when a frame is shown later.
        before_us = self._shown_us[-1] - self._cutter.window_us
        for start_us in self._cutter.starts(self._shown_us, before_us):
            yield self._window(start_us, start_us + self._cutter.window_us)
        self._forget(min(before_us, self._cutter.start_us))

    def finish(self) -> Iterator[Window]:
        """Yields the windows that the stream's end completes."""
        last_us = self._end_us - self._cutter.window_us
        if last_us <= 0:
            yield self._window(0, self._end_us, is_last=True)
            return
        for start_us in self._cutter.starts(self._shown_us, last_us):
            yield self._window(start_us, start_us + self._cutter.window_us)
        if last_us <= self._shown_us[-1]:
            yield self._window(last_us, self._end_us, is_last=True)

    def _place(self, pts: int | None) -> tuple[int | None, float]:
        """Returns a frame's time on the clock that is never set back, and the same in seconds."""
        if pts is None:
            return None, self._num_frames * self._frame_secs
        pts += self._shift
        secs = pts * self._time_base_secs
        if not self._num_frames:
            self._first_secs = secs
        elif self._microseconds(secs) < self._shown_us[-1] - self._cutter.window_us:
            next_secs = self._first_secs + self._shown_us[-1] / 1e6 + self._frame_secs
            placed = max(round(next_secs / self._time_base_secs), pts + 1)
            self._shift += placed - pts
            return placed, placed * self._time_base_secs
        return pts, secs

    def _microseconds(self, secs: float, more_secs: float = 0.0) -> int:
        """Returns a time in microseconds from the first frame, computed and rounded as by sampling.Timeline."""
        return round((secs - self._first_secs + more_secs) * 1e6)

    def _window(self, start_us: int, end_us: int, *, is_last: bool = False) -> Window:
        first = bisect.bisect_left(self._shown_us, start_us)
        stop = len(self._shown_us) if is_last else bisect.bisect_left(self._shown_us, end_us)
        indices = first + sampling.choose_frames(self._times[first:stop], self._format)
        pictures = {i: record.as_read(self._pictures[i], self._format) for i in np.unique(indices).tolist()}
        clips = np.stack([pictures[i] for i in indices.ravel().tolist()])
        clips = clips.reshape(*indices.shape, *clips.shape[1:])
        if self._format.motion_frames:
            clips = record.stack_neighbours(clips, self._format)
        return Window(start_us, end_us, stop - first, self._frame_rate, clips.tobytes())

    def _forget(self, before_us: int) -> None:
        """Drops the frames that are shown before a time that no further window reaches."""
        count = bisect.bisect_left(self._shown_us, before_us)
        for kept in (self._shown_us, self._times, self._pictures):
            del kept[:count]
