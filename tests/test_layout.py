"""The import rules of the design, checked from the source and in fresh processes."""

import ast
import pathlib
import re

import pytest

from tests import warm
from tests.conftest import LONGEST, REPOSITORY, run_code

# A package may import the packages in its row, itself and third-party libraries.
CONTRACT = {
    "errors",
    "choices",
    "settings",
    "architectures",
    "specs",
    "example",
    "labels",
    "tfrecord",
    "record",
}
BASE = CONTRACT | {"about", "jobs", "markdown", "texts", "manifest", "parquet_pages", "parsing", "remote"}
BASE |= {"shards", "storage"}
ALLOWED = {
    "errors": set(),
    "choices": {"errors"},
    "architectures": {"errors"},
    "settings": {"errors", "choices"},
    "specs": {"errors", "choices", "settings", "architectures"},
    "about": {"errors", "parsing", "specs", "storage"},
    "jobs": {"about", "choices", "labels", "specs", "shards"},
    "texts": set(),
    "parquet_pages": {"errors"},
    "remote": {"errors", "texts"},
    "storage": {"errors", "remote"},
    "sandbox": set(),
    "worker_process": {"sandbox"},
    "workers": {"errors", "choices", "specs", "parsing", "sandbox", "worker_process"},
    "parquet_check": {"errors", "specs", "parquet_pages", "storage", "workers"},
    "parsing": {"errors", "storage"},
    "shards": {"errors", "labels", "specs", "parsing"},
    "ray_cluster": {"errors", "__init__"},
    "example": set(),
    "labels": {"errors"},
    "tfrecord": {"errors"},
    "record": CONTRACT,
    "manifest": CONTRACT | {"about", "jobs", "parsing", "shards", "storage"},
    "tfds": BASE,
    "markdown": {"specs"},
    "croissant": BASE | {"tfds"},
    "dataset_card": BASE | {"croissant", "tfds"},
    "building": BASE | {"croissant", "dataset_card", "tfds"},
    "convert": BASE | {"workers", "croissant", "dataset_card", "tfds", "ray_cluster"},
    "fetching": BASE | {"convert", "sandbox"},
    "dataset": BASE,
    "models": {"errors", "architectures", "specs"},
    "recipes": {"errors", "specs", "manifest"},
    "drawing": {"errors", "markdown", "specs"},
    "training": BASE | {"dataset", "models", "drawing"},
    "evaluation": BASE | {"dataset", "models", "training", "ray_cluster"},
    "features": BASE | {"dataset", "models", "training", "evaluation"},
    "job": BASE | {"dataset", "training", "evaluation"},
    "report": BASE | {"dataset", "drawing", "evaluation"},
    "device_checks": BASE
    | {"building", "convert", "worker_process", "recipes", "dataset", "models", "training", "evaluation"},
    "robustness": BASE
    | {"workers", "convert", "dataset", "models", "drawing", "training", "evaluation", "features", "report"},
    "inference": BASE
    | {"workers", "convert", "dataset", "models", "drawing", "training", "evaluation", "features", "report"}
    | {"robustness"},
    "monitoring": BASE | {"dataset", "drawing", "training", "evaluation", "inference"},
    "api": BASE | {"recipes", "dataset", "models", "training", "features", "job", "inference"},
    "__init__": {"api"},
}
LIBRARY = REPOSITORY / "ucf50_tfrecord"


def imported_modules(path: pathlib.Path) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def rooms_imported(path: pathlib.Path) -> set[str]:
    parts = [module.split(".") for module in imported_modules(path)]
    return {names[1] for names in parts if names[0] == "ucf50_tfrecord" and len(names) > 1}


@pytest.mark.parametrize(
    "path", sorted(LIBRARY.rglob("*.py")), ids=lambda path: str(path.relative_to(LIBRARY))
)
def test_imports_point_one_way(path):
    room = path.relative_to(LIBRARY).parts[0].removesuffix(".py")
    assert rooms_imported(path) <= ALLOWED[room] | {room}
    assert not {m.split(".")[0] for m in imported_modules(path)} & {
        "pipelines",
        "benchmarks",
        "tools",
        "tests",
    }


def test_the_files_that_start_first_exist():
    assert all((REPOSITORY / path).is_file() for path in LONGEST)


def test_tools_import_no_benchmark():
    for path in (REPOSITORY / "tools").rglob("*.py"):
        assert not any(module.split(".")[0] == "benchmarks" for module in imported_modules(path)), path


def test_every_room_has_a_rule():
    rooms = {path.relative_to(LIBRARY).parts[0].removesuffix(".py") for path in LIBRARY.rglob("*.py")}
    assert rooms == set(ALLOWED)


@pytest.mark.parametrize(
    "library, files",
    [
        ("av", {"container.py", "decode.py", "recode.py"}),
        ("apache_beam", {"beam.py"}),
        ("ray", {"on_ray.py", "ray_cluster.py"}),
        ("rarfile", {"archives.py"}),
        ("pyarrow", {"parquet_check.py", "parquet_lists.py", "parquet_pages.py", "predictions.py"}),
    ],
)
def test_heavy_libraries_are_imported_by_their_own_files_only(library, files):
    users = {
        path.name
        for path in LIBRARY.rglob("*.py")
        if any(m.split(".")[0] == library for m in imported_modules(path))
    }
    assert users == files


def test_videos_are_opened_in_one_place():
    """No other file of the library hands FFmpeg anything to open."""
    users = {path.name for path in LIBRARY.rglob("*.py") if re.search(r"\bav\.open\(", path.read_text())}
    assert users == {"container.py"}


