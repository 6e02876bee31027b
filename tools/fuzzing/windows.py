"""Decodes videos into windows as pipelines.predict does, without a model.

Runs as a program of its own, started by tools.fuzzing.videos.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys

import numpy as np

from pipelines import terminal
from tools.fuzzing.reference import digest
from ucf50_tfrecord.inference import decoding
from ucf50_tfrecord.specs import ClipFormat, DecodeLimits, WindowSpec


def main() -> None:
    """Reads paths and settings as JSON from standard input; prints one line of JSON per video.

    A line holds the cause of failure, or the number of windows and the digests of the first window's clips.
    """
    asked = json.load(sys.stdin)
    clip_format = ClipFormat(**asked["format"])
    decoder = decoding.Decoder(
        clip_format=clip_format,
        windows=WindowSpec(**asked["windows"]),
        limits=DecodeLimits(**asked["limits"]),
        num_workers=asked["workers"],
    )
    videos, _ = decoding.find_videos(asked["paths"])
    with contextlib.closing(decoder(videos)) as decoded:
        for video, result in decoded:
            terminal.say(json.dumps({"path": video.path} | _describe(result, clip_format)))


def _describe(result: decoding.DecodedVideo | decoding.Failed, clip_format: ClipFormat) -> dict:
    if isinstance(result, decoding.Failed):
        return {"cause": result.cause}
    num_bytes = os.fstat(result.frames.fileno()).st_size
    frames = np.frombuffer(os.pread(result.frames.fileno(), num_bytes, 0), np.uint8)
    frames = frames.reshape(-1, *clip_format.shape[1:])
    return {"windows": len(result.places), "digests": [digest(frames[clip]) for clip in result.places[0]]}


if __name__ == "__main__":
    main()
