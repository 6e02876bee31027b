"""Datasets whose clips hold, beside each frame, the frames right after it."""

import numpy as np
import pytest

from tests.conftest import build
from ucf50_tfrecord import manifest, record, tfrecord
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import ClipFormat, to_json
from ucf50_tfrecord.tfrecord import Place


def clips_of(built):
    """Dictionary from a clip's id to its frames and their numbers."""
    clips = {}
    for shard in built.shards:
        for _, payload in tfrecord.read_file(f"{built.data_dir}/{shard.filename}"):
            features = record.decode(payload)
            clips[features[record.MEDIA_ID][0]] = features[record.VIDEO], features[record.FRAME_INDEX]
    return clips


def test_frames_are_those_of_a_dataset_without_neighbours(videos_dir, tmp_path):
    plain = build(videos_dir, tmp_path / "plain")
    one, two = (build(videos_dir, tmp_path / f"{n}", workers=n, motion_frames=2) for n in (1, 2))
    assert [shard.sha256 for shard in one.shards] == [shard.sha256 for shard in two.shards]
    assert manifest.load(str(tmp_path / "1")).format.shape == (5, 16, 24, 9)
    assert plain.fingerprint != one.fingerprint and "motion_frames" not in to_json(plain)["format"]
    expected, found = clips_of(plain), clips_of(one)
    assert expected.keys() == found.keys()
    for clip_id, (frames, numbers) in expected.items():
        moving, same_numbers = found[clip_id]
        assert numbers == same_numbers and moving.shape == (5, 16, 24, 9)
        np.testing.assert_array_equal(moving[..., :3], frames)
        # The last frame has nothing after it, so it is repeated.
        np.testing.assert_array_equal(moving[-1, ..., 3:], np.tile(frames[-1], (1, 1, 2)))


def test_a_record_of_other_channels_is_refused_even_if_its_bytes_fit():
    """A clip of 4 frames with one neighbour each has as many bytes as one of 8 frames."""
    stored = ClipFormat(num_frames=4, height=8, width=8, motion_frames=1)
    clip = record.Clip(
        clip_id="Walk/a",
        frames=np.zeros(stored.shape, np.uint8),
        label=0,
        class_name="Walk",
        group=None,
        fold=1,
        data_path="Walk/a.avi",
        frame_rate=25.0,
        frame_indices=np.arange(4),
        timestamps_us=np.arange(4),
        end_us=4,
    )
    payload, out = record.encode(clip, stored), np.empty(stored.num_bytes, np.uint8)
    place = Place("x.tfrecord", 0)
    record.parse_raw(payload, place, ("Walk/a", 0), stored=stored, out=out)
    other = ClipFormat(num_frames=8, height=8, width=8)
    assert other.num_bytes == stored.num_bytes
    with pytest.raises(UserError, match="holds no clip of 8x8x8"):
        record.parse_raw(payload, place, ("Walk/a", 0), stored=other, out=out)


def test_neighbours_lie_in_the_channels_of_their_frame():
    clip_format = ClipFormat(num_frames=2, height=8, width=8, motion_frames=2)
    pictures = np.broadcast_to(np.arange(6, dtype=np.uint8)[:, None, None, None], (6, 8, 8, 3))
    found = record.stack_neighbours(np.stack([pictures, pictures + 6]), clip_format)
    assert found.shape == (2, *clip_format.shape)
    assert found[:, :, 0, 0].tolist() == [
        [[0, 0, 0, 1, 1, 1, 2, 2, 2], [3, 3, 3, 4, 4, 4, 5, 5, 5]],
        [[6, 6, 6, 7, 7, 7, 8, 8, 8], [9, 9, 9, 10, 10, 10, 11, 11, 11]],
    ]
