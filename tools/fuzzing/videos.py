"""Tries video mutants (damaged or hostile videos) on the converter and `predict`, in rounds of many."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tools.fuzzing import hostile, judge, mutate, watched
from tools.fuzzing.findings import Counter, Findings, Problem, Stage
from tools.fuzzing.reference import digest
from tools.fuzzing.seeds import Seed
from ucf50_tfrecord import manifest as manifest_lib
from ucf50_tfrecord import record, tfrecord
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import ClipFormat, printable, to_json

# Mutants per round, which is one conversion. The clip format and other options change from round to round.
ROUND = 200
FORMATS = (
    ClipFormat(num_frames=15, height=24, width=40),
    ClipFormat(num_frames=15, height=24, width=40, spacing="time", clips_per_video=2),
    ClipFormat(num_frames=4, height=32, width=32, spacing="time"),
)
_HOSTILE_FRACTION, _ODD_NAME_FRACTION, _PROTOCOL_FRACTION = 0.04, 0.02, 0.05
# File names with escape sequences, line breaks, reversed writing, bytes that are not UTF-8, shell characters.
_ODD_NAMES = ("\x1b[31mred", "two\nlines", "\u202eturned", "not\udcffutf8", "\x9b2J", "a,b 'c' $d")
_VIDEO_SECS, _VIDEO_MIB = 10, 512
_MIN_ROUND_SECS, _SECS_PER_VIDEO = 300.0, 3.0
# `predict` is run on every n-th round only, and its decoder alone on every n-th mutant of a round.
_PREDICT_EVERY, _WINDOWS_EVERY = 10, 4
_WHOLE = {"whole_secs": 1e12, "window_secs": 1.0, "stride_secs": 1.0}
_CUT = {"whole_secs": 0.0, "window_secs": 0.3, "stride_secs": 0.1}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A damaged or hostile video of a fuzz campaign."""

    number: int  # in the campaign; -1 for an intact video
    path: str  # relative to the round's folder of videos
    how: str  # in words, how it was made
    is_hostile: bool = False  # whether it is a text that names other files or hosts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """The settings that all rounds of a fuzz campaign share."""

    seed: int  # of all randomness
    sound: Sequence[Seed]  # intact videos; each round contains one
    seeds: Sequence[Seed]  # videos to damage
    findings: Findings
    work: pathlib.Path  # a temporary folder
    workers: int  # processes that run at a time
    run_dir: str | None  # for `predict`; None skips it
    canaries: hostile.Canaries
    opened: watched.OpenedFiles
    listener: watched.Listener  # at the port of `canaries`


@contextlib.contextmanager
def open_setting(*, work: pathlib.Path, **others: Any) -> Iterator[Setting]:
    """Sets up the traps that programs must not touch, and yields the settings with them."""
    with (
        contextlib.closing(watched.Listener()) as listener,
        contextlib.closing(watched.OpenedFiles()) as opened,
    ):
        canaries = hostile.make_canaries(work / "canaries", listener.port)
        opened.watch(canaries.folder)
        yield Setting(canaries=canaries, opened=opened, listener=listener, work=work, **others)


