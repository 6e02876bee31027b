"""Checks this machine, its packages and, if given, a set of shards and a run; says how to fix them.

  python -m tools.doctor
  python -m tools.doctor --data=data/ucf50-15x64x64 --run=runs/first

Exits with status 1 if a check fails. The doctor must start even where installed packages are broken, so it
imports none of them itself: it uses argparse instead of absl, and each check imports what it checks.
"""

from __future__ import annotations

import os
import sys
import textwrap

from pipelines import raise_on_interrupt, scratch, terminal
from tools.checkup.finding import Finding, Options, run_check
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import printable

_INDENT = " " * 7
# By the section's title, the name of the module of tools.checkup that holds its check.
_SECTIONS = {
    "Packages": "packages",
    "Devices": "devices",
    "Sandbox": "sandbox",
    "Shards and run": "sets",
    "Speed": "speed",
}


def main() -> int:
    options = parse_options()
    terminal.escape_unknown_characters()
    scratch.use_own_folder()
    counts = {"ok": 0, "warn": 0, "fail": 0}
    for title, name in _SECTIONS.items():
        terminal.say(title, flush=True)
        for finding in run_check(name, options):
            terminal.say(*format_finding(finding), flush=True)
            counts[finding.level] += 1
    terminal.say("", f"failures: {counts['fail']}, warnings: {counts['warn']}")
    return 1 if counts["fail"] else 0


def parse_options() -> Options:
    parser = terminal.ArgumentParser(
        prog="python -m tools.doctor", description=__doc__.partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--data", help="a folder of shards, or its URL; default: each folder under data/")
    parser.add_argument("--videos", help="a folder of class folders, for the speed test")
    parser.add_argument("--run", help="a run's folder")
    parser.add_argument("--nospeed", action="store_true", help="skip the speed test")
    parser.add_argument(
        "--speed_secs", type=float, default=10.0, help="seconds of the speed test; default: %(default)g"
    )
    given = parser.parse_args()
    if not given.speed_secs > 0:
        parser.error(f"Expected --speed_secs above 0. Received: {given.speed_secs}")
    speed_secs = 0.0 if given.nospeed else given.speed_secs
    return Options(data=given.data, videos=given.videos, run=given.run, speed_secs=speed_secs)


def format_finding(finding: Finding) -> list[str]:
    """Returns the lines of a finding and its fix in 80 columns; a command stays on one line, for pasting."""
    lines = _wrap(f"  {finding.level:<5}", printable(finding.text))
    if finding.fix:
        lines += _wrap(f"{_INDENT}fix: ", printable(finding.fix))
    return lines + ([f"{_INDENT}$ {finding.command}"] if finding.command else [])


def _wrap(start: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        terminal.WIDTH,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )


if __name__ == "__main__":
    try:
        raise_on_interrupt()
        sys.exit(main())
    except UserError as error:
        terminal.note(f"error: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        terminal.note("interrupted")
        sys.exit(130)
    except BrokenPipeError:  # the reader of the output, such as head, has stopped
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
