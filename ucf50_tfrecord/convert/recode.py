"""Codes a video again, with a loss: by H.264, at a lower frame rate or resolution, or with parts missing.

The result is a temporary video, from which clips are taken as from any other. Losses other than those of H.264
are made without further ones, as the result is then stored by H.264 without loss.
"""

from __future__ import annotations

import dataclasses
import fractions
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, cast

import av
import numpy as np
from av.video.reformatter import Interpolation

from ucf50_tfrecord.choices import Recoding
from ucf50_tfrecord.convert.container import Container, VideoError, new_video, open_video
from ucf50_tfrecord.convert.sampling import Timeline
from ucf50_tfrecord.specs import ClipFormat

_ENCODER = "libx264"
_LOSSLESS = {"qp": "0"}
_PRESET = "veryfast"
# With the macroblock tree, x264 gives other bytes now and then: its lookahead reads memory that nothing has written.
_STABLE = "no-mbtree=1"
_SENT_QUALITY = 23  # constant rate factor of a video that is sent over a network
_SLICES = 8  # per frame; each is a packet of the network
_FALLBACK_RATE = 25.0  # frames per second of a video that states none
_START_CODE = re.compile(b"\\x00\\x00\\x01")
_SLICE_UNITS = (1, 5)  # types of the units of H.264 that hold a slice of a frame


@dataclasses.dataclass(frozen=True)
class Change:
    """How a video is coded again.

    recoding: what is lost.
    strength: the rate factor, the divisor of the bit rate, the fraction of lost slices, the frame rate, or the
      height in between as a fraction of the clips' height.
    seed: seed of the random numbers that choose lost slices. The same slices are lost at any larger fraction.
    """

    recoding: Recoding
    strength: float
    seed: int = 0


def recode(source: BinaryIO, suffix: str, target: BinaryIO, change: Change, clip_format: ClipFormat) -> None:
    """Codes the first video stream of a video again.

    Args:
      source: the video's open file.
      suffix: suffix of the file's name, such as ".avi".
      target: open file for the new video, in the format of container.NEW_SUFFIX. It is emptied first.
      change: how the video is coded again.
      clip_format: the format of the clips that will be taken from the new video.

    Raises:
      VideoError: if the video cannot be read, no frame can be decoded, or the new video cannot be written.
      MemoryError: if memory runs out.
    """
    with open_video(source, suffix) as video, new_video(target) as output:
        packets = video.scan()
        times = sorted(p.pts for p in packets if p.pts is not None) or [0]
        secs = Timeline(times, video.time_base_secs, video.frame_rate).end_us / 1e6
        rate = video.frame_rate or _FALLBACK_RATE
        bit_rate = 8 * os.fstat(source.fileno()).st_size / max(secs, 1 / rate)
        frames = _timed(video, rate)
        if change.recoding == Recoding.FRAME_RATE:
            frames = _thin_out(frames, change.strength)
        elif change.recoding == Recoding.HEIGHT:
            frames = (_coarsen(frame, round(change.strength * clip_format.height)) for frame in frames)
        _write(frames, output, _encoder_options(change, bit_rate), video, rate, _lose(change))


def _timed(video: Container, rate: float) -> Iterator[av.VideoFrame]:
    """Yields a video's frames upright, at times that ascend."""
    base = fractions.Fraction(video.time_base_secs).limit_denominator(1 << 30)
    step = max(1, round(1 / (rate * base)))
    last = -step
    for frame in video.frames():
        upright = _turn(frame)
        time = last + step if frame.pts is None else max(frame.pts, last + 1)
        upright.pts, upright.time_base, last = time, base, time
        yield upright


def _turn(frame: av.VideoFrame) -> av.VideoFrame:
    """Returns a frame rotated as the video states."""
    quarter_turns = round(frame.rotation / 90) % 4
    if not quarter_turns:
        return frame
    turned = np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns)
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(turned, np.uint8), format="rgb24")


def _thin_out(frames: Iterable[av.VideoFrame], rate: float) -> Iterator[av.VideoFrame]:
    """Yields the first frame in each period of a lower frame rate."""
    first, shown = None, -1
    for frame in frames:
        first = frame.pts if first is None else first
        period = int((frame.pts - first) * frame.time_base * fractions.Fraction(rate))
        if period > shown:
            shown = period
            yield frame


def _coarsen(frame: av.VideoFrame, height: int) -> av.VideoFrame:
    """Returns a frame that is scaled down to a height, if it is higher, and up again to its size."""
    if height >= frame.height:
        return frame
    width = max(2, round(frame.width * height / frame.height))
    small = frame.reformat(width, max(2, height), interpolation=Interpolation.AREA)
    large = small.reformat(frame.width, frame.height, interpolation=Interpolation.BICUBIC)
    large.pts, large.time_base = frame.pts, frame.time_base
    return large


