"""Decodes the frames of clips from video files.

A clip needs few frames of a video, and decoding takes most of the time. So all packets are demuxed first,
which is cheap, and the frames are chosen from the descriptions of the packets. Then they are decoded in one
of three ways:
  - selectively, if the packets' headers show which packets yield a frame (MPEG-4 Part 2 without B-frames, as in
    UCF50): for each chosen frame, the decoder gets only the packets from the last keyframe up to the frame;
  - from a keyframe, for a segment of a video of another common codec: the decoder gets the packets from the last
    keyframe before the segment to the segment's last chosen frame;
  - in order, for all other videos: the decoder gets all packets, and frames are chosen again if the video
    yields other frames than its packets suggest.
All ways give the same pixels as decoding the whole video in order. One exception: where a damaged frame is concealed
with pixels of earlier frames, and the decoder does not say so, a segment's frames may differ. Frames before a segment
are counted by their packets, including damaged ones that do not decode.
"""

from __future__ import annotations

import bisect
import dataclasses
import fractions
import os
import pathlib
from collections.abc import Callable, Collection, Iterator
from typing import BinaryIO, Generic, TypeVar

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from ucf50_tfrecord import record, storage
from ucf50_tfrecord.choices import Playback, Resize
from ucf50_tfrecord.convert import mpeg4, sampling
from ucf50_tfrecord.convert.container import Container, Packet, VideoError, open_video, reading
from ucf50_tfrecord.convert.sampling import Timeline
from ucf50_tfrecord.jobs import Segment
from ucf50_tfrecord.specs import ClipFormat

Kept = TypeVar("Kept")

# Scaling that gives the same bytes on every CPU: it uses no approximate vector code.
_SCALING = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
# Decoders, by FFmpeg's names, of codecs whose keyframes depend on no earlier frame. In the tests, their frames from a
# keyframe on equal those of decoding everything.
_RANDOM_ACCESS = frozenset("h264 hevc vp9 libvpx-vp9 mpeg1video mpeg2video mpeg4 mjpeg".split())
# One reformatter per process: building its tables takes longer than scaling ten frames.
_REFORMATTER = VideoReformatter()


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodedClip:
    """The decoded frames of one clip of a video.

    frames: the clip's frames with their neighbours, uint8 [T, H, W, C], as ClipFormat describes them.
    frame_indices: int64 [T], positions of the clip's frames among the video's decodable frames.
    timestamps_us: int64 [T], times of the clip's frames, in microseconds from the start of the video or segment; of a
      clip that plays backward, from when its last frame is shown back to the frame.
    end_us: when the last frame of the video or segment ends, in microseconds from its start.
    frame_rate: mean frames per second that the container states; 0.0 if it states none.
    """

    frames: np.ndarray
    frame_indices: np.ndarray
    timestamps_us: np.ndarray
    end_us: int
    frame_rate: float


def decoder_version() -> str:
    """Returns names and versions of the libraries that decide decoded pixels: PyAV and parts of FFmpeg."""
    libraries = ("libavformat", "libavcodec", "libswscale")
    versions = [f"{name} {'.'.join(map(str, av.library_versions[name]))}" for name in libraries]
    return ", ".join([f"PyAV {av.__version__}", *versions])


@dataclasses.dataclass(frozen=True)
class Picked(Generic[Kept]):
    """The result of pick_frames: the chosen frames of a video.

    indices: positions of the chosen frames among the video's decodable frames, int64 [..., T].
    kept: a dictionary from a frame's position to the value that `keep` returned for the frame. It may also
      hold frames that were not chosen in the end.
    timeline: the times of all decodable frames of the video.
    """

    indices: np.ndarray
    kept: dict[int, Kept]
    timeline: Timeline


