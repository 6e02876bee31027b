"""Turns remedies (an error's suggestions for fixing it) into commands.

This module also holds the flags' names of library options whose flags have other names than the options.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import shlex
import sys
from collections.abc import Iterable
from typing import Any

import pipelines
from ucf50_tfrecord.errors import Action, Change, Remedy

# The names of flags, by the options of the library, where the names differ.
FLAGS = {
    "cache_bytes": "fetch_cache_gib",
    "cache_dir": "fetch_cache",
    "data_dir": "data",
    "memory_mib": "video_memory_mib",
    "method": "fetch",
    "num_frames": "frames",
    "num_parts": "cv",
    "run_dir": "run",
    "timeout_secs": "video_timeout_secs",
}
# The same for the fields of specs.FeatureSpec, whose own names would not tell what they are of.
FEATURE_FLAGS = {
    "encoder": "features",
    "size": "encoder_size",
    "grid": "feature_grid",
    "precision": "feature_precision",
    "num_views": "feature_views",
}
_CHANGES = {Change.SMALLER: "a smaller", Change.LARGER: "a larger", Change.OTHER: "another"}
_PURPOSES = {
    Action.SET: "try",
    Action.REPAIR: "to repair it",
    Action.ENCODE: "to repair it",
    Action.CONVERT: "to convert videos into it",
    Action.TRAIN: "to train",
    Action.EVALUATE: "to evaluate them",
    Action.LAUNCH: "to start workers on this machine",
    Action.INSTALL: "to install what is missing",
    Action.PIPE: "to pipe it in",
}
_LETTERS = {"\n": r"\n", "\r": r"\r", "\t": r"\t", "\\": r"\\", "'": r"\'"}


def message(problem: object) -> str:
    """Returns the text of an error or a warning, followed by the commands of its remedies if it has any."""
    text, remedies = str(problem), getattr(problem, "remedies", ())
    if not remedies:
        return text
    groups = itertools.groupby(remedies, key=lambda remedy: remedy.purpose or _PURPOSES[remedy.action])
    ways = "; ".join(f"{purpose}: {_join(map(command, group))}" for purpose, group in groups)
    return f"{text}{'' if text.endswith('.') else '.'} {ways[0].upper()}{ways[1:]}"


def command(remedy: Remedy) -> str:
    """Returns the command, or the flags, by which the user carries out a remedy."""
    details = remedy.details
    match remedy.action:
        case Action.SET:
            return " ".join(itertools.starmap(_flag, details.items()))
        case Action.REPAIR:
            return _repair_command(**details)
        case Action.ENCODE:
            return _encode_command(**details)
        case Action.CONVERT:
            folder = shell_word(f"--data={details['data_dir']}")
            return f"{program('convert')} --videos=<folder of class folders> {folder}"
        case Action.TRAIN:
            if not details:
                return "make train"
            return f"make train {make_variable('RUN', details['run_dir'])} and the flags that started it"
        case Action.EVALUATE:
            weights = make_variable("FLAGS", f"--weights={details['weights']}")
            return f"make evaluate {make_variable('RUN', details['run_dir'])} {weights}"
        case Action.LAUNCH:
            count = details["num_workers"]
            return f"make train WORKERS={count} or {program('launch')} --workers={count}"
        case Action.INSTALL:
            return install_command(details["extras"])
        case Action.PIPE:
            return f"{shell_command(details['command'])} | {program('predict')} --live --video=- --run=…"


def _flag(option: str, value: Any) -> str:
    """Returns an option and its value as a flag, such as "--batch_size=8".

    If the user has to choose the value, the result is a phrase such as "a smaller --batch_size", or the flag
    with an ellipsis, such as "--run=…".
    """
    flag = f"--{FLAGS.get(option, option)}"
    if isinstance(value, Change):
        return f"{_CHANGES[value]} {flag}"
    if isinstance(value, bool):
        return flag if value else f"--no{flag[2:]}"
    if value is ...:
        return f"{flag}=…"
    if isinstance(value, tuple):
        first, *others = map(str, value)
        return " or ".join([shell_word(f"{flag}={first}"), *others])
    return shell_word(f"{flag}={','.join(value) if isinstance(value, list) else value}")


def _repair_command(*, videos_dir: str, data_dir: str, **options: Any) -> str:
    """Returns the `make repair` command that converts a dataset's damaged shards again."""
    variables = {"VIDEOS": videos_dir, "DATA": data_dir}
    height, width = options.pop("height", None), options.pop("width", None)
    if height:
        variables["SIZE"] = f"{height}x{width}"
    if num_frames := options.pop("num_frames", None):
        variables["FRAMES"] = str(num_frames)
    if shard_bytes := options.pop("shard_bytes", None):
        options["shard_mib"] = -(-shard_bytes >> 20)
    if options:  # quoted here, since make passes FLAGS unchanged to a shell
        variables["FLAGS"] = shell_command(f"--{name}={value}" for name, value in options.items())
    return f"make repair {' '.join(make_variable(*item) for item in variables.items())}"


