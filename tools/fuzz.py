"""Feeds damaged and hostile files to the programs, and counts their failures.

  python -m tools.fuzz --secs=3600 --seed=7 --videos=20000 --json=10000

A mutant is one damaged or hostile file. Video mutants are random mutations of
small videos in many containers and codecs and of the videos in --seeds, or
text files that name other files and hosts. All video mutants go through
pipelines.convert, some also through pipelines.predict. JSON mutants are
mutations of every kind of JSON and Parquet file that the project reads. All go
through the functions that read such files, some also through whole programs.

Each counter of failures must be zero, else the exit status is 1. Failing
mutants are kept under --output, each with the command that repeats it. The same
--seed gives the same mutants in the same order. Linux only.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator

from absl import flags

from pipelines import console, terminal
from pipelines.remedies import python, shell_command
from tools.fuzzing import jsons, samples, seeds, videos
from tools.fuzzing.findings import Findings
from ucf50_tfrecord.errors import expect

_JSON_AT_ONCE = 100
_PROGRESS_SECS = 30.0

# Functions that try the mutants with the given numbers. The second stops once its second argument returns True,
# and returns how many it tried.
TryVideos = Callable[[range], None]
TryJson = Callable[[range, Callable[[], bool]], int]


class Progress:
    """Shows a fuzz campaign's progress: a bar on a terminal, else a line every _PROGRESS_SECS seconds."""

    def __init__(self, findings: Findings):
        self._findings = findings
        self._bar = console.progress_bar(flags.FLAGS.videos + flags.FLAGS.json, "file", "fuzzing")
        self._started = self._shown = time.monotonic()
        self.num_videos = self.num_json = 0

    @property
    def secs(self) -> float:
        return time.monotonic() - self._started

    def show(self) -> None:
        self._bar.update(self.num_videos + self.num_json - self._bar.n)
        self._bar.set_postfix_str(f"{self._findings.total} failures")
        if self._bar.disable and time.monotonic() - self._shown >= _PROGRESS_SECS:
            self._shown = time.monotonic()
            terminal.say(
                f"videos {self.num_videos}/{flags.FLAGS.videos}  JSON {self.num_json}/{flags.FLAGS.json}  "
                f"failures {self._findings.total}  {self.secs:.0f} s",
                flush=True,
            )

    def close(self) -> None:
        self._bar.close()


def main() -> int:
    name = time.strftime(f"%Y%m%d-%H%M%S-{os.getpid()}")
    findings = Findings(pathlib.Path(flags.FLAGS.output).absolute() / name)
    progress = Progress(findings)
    try:
        with campaign(findings) as (try_videos, try_json):
            ending = run(progress, try_videos, try_json)
    except KeyboardInterrupt:
        ending = "interrupted"
    progress.close()
    terminal.say(
        f"{progress.num_videos} videos, {progress.num_json} JSON files, {progress.secs:.0f} s: {ending}",
        *findings.table(),
    )
    return 130 if ending == "interrupted" else int(findings.total > 0)


def run(progress: Progress, try_videos: TryVideos, try_json: TryJson) -> str:
    """Tries the campaign's mutants; returns the reason for stopping."""
    args = flags.FLAGS

    def is_late() -> bool:
        return progress.secs >= args.secs

    rounds = chunks(args.first_video, args.videos, videos.ROUND)
    documents = chunks(args.first_json, args.json, _JSON_AT_ONCE)
    # Alternates between both kinds, so that both are tried even if time runs out.
    work = [(number / len(documents), "json", numbers) for number, numbers in enumerate(documents)]
    work += [(number / len(rounds), "videos", numbers) for number, numbers in enumerate(rounds)]
    for _, kind, numbers in sorted(work, key=lambda item: item[:2]):
        progress.show()
        if is_late():
            return f"stopped after --secs={args.secs:g}"
        if kind == "json":
            progress.num_json += try_json(numbers, is_late)
        else:
            try_videos(numbers)
            progress.num_videos += len(numbers)
    return "all mutants tried"


def chunks(first: int, count: int, size: int) -> list[range]:
    """Splits `count` numbers from `first` at the multiples of `size`, so a mutant is always in the same round."""
    ends = [first, *range((first // size + 1) * size, first + count, size), first + count]
    return [range(start, stop) for start, stop in itertools.pairwise(ends) if start < stop]


@contextlib.contextmanager
def campaign(findings: Findings) -> Iterator[tuple[TryVideos, TryJson]]:
    """Prepares a campaign: intact videos and JSON files to damage, and watches for forbidden accesses.

    Yields:
      A tuple (try_videos, try_json) of functions that try mutants by their numbers, as `run` takes them.
    """
    args = flags.FLAGS
    again = [python(), "-m", "tools.fuzz", f"--seed={args.seed}"]
    again += [f"--seeds={args.seeds}"] if args.seeds else []
    command = shell_command(again)
    with contextlib.ExitStack() as stack:
        work = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ucf50-fuzz-")))
        sound = seeds.make_seeds(work / "seeds")
        given = seeds.read_seeds(args.seeds) if args.seeds else []
        made = samples.make_samples(work, with_documents=args.json > 0)
        opened = videos.open_setting(
            seed=args.seed,
            sound=sound,
            seeds=[*sound, *given],
            findings=findings,
            work=work,
            workers=args.workers or len(os.sched_getaffinity(0)),
            run_dir=str(made / "run"),
        )
        setting = stack.enter_context(opened)
        check_watches(setting)
        try_json = None
        if args.json:
            documents = jsons.Documents(seed=args.seed, findings=findings, work=work, command=command)
            try_json = stack.enter_context(contextlib.closing(documents)).run
        yield lambda numbers: videos.Round(setting, numbers, command).run(), try_json


def check_watches(setting: videos.Setting) -> None:
    """Checks that the file system reports when a canary (a video that no program may open) is opened.

    Raises:
      UserError: if the file system does not report the open.
    """
    setting.opened.take()
    canary = setting.canaries.path(".avi")
    pathlib.Path(canary).read_bytes()
    opened = setting.opened.take()
    expected = "a temporary folder (TMPDIR) on a file system that reports opened files"
    expect(opened == [canary], expected, reported=opened)


def define_flags() -> None:
    """Defines the flags. Called only when run as a program: readers import programs with flags of these names."""
    flags.DEFINE_float("secs", 600.0, "Start nothing new after this many seconds.", lower_bound=0.0)
    flags.DEFINE_integer("seed", 0, "Seed of the mutants.")
    flags.DEFINE_integer("videos", 20_000, "Number of video mutants.", lower_bound=0)
    flags.DEFINE_integer("json", 10_000, "Number of mutants of JSON and Parquet files.", lower_bound=0)
    flags.DEFINE_integer("first_video", 0, "The first video mutant.", lower_bound=0)
    flags.DEFINE_integer("first_json", 0, "The first JSON mutant.", lower_bound=0)
    flags.DEFINE_string("seeds", None, "Folder of more videos to mutate, with its subfolders.")
    flags.DEFINE_string("output", "bench_results/fuzz", "Folder for failing inputs.")
    flags.DEFINE_integer("workers", None, "Worker processes. Default: one per core.", lower_bound=1)


if __name__ == "__main__":
    define_flags()
    console.run(main)
