"""Rewrites the hashes in constraints.txt and constraints-io.txt.

  python -m tools.write_hashes

Keeps the versions, and fetches the hashes of all their files, for any platform,
from the package index. To change a version or to add a package, edit its line
(name==version) and run this. Old hashes are dropped.
"""

# Runs in an empty environment, so it imports the standard library alone.
from __future__ import annotations

import itertools
import os
import subprocess
import sys

from tools.install import install_alone
from tools.pins import IO_PINS, PINS

_COMPILE = (
    *("pip", "compile", "--no-config", "--no-deps", "--universal", "--python-version=3.11"),
    *("--generate-hashes", "--no-annotate", "--no-header"),
)


def main() -> int:
    try:
        install_alone(["uv"], PINS)
    except ValueError as error:
        sys.exit(f"error: {error}")
    for path in (PINS, IO_PINS):
        # To standard output: uv would keep the hashes of an existing file.
        command = [sys.executable, "-m", "uv", "--quiet", *_COMPILE, str(path)]
        result = subprocess.run(command, stdout=subprocess.PIPE)
        if result.returncode:
            return result.returncode
        header = itertools.takewhile(lambda line: line.startswith(b"#"), path.read_bytes().splitlines(True))
        written = path.with_suffix(".new")
        written.write_bytes(b"".join(header) + result.stdout)
        os.replace(written, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
