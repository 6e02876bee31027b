"""The table of published video sets: where each is published, how large it is, and what to cite."""

from __future__ import annotations

import dataclasses

from ucf50_tfrecord.about import About
from ucf50_tfrecord.choices import VideoSet

_UCF_LICENSE = "For research only; the videos belong to their owners and must not be redistributed."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A published video set.

    title: its name, also that of its folder.
    page: address of the page that describes it, with its terms and the paper to cite.
    url: address of its archive.
    num_bytes: size of the archive; None if unknown.
    num_videos, num_classes: numbers of videos and classes.
    max_bytes: largest size of all files in the archive together, with room for a new edition.
    license: the terms of its page.
    creator: who made it.
    citation: the paper that its page asks to cite, as BibTeX.
    collection: where the videos come from, by that paper.
    """

    title: str
    page: str
    url: str
    num_bytes: int | None
    num_videos: int
    num_classes: int
    max_bytes: int
    license: str
    creator: str
    citation: str
    collection: str

    @property
    def about(self) -> About:
        """What is known about the set, in the form that conversions read beside its videos."""
        return About(
            title=self.title,
            license=f"{self.license} See {self.page}",
            citation=self.citation,
            creator=self.creator,
            url=self.page,
            collection=self.collection,
            people="The videos show people.",
        )


SOURCES = {
    VideoSet.UCF50: Source(
        title="UCF50",
        page="https://www.crcv.ucf.edu/data/UCF50.php",
        url="https://www.crcv.ucf.edu/data/UCF50.rar",
        num_bytes=3_233_554_570,
        num_videos=6681,
        num_classes=50,
        max_bytes=8 << 30,
        license=_UCF_LICENSE,
        creator="Center for Research in Computer Vision, University of Central Florida",
        citation="@article{reddy2013recognizing, title={Recognizing 50 human action categories of web videos}, "
        "author={Reddy, Kishore K. and Shah, Mubarak}, journal={Machine Vision and Applications}, volume={24}, "
        "number={5}, pages={971--981}, year={2013}}",
        collection="Videos taken from YouTube.",
    ),
    VideoSet.UCF101: Source(
        title="UCF101",
        page="https://www.crcv.ucf.edu/data/UCF101.php",
        url="https://www.crcv.ucf.edu/data/UCF101/UCF101.rar",
        num_bytes=6_932_971_618,
        num_videos=13320,
        num_classes=101,
        max_bytes=16 << 30,
        license=_UCF_LICENSE,
        creator="Center for Research in Computer Vision, University of Central Florida",
        citation="@article{soomro2012ucf101, title={UCF101: A Dataset of 101 Human Actions Classes From Videos in The "
        "Wild}, author={Soomro, Khurram and Zamir, Amir Roshan and Shah, Mubarak}, journal={arXiv:1212.0402}, "
        "year={2012}}",
        collection="Videos taken from YouTube.",
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
        license="Creative Commons Attribution 4.0 International; the videos belong to their owners.",
        creator="Serre Lab, Brown University",
        citation="@inproceedings{kuehne2011hmdb, title={HMDB: A large video database for human motion recognition}, "
        "author={Kuehne, Hildegard and Jhuang, Hueihan and Garrote, Est{\\'i}baliz and Poggio, Tomaso and Serre, "
        "Thomas}, booktitle={International Conference on Computer Vision}, pages={2556--2563}, year={2011}}",
        collection="Mostly from movies, the rest from public databases such as the Prelinger archive and YouTube.",
    ),
}
