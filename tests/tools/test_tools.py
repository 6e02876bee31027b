import os
import re
import subprocess
import sys
import time

import av
import numpy as np
import pytest

from tests import warm
from tests.conftest import REPOSITORY, child_pids, is_running, run_module
from ucf50_tfrecord import recipes
from ucf50_tfrecord.architectures import MODELS

# (forwards, backwards)
PAIRS = (("Grow", "Shrink"), ("Rise", "Sink"), ("Part", "Meet"), ("Scatter", "Gather"))
MODELS_TABLE = REPOSITORY / "docs" / "training.md"


def read_frames(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    output = tmp_path_factory.mktemp("demo") / "demo"
    result = run_module("tools.make_demo_videos", f"--output={output}", "--groups=2", "--clips=1")
    assert result.returncode == 0, result.stderr
    assert "16 videos, 8 classes, 2 groups" in result.stdout
    return output


def test_the_demo_corpus_has_the_files_of_ucf50(corpus):
    files = sorted(path.relative_to(corpus).as_posix() for path in corpus.rglob("*.avi"))
    assert len(files) == 16 and files[0] == "Gather/v_Gather_g01_c01.avi"
    for path in corpus.rglob("*.avi"):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.codec_context.codec_tag) == ("mpeg4", "XVID")
            assert (stream.height, stream.width, stream.average_rate) == (120, 160, 25)
            keys = [i for i, packet in enumerate(container.demux(stream)) if packet.is_keyframe]
            assert 50 <= stream.frames <= 75 and keys[:3] == [0, 12, 24]


def test_twins_show_the_same_frames_backwards(corpus):
    for forwards, backwards in PAIRS:
        for group in (1, 2):
            one, two = (
                read_frames(corpus / name / f"v_{name}_g{group:02d}_c01.avi")
                for name in (forwards, backwards)
            )
            assert one.shape == two.shape
            # The codec loses a little, differently in each direction.
            assert np.abs(one.astype(int) - two[::-1].astype(int)).mean() < 5
            assert (
                np.abs(one.astype(int) - two.astype(int)).mean()
                > 1.2 * np.abs(one.astype(int) - two[::-1]).mean()
            )


def test_the_corpus_is_reproducible_and_the_seed_changes_it(corpus, tmp_path):
    for seed in (0, 1):
        flags = [
            f"--output={tmp_path / str(seed)}",
            "--groups=1",
            "--clips=1",
            f"--seed={seed}",
            "--workers=1",
        ]
        assert run_module("tools.make_demo_videos", *flags).returncode == 0
    for path in (tmp_path / "0").rglob("*.avi"):
        name = path.relative_to(tmp_path / "0")
        assert path.read_bytes() == (corpus / name).read_bytes()
        assert path.read_bytes() != (tmp_path / "1" / name).read_bytes()


def test_an_existing_corpus_is_not_overwritten(corpus):
    before = sorted(corpus.rglob("*"))
    result = run_module("tools.make_demo_videos", f"--output={corpus}")
    assert result.returncode == 2 and "exists already" in result.stderr and "Traceback" not in result.stderr
    assert before == sorted(corpus.rglob("*"))


def test_a_closed_pipe_is_no_error(data_dir):
    command = (
        f"{sys.executable} -u -m tools.inspect_data --data='{data_dir}' | head -1; exit ${{PIPESTATUS[0]}}"
    )
    result = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, text=True, capture_output=True)
    assert (result.returncode, result.stderr) == (0, "") and result.stdout.count("\n") == 1


def make(*arguments, env=None):
    env = {key: value for key, value in (env or os.environ).items() if not key.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=REPOSITORY, text=True, capture_output=True, env=env)


def first_column(header):
    """Returns the text in the first column of a table of docs/commands.md, found by that column's header."""
    document = (REPOSITORY / "docs" / "commands.md").read_text()
    table = document[document.index(f"| {header} |") :].partition("\n\n")[0]
    return "\n".join(row.split("|")[1] for row in table.splitlines())


