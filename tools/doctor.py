"""Looks at this machine, this environment and, if given, a set of shards and a run; says what to mend, and how.

  python -m tools.doctor
  python -m tools.doctor --data=data/ucf50-15x64x64 --run=runs/first

Ends with status 1 if anything fails. It is for when things are broken, so it needs none of the packages that it
looks at: argparse in place of absl, and every check's imports within the check.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import textwrap

from pipelines import raise_on_interrupt, scratch, terminal
from tools.checkup.finding import Finding, Options, run_check
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import printable

_WIDTH = 80
_INDENT = " " * 7
_UNBROKEN_SPACE = "\xa0"  # not in a printable text
# Of a shell's command line.
_WORD = re.compile(r"""(?:\$'(?:[^'\\]|\\.)*'|'[^']*'|"[^"]*"|[^\s'"])+""")
# Title, and the module of tools.checkup.
_SECTIONS = (
    ("Packages", "packages"),
    ("Devices", "devices"),
    ("Environment", "environment"),
    ("Room", "host"),
    ("Shards and runs", "sets"),
    ("Speed", "speed"),
)


def main() -> int:
    options = parse_options()
    # In a locale that cannot show a character of a name or a message.
    sys.stdout.reconfigure(errors="backslashreplace")
    with contextlib.suppress(UserError):  # the section on room tells
        scratch.use_own_folder()
    counts: dict[str, int] = {"warn": 0, "fail": 0}
    for title, name in _SECTIONS:
        terminal.say(title, flush=True)
        for finding in run_check(name, options):
            terminal.say(*format_finding(finding), flush=True)
            if finding.level in counts:
                counts[finding.level] += 1
    terminal.say("", f"{counts['fail']} to mend, {counts['warn']} to know of")
    return 1 if counts["fail"] else 0


def parse_options() -> Options:
    parser = terminal.ArgumentParser(
        prog="python -m tools.doctor", description=__doc__.partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--data", help="a folder of shards; default: each one under data/")
    parser.add_argument(
        "--videos", help="a folder of class folders, for the speed test and the room that it takes"
    )
    parser.add_argument("--run", help="a run's folder")
    parser.add_argument("--nospeed", action="store_true", help="leave the speed test out")
    parser.add_argument(
        "--speed_secs", type=float, default=10.0, help="how long to measure, in all; default: 10"
    )
    given = parser.parse_args()
    if not given.speed_secs > 0:
        parser.error(f"--speed_secs wants a number above 0, not {given.speed_secs}")
    speed_secs = 0.0 if given.nospeed else given.speed_secs
    return Options(data=given.data, videos=given.videos, run=given.run, speed_secs=speed_secs)


def format_finding(finding: Finding) -> list[str]:
    """Lays a finding out in 80 columns: what is found, then how to mend it; a long command goes on after a \\."""
    lines = _wrap(f"  {finding.level:<5}", printable(finding.text))
    if finding.mend:
        lines += _wrap(f"{_INDENT}mend: ", printable(finding.mend))
    if finding.command:
        # A space in quotes is no place to break.
        words = _WORD.sub(lambda match: match[0].replace(" ", _UNBROKEN_SPACE), printable(finding.command))
        parts = _wrap(f"{_INDENT}$ ", words, room=_WIDTH - 2)
        parts = [part.replace(_UNBROKEN_SPACE, " ") for part in parts]
        lines += [f"{part} \\" for part in parts[:-1]] + parts[-1:]
    return lines


def _wrap(start: str, text: str, room: int = _WIDTH) -> list[str]:
    indent = " " * len(start)
    return textwrap.wrap(
        text,
        room,
        initial_indent=start,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


if __name__ == "__main__":
    try:
        raise_on_interrupt()
        sys.exit(main())
    except KeyboardInterrupt:
        terminal.note("interrupted")
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