def decode_clips(
    file: BinaryIO,
    suffix: str,
    clip_format: ClipFormat,
    segment: Segment | None = None,
    playback: Playback = Playback.FORWARD,
) -> list[DecodedClip]:
    """Decodes the clips of a video, or of a segment of it, from its first video stream.

    The clips' frames are evenly spaced among the frames that can be decoded, because containers may state
    wrong numbers of frames. Spacing by time is used only if every frame has a time.

    Args:
      file: the video's open file.
      suffix: suffix of the file's name, such as ".avi".
      clip_format: the number of clips and of their frames, and the frames' size.
      segment: the part of the video that is decoded; None is the whole video.
      playback: the direction in which the clips play.

    Returns:
      A list of `clip_format.clips_per_video` clips.

    Raises:
      VideoError: if the file cannot be read, has no video stream, no frame can be decoded, or no frame is shown in
        the segment.
      MemoryError: if memory runs out.
    """

    def choose(timeline: Timeline) -> np.ndarray:
        first, stop = _frames_of(timeline, segment)
        return first + sampling.choose_frames(timeline.times[first:stop], clip_format, playback)

    picked = pick_frames(file, suffix, clip_format, choose, lambda picture: picture, is_part=bool(segment))
    return [_assemble(picked, indices, clip_format, segment, playback) for indices in picked.indices]


def _frames_of(timeline: Timeline, segment: Segment | None) -> tuple[int, int]:
    """Returns the number of a segment's first frame and that of the frame after its last; None is the whole video.

    Raises:
      VideoError: if no frame is shown in the segment.
    """
    if segment is None:
        return 0, len(timeline.times)
    shown_us = timeline.shown_us
    first = bisect.bisect_left(shown_us, segment.start_us)
    stop = len(shown_us) if segment.end_us is None else bisect.bisect_left(shown_us, segment.end_us)
    if first >= stop:
        end = "its end" if segment.end_us is None else f"{segment.end_us / 1e6:g} s"
        raise VideoError(
            f"no frame from {segment.start_us / 1e6:g} s to {end}; the video ends at {timeline.latest_us / 1e6:g} s"
        )
    return first, stop


def decode_file(
    path: str | os.PathLike,
    clip_format: ClipFormat,
    segment: Segment | None = None,
    playback: Playback = Playback.FORWARD,
) -> list[DecodedClip]:
    """Decodes the clips of a trusted video file in this process, without a worker process.

    Raises:
      VideoError: if the file cannot be opened or read, has no video stream, or no frame can be decoded.
      MemoryError: if memory runs out.
    """
    with reading(), storage.open_file(path) as file:
        return decode_clips(file, pathlib.Path(path).suffix, clip_format, segment, playback)


def pick_frames(
    file: BinaryIO,
    suffix: str,
    clip_format: ClipFormat,
    choose: Callable[[Timeline], np.ndarray],
    keep: Callable[[np.ndarray], Kept],
    *,
    is_part: bool = False,
) -> Picked[Kept]:
    """Decodes chosen frames of a video's first video stream, in one pass if possible.

    Frames are rotated as the video states and scaled by area averaging.

    Args:
      file: the video's open file.
      suffix: suffix of the file's name, such as ".avi".
      clip_format: the frames' size, and how frames are fitted to it.
      choose: maps the timeline of the video's frames to the positions of the frames to decode,
        int64 [..., T]. It is called again if the video yields other frames than its packets suggest.
      keep: maps a decoded frame, uint8 [H, W, 3], to the value to keep for it, so that frames need not stay
        in memory. It is called once per frame, mostly in the order of display.
      is_part: whether the chosen frames lie in one part of the video, so that decoding need not start with it.

    Returns:
      A Picked with the positions of the chosen frames and the kept values.

    Raises:
      VideoError: if the file cannot be read, has no video stream, or no frame can be decoded.
      MemoryError: if memory runs out.
    """
    with open_video(file, suffix) as source:
        packets = source.scan()
        picker = _Picker(source, packets, clip_format, choose, keep)
        picked = picker.pick_selectively() if _is_predictable(packets) else None
        if not picked and is_part and _may_start_at_keyframes(source.codec.name, packets):
            picked = picker.pick_from_keyframe()
        return picked or picker.pick_in_order()


