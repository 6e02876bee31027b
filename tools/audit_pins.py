"""Looks the pinned packages up in a database of known vulnerabilities (OSV).

  python -m tools.audit_pins

Further arguments go to pip-audit, such as --ignore-vuln=<id>. Ends with
status 1 if there are vulnerabilities, with 3 if it could not look them up.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import NamedTuple

from tools.pins import IO_PINS, PINS

_FOUND, _NOT_AUDITED = 1, 3
_AUDIT = (
    *(sys.executable, "-m", "pip_audit", "--service=osv", "--format=json", "--progress-spinner=off"),
    *("--disable-pip", f"--requirement={PINS}", f"--requirement={IO_PINS}"),
)


class Outcome(NamedTuple):
    """The end of an audit: the lines to print, and the exit status."""

    lines: list[str]
    status: int


def main() -> int:
    result = subprocess.run([*_AUDIT, *sys.argv[1:]], capture_output=True, text=True)
    outcome = read_outcome(result.stdout, result.stderr)
    print(*outcome.lines, sep="\n", file=sys.stderr if outcome.status == _NOT_AUDITED else sys.stdout)
    return outcome.status


def read_outcome(stdout: str, stderr: str) -> Outcome:
    """Makes an outcome of what pip-audit wrote, whose own status is 1 for any failure, and 0 if it skips all."""
    try:
        packages = json.loads(stdout)["dependencies"]
    except ValueError:
        return Outcome([_explain_failure(stderr)], _NOT_AUDITED)
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if skipped or not packages:
        names = ", ".join(skipped[:5]) + (", …" if len(skipped) > 5 else "")
        text = f"error: the advisory database has no answer for {len(skipped)} packages: {names}"
        return Outcome([text], _NOT_AUDITED)
    found = [_describe(package, item) for package in packages for item in package["vulns"]]
    if found:
        return Outcome([*found, f"{len(found)} known vulnerabilities in {len(packages)} packages"], _FOUND)
    return Outcome([f"No known vulnerabilities in {len(packages)} packages"], 0)


def _explain_failure(stderr: str) -> str:
    reason = (stderr.strip().splitlines() or ["no output"])[-1]
    # An error of the HTTP client, which pip-audit lets through.
    if reason.startswith("requests.exceptions.") or "Could not connect" in reason:
        return "error: the advisory database (OSV) cannot be reached from here, so nothing was audited"
    return f"error: pip-audit failed, so nothing was audited: {reason}"


def _describe(package: dict, vulnerability: dict) -> str:
    ids = ", ".join([vulnerability["id"], *vulnerability["aliases"]])
    fixed = ", ".join(vulnerability["fix_versions"])
    return f"{package['name']} {package['version']}: {ids}" + (f"; fixed in {fixed}" if fixed else "")


if __name__ == "__main__":
    sys.exit(main())
