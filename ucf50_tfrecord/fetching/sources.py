"""The table of published video sets: where each is published, and how large it is."""

from __future__ import annotations

import dataclasses

from ucf50_tfrecord.choices import VideoSet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A published video set.

    title: its name, also that of its folder.
    page: address of the page that describes it, with its terms and the paper to cite.
    url: address of its archive.
    num_bytes: size of the archive; None if unknown.
    num_videos, num_classes: numbers of videos and classes.
    max_bytes: largest size of all files in the archive together, with room for a new edition.
    """

    title: str
    page: str
    url: str
    num_bytes: int | None
    num_videos: int
    num_classes: int
    max_bytes: int


SOURCES = {
    VideoSet.UCF50: Source(
        title="UCF50",
        page="https://www.crcv.ucf.edu/data/UCF50.php",
        url="https://www.crcv.ucf.edu/data/UCF50.rar",
        num_bytes=3_233_554_570,
        num_videos=6681,
        num_classes=50,
        max_bytes=8 << 30,
    ),
    VideoSet.UCF101: Source(
        title="UCF101",
        page="https://www.crcv.ucf.edu/data/UCF101.php",
        url="https://www.crcv.ucf.edu/data/UCF101/UCF101.rar",
        num_bytes=6_932_971_618,
        num_videos=13320,
        num_classes=101,
        max_bytes=16 << 30,
    ),
    # An archive of one archive per class. Its size is not published.
    VideoSet.HMDB51: Source(
        title="HMDB51",
        page="https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/",
        url="https://serre-lab.clps.brown.edu/wp-content/uploads/2013/10/hmdb51_org.rar",
        num_bytes=None,
        num_videos=6766,
        num_classes=51,
        max_bytes=8 << 30,
    ),
}