def _encode_command(*, frames_dir: str, data_dir: str, encoder: str, **options: Any) -> str:
    """Returns the `make features` command that encodes a dataset's damaged shards again."""
    flags = {"verify": True, "features_data": data_dir} | {
        FEATURE_FLAGS[name]: value for name, value in options.items()
    }
    given = shell_command(itertools.starmap(_flag, flags.items()))
    variables = {"DATA": frames_dir, "FEATURES": encoder, "FLAGS": given}
    return f"make features {' '.join(make_variable(*item) for item in variables.items())}"


def _join(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def install_command(extras: str) -> str:
    """Returns the command that installs the package's extras, such as "convert,train", in tested versions."""
    return f"{shell_word(python())} -m tools.install {extras}"


def python() -> str:
    """Returns the path of this Python interpreter, for a command that is shown to the user.

    The path is relative if the interpreter lies in the current folder.
    """
    path = pathlib.Path(sys.executable)
    return str(path.relative_to(os.getcwd()) if path.is_relative_to(os.getcwd()) else path)


def program(command: str) -> str:
    """Returns the first words of a command that starts an entry point like this process was started.

    They are "ucf50 <command>" if the console script ucf50 started this process, else those of `python -m`.
    """
    if _is_from_console_script():
        return f"{pipelines.CONSOLE_SCRIPT} {command}"
    return f"{shell_word(python())} -m pipelines.{command}"


def _is_from_console_script() -> bool:
    """Tells whether the console script ucf50 started this process."""
    # An interactive Python has one argument.
    return len(sys.orig_argv) > 1 and pipelines.is_console_script(sys.orig_argv[1])


def this_command(run: str | None = None, *, without: str | None = None) -> str:
    """Returns the command that started this process, quoted for a shell.

    Args:
      run: the value of --run that replaces the one in the command; None leaves the command unchanged.
      without: name of a boolean flag that is left out; None leaves the command unchanged.
    """
    script, *arguments = sys.orig_argv[1:]
    start = [pipelines.CONSOLE_SCRIPT] if _is_from_console_script() else [python(), script]
    if run:
        arguments = [argument for argument in arguments if not argument.startswith("--run=")] + [
            f"--run={run}"
        ]
    if without:
        arguments = [argument for argument in arguments if argument.lstrip("-").partition("=")[0] != without]
    return shell_command([*start, *arguments])


def make_variable(name: str, value: str) -> str:
    """Returns the word of a shell command that sets one of make's variables, quoted for the shell."""
    escaped = value.replace("$", "$$")  # make reads a $ as the start of a variable's name
    return shell_word(f"{name}={escaped}")


def shell_command(words: Iterable[str]) -> str:
    """Joins words into a command line that can be pasted into a shell, with all special characters quoted."""
    return " ".join(map(shell_word, words))


def shell_word(word: str) -> str:
    """Quotes a word for a shell. A word with characters that a terminal does not show becomes $'…'."""
    if word.isprintable():
        return shlex.quote(word)
    return f"$'{''.join(map(_escaped, word))}'"


def _escaped(character: str) -> str:
    if character in _LETTERS:
        return _LETTERS[character]
    if character.isprintable():
        return character
    is_byte = "\udc80" <= character <= "\udcff"  # a byte of a file name that is not UTF-8
    content = character.encode("utf-8", "surrogateescape" if is_byte else "surrogatepass")
    return "".join(f"\\{byte:03o}" for byte in content)  # shells differ in where \x ends
