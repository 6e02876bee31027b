"""Damages the bytes of files, at random positions and near headers.

A mutation is a function that changes a bytearray in place at random.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from tools.fuzzing.seeds import Seed

# Bytes near which containers have their fields: names of chunks and boxes, EBML ids, MPEG start codes.
_LANDMARK = re.compile(
    rb"RIFF|AVI |LIST|avih|strh|strf|idx1|movi|indx|00dc|01wb|ftyp|moov|mvhd|trak|tkhd|mdhd|hdlr|stsd|stts|stss|ctts|"
    rb"stsz|stsc|stco|co64|elst|edts|avcC|hvcC|esds|moof|mfhd|traf|tfhd|trun|mdat|avc1|hvc1|mp4v|"
    rb"\x1a\x45\xdf\xa3|\x18\x53\x80\x67|\x15\x49\xa9\x66|\x2a\xd7\xb1|\x16\x54\xae\x6b|"
    rb"\x1f\x43\xb6\x75|\x1c\x53\xbb\x6b|"
    rb"\x00\x00\x01[\x00-\xff]|GIF8|\x00\x21\xf9\x04|FLV\x01|onMetaData|\.RMF|PROP|MDPR|DATA|YUV4|FRAME|"
    rb"\x30\x26\xb2\x75|\xa1\xdc\xab\x8c|\x91\x07\xdc\xb7|\x47\x40|\x06\x0e\x2b\x34|N\xe4\xad|nut/"
)
_NUMBERS = (
    *(0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000),
    *(0x00FFFFFF, 0x3FFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF),
)
_MAX_INSERTED = 4096

Mutation = Callable[[bytearray, random.Random], None]


def flip_bits(content: bytearray, rng: random.Random) -> None:
    """Flips 1 to 100 random bits of a file's contents."""
    for _ in range(rng.choice((1, 1, 2, 5, 20, 100))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def flip_near_header(content: bytearray, rng: random.Random) -> None:
    """Flips up to 3 random bits within 24 bytes after the start of a header's name."""
    position = _landmark(content, rng)
    for _ in range(rng.choice((1, 1, 3))):
        content[min(position + rng.randrange(24), len(content) - 1)] ^= 1 << rng.randrange(8)


def truncate(content: bytearray, rng: random.Random) -> None:
    """Removes the end of a file's contents, from a random position."""
    del content[rng.randrange(len(content)) :]


def insert(content: bytearray, rng: random.Random) -> None:
    """Inserts random bytes at a random position of a file's contents."""
    position = rng.randrange(len(content) + 1)
    content[position:position] = rng.randbytes(rng.randint(1, rng.choice((4, 64, _MAX_INSERTED))))


def delete(content: bytearray, rng: random.Random) -> None:
    """Removes a random range of a file's contents."""
    start, stop = _span(content, rng)
    del content[start:stop]


def repeat(content: bytearray, rng: random.Random) -> None:
    """Duplicates a random range of a file's contents."""
    start, stop = _span(content, rng)
    content[stop:stop] = content[start:stop]


def swap_chunks(content: bytearray, rng: random.Random) -> None:
    """Swaps two random ranges of a file's contents."""
    (a, b), (c, d) = sorted((_span(content, rng), _span(content, rng)))
    c = max(b, c)
    d = max(c, d)
    content[a:d] = content[c:d] + content[b:c] + content[a:b]


def overwrite_run(content: bytearray, rng: random.Random) -> None:
    """Overwrites a random range of a file's contents with one repeated byte."""
    start, stop = _span(content, rng)
    content[start:stop] = bytes([rng.choice((0, 0, 0, 0xFF, 0x20))]) * (stop - start)


def rewrite_field(content: bytearray, rng: random.Random) -> None:
    """Overwrites up to 4 integers near a random header's name.

    Containers hold sizes before the name; counts, dimensions and time bases after it.
    """
    position = _landmark(content, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        num_bytes = rng.choice((1, 2, 4, 4, 4, 8))
        place = position + rng.choice((-8, -4, 4, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 64, 76))
        place = min(max(0, place + rng.choice((0, 0, 0, 1, 2))), max(0, len(content) - num_bytes))
        number = rng.choice((rng.choice(_NUMBERS), rng.randrange(1 << 32))) % (1 << 8 * num_bytes)
        field = number.to_bytes(num_bytes, rng.choice(("little", "big")))
        content[place : place + num_bytes] = field[: len(content) - place]


_MUTATIONS: tuple[Mutation, ...] = (
    *(flip_bits, flip_near_header, flip_near_header, truncate, insert, delete, repeat),
    *(swap_chunks, overwrite_run, rewrite_field, rewrite_field, rewrite_field),
)


def damage(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Applies 1 to 6 random mutations to bytes; returns the damaged bytes and the mutations' names."""
    damaged, done = bytearray(content), []
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if not damaged:
            break
        mutation = rng.choice(_MUTATIONS)
        mutation(damaged, rng)
        done.append(mutation.__name__)
    return bytes(damaged), ", ".join(done)


def damage_video(seeds: Sequence[Seed], rng: random.Random) -> tuple[bytes, str, str]:
    """Makes a damaged video of one seed (an intact video), or of two that are spliced.

    Returns the video's bytes, its suffix and a description of the damage.
    """
    seed = rng.choice(seeds)
    content, how, suffix = seed.content, seed.name, seed.suffix
    if rng.random() < 0.1:
        other = rng.choice(seeds)
        cut, start = rng.randrange(len(content) + 1), rng.randrange(len(other.content))
        content, how = content[:cut] + other.content[start:], f"{how} + {other.name}: splice"
        if rng.random() < 0.5:
            return content, suffix, how
    if rng.random() < 0.05:
        suffix = rng.choice(seeds).suffix
    content, done = damage(content, rng)
    return content, suffix, f"{how}: {done}"


def _landmark(content: bytearray, rng: random.Random) -> int:
    """Returns the position of a random header's name in a file's contents; without any, a random position."""
    places = [match.start() for match in _LANDMARK.finditer(content)]
    # Packets have names too, far more than headers. Headers come first, so the first names are preferred.
    chosen = places[: rng.choice((8, 40, len(places)))]
    return rng.choice(chosen) if chosen else rng.randrange(len(content))


def _span(content: bytearray, rng: random.Random) -> tuple[int, int]:
    """Returns the start and the stop of a random range of a file's contents."""
    start = rng.randrange(len(content))
    return start, min(len(content), start + rng.randint(1, rng.choice((8, 256, max(1, len(content) // 4)))))