def test_make_help_and_its_page_list_every_target():
    makefile = (REPOSITORY / "Makefile").read_text()
    [declared] = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    targets = sorted(declared.split())
    assert len(targets) > 20
    result = make("help")
    assert result.returncode == 0
    assert sorted(re.findall(r"^  make ([a-z0-9-]+) ", result.stdout, re.MULTILINE)) == targets
    assert sorted(re.findall(r"`make ([a-z0-9-]+)", first_column("command"))) == targets
    assert "seed_lstm" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_make_help_and_its_page_list_the_same_variables():
    text = make("help").stdout
    variables = sorted(re.findall(r"`([A-Z_]+)`", first_column("variable")))
    assert len(variables) > 15
    assert sorted(re.findall(r"^  ([A-Z_]+)  ", text, re.MULTILINE)) == variables


@pytest.mark.parametrize(
    "arguments, parts, absent",
    [
        (
            ["--always-make", "train"],  # whether or not the demo is there already
            ["tools.make_demo_videos", "--recipe='lstm'", "--videos='data/demo_videos'"],
            ["--data=", "--model="],
        ),
        (["train", "MODEL=frame_pool"], ["--recipe='frame_pool'", "--model='frame_pool'"], []),
        (
            [
                "train",
                "RECIPE=seed_rnn",
                "VIDEOS=/my videos",
                "SIZE=112x96",
                "FRAMES=8",
                "EPOCHS=3",
                "SEED=4",
                "VAL_FOLDS=1-5",
                "RUN=runs/x",
                "FLAGS=--fold_by=video",
            ],
            [
                "--recipe='seed_rnn'",
                "--videos='/my videos'",
                "--size='112x96'",
                "--frames='8'",
                "--epochs='3'",
                "--seed='4'",
                "--val_folds='1-5'",
                "--run='runs/x'",
                "--fold_by=video",
            ],
            ["tools.make_demo_videos"],
        ),
        (["train", "DATA=/shards"], ["--data='/shards'"], ["--videos", "tools.make_demo_videos"]),
        (
            ["shards", "VIDEOS=/v", "SIZE=112"],
            ["pipelines.convert", "--videos='/v'", "--size='112'"],
            ["--flagfile"],
        ),
        (
            ["evaluate", "RUN=runs/x", "VAL_FOLDS=3"],
            ["pipelines.evaluate", "--run='runs/x'", "--folds='3'"],
            ["--videos"],
        ),
        (["evaluate", "RUN=runs/x", "VIDEOS=/v"], ["--run='runs/x'", "--videos='/v'"], ["--data"]),
    ],
)
def test_make_passes_variables_as_flags(arguments, parts, absent, tmp_path):
    result = make("--dry-run", *arguments)
    assert result.returncode == 0, result.stderr
    assert all(part in result.stdout for part in parts), result.stdout
    assert not any(part in result.stdout for part in absent), result.stdout


