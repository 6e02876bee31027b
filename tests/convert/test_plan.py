import collections
import dataclasses
import os
import random

import pytest

from tests.conftest import run_code
from ucf50_tfrecord.convert import catalog, plan
from ucf50_tfrecord.jobs import Video
from ucf50_tfrecord.specs import ClipFormat, FoldRule

FORMAT = ClipFormat(num_frames=5, height=16, width=24)


def make_plan(found, **changes):
    values = dict(name="small", clip_format=FORMAT, fold_rule=FoldRule(), decoder="d 1", shard_bytes=20_000)
    return plan.plan_shards(found, **values | changes)


def make_video(name: str, group: int | None = None) -> Video:
    return Video(
        relative_path=f"a/{name}.avi",
        video_id=f"a/{name}",
        class_name="a",
        label=0,
        group=group,
        num_bytes=1,
        mtime_ns=1,
    )


def test_a_fold_is_the_group_or_the_hash_of_the_id():
    by_group, by_video = FoldRule(num_folds=7), FoldRule(fold_by="video", num_folds=7)
    assert plan.fold_of(make_video("x", group=23), by_group) == 23
    hashed = plan.fold_of(make_video("x"), by_group)
    assert hashed == plan.fold_of(make_video("x", group=23), by_video)
    counts = collections.Counter(plan.fold_of(make_video(f"v{i}"), by_video) for i in range(7000))
    assert set(counts) == set(range(1, 8))
    assert all(850 < count < 1150 for count in counts.values())


def test_every_video_is_in_one_shard_of_its_fold(videos_dir):
    planned = make_plan(catalog.find_videos(videos_dir))
    videos = [video for job in planned.jobs for video in job.videos]
    assert len(videos) == len({video.video_id for video in videos}) == 30
    assert all(video.group == job.fold for job in planned.jobs for video in job.videos)
    # 5 x 16 x 24 x 3 bytes a clip, 6 clips a fold: two shards of at most 20,000 bytes.
    assert [job.filename for job in planned.jobs[:3]] == [
        "small-fold01.tfrecord-00000-of-00002",
        "small-fold01.tfrecord-00001-of-00002",
        "small-fold02.tfrecord-00000-of-00002",
    ]
    assert all(len(job.videos) == 3 for job in planned.jobs)


def test_the_order_of_the_catalogue_does_not_matter(videos_dir):
    found = catalog.find_videos(videos_dir)
    videos = list(found.videos)
    random.Random(0).shuffle(videos)
    assert make_plan(dataclasses.replace(found, videos=tuple(videos))) == make_plan(found)


def test_the_plan_is_the_same_in_every_process(videos_dir):
    code = (
        "from tests.convert.test_plan import make_plan; from ucf50_tfrecord.convert import catalog; import sys;"
        "print([(job.filename, job.fingerprint) for job in make_plan(catalog.find_videos(sys.argv[1])).jobs])"
    )
    outputs = {
        run_code(
            code, videos_dir, check=True, env={**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": locale}
        ).stdout
        for seed, locale in [("1", "C"), ("2", "C.UTF-8")]
    }
    assert len(outputs) == 1


@pytest.mark.parametrize(
    "change",
    [
        dict(clip_format=ClipFormat(num_frames=6, height=16, width=24)),
        dict(decoder="d 2"),
        dict(clip_format=dataclasses.replace(FORMAT, encoding="png")),
        dict(clip_format=dataclasses.replace(FORMAT, encoding="jpeg", jpeg_quality=80)),
        dict(clip_format=dataclasses.replace(FORMAT, spacing="time")),
        dict(clip_format=dataclasses.replace(FORMAT, resize="pad")),
        dict(clip_format=dataclasses.replace(FORMAT, clips_per_video=2)),
    ],
)
def test_a_fingerprint_covers_what_decides_the_bytes(videos_dir, change):
    found = catalog.find_videos(videos_dir)
    before, after = make_plan(found), make_plan(found, **change)
    assert not {job.fingerprint for job in before.jobs} & {job.fingerprint for job in after.jobs}


def test_a_renamed_video_changes_its_shard_alone(videos_dir):
    found = catalog.find_videos(videos_dir)
    renamed = dataclasses.replace(found.videos[0], relative_path="Left/other.avi")
    before, after = (
        make_plan(found),
        make_plan(dataclasses.replace(found, videos=(renamed, *found.videos[1:]))),
    )
    changed = [b.filename for a, b in zip(before.jobs, after.jobs) if a.fingerprint != b.fingerprint]
    assert len(changed) == 1 and "fold01" in changed[0]
