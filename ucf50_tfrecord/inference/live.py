"""Windows of a stream for prediction, in the order in which they are complete; a slow model skips older ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from ucf50_tfrecord import workers
from ucf50_tfrecord.inference import decoding
from ucf50_tfrecord.inference.decoding import Failed, StreamProgress, StreamWindow
from ucf50_tfrecord.inference.sources import Stream
from ucf50_tfrecord.specs import ClipFormat, DecodeLimits, WindowSpec

_WATCH_SECS = 0.2


class LiveWindows:
    """Decodes a stream in a worker process, while the caller predicts its windows.

    At most one window waits for the caller. A newer one replaces it, so that predictions stay close to the present and
    memory does not grow. It is a context manager; leaving it stops the worker process.

    num_dropped: number of windows that were replaced.
    num_frames: number of frames of the stream that are decoded.
    end_us: the end of the last of these frames, in microseconds from the stream's first frame.
    failed: the reason why the stream broke off; None while it has not.

    Args:
      stream: the open stream.
      clip_format: format of the clips that the model was trained on.
      windows: the length and the distance of windows; whole_secs does not count.
      limits: limits on the memory and rights of the worker process.
      stall_secs: largest time in which no frame arrives.
    """

    def __init__(
        self,
        stream: Stream,
        clip_format: ClipFormat,
        windows: WindowSpec,
        *,
        limits: DecodeLimits,
        stall_secs: float,
    ):
        self._stream, self._stall_secs = stream, stall_secs
        self._call = decoding.stream_call(clip_format, windows, stall_secs, stream.take_file)
        self._pool = workers.IsolatedPool.within(limits)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._changed = threading.Condition()
        self._waiting: StreamWindow | None = None
        self._has_ended = False
        self._error: BaseException | None = None
        self.num_dropped, self.num_frames, self.end_us = 0, 0, 0
        self.failed: Failed | None = None

    def __enter__(self) -> LiveWindows:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._pool.close()
        self._thread.join()

    def __call__(self, should_stop: Callable[[], bool]) -> Iterator[StreamWindow]:
        """Yields the windows, until the stream ends or should_stop tells to stop; `failed` then says how it ended.

        Args:
          should_stop: called regularly.

        Raises:
          UserError: if no worker process can be started.
        """
        while not should_stop():
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._has_ended, _WATCH_SECS)
                window, self._waiting = self._waiting, None
                has_ended = self._has_ended
            if window:
                yield window
            elif has_ended:
                if self._error:
                    raise self._error
                return

    def _read(self) -> None:
        """Receives the worker's results; runs in a thread of its own, so that the worker need not wait."""
        failed = None
        try:
            for result in self._pool.stream(self._call, self._stream.name):
                if isinstance(result, (Failed, workers.Failure)):
                    failed = self._explain(result)
                else:
                    self._receive(result)
            problem = self._stream.problem()
            if problem:
                failed = Failed(problem, "unreadable")
        except workers.Cancelled:
            pass
        except BaseException as error:  # raised in the caller's thread
            self._error = error
        finally:
            with self._changed:
                self.failed, self._has_ended = failed, True
                self._changed.notify()

    def _receive(self, result: StreamWindow | StreamProgress) -> None:
        with self._changed:
            if isinstance(result, StreamProgress):
                self.num_frames, self.end_us = result.num_frames, result.end_us
                return
            self.num_dropped += self._waiting is not None
            self._waiting = result
            self._changed.notify()

    def _explain(self, failed: Failed | workers.Failure) -> Failed:
        if failed.cause == "timeout":
            return Failed(f"no frame arrived for {self._stall_secs:g} s", "stall")
        return Failed(failed.reason, failed.cause)