@pytest.mark.parametrize(
    "room, file",
    [("inference", "decoding.py"), ("device_checks", "made_clips.py"), ("robustness", "videos.py")],
)
def test_only_one_file_of_a_room_imports_the_write_side(room, file):
    users = {path.name for path in (LIBRARY / room).glob("*.py") if "convert" in rooms_imported(path)}
    assert users == {file}


def test_only_record_knows_feature_keys():
    for path in LIBRARY.rglob("*.py"):
        texts = [
            node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)
        ]
        keys = [text for text in texts if isinstance(text, str) and text.startswith(("clip/", "image/"))]
        assert path.name == "record.py" or not keys, path


@pytest.mark.parametrize(
    "modules, absent",
    [
        (
            "ucf50_tfrecord.convert.engines, ucf50_tfrecord.convert.plan, ucf50_tfrecord.convert.catalog",
            ["tensorflow", "keras"],
        ),
        ("pipelines.convert, pipelines.train", ["tensorflow", "keras", "av", "pyarrow"]),
        ("ucf50_tfrecord.convert.lists", ["tensorflow", "keras", "pyarrow"]),
        ("pipelines.fetch", ["tensorflow", "keras", "av", "rarfile"]),
        ("tools.inspect_data, tools.doctor", ["tensorflow", "keras", "av"]),
        ("ucf50_tfrecord.training.events, ucf50_tfrecord.dataset.memory", ["tensorflow", "keras"]),
        ("pipelines.predict", ["tensorflow", "keras", "av"]),
        ("pipelines.monitor", ["tensorflow", "keras", "av"]),
        ("pipelines.check_gpu", ["tensorflow", "keras", "av"]),
        ("pipelines.robustness", ["tensorflow", "keras", "av"]),
        ("ucf50_tfrecord.robustness.videos", ["tensorflow", "keras"]),
        (
            "ucf50_tfrecord.robustness.measure, ucf50_tfrecord.robustness.page",
            ["av", "ucf50_tfrecord.convert"],
        ),
        ("ucf50_tfrecord.api", ["tensorflow", "keras", "av"]),
        ("ucf50_tfrecord.inference.decoding", ["tensorflow", "keras"]),
        ("ucf50_tfrecord.evaluation.runner, ucf50_tfrecord.training.loop", ["av", "ucf50_tfrecord.convert"]),
        ("ucf50_tfrecord.device_checks.made_clips, ucf50_tfrecord.device_checks.speed", ["av"]),
    ],
)
def test_a_fresh_process_loads_one_side_only(modules, absent):
    code = f"import sys, {modules}; print([name for name in {absent} if name in sys.modules])"
    run = run_code if "tensorflow" in absent else warm.run_code
    result = run(code, check=True)
    assert result.stdout.strip() == "[]"


def test_importing_the_library_prints_and_parses_nothing():
    for path in LIBRARY.rglob("*.py"):
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert not names & {"print", "tqdm"}, path
        assert not any(module.startswith("absl") for module in imported_modules(path)), path


def test_the_library_knows_no_commands():
    """Its errors carry remedies as data; the entry points know flags, make and pip. Recipes are flagfiles."""
    commands = re.compile(
        r"(^|[\s(`'\"])(--[a-z]\w+|(make|pip) [a-z]+ *[A-Z`]|python -m|(pipelines|tools)\.)"
    )
    for path in set(LIBRARY.rglob("*.py")) - {LIBRARY / "recipes" / "__init__.py"}:
        tree = ast.parse(path.read_text())
        words = {"--error-unmatch", "--porcelain", "--version"}  # git's own, and bsdtar's
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in words:
                assert not commands.search(node.value), (path, node.value)


# It runs where PyTorch alone is installed, and prints a number.
PRINTS_BY_ITSELF = "step_torch.py"
WRITES_TO_THE_TERMINAL = {
    "print",
    "stdout.write",
    "stderr.write",
    "tqdm",
    "argparse.ArgumentParser",
    "print_exc",
}


ENTRY_FOLDERS = ("pipelines", "benchmarks", "tools")


@pytest.mark.parametrize("folder", ENTRY_FOLDERS)
def test_only_one_file_writes_to_the_terminal(folder):
    """terminal.py escapes what names hold; console.py has the bars."""
    for path in (REPOSITORY / folder).rglob("*.py"):
        called = [
            ast.unparse(node.func)
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
        ]
        writing = {
            name for name in called for last in WRITES_TO_THE_TERMINAL if f".{name}".endswith(f".{last}")
        }
        assert writing <= ({"print"} if path.name == PRINTS_BY_ITSELF else set()), path
        assert path.name == "console.py" or "tqdm" not in imported_modules(path), path


def test_the_lines_of_a_message_are_given_one_by_one():
    """A line break in a text that is printed would be escaped as a name's is."""
    for path in [path for folder in ENTRY_FOLDERS for path in (REPOSITORY / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
                "say",
                "note",
                "warn",
            ):
                texts = [
                    text for part in node.args for text in ast.walk(part) if isinstance(text, ast.Constant)
                ]
                assert "split" in ast.unparse(node) or not any("\n" in str(text.value) for text in texts), (
                    path
                )


ENTRY_POINTS = [
    path
    for folder in ENTRY_FOLDERS
    for path in sorted((REPOSITORY / folder).glob("*.py"))
    if '__name__ == "__main__"' in path.read_text()
]


@pytest.mark.parametrize("path", ENTRY_POINTS, ids=lambda path: path.stem)
def test_help_fits_a_terminal(path):
    """--help shows the docstring as it is where absl prints it; argparse wraps its first line."""
    text = path.read_text()
    docstring = ast.get_docstring(ast.parse(text), clean=False)
    shown = "" if "argparse" in text else docstring
    assert max(map(len, shown.split("\n"))) <= 80
