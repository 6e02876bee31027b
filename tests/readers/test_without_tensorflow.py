"""Tests readers without TensorFlow: the example in docs/readers.md, and the package tfrecord."""

import importlib.metadata
import importlib.util
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import REPOSITORY, flip_bit
from tests.readers import checks, document
from ucf50_tfrecord import manifest, tfrecord
from ucf50_tfrecord.choices import Encoding
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.specs import ClipFormat

WITHOUT_TENSORFLOW = """
import importlib.util, sys
sys.path.insert(0, sys.argv[1])
assert importlib.util.find_spec("tensorflow") is None
"""
SAVE_ALL = """
import numpy as np
for encoding, data_dir in {data_dirs!r}.items():
    clips = Clips(data_dir, folds=range(100))
    frames, labels = zip(*(clips[index] for index in range(len(clips))))
    np.savez(f"{{sys.argv[2]}}/{{encoding}}.npz", frames=np.stack(frames), labels=labels)
print(len(train), *train[0][0].shape)
"""
# As in its own documentation. Frames lie in the context or in the feature lists.
TFRECORD = """
import glob, io, numpy as np, PIL.Image
from tfrecord.reader import tfrecord_loader
for encoding, data_dir in {data_dirs!r}.items():
    frames, labels = [], []
    for shard in sorted(glob.glob(f"{{data_dir}}/*.tfrecord-?????-of-?????")):
        for context, steps in tfrecord_loader(shard, None, {{}}, sequence_description={{}}):
            if "video" in context:
                frames.append(np.frombuffer(context["video"], np.uint8).reshape({shape}))
            else:
                frames.append(np.stack([PIL.Image.open(io.BytesIO(image)) for image in steps["image/encoded"]]))
            labels.append(context["clip/label/index"][0])
    np.savez(f"{{sys.argv[2]}}/{{encoding}}.npz", frames=np.stack(frames), labels=labels)
"""


def link_packages(site: pathlib.Path, *names: str) -> pathlib.Path:
    """Makes a folder of packages with links to these distributions and to the library."""
    for name in names:
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files:
            if ".." not in file.parts:
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                (site / file).symlink_to(distribution.locate_file(file))
    (site / "ucf50_tfrecord").symlink_to(REPOSITORY / "ucf50_tfrecord")
    return site


def requirements() -> list[str]:
    """Returns the packages that `pip install .` installs, without extras."""
    return [
        re.match(r"[\w-]+", requirement)[0]
        for requirement in importlib.metadata.requires("ucf50-tfrecord")
        if "extra ==" not in requirement
    ]


def run_alone(code: str, site: pathlib.Path, output: pathlib.Path, cwd: pathlib.Path) -> str:
    """Runs code in a fresh interpreter that sees only the standard library and `site`."""
    command = [sys.executable, "-I", "-S", "-c", WITHOUT_TENSORFLOW + code, str(site), str(output)]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def check(reader, data_dirs, expected, output):
    """Compares the clips that a reader saved, in the order of the shards, with the converter's frames."""
    for encoding in Encoding:
        shards = manifest.load(str(data_dirs[encoding])).shards
        reports = [manifest.load_report(str(data_dirs[encoding]), shard.filename) for shard in shards]
        clip_ids = [clip_id for report in reports for clip_id in report.clip_ids]
        saved = np.load(output / f"{encoding}.npz")
        assert saved["labels"].tolist() == [expected[clip_id][1] for clip_id in clip_ids]
        assert len(saved["frames"]) == len(clip_ids) == len(expected)
        for frames, clip_id in zip(saved["frames"], clip_ids):
            assert checks.fidelity(frames, expected[clip_id][0]) == document.sees(reader)[encoding]


def as_text(data_dirs):
    return {encoding: str(data_dir) for encoding, data_dir in data_dirs.items()}


def test_the_example(project, data_dirs, expected, tmp_path):
    site = link_packages(tmp_path / "site", *requirements())
    code = document.example("class Clips") + SAVE_ALL.format(data_dirs=as_text(data_dirs))
    assert run_alone(code, site, tmp_path, project) == "8 {} {} {} {}\n".format(*ClipFormat().shape)
    check("ucf50_tfrecord.record", data_dirs, expected, tmp_path)


def test_the_package_tfrecord(project, data_dirs, expected, tmp_path):
    """It reads the shards but does not notice damage, which tfrecord.read_file does."""
    if importlib.util.find_spec("tfrecord") is None:
        pytest.skip("tfrecord is not installed: make test-readers")
    site = link_packages(tmp_path / "site", *requirements(), "tfrecord")
    code = TFRECORD.format(data_dirs=as_text(data_dirs), shape=ClipFormat().shape)
    run_alone(code, site, tmp_path, project)
    check("tfrecord", data_dirs, expected, tmp_path)
    damaged = tmp_path / "damaged" / "ucf50-fold01.tfrecord-00000-of-00001"
    damaged.parent.mkdir()
    damaged.write_bytes(pathlib.Path(checks.shards(data_dirs["raw"], "01")[0]).read_bytes())
    flip_bit(damaged, 100_000)
    code = TFRECORD.format(data_dirs={"damaged": str(damaged.parent)}, shape=ClipFormat().shape)
    run_alone(code, site, tmp_path, project)
    [frames] = np.load(tmp_path / "damaged.npz")["frames"]
    assert not any(np.array_equal(frames, other) for other, _ in expected.values())
    with pytest.raises(UserError, match="another checksum"):
        list(tfrecord.read_file(damaged))
