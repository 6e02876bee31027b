"""Links, commands, flags and files that the documents name."""

import functools
import importlib.util
import os
import pathlib
import re
import subprocess

import pytest

from tests.conftest import REPOSITORY
from ucf50_tfrecord.specs import ClipFormat

DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])
# Flags of other programs that commands in the documents use.
FOREIGN_FLAGS = {
    "array cpus-per-task gpus nodes ntasks-per-node wrap": "Slurm",
    "runner direct_running_mode direct_num_workers": "Apache Beam",
    "address head": "Ray",
    "experiment mode model_dir config_file params_override": "TF Model Garden",
    "flagfile help helpshort": "absl",
    "logdir": "TensorBoard",
    "numprocesses": "pytest",
}

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))


def code_blocks(text: str) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```$", text, re.M | re.S)


def prose(text: str) -> str:
    return re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.M | re.S)


def anchors(path: pathlib.Path) -> set[str]:
    """The fragments by which GitHub links to a document's headings."""
    headings = re.findall(r"^#+ (.*)$", prose(path.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(text: str, program: str) -> list[str]:
    """The commands in a document that start with a program, each on one line and without its comment."""
    blocks = "\n".join(code_blocks(text)).replace("\\\n", " ")
    lines = [re.sub(r"\s+#.*", "", line).strip() for line in blocks.splitlines()]
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(text))]
    return [line for line in lines if re.match(rf"{program}\s", line)]


@each_document
def test_relative_links_resolve(path):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text()))
    for link in links:
        if "://" in link:
            continue
        name, _, fragment = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.is_relative_to(REPOSITORY) and target.exists(), link
        assert not fragment or fragment in anchors(target), link


@functools.cache
def dry_run(command: str) -> str:
    """Returns make's complaint about a command, "" if there is none."""
    arguments = re.findall(r"""((?:[^\s"']|"[^"]*"|'[^']*')+)""", command)[1:]
    arguments = [re.sub(r"[\"'<>]", "", argument) for argument in arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    pythons = ["BASE_PYTHON=python3", "IO_PYTHON=python3"]  # which make would look for
    result = subprocess.run(
        ["make", "--dry-run", *arguments, *pythons],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )
    return result.stderr if result.returncode else ""


@each_document
def test_make_accepts_every_command(path):
    """Targets and variables: make refuses those that it does not know."""
    for command in commands(path.read_text(), "make"):
        assert dry_run(command) == "", command


@functools.cache
def known_flags() -> frozenset[str]:
    """Flags of the entry points, which docs/options.md lists, of the tools, and of other programs."""
    options = (REPOSITORY / "docs" / "options.md").read_text()
    names = set(re.findall(r"^\| `--(\w+)`", options, re.M))
    sources = [path for room in ("tools", "benchmarks") for path in (REPOSITORY / room).rglob("*.py")]
    for path in sources:
        names |= set(re.findall(r"(?:flags\.DEFINE_\w+|add_argument)\(\s*\"(?:--)?(\w+)\"", path.read_text()))
    foreign = {name for names in FOREIGN_FLAGS for name in names.split()}
    return frozenset(names | foreign)


@each_document
def test_flags_exist(path):
    for flag in re.findall(r"(?<![\w-])--([a-z][\w-]*+)(?!<)", path.read_text()):
        assert {flag, flag.removeprefix("no")} & known_flags(), f"--{flag}"


@each_document
def test_modules_that_python_runs_exist(path):
    own = ("benchmarks", "pipelines", "tools", "ucf50_tfrecord")
    for module in re.findall(r"python -m ([\w.]++)(?!<)", path.read_text()):
        if module.partition(".")[0] in own:
            assert importlib.util.find_spec(module) is not None, module


@each_document
def test_files_of_the_project_exist(path):
    """Python files and recipes in backticks; `convert/decode.py` lies in the library."""
    for name in re.findall(r"`([\w/]+\.(?:py|flags))`", prose(path.read_text())):
        roots = (REPOSITORY, REPOSITORY / "ucf50_tfrecord", path.parent)
        assert any((root / name).exists() for root in roots), name


def test_examples_name_the_folder_of_the_default_format():
    """In documents and docstrings; docs/readers.md states the shape of its clips too."""
    rooms = ("ucf50_tfrecord", "pipelines", "tools", "benchmarks")
    modules = [path for room in rooms for path in (REPOSITORY / room).rglob("*.py")]
    for path in (*DOCUMENTS, *modules):
        sizes = re.findall(r"-(\d+)x\d+x\d+\b|\[(\d+), (?:64, 64|172, 172), 3\]", path.read_text())
        assert {int(folder or shape) for folder, shape in sizes} <= {ClipFormat.num_frames}, path


@pytest.mark.parametrize("room", ["ucf50_tfrecord", "pipelines", "tools", "benchmarks"])
def test_workspace_names_every_module(room):
    """Modules of tools/checkup and tools/fuzzing are named by their folders."""
    text = (REPOSITORY / "WORKSPACE.md").read_text()
    for path in (REPOSITORY / room).rglob("*.py"):
        if path.stem != "__init__" and path.parent.name not in ("checkup", "fuzzing"):
            assert f"`{path.stem}`" in text or f"`{path.name}`" in text, path


@functools.cache
def words_of_the_code() -> frozenset[str]:
    """The identifiers in the code, and the names of its files and folders."""
    rooms = ("ucf50_tfrecord", "pipelines", "tools", "benchmarks", "tests")
    paths = [path for room in rooms for path in [REPOSITORY / room, *(REPOSITORY / room).rglob("*")]]
    names = {path.stem for path in paths}
    code = "\n".join(path.read_text() for path in paths if path.suffix == ".py")
    return frozenset(names | set(re.findall(r"\w+", code)))


@pytest.mark.parametrize("name", ["WORKSPACE.md", "CONTRIBUTING.md", "docs/internals.md"])
def test_names_of_code_exist(name):
    """Such as `specs.ClipFormat`: a renamed class or function must be renamed in the how-tos too."""
    for dotted in re.findall(r"`([A-Za-z_][\w.]*)(?:\(\))?`", prose((REPOSITORY / name).read_text())):
        missing = {word for word in re.findall(r"\w+", dotted)} - words_of_the_code()
        assert not missing or (REPOSITORY / dotted).exists(), dotted
