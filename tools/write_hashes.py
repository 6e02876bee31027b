"""Rewrites the hashes of packages in constraints.txt and constraints-io.txt.

  python -m tools.write_hashes

Keeps the versions. The hashes of each version's files, for all platforms, are
fetched from the package index; old hashes are dropped. To change a version or
to add a package, edit its line (name==version) and run this program.
"""

# Runs in an empty environment, so it imports only the standard library and modules that do the same.
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
        # uv writes to standard output: it would keep the hashes of an existing output file.
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
