"""Video files to frames.

A clip needs a few frames of a video, and decoding is what costs. So all packets are
demuxed first (cheap), the wanted frames are chosen from what the packets say, and then
  - selectively: where the packets' headers tell which of them yield a frame (MPEG-4
    Part 2 without B-frames, as in UCF50), the decoder gets only the packets from the
    keyframe before each wanted frame up to it;
  - in order: elsewhere it gets all packets, and the choice is made again if other frames
    came out than the packets let expect.
Either way the pixels are those of decoding everything in order and then picking.
"""

from __future__ import annotations

import bisect
import dataclasses
import fractions
import os
import pathlib
from collections.abc import Callable, Collection
from typing import BinaryIO, Generic, TypeVar

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from ucf50_tfrecord import storage
from ucf50_tfrecord.convert import mpeg4, sampling
from ucf50_tfrecord.convert.container import Container, Packet, VideoError, open_video, reading
from ucf50_tfrecord.convert.sampling import Timeline
from ucf50_tfrecord.specs import ClipFormat

Kept = TypeVar("Kept")

# The same bytes on every CPU: no approximate vector code in scaling and inverse transforms.
_SCALING = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
# One for the process: its tables cost more to build than ten frames cost to scale.
_REFORMATTER = VideoReformatter()


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodedClip:
    """The frames picked from a video.

    frames: uint8 [T, H, W, 3], RGB.
    frame_indices: int64 [T], positions among the frames that decode.
    timestamps_us: int64 [T], microseconds from the first frame.
    end_us: microseconds from the first frame to the end of the last.
    frame_rate: mean frames per second as the container states it, 0.0 if it does not.
    """

    frames: np.ndarray
    frame_indices: np.ndarray
    timestamps_us: np.ndarray
    end_us: int
    frame_rate: float


def decoder_version() -> str:
    """Names what decides the pixels: PyAV and the FFmpeg libraries it carries."""
    libraries = ("libavformat", "libavcodec", "libswscale")
    versions = [f"{name} {'.'.join(map(str, av.library_versions[name]))}" for name in libraries]
    return ", ".join([f"PyAV {av.__version__}", *versions])


@dataclasses.dataclass(frozen=True)
class Picked(Generic[Kept]):
    """The frames chosen of a video.

    indices: int64 [..., T], positions among the frames that decode.
    kept: what was kept of each of them, by index; of other frames too, where a guess was wrong.
    timeline: of all frames that decode.
    """

    indices: np.ndarray
    kept: dict[int, Kept]
    timeline: Timeline


def decode_clips(file: BinaryIO, suffix: str, clip_format: ClipFormat) -> list[DecodedClip]:
    """Decodes a video's first video stream and picks the frames of its clips.

    The frames are spread over those that really decode, since containers lie about their
    number; in time they can be spread only where every frame has one.

    Args:
      file, suffix: the open video; see container.Container.
      clip_format: how many frames and clips, and their size.

    Returns:
      `clip_format.clips_per_video` clips.

    Raises:
      VideoError, MemoryError: as pick_frames does.
    """

    def choose(timeline: Timeline) -> np.ndarray:
        return sampling.choose_frames(timeline.times, clip_format)

    picked = pick_frames(file, suffix, clip_format, choose, lambda picture: picture)
    return [_assemble(picked, indices) for indices in picked.indices]


def decode_file(path: str | os.PathLike, clip_format: ClipFormat) -> list[DecodedClip]:
    """Decodes the clips of a video by its path, in this process: for videos that are trusted.

    Raises:
      VideoError, MemoryError: as pick_frames does, or if the file cannot be opened.
    """
    with reading(), storage.open_file(path) as file:
        return decode_clips(file, pathlib.Path(path).suffix, clip_format)


def pick_frames(
    file: BinaryIO,
    suffix: str,
    clip_format: ClipFormat,
    choose: Callable[[Timeline], np.ndarray],
    keep: Callable[[np.ndarray], Kept],
) -> Picked[Kept]:
    """Decodes the chosen frames of a video's first video stream, in one pass where that can be.

    They are turned as the video's rotation says and scaled by area averaging.

    Args:
      file, suffix: the open video; see container.Container.
      clip_format: the size of frames, and how they come to it.
      choose: picks frames, int64 [..., T], by when they are shown. It is asked again where other
        frames decode than the file lets expect.
      keep: takes a frame, uint8 [H, W, 3], and returns what is to be kept of it; each frame once, mostly
        in the order of display. So frames need not stay in memory.

    Raises:
      VideoError: if the file cannot be read, has no video stream, or no frame of it decodes.
      MemoryError: if there is not enough memory.
    """
    with open_video(file, suffix) as source:
        packets = source.scan()
        picker = _Picker(source, packets, clip_format, choose, keep)
        picked = picker.pick_selectively() if _is_predictable(packets) else None
        return picked or picker.pick_in_order()


def _is_predictable(packets: list[Packet]) -> bool:
    """Tells whether it is known without decoding which packets yield a frame, in which order.

    Holds for MPEG-4 Part 2 where every packet is an I-frame, a P-frame or not coded, the
    keyframe flags are those of the I-frames, times ascend, and no edit list cuts.
    """
    if not packets or packets[0].coding_type != mpeg4.I_VOP:
        return False
    if packets[-1].coding_type == mpeg4.NOT_CODED:
        return False  # the decoder then shows the frame before it once more
    types_match = all(
        packet.coding_type in (mpeg4.I_VOP, mpeg4.P_VOP, mpeg4.NOT_CODED)
        and packet.is_keyframe == (packet.coding_type == mpeg4.I_VOP)
        and not packet.is_discard
        for packet in packets
    )
    times = [packet.pts for packet in packets]
    return types_match and None not in times and all(a < b for a, b in zip(times, times[1:]))


