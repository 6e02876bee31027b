"""Decodes videos as `predict` does, without a model: what `videos` runs in a process of its own."""

from __future__ import annotations

import contextlib
import json
import sys

import numpy as np

from tools.fuzzing.reference import digest
from ucf50_tfrecord.inference import decoding
from ucf50_tfrecord.specs import ClipFormat, DecodeLimits, WindowSpec


def main() -> None:
    """Reads a list of paths and settings as JSON; prints a line for each video."""
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
            print(json.dumps({"path": video.path} | _describe(result, clip_format)))


def _describe(result: decoding.DecodedVideo | decoding.Failed, clip_format: ClipFormat) -> dict:
    if isinstance(result, decoding.Failed):
        return {"cause": result.cause}
    frames = np.fromfile(result.frames_path, np.uint8).reshape(-1, *clip_format.shape[1:])
    return {"windows": len(result.places), "digests": [digest(frames[clip]) for clip in result.places[0]]}


if __name__ == "__main__":
    main()