class Round:
    """Makes the video mutants with the given numbers and tries them in one conversion.

    Args:
      setting: settings of the campaign.
      numbers: numbers of the mutants; no multiple of ROUND may lie between the first and the last.
      command: start of the shell command that tries a mutant again.
    """

    def __init__(self, setting: Setting, numbers: range, command: str):
        self._setting, self._numbers, self._command = setting, numbers, command
        self.number = numbers[0] // ROUND
        self.format = FORMATS[self.number % len(FORMATS)]
        self.folder = setting.work / "round"
        self.videos = self.folder / "videos"
        self.data = self.folder / "shards"
        self.mutants: dict[str, Mutant] = {}

    def run(self) -> None:
        """Makes the round's mutants, tries them, and adds the problems to the findings."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._write()
        converted = self._convert()
        windows = self._decode_windows()
        if self._setting.run_dir and self.number % _PREDICT_EVERY == 0:
            self._predict()
        self._compare(converted, windows)
        shutil.rmtree(self.folder)

    def _write(self) -> None:
        """Writes the mutants into two class folders; the second's path looks like a URL (http:/host)."""
        protocol = hostile.PROTOCOLS[self.number % len(hostile.PROTOCOLS)]
        classes = ("clips", os.path.join(protocol, self._setting.canaries.host))
        sound = self._setting.sound[self.number % len(self._setting.sound)]
        # An intact video per class shows that the round works.
        for name in classes:
            (self.videos / name).mkdir(parents=True)
            self._write_video(-1, os.path.join(name, f"sound{sound.suffix}"), sound.content, "sound")
        for number in self._numbers:
            rng = random.Random(f"{self._setting.seed}/video/{number}")
            folder = classes[rng.random() < _PROTOCOL_FRACTION]
            stem = f"m{number:07d}_g{rng.randrange(25):02d}_c01"
            if rng.random() < _ODD_NAME_FRACTION:
                stem = f"{rng.choice(_ODD_NAMES)}{stem}"
            if rng.random() < _HOSTILE_FRACTION:
                attack = hostile.write_attack(self.videos / folder, stem, self._setting.canaries, rng)
                path = str(attack.path.relative_to(self.videos))
                self.mutants[path] = Mutant(number, path, attack.how, is_hostile=True)
                for beside in attack.watched:
                    self._setting.opened.watch(beside)
            else:
                content, suffix, how = mutate.damage_video(self._setting.seeds, rng)
                self._write_video(number, os.path.join(folder, stem + suffix), content, how)

    def _write_video(self, number: int, path: str, content: bytes, how: str) -> None:
        (self.videos / path).write_bytes(content)
        self.mutants[path] = Mutant(number, path, how)

    def _run(
        self, stage: Stage, module: str, *arguments: str, stdin: str = "", statuses: tuple[int, ...] = (0,)
    ) -> str:
        """Runs a program in the folder of videos, so that relative paths start with a class folder.

        Adds the problems that its exit shows to the findings. Returns its standard output.
        """
        self._setting.opened.take()  # forgets files that this process copied
        ended = watched.run(
            [sys.executable, "-m", module, *arguments],
            self.folder,
            _MIN_ROUND_SECS + _SECS_PER_VIDEO * len(self.mutants),
            cwd=self.videos,
            stdin=stdin,
        )
        # First, as keeping evidence opens files.
        if opened := self._setting.opened.take():
            names = " ".join(printable(name) for name in sorted(set(opened)))
            self._add_round(stage, Counter.OPENED, names, module, len(opened))
        if times := self._setting.listener.count():
            self._add_round(stage, Counter.CONNECTED, f"{times} times", module, times)
        for problem in watched.problems_of(ended, statuses):
            self._add_round(stage, problem.counter, problem.detail, problem.kind)
        return ended.stdout

    def _convert(self) -> dict[str, list[np.ndarray]]:
        """Converts the round's mutants, and checks that each has either its clips or one quarantine entry.

        Returns:
          A dictionary from each converted video's path to its clips.
        """
        clip_format = self.format
        self._run(
            Stage.CONVERT,
            "pipelines.convert",
            f"--videos={self.videos if self.number % 2 else '.'}",
            f"--data={self.data}",
            "--name=fuzz",
            f"--size={clip_format.height}x{clip_format.width}",
            f"--frames={clip_format.num_frames}",
            f"--spacing={clip_format.spacing}",
            f"--clips_per_video={clip_format.clips_per_video}",
            "--max_quarantined=1",
            *self._limits(),
        )
        for left in self.data.glob(".tmp-*"):
            self._add_round(Stage.CONVERT, Counter.TEMPORARY, left.name, "pipelines.convert: .tmp")
        clips: dict[str, list[np.ndarray]] = collections.defaultdict(list)
        quarantined: dict[str, list[str]] = collections.defaultdict(list)
        notes = self._setting.findings.notes
        try:
            manifest = manifest_lib.load(str(self.data))
            for item in manifest.quarantined:
                quarantined[item.relative_path].append(item.cause)
                notes[f"videos quarantined: {item.cause}"] += 1
            for shard in manifest.shards:
                for _, payload in tfrecord.read_file(self.data / shard.filename):
                    features = record.decode(payload)
                    path = features["clip/data_path"][0].decode("utf-8", "surrogateescape")
                    clips[path].append(features[record.VIDEO])
        except UserError as error:
            self._add_round(Stage.CONVERT, Counter.STATUS, f"no sound shards: {error}", "no sound shards")
            return {}
        problems = judge.account(self._all_videos(), clips, quarantined, clip_format.clips_per_video)
        for path, problem in problems.items():
            self._add(path, problem, Stage.CONVERT)
        notes["videos converted"] += len(clips)
        if not any(mutant.how == "sound" and path in clips for path, mutant in self.mutants.items()):
            self._add_round(Stage.CONVERT, Counter.ACCOUNT, "a sound video was not converted", "sound")
        return clips

    def _limits(self) -> list[str]:
        """Returns flags of convert and predict."""
        return [
            f"--workers={self._setting.workers}",
            f"--video_timeout_secs={_VIDEO_SECS}",
            f"--video_memory_mib={_VIDEO_MIB}",
        ]

    def _all_videos(self) -> list[str]:
        """Returns the paths of all videos of the round: mutants, and the pictures beside hostile mutants."""
        beside = [path.replace("%03d", "000") for path in self.mutants if "%03d" in path]
        return [*self.mutants, *beside]

    def _decode_windows(self) -> dict[str, list[str]]:
        """Decodes every n-th mutant of the round as `predict` does, and checks that each is answered once.

        Returns:
          A dictionary from a video's path to a list with the digest of its only window, which covers the
          whole video. It is empty in rounds with an odd number, which cut videos into several windows.
        """
        chosen = [path for path, mutant in self.mutants.items() if mutant.number % _WINDOWS_EVERY == 0]
        if not chosen:
            return {}
        asked = {
            "paths": chosen,
            "format": to_json(dataclasses.replace(self.format, clips_per_video=1)),
            "windows": _CUT if self.number % 2 else _WHOLE,
            "limits": {"timeout_secs": _VIDEO_SECS, "memory_mib": _VIDEO_MIB},
            "workers": self._setting.workers,
        }
        printed = self._run(Stage.PREDICT, "tools.fuzzing.windows", stdin=json.dumps(asked))
        answers = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
        self._check_once(chosen, [answer["path"] for answer in answers], "answers")
        return {} if self.number % 2 else {a["path"]: a["digests"] for a in answers if "digests" in a}

    def _predict(self) -> None:
        output = self.folder / "predictions"
        arguments = (f"--run={self._setting.run_dir}", "--video=.", f"--output={output}", *self._limits())
        self._run(Stage.PREDICT, "pipelines.predict", *arguments, statuses=(0, 1))
        try:
            document = json.loads((output / "predictions.json").read_bytes())
        except (OSError, ValueError) as error:
            self._add_round(Stage.PREDICT, Counter.STATUS, f"no predictions: {error}", "no predictions")
            return
        paths = [os.path.normpath(video["path"]) for video in document["videos"]]
        self._check_once(self._all_videos(), paths, "predictions")

    def _check_once(self, paths: Sequence[str], answered: Sequence[str], what: str) -> None:
        counts = collections.Counter(answered)
        for path in paths:
            if counts[path] != 1:
                detail = f"{counts[path]} {what}"
                self._add(path, Problem(Counter.ACCOUNT, detail, detail), Stage.PREDICT)

    def _compare(self, clips: dict[str, list[np.ndarray]], windows: dict[str, list[str]]) -> None:
        """Compares the converter's clips and the digests of predict's windows with the reference decoder.

        Clips of hostile files are only checked for the colour of canaries (see `hostile`), because the
        reference decoder would open the files named in hostile files, too.
        """
        wanted: list[tuple[str, Stage, ClipFormat, list[str]]] = []
        for path, videos in clips.items():
            mutant = self.mutants.get(path)
            if mutant and mutant.is_hostile:
                if any(map(hostile.is_canary, videos)):
                    self._add(path, Problem(Counter.CANARY_PIXELS, mutant.how, mutant.how), Stage.CONVERT)
            elif mutant:
                wanted.append((path, Stage.CONVERT, self.format, [digest(frames) for frames in videos]))
        one = dataclasses.replace(self.format, clips_per_video=1)
        for path, digests in windows.items():
            if not self.mutants[path].is_hostile:
                wanted.append((path, Stage.PREDICT, one, digests))
        workers = self._setting.workers

        def judge_part(worker: int) -> list[tuple[str, Stage, Problem | str]]:
            with contextlib.closing(judge.Reference(self.folder / f"reference-{worker}")) as reference:
                return [
                    (path, stage, reference.judge(str(self.videos / path), clip_format, digests))
                    for path, stage, clip_format, digests in wanted[worker::workers]
                ]

        with concurrent.futures.ThreadPoolExecutor(workers) as threads:
            for path, stage, verdict in itertools.chain.from_iterable(
                threads.map(judge_part, range(workers))
            ):
                if isinstance(verdict, Problem):
                    self._add(path, verdict, stage)
                else:
                    self._setting.findings.notes[verdict] += 1

    def _add(self, path: str, problem: Problem, stage: Stage) -> None:
        """Adds a problem of the video at `path` to the findings."""
        mutant = self.mutants.get(path) or Mutant(-1, path, "beside a hostile file")
        detail = dataclasses.replace(problem, detail=f"{path} ({mutant.how}): {problem.detail}")
        self._keep(detail, stage, max(0, mutant.number), 1, self.videos / path)

    def _add_round(self, stage: Stage, counter: Counter, detail: str, kind: str, times: int = 1) -> None:
        """Adds a problem whose mutant is not known to the findings, with the whole round as evidence."""
        problem = Problem(counter, detail, kind, times)
        self._keep(problem, stage, self._numbers[0], len(self._numbers), self.videos)

    def _keep(self, problem: Problem, stage: Stage, number: int, count: int, inputs: pathlib.Path) -> None:
        command = f"{self._command} --first_video={number} --videos={count} --json=0"
        self._setting.findings.add([problem], stage, number=number, command=command, inputs=[inputs])