def _encoder_options(change: Change, bit_rate: float) -> dict[str, str]:
    """Returns the options of the encoder."""
    match change.recoding:
        case Recoding.QUALITY:
            return {"crf": f"{change.strength:g}"}
        case Recoding.BIT_RATE:
            # One kilobit per second is the least that the encoder accepts.
            return {"b": str(max(1000, round(bit_rate / change.strength)))}
        case Recoding.LOSS:
            return {"crf": str(_SENT_QUALITY), "slices": str(_SLICES)}
    return _LOSSLESS


def _write(
    frames: Iterator[av.VideoFrame],
    output: av.container.OutputContainer,
    options: dict[str, str],
    video: Container,
    rate: float,
    lose: Callable[[int, bytes], bytes],
) -> None:
    """Encodes frames into a container.

    Args:
      frames: the frames, upright.
      output: the container.
      options: options of the encoder.
      video: the video that the frames are of.
      rate: the video's frames per second.
      lose: maps a packet's number and content to what arrives of it.
    """
    first = next(frames, None)
    if first is None:
        raise VideoError("no frame decodes")
    frames_per_sec = fractions.Fraction(rate).limit_denominator(1 << 16)
    stream = cast(av.VideoStream, output.add_stream(_ENCODER, rate=frames_per_sec))
    # Pictures with halved colour need even sides.
    width, height = (max(2, side // 2 * 2) for side in (first.width, first.height))
    stream.pix_fmt = "yuv420p"
    if options == _LOSSLESS:
        stream.pix_fmt = _lossless_format(first)
        width, height = first.width, first.height
    stream.width, stream.height = width, height
    stream.options = {"preset": _PRESET, "x264-params": _STABLE, **options}
    context = stream.codec_context
    is_turned = (first.width > first.height) != (video.codec.width > video.codec.height)
    context.sample_aspect_ratio = 1 / video.pixel_aspect if is_turned else video.pixel_aspect
    for name in ("color_range", "colorspace"):  # by which the decoder's frames are converted to RGB
        setattr(context, name, getattr(first, name))
    context.thread_count, context.time_base = 1, first.time_base
    number = 0
    for frame in _with_first(first, frames):
        shown = frame.reformat(width, height, stream.pix_fmt)
        shown.pts, shown.time_base = frame.pts, frame.time_base
        shown.pict_type = 0  # the encoder chooses keyframes itself
        for packet in stream.encode(shown):
            number = _send(output, stream, packet, number, lose)
    for packet in stream.encode(None):
        number = _send(output, stream, packet, number, lose)


def _with_first(first: av.VideoFrame, others: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    yield first
    yield from others


def _lossless_format(frame: av.VideoFrame) -> str:
    """Returns the pixel format to encode a frame in without loss: its own, if the encoder has it for its size."""
    known = {kind.name for kind in av.codec.Codec(_ENCODER, "w").video_formats}
    is_even = frame.width % 2 == 0 and frame.height % 2 == 0
    return frame.format.name if is_even and frame.format.name in known else "yuv444p"


def _send(
    output: av.container.OutputContainer,
    stream: av.VideoStream,
    packet: av.Packet,
    number: int,
    lose: Callable[[int, bytes], bytes],
) -> int:
    """Writes what arrives of a packet; returns the number of the next packet."""
    content = bytes(packet)
    arrived = lose(number, content)
    if arrived == content:
        output.mux(packet)
    elif arrived:
        cut = av.Packet(arrived)
        cut.pts, cut.dts, cut.time_base = packet.pts, packet.dts, packet.time_base
        cut.is_keyframe, cut.stream = packet.is_keyframe, stream
        output.mux(cut)
    return number + 1


def _lose(change: Change) -> Callable[[int, bytes], bytes]:
    """Returns the function that drops slices from packets. The first packet, a keyframe, arrives as it is."""
    if change.recoding != Recoding.LOSS:
        return lambda number, content: content
    rng = np.random.default_rng(change.seed)

    def drop(number: int, content: bytes) -> bytes:
        if number == 0:
            return content
        return b"".join(
            unit for unit in _units(content) if not (_is_slice(unit) and rng.random() < change.strength)
        )

    return drop


def _units(content: bytes) -> list[bytes]:
    """Splits a packet of H.264 into its units, each with the start code before it."""
    starts = [match.start() for match in _START_CODE.finditer(content)]
    return [content[start:end] for start, end in zip([0, *starts[1:]], [*starts[1:], len(content)])]


def _is_slice(unit: bytes) -> bool:
    match = _START_CODE.search(unit)
    return bool(match) and match.end() < len(unit) and unit[match.end()] & 31 in _SLICE_UNITS