class _Picker(Generic[Kept]):
    """Decodes chosen frames of one video; see pick_frames."""

    def __init__(
        self,
        source: Container,
        packets: list[Packet],
        clip_format: ClipFormat,
        choose: Callable[[Timeline], np.ndarray],
        keep: Callable[[np.ndarray], Kept],
    ):
        self._source, self._packets, self._format = source, packets, clip_format
        self._choose, self._keep = choose, keep
        self._kept: dict[int, Kept] = {}

    def pick_selectively(self) -> Picked[Kept] | None:
        """Decodes only what leads to the wanted frames; None if a packet does not keep its promise."""
        source, packets = self._source, self._packets
        # Frame number to packet number: packets that are not coded yield no frame.
        packet_of = [i for i, packet in enumerate(packets) if packet.coding_type != mpeg4.NOT_CODED]
        timeline = self._timeline([packets[i].pts for i in packet_of])
        indices = self._choose(timeline)
        frame_at = {packet_of[frame]: frame for frame in np.unique(indices).tolist()}
        needed = _packets_to(frame_at, packets)
        previous = -1
        for number, packet in enumerate(source.replay()):
            if number not in needed:
                continue
            if number != previous + 1:
                source.codec.flush_buffers()
            previous = number
            frames = source.decode(packet)
            if len(frames) != (packets[number].coding_type != mpeg4.NOT_CODED):
                break
            # A damaged frame is patched up with what the frames before it showed, needed or not.
            if any(frame.pts != packet.pts or frame.is_corrupt for frame in frames):
                break
            if number in frame_at:
                self._take(frame_at[number], frames[0])
                if len(self._kept) == len(frame_at):
                    return Picked(indices, self._kept, timeline)
        self._kept = {}
        return None

    def pick_in_order(self) -> Picked[Kept]:
        """Decodes everything, converting the frames that the packets let expect.

        Where another number of frames came out, those still missing are converted in a second pass.
        """
        shown = [p.pts for p in self._packets if p.coding_type != mpeg4.NOT_CODED and not p.is_discard]
        indices = self._choose(self._timeline((shown if None in shown else sorted(shown)) or [None]))
        for _ in range(2):
            pts: list[int | None] = []
            wanted = set(np.unique(indices).tolist())
            for index, frame in enumerate(self._source.frames()):
                pts.append(frame.pts)
                if index in wanted and index not in self._kept:
                    self._take(index, frame)
            if not pts:
                raise VideoError("no frame decodes")
            timeline = self._timeline(pts)
            indices = self._choose(timeline)
            if self._kept.keys() >= set(np.unique(indices).tolist()):
                return Picked(indices, self._kept, timeline)
        raise VideoError("another number of frames decodes each time")

    def _timeline(self, times: list[int | None]) -> Timeline:
        return Timeline(times, self._source.time_base_secs, self._source.frame_rate)

    def _take(self, index: int, frame: av.VideoFrame) -> None:
        self._kept[index] = self._keep(_convert(frame, self._source.pixel_aspect, self._format))


def _packets_to(wanted: Collection[int], packets: list[Packet]) -> set[int]:
    """Returns the packets from the keyframe before each wanted one up to it."""
    keyframes = [i for i, packet in enumerate(packets) if packet.is_keyframe]
    needed: set[int] = set()
    reached = -1
    for last in sorted(wanted):
        # No packet twice: of a long video every tenth frame may be wanted, with one keyframe for all.
        first = max(keyframes[bisect.bisect_right(keyframes, last) - 1], reached + 1)
        needed.update(range(first, last + 1))
        reached = last
    return needed


def _convert(frame: av.VideoFrame, pixel_aspect: fractions.Fraction, clip_format: ClipFormat) -> np.ndarray:
    """Scales a frame and turns it upright: uint8 [H, W, 3]."""
    quarter_turns = round(frame.rotation / 90) % 4
    height, width = clip_format.height, clip_format.width
    if quarter_turns % 2:
        height, width = width, height
    if clip_format.resize != "stretch":
        shown = frame.height, frame.width * pixel_aspect
        height, width = sampling.fit_size(shown, (height, width), clip_format.resize)
    scaled = _REFORMATTER.reformat(frame, width, height, "rgb24", interpolation=_SCALING, threads=1)
    upright = np.rot90(scaled.to_ndarray(), quarter_turns)
    return sampling.place_centred(upright, clip_format.height, clip_format.width)


def _assemble(picked: Picked[np.ndarray], indices: np.ndarray) -> DecodedClip:
    """Stacks one clip's frames."""
    timeline = picked.timeline
    return DecodedClip(
        frames=np.stack([picked.kept[i] for i in indices.tolist()]),
        frame_indices=indices,
        timestamps_us=np.array([timeline.microseconds(i) for i in indices.tolist()], np.int64),
        end_us=timeline.end_us,
        frame_rate=timeline.frame_rate,
    )