def test_make_installs_the_gpu_extra_beside_a_driver(tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    result = make("--dry-run", "--always-make", "train", env={**os.environ, "PATH": path})
    assert "-m tools.install convert,train,pretrained,gpu\n" in result.stdout


@pytest.mark.parametrize("name", ["RECIPE", "MODEL"])
def test_make_names_an_unknown_recipe_before_it_installs(name, tmp_path):
    result = make("--dry-run", "train", f"{name}=nope", f"VENV={tmp_path / 'new'}")
    first = result.stdout.splitlines()[0]
    assert "there is no recipe 'nope'; RECIPE or MODEL is one of: bilstm " in first and "exit 2" in first


def test_make_trains_a_recipe_of_ones_own():
    result = make("--dry-run", "train", "RECIPE=my/own recipe.flags")
    assert "no recipe" not in result.stdout and "--recipe='my/own recipe.flags'" in result.stdout


def test_one_line_of_the_makefile_adds_a_train_variable(tmp_path):
    lines = (REPOSITORY / "Makefile").read_text().splitlines(keepends=True)
    place = next(number for number, line in enumerate(lines) if line.startswith("$(call train_variable,"))
    lines.insert(place, "$(call train_variable,STEP_SIZE)  ## how far a step goes; default: the recipe's\n")
    (tmp_path / "Makefile").write_text("".join(lines))
    makefile = f"--makefile={tmp_path / 'Makefile'}"
    result = make(makefile, "--dry-run", "train", "DATA=/shards", "STEP_SIZE=0.1")
    assert "--step_size='0.1'" in result.stdout
    assert "  STEP_SIZE      how far a step goes; default" in make(makefile, "help").stdout
    assert "STEP_SIZE" not in make("help").stdout


def test_make_names_an_unknown_variable():
    result = make("--dry-run", "verify", "data=data/x", "EPOCH=3")
    assert result.returncode == 2 and not result.stdout
    assert re.search("there is no variable (data EPOCH|EPOCH data); `make help` lists them", result.stderr)
    env = {**os.environ, "EPOCH": "3", "EPOCHS": "3", "TRAIN": "EPOCH", "VARIABLES": "EPOCH"}
    result = make("--dry-run", "train", "DATA=x", env=env)
    assert result.returncode == 0 and "--epoch" not in result.stdout


def test_make_tensorboard_needs_an_existing_folder(tmp_path):
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    for name in ("bin/python", "installed"):
        (tmp_path / "venv" / name).touch()
    result = make("tensorboard", f"VENV={tmp_path / 'venv'}", "RUN=runs/nowhere")
    assert result.returncode == 2 and "error: there is no folder 'runs/nowhere'" in result.stderr


def test_the_models_are_listed_with_their_parameters():
    result = warm.run_module("tools.describe_models", "--classes=50")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    begin = [number for number, line in enumerate(lines) if line.startswith("model ")]
    of_frames, of_features = (
        {line.split()[0]: line.split(maxsplit=4)[1:] for line in part if line and not line.startswith(" ")}
        for part in (lines[begin[0] + 1 : begin[1] - 2], lines[begin[1] + 1 :])
    )
    assert sorted(of_frames) == sorted(MODELS)
    # Per frame: three convolutions and a dense layer; then a recurrent layer, and the classifier.
    frame = 27 * 32 * 64**2 + 9 * 32 * 64 * 32**2 + 9 * 64 * 128 * 16**2 + 8 * 8 * 128 * 256
    millions = (15 * (frame + 2 * 256 * 1024) + 256 * 50) / 1e6
    assert of_frames["seed_lstm"] == ["2,728,818", f"{millions:.1f}", "M", "The published CNN + LSTM"]
    assert sorted(of_features) == sorted(name for name, traits in MODELS.items() if traits.takes_features)
    assert of_features["frame_pool"][:3] == ["64,050", "0.1", "M"]
    for name in recipes.names():  # each has its numbers, as none changes them by other settings
        settings = recipes.load(name)
        assert not {"encoder", "motion"} & settings.keys()
        assert settings["model"] in (of_features if name.startswith("features_") else of_frames)
    documented = {}
    for names, *numbers in re.findall(
        r"^\| (`.*?`) \| ([\d,; ]+) \| ([\d,; ]+) M \|", MODELS_TABLE.read_text(), re.M
    ):
        parameters, products = (cell.split("; ") for cell in numbers)
        documented |= dict(
            zip(re.findall(r"\w+", names), zip(parameters, products, strict=True), strict=True)
        )
    assert {"lstm", "r2plus1d", "transformer", "seed_rnn"} <= documented.keys()
    for name, found in documented.items():
        parameters, millions, *_ = of_frames[name]
        assert found == (parameters, f"{float(millions.replace(',', '')):,.0f}"), name
    result = warm.run_module("tools.describe_models", "--size=huge")
    assert result.returncode == 2 and "a size such as 64 or 112x96" in result.stderr
    result = warm.run_module("tools.describe_models", "--size=0")
    assert result.returncode == 2 and "Expected a height of 8 to 4096 pixels" in result.stderr


def test_a_killed_tool_leaves_no_processes_and_no_semaphores(tmp_path):
    """The third child removes semaphores, which lie in /dev/shm beside those of other processes."""
    flags = [f"--output={tmp_path / 'demo'}", "--workers=2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.make_demo_videos", *flags],
        cwd=REPOSITORY,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".tmp-*-demo/*/*.avi")) and time.monotonic() < deadline:
        time.sleep(0.05)
    children = child_pids(process.pid)  # two that render, and the one that removes semaphores
    process.kill()
    process.wait()
    assert len(children) == 3
    while any(map(is_running, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, children))
