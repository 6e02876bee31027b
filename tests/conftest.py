"""Fixtures and helpers for all tests: videos written by PyAV, datasets converted from them, and a run."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import av
import numpy as np
import pytest

from pipelines import remedies
from tests import warm
from ucf50_tfrecord.errors import UserError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# If a shell starts the tests in the background, they and the processes that they start would ignore SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = pathlib.Path(__file__).parents[1]
GROUPS = range(1, 6)
CLASSES = ("Left", "Middle", "Right")
# Files of tests that take long. They start first, so that none of them runs on alone at the end.
LONGEST = (
    "tests/training/test_loop.py",
    "tests/pipelines/test_train.py",
    "tests/features/test_training.py",
    "tests/convert/test_engines.py",
    "tests/inference/test_export.py",
    "tests/inference/test_export_several_labels.py",
    "tests/pipelines/test_several_labels.py",
    "tests/test_api.py",
    "tests/pipelines/test_workers.py",
    "tests/convert/test_interruptions.py",
    "tests/pipelines/test_terminal.py",
    "tests/report/test_report.py",
    "tests/training/test_unfreezing.py",
    "tests/training/test_workers.py",
    "tests/test_workers.py",
    "tests/tools/test_tools.py",
    "tests/convert/test_isolation.py",
    "tests/convert/test_beam.py",
    "tests/models/test_models.py",
    "tests/models/test_encoders.py",
    "tests/evaluation/test_recurrence.py",
    "tests/tools/test_fuzz.py",
    "tests/pipelines/test_main.py",
)


def write_numbered_video(
    path: pathlib.Path, num_frames: int, *, height: int = 32, width: int = 48, first: int = 0
) -> None:
    """Writes a lossless video in which every pixel of frame k is the grey value first + k."""
    frames = np.full((num_frames, height, width, 3), 0, np.uint8)
    frames += (first + np.arange(num_frames, dtype=np.uint8))[:, np.newaxis, np.newaxis, np.newaxis]
    write_video(path, frames, codec="ffv1", pix_fmt="bgr0")


def write_video(
    path: pathlib.Path, frames: np.ndarray, *, codec: str = "mpeg4", pix_fmt: str = "yuv420p", rate: int = 25
) -> None:
    """Writes RGB frames, uint8 [frames, H, W, 3], as a video; makes its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.gop_size = 12
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def make_videos(folder: pathlib.Path, *, clips: int = 2) -> pathlib.Path:
    """Writes a small set of videos of 20 to 29 frames, named as in UCF50.

    There are `clips` videos for each combination of CLASSES and GROUPS. The left, middle or right third of
    the frames is brighter, according to the class, so a model can learn the classes.

    Returns:
      `folder`, in which the class folders are made.
    """
    for label, name in enumerate(CLASSES):
        for group in GROUPS:
            for clip in range(1, clips + 1):
                rng = np.random.default_rng([label, group, clip])
                frames = rng.integers(0, 60, (20 + (group + clip) % 10, 32, 48, 3), dtype=np.uint8)
                frames[:, :, 16 * label : 16 * (label + 1)] += 150
                write_video(folder / name / f"v_{name}_g{group:02d}_c{clip:02d}.avi", frames)
    return folder


def flip_bit(path: pathlib.Path, position: int) -> None:
    """Flips one bit of the byte at `position` of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)


def run_module(*arguments: str | os.PathLike, **options) -> subprocess.CompletedProcess:
    """Runs `python -m <arguments>` in the repository, as a user would. The options are subprocess.run's."""
    return _run_python("-m", *arguments, **options)


def run_code(code: str, *arguments: str | os.PathLike, **options) -> subprocess.CompletedProcess:
    """Runs `python -c <code> <arguments>` in the repository. The options are those of subprocess.run."""
    return _run_python("-c", code, *arguments, **options)


def _run_python(*arguments: str | os.PathLike, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=REPOSITORY, text=True, capture_output=True, **options
    )


def convert_command(videos, data, *flags: str) -> list[str]:
    """Returns the command that converts a folder of videos with two workers into many small shards."""
    arguments = [f"--videos={videos}", f"--data={data}", "--workers=2", "--shard_mib=1", *flags]
    return [sys.executable, "-m", "pipelines.convert", *arguments]


