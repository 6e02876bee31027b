"""Judges corpora that were never made, for tests of the processes that share them."""

from __future__ import annotations

import pathlib
import time

from tools.judging import Corpus, Judged
from ucf50_tfrecord import storage
from ucf50_tfrecord.specs import to_json


def wait(unit, parent: pathlib.Path) -> None:
    """Holds the lock of a corpus's folder until the process is killed."""
    folder = unit.folder(parent)
    storage.make_folder(folder)
    with storage.folder_lock(folder):
        (folder / "waiting").touch()
        time.sleep(600)


def judge(unit, parent: pathlib.Path) -> Corpus | None:
    """Finishes a corpus, in which needs_order is found; returns None if another process holds its lock."""
    folder = unit.folder(parent)
    storage.make_folder(folder)
    try:
        with storage.folder_lock(folder):
            (folder / f"try{len(list(folder.glob('try*')))}").touch()
            judged = Judged(
                scenario=unit.name,
                seed=unit.seed,
                kind="needs_order",
                expected="yes",
                answer="yes",
                text="It says so.",
            )
            corpus = Corpus(judged=(judged,))
            storage.write_json(folder / "judged.json", to_json(corpus))
    except storage.LockedError:
        return None
    return corpus
