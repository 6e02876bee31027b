"""Makes samples, intact files of every kind that the project reads, for tools.fuzz to damage.

The samples are videos, a list of them, shards, a run, predictions, and a comparison's results.
"""

from __future__ import annotations

import itertools
import pathlib
import shutil
import sys

import numpy as np

from tools import processes
from tools.fuzzing import seeds
from ucf50_tfrecord import about
from ucf50_tfrecord import manifest as manifest_lib

CLASSES = ("Left", "Right")
SIZE = ("--size=16x24", "--frames=5")  # flags of the conversion
# Files that no program may touch: those in the folder VICTIM beside the samples, and MINE among the samples.
VICTIM, MINE = "victim", ("shards/mine.txt", "predictions/mine.txt", "store/mine.txt", "comparison/mine.txt")
LIST = "lists/list.parquet"
_GROUPS = 5


def make_samples(folder: pathlib.Path, *, with_documents: bool = True) -> pathlib.Path:
    """Makes the folders `samples` and VICTIM in `folder` by running this project's programs.

    Without documents, makes only videos, shards and a run. Returns the folder of the samples.
    """
    samples = folder / "samples"
    make_run(samples)
    if not with_documents:
        return samples
    # Short windows, so that there are pictures of timelines.
    video, output = f"--video={samples}/videos/{CLASSES[0]}", f"--output={samples}/predictions"
    run_program("pipelines.predict", f"--run={samples}/run", video, output, "--window_secs=0.4")
    run_program("tools.fuzzing.samples", str(samples))  # loads TensorFlow, so not in this process
    make_list(samples)
    shutil.copytree(samples / "shards", samples / "store")  # like a published set
    (folder / VICTIM).mkdir()
    victims = [folder / VICTIM / name for name in ("data", "data.tfrecord")]
    for path in (*victims, *(samples / name for name in MINE)):
        path.write_text("somebody else's")
    return samples


def make_run(samples: pathlib.Path) -> None:
    """Makes the folders `videos`, `shards` and `run` (a finished run) in the folder of samples."""
    for number, name in enumerate(CLASSES):
        (samples / "videos" / name).mkdir(parents=True)
        for group in range(1, _GROUPS + 1):
            frames = seeds.moving_noise(seeds.HEIGHT, seeds.WIDTH, seed=group)
            frames[:, :, number * seeds.WIDTH // 2 :][:, :, : seeds.WIDTH // 2] = 250
            path = samples / "videos" / name / f"v_{name}_g{group:02d}_c01.avi"
            seeds.encode(path, seeds.RECIPES[0], frames)
    facts = {"title": "Samples", "url": "https://example.org", "published": "2026-11", "people": "None."}
    about.save(samples / "videos", about.About(**facts))
    run_program("pipelines.convert", f"--videos={samples}/videos", f"--data={samples}/shards", *SIZE)
    training = ("--model=seed_pool", "--epochs=1", "--batch_size=4", "--precision=float32", "--cache=host")
    run_program("pipelines.train", f"--data={samples}/shards", f"--run={samples}/run", *training)


def make_list(samples: pathlib.Path) -> None:
    """Writes a list of the samples' videos as a Parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    paths = sorted((samples / "videos").rglob("*.avi"))
    columns = {
        "path": pa.array([str(path.relative_to(samples)) for path in paths]).dictionary_encode(),
        "label": pa.array([path.parent.name for path in paths]).dictionary_encode(),
        "group": pa.array([int(path.stem[-6:-4]) for path in paths]),
    }
    (samples / LIST).parent.mkdir()
    parquet.write_table(pa.table(columns), samples / LIST)


def run_program(module: str, *arguments: str) -> None:
    """Runs a program of this project, a module for `python -m`, on intact files."""
    processes.run([sys.executable, "-m", module, *arguments], env={"TF_CPP_MIN_LOG_LEVEL": "2"})


def make_results(samples: pathlib.Path) -> None:
    """Writes the results of a comparison, and of one of its trainings (cells), with random predictions."""
    from ucf50_tfrecord.dataset.clips import load_clips
    from ucf50_tfrecord.evaluation import assembly, interventions, result_files
    from ucf50_tfrecord.evaluation.results import Cell, CellResult, TrainingCost

    manifest = manifest_lib.load(str(samples / "shards"))
    clips = load_clips(manifest, manifest.folds)
    rng = np.random.default_rng(0)
    cost = TrainingCost(num_clips=30, clips_per_sec=2.5, num_parameters=1_000)
    found = []
    for model, part in itertools.product(("seed_pool", "seed_rnn"), range(2)):
        chosen = np.flatnonzero(clips.folds % 2 == part)
        truth = np.eye(len(CLASSES))[clips.labels[chosen]]
        names = (interventions.PLAIN, *interventions.SHUFFLES)
        result = CellResult(
            cell=Cell(model=model, part=part),
            architecture=model,
            clips=chosen,
            logits={name: rng.normal(truth, 1.0).astype(np.float32) for name in names},
            recurrence=None,
            run_dir=str(samples / "run"),
            precision="float32",
            cost=cost,
        )
        found.append(result)
    audit = assembly.find_near_duplicates(clips, {"group": clips.folds % 2})
    results = assembly.assemble(clips, found, audit=audit)
    result_files.save(samples / "comparison", results)
    result_files.save_cell(samples / "cell", results, found[0])
    result_files.save_cost(samples / "cell", cost)


if __name__ == "__main__":
    make_results(pathlib.Path(sys.argv[1]))
