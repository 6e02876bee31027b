"""Writes docs/options.md: each entry point's flags, with defaults and meanings.

python -m tools.write_options
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

from pipelines import terminal
from pipelines.main import COMMANDS, first_line, module_of
from tools.pins import REPOSITORY
from ucf50_tfrecord import storage
from ucf50_tfrecord.errors import expect

OPTIONS = REPOSITORY / "docs" / "options.md"
# Flags of several entry points are listed once, under their module.
_SHARED = {
    "convert": "conversion",
    "ray_flags": "Ray",
    "train_flags": "model and training",
    "inputs": "input",
    "run_flags": "run",
    "video_flags": "videos to predict",
    "code_flags": "allowed code",
}
# Modules with flags of one entry point alone.
_PARTS = ("comparison_flags", "comparison_jobs", "live")
_LAUNCH = "launch"
_HEAD = """# Options

Written by `python -m tools.write_options` from the flags; a test fails when it is stale.

`ucf50 <command> --<flag>=<value>` after `pip install .`, or `python -m pipelines.<command> --<flag>=<value>`. A flag of
yes or no is given as `--<flag>` or `--no<flag>`. `--flagfile=<file>` reads flags from a file, one per line.
`--helpshort` shows a command's flags in the terminal."""


def main() -> None:
    with storage.atomic_write(OPTIONS) as file:
        file.write(make_page().encode())
    terminal.say(f"Options: {OPTIONS}")


def make_page() -> str:
    """Returns the text of docs/options.md, as Markdown."""
    sections: dict[str, list[ElementTree.Element]] = {}
    commands: list[str] = []
    for command in COMMANDS:
        by_module = {} if command == _LAUNCH else _read_flags(command)
        own = module_of(command).rpartition(".")[2]
        shared = [module for module in by_module if module in _SHARED and module != own]
        links = ", ".join(f"[{_SHARED[module]}](#flags-{_anchor(module)})" for module in shared)
        commands += ["", f"## {command}", "", first_line(command)]
        if command == _LAUNCH:
            commands += ["", "`ucf50 launch --workers=<number> -- <flags of train>`"]
        if command in _SHARED:
            commands += ["", f"Its flags are those of the [{_SHARED[command]}](#flags-{_anchor(command)})."]
        elif own_flags := [flag for module in (own, *_PARTS) for flag in by_module.get(module, ())]:
            commands += ["", *_table(own_flags)]
        if links:
            commands += ["", f"Also the flags of: {links}."]
        sections |= {module: by_module[module] for module in by_module if module in _SHARED}
    shared_lines = []
    for module, name in _SHARED.items():
        shared_lines += ["", f"## Flags: {name}", "", *_table(sections[module])]
    return "\n".join([_HEAD, *commands, *shared_lines, ""])


def _read_flags(command: str) -> dict[str, list[ElementTree.Element]]:
    """Returns an entry point's flags, elements of --helpxml, by the last part of their module's name."""
    arguments = [sys.executable, "-m", module_of(command), "--helpxml"]
    result = subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, text=True)
    expect(result.stdout.startswith("<?xml"), f"flags of {module_of(command)}", stderr=result.stderr)
    found: dict[str, list[ElementTree.Element]] = {}
    for flag in ElementTree.fromstring(result.stdout).iter("flag"):
        if flag.findtext("key") == "yes":
            module = pathlib.PurePath(flag.findtext("file", "")).name.removesuffix(".py").rpartition(".")[2]
            found.setdefault(module, []).append(flag)
    return found


def _table(flags: list[ElementTree.Element]) -> list[str]:
    rows = sorted((flag.findtext("name", ""), _default(flag), _meaning(flag)) for flag in flags)
    return [
        "| flag | default | meaning |",
        "|---|---|---|",
        *(f"| `--{name}` | {default} | {meaning} |" for name, default, meaning in rows),
    ]


def _default(flag: ElementTree.Element) -> str:
    default = flag.findtext("default", "")
    return f"`{default}`" if default not in ("", "None") else ""


def _meaning(flag: ElementTree.Element) -> str:
    text = " ".join(flag.findtext("meaning", "").split())
    choices = [choice.text or "" for choice in flag.findall("enum_value")]
    if choices:  # absl puts the choices in front of the meaning
        text = text.removeprefix(f"<{'|'.join(choices)}>: ") + f" One of {', '.join(choices)}."
    return text.replace("|", "\\|").replace("<", "&lt;")


def _anchor(module: str) -> str:
    return _SHARED[module].lower().replace(" ", "-")


if __name__ == "__main__":
    main()
