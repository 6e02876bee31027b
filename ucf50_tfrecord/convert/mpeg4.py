"""Reads the frame types of MPEG-4 Part 2 video streams (Xvid, DivX) from the headers of their packets.

Usually each packet yields one frame, in the order of packets. Two kinds of frames break this rule: frames
marked as not coded, which yield no picture, and B-frames, alone or two in one packet. The headers show both
without decoding.

Source: ISO/IEC 14496-2, 6.2.3 (video object layer) and 6.2.5 (video object plane).
"""

from __future__ import annotations

import re

_VOL_START = re.compile(rb"\x00\x00\x01[\x20-\x2f]")
# The header of a group of frames carries only the time of day, which matters to B-frames only.
_GROUP = re.compile(rb"\x00\x00\x01\xb3.*?(?=\x00\x00\x01|\Z)", re.DOTALL)
_START = b"\x00\x00\x01"
_VOP_START = _START + b"\xb6"
_GRAYSCALE, _EXTENDED_ASPECT = 3, 15
_MAX_SECONDS = 60
_HEADER_BITS = 160
I_VOP, P_VOP, B_VOP, S_VOP, NOT_CODED = range(5)


class _Bits:
    """Reads bits from bytes, the most significant bit first. Bits past the end are zero."""

    def __init__(self, data: bytes):
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def read(self, count: int) -> int:
        self._left -= count
        shifted = self._value >> self._left if self._left >= 0 else self._value << -self._left
        return shifted & ((1 << count) - 1)


class FrameTypes:
    """Reads the frame types of one MPEG-4 stream from its packets, which must be given in order.

    A frame type is I_VOP, P_VOP, B_VOP, S_VOP or NOT_CODED.
    """

    def __init__(self, extradata: bytes):
        self._headers: bytes | None = None
        self._layer = _layer_header(extradata)
        self._increment_bits = _time_increment_bits(self._layer)

    def read(self, packet: bytes) -> int | None:
        """Returns the type of the frame in the next packet; NOT_CODED if the frame yields no picture.

        Returns None if the packet does not hold exactly one frame, if the frame's header is damaged, or if
        the packet has other stream headers than the first packet.
        """
        start = packet.find(_VOP_START)
        if start < 0 or packet.find(_VOP_START, start + 4) >= 0:
            return None
        if (start or self._headers is None) and not self._takes_headers(packet[:start]):
            return None
        if not self._increment_bits:
            return None
        # For speed the header is one integer, which is shifted: this runs for every packet of every video.
        header = int.from_bytes(
            packet[start + 4 : start + 4 + _HEADER_BITS // 8].ljust(_HEADER_BITS // 8, b"\0")
        )
        left = _HEADER_BITS - 2
        kind = header >> left
        for _ in range(_MAX_SECONDS):  # modulo_time_base: one bit 1 for each second that has passed
            left -= 1
            if not header >> left & 1:
                break
        else:
            return None
        after_time = left - 1 - self._increment_bits
        markers = header >> left - 1 & header >> after_time - 1 & 1
        if not markers:
            return None
        return kind if header >> after_time - 2 & 1 else NOT_CODED

    def _takes_headers(self, packet_headers: bytes) -> bool:
        """Processes the stream headers that precede a frame in its packet.

        Headers set the decoder's state (layer, colours, the encoder's build), so a packet that changes them
        must not be skipped.

        Returns:
          False if the headers differ from the first headers of the stream, otherwise True.
        """
        headers = _GROUP.sub(b"", packet_headers)
        if self._headers is None:
            self._headers = headers
        elif headers and headers != self._headers:
            return False
        layer = _layer_header(headers)
        if layer and not self._layer:
            self._layer, self._increment_bits = layer, _time_increment_bits(layer)
        return not layer or layer == self._layer


def _layer_header(data: bytes) -> bytes:
    """Returns the header of the video object layer in `data`, or b"" if there is none."""
    start = _VOL_START.search(data)
    if start is None:
        return b""
    end = data.find(_START, start.end())
    return data[start.end() : end if end >= 0 else None]


def _time_increment_bits(layer: bytes) -> int:
    """Returns the number of bits of the time field in frame headers, from a layer's header; 0 if it is not stated."""
    bits = _Bits(layer)
    bits.read(1 + 8)  # random_accessible_vol, video_object_type_indication
    version = 1
    if bits.read(1):  # is_object_layer_identifier
        version = bits.read(4)
        bits.read(3)  # priority
    if bits.read(4) == _EXTENDED_ASPECT:
        bits.read(8 + 8)  # par_width, par_height
    if bits.read(1):  # vol_control_parameters
        bits.read(2 + 1)  # chroma_format, low_delay
        if bits.read(1):  # vbv_parameters
            bits.read(15 + 1 + 15 + 1 + 15 + 1 + 3 + 11 + 1 + 15 + 1)
    if bits.read(2) == _GRAYSCALE and version != 1:
        bits.read(4)  # shape_extension
    bits.read(1)  # marker
    resolution = bits.read(16)
    return max(1, (resolution - 1).bit_length()) if resolution else 0