def _is_predictable(packets: list[Packet]) -> bool:
    """Tells whether the descriptions of a video's packets show which packets yield a frame, in what order.

    For MPEG-4 Part 2 they do if all of these hold: every packet is an I-frame, a P-frame or an empty frame
    (not coded); the I-frames, and no others, are marked as keyframes; times ascend; no edit list drops frames.
    """
    if not packets or packets[0].coding_type != mpeg4.I_VOP:
        return False
    if packets[-1].coding_type == mpeg4.NOT_CODED:
        return False  # the decoder would show the previous frame again
    types_match = all(
        packet.coding_type in (mpeg4.I_VOP, mpeg4.P_VOP, mpeg4.NOT_CODED)
        and packet.is_keyframe == (packet.coding_type == mpeg4.I_VOP)
        and not packet.is_discard
        for packet in packets
    )
    times = [packet.pts for packet in packets]
    return types_match and None not in times and all(a < b for a, b in zip(times, times[1:]))


def _may_start_at_keyframes(codec: str, packets: list[Packet]) -> bool:
    """Tells whether decoding may start at a keyframe after the first, and which frames will be shown is known.

    It may for codecs whose keyframes depend on nothing before them, if each packet yields one frame: each has a time
    of its own, and none is dropped by an edit list. In MPEG-4 Part 2, also only I-frames are marked as keyframes, and
    each frame is coded.
    """
    if codec not in _RANDOM_ACCESS or not packets or not packets[0].is_keyframe:
        return False
    if codec == "mpeg4" and not all(
        packet.coding_type in (mpeg4.I_VOP, mpeg4.P_VOP, mpeg4.B_VOP)
        and packet.is_keyframe == (packet.coding_type == mpeg4.I_VOP)
        for packet in packets
    ):
        return False
    times = {packet.pts for packet in packets}
    has_times = None not in times and len(times) == len(packets)
    return has_times and not any(packet.is_discard for packet in packets)


