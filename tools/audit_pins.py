"""Looks up known vulnerabilities of the pinned packages in the OSV database.

  python -m tools.audit_pins

Passes its arguments on to pip-audit, such as --ignore-vuln=<id>. Exits with
status 1 if a package has known vulnerabilities, and with 3 if the look-up
failed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import NamedTuple

from pipelines import terminal
from tools.pins import IO_PINS, PINS

_NONE_FOUND, _FOUND, _NOT_AUDITED = 0, 1, 3
_AUDIT = (
    *(sys.executable, "-m", "pip_audit", "--disable-pip", "--progress-spinner=off"),
    *("--vulnerability-service=osv", "--format=json"),
)
_MAX_REASON_CHARS = 200


class Outcome(NamedTuple):
    """The outcome of looking up one constraints file: the lines to print, and the exit status."""

    lines: list[str]
    status: int


def main() -> int:
    status = _NONE_FOUND
    for path in (PINS, IO_PINS):
        command = [*_AUDIT, f"--requirement={path}", *sys.argv[1:]]
        result = subprocess.run(command, capture_output=True, text=True)
        outcome = read_outcome(path.name, result.stdout, result.stderr)
        if outcome.status == _NOT_AUDITED:
            terminal.note(*outcome.lines)
            return _NOT_AUDITED
        terminal.say(*outcome.lines)
        status = max(status, outcome.status)
    return status


def read_outcome(name: str, stdout: str, stderr: str) -> Outcome:
    """Reads pip-audit's output on one constraints file, a JSON document if it succeeded.

    pip-audit's exit status cannot be used: it is 1 for any failure, and 0 if the database knows no package.
    """
    try:
        packages = json.loads(stdout)["dependencies"]
    except ValueError:
        return Outcome([f"error: {_explain_failure(stderr)}, so {name} was not audited"], _NOT_AUDITED)
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if skipped:
        names = ", ".join(skipped[:5]) + (", …" if len(skipped) > 5 else "")
        text = f"error: the advisory database does not know {len(skipped)} packages of {name}: {names}"
        return Outcome([text], _NOT_AUDITED)
    found = [_describe(package, item) for package in packages for item in package["vulns"]]
    total = f"{name}: {len(found)} known vulnerabilities in {len(packages)} packages"
    return Outcome([*found, total], _FOUND if found else _NONE_FOUND)


def _explain_failure(stderr: str) -> str:
    reason = (stderr.strip().splitlines() or ["no output"])[-1]
    # pip-audit does not handle most errors of its HTTP client.
    if reason.startswith("requests.exceptions.") or "Could not connect" in reason:
        return "the advisory database (OSV) cannot be reached from here"
    return f"pip-audit failed ({reason[:_MAX_REASON_CHARS]})"


def _describe(package: dict, vulnerability: dict) -> str:
    ids = ", ".join([vulnerability["id"], *vulnerability["aliases"]])
    fixed = ", ".join(vulnerability["fix_versions"])
    return f"{package['name']} {package['version']}: {ids}" + (f"; fixed in {fixed}" if fixed else "")


if __name__ == "__main__":
    sys.exit(main())