def child_pids(pid: int) -> list[int]:
    """Returns the ids of those child processes of process `pid` that still run."""
    try:
        tasks = [path.read_text() for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # the process has exited meanwhile
        return []
    return [int(child) for text in tasks for child in text.split()]


def is_running(pid: int) -> bool:
    """Returns whether process `pid` still runs; a zombie, which has exited, does not."""
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


@contextlib.contextmanager
def raises_with_remedies(match: str) -> Iterator[None]:
    """Expects the block to raise a UserError whose message, as an entry point prints it, matches a pattern.

    The message consists of the error's text and the remedies, the commands that fix it.
    """
    with pytest.raises(UserError) as raised:
        yield
    assert re.search(match, remedies.message(raised.value)), remedies.message(raised.value)


def pytest_configure(config: pytest.Config) -> None:
    """Starts the process that runs programs for the tests, once for all processes of pytest."""
    if not hasattr(config, "workerinput"):  # which those have that run the tests for another
        warm.start()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the tests of the files that take longest first, in which order the processes take files."""
    ranks = {path: rank for rank, path in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(ranks)))


def pytest_collection_finish() -> None:
    """Takes what all test modules import out of garbage collections, which would take half a second each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _forget_models() -> Iterator[None]:
    """Frees the models of a module's tests: TensorFlow keeps them, and the more it keeps, the slower it frees."""
    yield
    if "keras" in sys.modules:
        from ucf50_tfrecord.evaluation import workbench

        workbench.forget_models()
        gc.freeze()  # what remains, remains for all modules


@pytest.fixture(scope="session")
def videos_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return make_videos(tmp_path_factory.mktemp("videos") / "Small Set")


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory, videos_dir: pathlib.Path) -> pathlib.Path:
    """The folder of a converted dataset, 30 clips of 5 frames of 16x24 in folds 1 to 5. Read only."""
    data = tmp_path_factory.mktemp("data") / "small"
    # With 20 KB of pixels per shard, a shard holds up to 4 clips, so that folds and batches span shards.
    build(videos_dir, data, shard_bytes=20_000)
    return data


@pytest.fixture
def copy(data_dir: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """The folder of a copy of the dataset of `data_dir`, which the test may change."""
    return shutil.copytree(data_dir, tmp_path / "data")


@pytest.fixture(scope="session")
def pool_run(data_dir: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of a finished, untrained run, whose random weights tell clips apart. Read only."""
    from tests.untrained import write_run

    return pathlib.Path(write_run(tmp_path_factory.mktemp("runs") / "pool", data_dir, weight_std=0.5))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A certificate for localhost that no system trusts; path of the file with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    options = "req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=localhost".split()
    names = ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        ["openssl", *options, *names, "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True
    )
    return path


def plan_of(
    videos_dir, *, fold_by="group", shard_bytes=1 << 20, name="small", checksum=False, **format_options
):
    """Plans the conversion of a folder of videos to clips of 5 frames of 16x24, unless options say otherwise.

    format_options: fields of ClipFormat.
    """
    from ucf50_tfrecord.convert import catalog, decode, plan
    from ucf50_tfrecord.specs import ClipFormat, FoldRule

    return plan.plan_shards(
        catalog.find_videos(videos_dir, checksum=checksum),
        name=name,
        clip_format=ClipFormat(**{"num_frames": 5, "height": 16, "width": 24, **format_options}),
        fold_rule=FoldRule(fold_by=fold_by, num_folds=4),
        decoder=decode.decoder_version(),
        shard_bytes=shard_bytes,
    )


def build(videos_dir, data_dir, *, workers=1, verify=False, overwrite=False, **plan_options):
    """Converts a folder of videos by the library's functions; returns the dataset's manifest.

    plan_options: keyword arguments of plan_of.
    """
    from ucf50_tfrecord import building
    from ucf50_tfrecord.convert import engines

    run = functools.partial(engines.run_local, num_workers=workers)
    planned = plan_of(videos_dir, **plan_options)
    options = building.BuildOptions(verify=verify, overwrite=overwrite)
    return building.build_dataset(planned, str(data_dir), run=run, options=options)


def real_folder(variable: str) -> pathlib.Path:
    """Returns the folder of real videos that an environment variable names; skips the test if it is unset."""
    if variable not in os.environ:
        pytest.skip(f"{variable} does not name a folder")
    return pathlib.Path(os.environ[variable]).resolve()