class _Picker(Generic[Kept]):
    """Decodes the chosen frames of one video, as pick_frames describes."""

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
        """Decodes only the packets that the chosen frames need.

        Returns None if a packet yields other frames than its header states.
        """
        source, packets = self._source, self._packets
        # Packet number by frame number: packets that are not coded yield no frame.
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
            # FFmpeg conceals damage with the pixels of earlier frames, which may have been skipped here.
            if any(frame.pts != packet.pts or frame.is_corrupt for frame in frames):
                break
            if number in frame_at:
                self._take(frame_at[number], frames[0])
                if len(self._kept) == len(frame_at):
                    return Picked(indices, self._kept, timeline)
        self._kept = {}
        return None

    def pick_from_keyframe(self) -> Picked[Kept] | None:
        """Decodes the packets from the last keyframe before the chosen frames to the last chosen frame.

        The frames that are decoded must be those that the packets suggest. Returns None if they are not, as with
        damage, or if a keyframe needs earlier frames.
        """
        packets = self._packets
        shown = sorted(packet.pts for packet in packets if packet.pts is not None)
        timeline = self._timeline([*shown])
        indices = self._choose(timeline)
        wanted = {shown[index]: index for index in np.unique(indices).tolist()}
        start = _start_before(packets, min(wanted))
        expected = bisect.bisect_left(shown, packets[start].pts or 0)
        for frame in self._frames_from(start):
            if frame.pts is not None and frame.pts < shown[expected]:
                continue  # shown before the keyframe, so it may need frames that were not decoded
            if frame.is_corrupt or frame.pts != shown[expected]:
                break
            if frame.pts in wanted:
                self._take(wanted[frame.pts], frame)
                if len(self._kept) == len(wanted):
                    return Picked(indices, self._kept, timeline)
            expected += 1
        self._kept = {}
        return None

    def _frames_from(self, start: int) -> Iterator[av.VideoFrame]:
        """Decodes the packets from packet `start` on; yields the frames in the order of display."""
        source = self._source
        for number, packet in enumerate(source.replay()):
            if number == 0 and start:
                source.decode(
                    packet
                )  # some decoders learn from a video's first packet which encoder wrote it
                source.codec.flush_buffers()
            elif number >= start:
                yield from source.decode(packet)
        yield from source.decode(None)

    def pick_in_order(self) -> Picked[Kept]:
        """Decodes all packets and keeps the frames that are chosen from the descriptions of the packets.

        If the number of decoded frames differs from the descriptions, frames are chosen again, and those
        still missing are kept in a second pass.
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
        self._kept[index] = self._keep(fit_frame(frame, self._source.pixel_aspect, self._format))


def _packets_to(wanted: Collection[int], packets: list[Packet]) -> set[int]:
    """Returns the numbers of the packets needed to decode the wanted packets.

    For each wanted packet these are the packets from the last keyframe up to it.
    """
    keyframes = [i for i, packet in enumerate(packets) if packet.is_keyframe]
    needed: set[int] = set()
    reached = -1
    for last in sorted(wanted):
        # Each packet is added only once, because a long video may have one keyframe for many wanted frames.
        first = max(keyframes[bisect.bisect_right(keyframes, last) - 1], reached + 1)
        needed.update(range(first, last + 1))
        reached = last
    return needed


def _start_before(packets: list[Packet], first: int) -> int:
    """Returns the number of the last packet from which a frame and all frames shown after it can be decoded.

    Args:
      packets: the descriptions of all packets; each has a time.
      first: the time of the frame.
    """
    start, latest = 0, None
    for number, packet in enumerate(packets):
        pts = packet.pts or 0
        if packet.is_keyframe and pts <= first and (latest is None or latest < pts):
            start = number
        latest = pts if latest is None else max(latest, pts)
    return start


def fit_frame(frame: av.VideoFrame, pixel_aspect: fractions.Fraction, clip_format: ClipFormat) -> np.ndarray:
    """Returns a frame scaled to the clips' size and rotated upright, uint8 [H, W, 3]."""
    quarter_turns = round(frame.rotation / 90) % 4
    height, width = clip_format.height, clip_format.width
    if quarter_turns % 2:
        height, width = width, height
    if clip_format.resize != Resize.STRETCH:
        shown = frame.height, frame.width * pixel_aspect
        height, width = sampling.fit_size(shown, (height, width), clip_format.resize)
    scaled = _REFORMATTER.reformat(frame, width, height, "rgb24", interpolation=_SCALING, threads=1)
    upright = np.rot90(scaled.to_ndarray(), quarter_turns)
    return sampling.place_centred(upright, clip_format.height, clip_format.width)


def _assemble(
    picked: Picked[np.ndarray],
    indices: np.ndarray,
    clip_format: ClipFormat,
    segment: Segment | None,
    playback: Playback,
) -> DecodedClip:
    """Builds a clip from its video's kept frames; `indices` are a row of what sampling.choose_frames returns."""
    timeline = picked.timeline
    frames = np.stack([picked.kept[i] for i in indices.tolist()])
    if clip_format.motion_frames:
        frames = record.stack_neighbours(frames, clip_format)
        indices = indices[:: 1 + clip_format.motion_frames]
    start_us = segment.start_us if segment else 0
    timestamps_us = np.array([timeline.microseconds(i) - start_us for i in indices.tolist()], np.int64)
    if playback == Playback.BACKWARD:
        last = _frames_of(timeline, segment)[1] - 1
        timestamps_us = timeline.microseconds(last) - start_us - timestamps_us
    end_us = timeline.end_us
    if segment and segment.end_us is not None:
        end_us = min(end_us, segment.end_us)
    return DecodedClip(
        frames=frames,
        frame_indices=indices,
        timestamps_us=timestamps_us,
        end_us=end_us - start_us,
        frame_rate=timeline.frame_rate,
    )
