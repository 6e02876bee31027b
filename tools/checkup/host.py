"""Room for the job: memory, disk, open files; and the file systems that hold it."""

from __future__ import annotations

import fcntl
import os
import pathlib
import resource
import shutil
from collections.abc import Iterator

from pipelines import scratch
from tools.checkup import sets
from tools.checkup.finding import Finding, Options, fail, ok, warn
from ucf50_tfrecord.specs import format_bytes

_MIN_MEMORY_BYTES = 2 << 30  # TensorFlow, a model in training, batches
_FEW_BYTES, _MANY_BYTES = 500 << 20, 5 << 30
_KEPT_CHECKPOINTS = 4  # two last ones, the best, and one being written
_FILES_BESIDE_SHARDS = 200
_REMOTE = {"nfs", "nfs4", "cifs", "smb3", "9p", "lustre", "gpfs", "beegfs", "ceph", "afs", "glusterfs"}


def check(options: Options) -> Iterator[Finding]:
    manifests = list(sets.sound_manifests(options))
    yield from _check_memory(manifests)
    yield from _check_disk(options)
    yield from check_open_files(
        resource.getrlimit(resource.RLIMIT_NOFILE)[0], max((len(m.shards) for m in manifests), default=0)
    )
    yield from _check_file_systems(options)


def _check_memory(manifests: list) -> Iterator[Finding]:
    from ucf50_tfrecord.dataset import memory

    free = memory.available_host_bytes()
    if free is None:
        yield warn("how much host memory is free is not known here", "--cache=none needs little of it")
        return
    if free < _MIN_MEMORY_BYTES:
        yield warn(
            f"{format_bytes(free)} of host memory are free; training takes some {format_bytes(_MIN_MEMORY_BYTES)}",
            "end other work, or ask for more; --cache=none and a smaller --batch_size take less",
        )
    else:
        yield ok(f"{format_bytes(free)} of host memory are free")
    for manifest in manifests:
        num_bytes = manifest.num_clips * manifest.format.num_bytes
        if num_bytes > memory.AUTO_SHARE * free:
            yield ok(
                f"{manifest.data_dir}: {format_bytes(num_bytes)} of clips are read from the shards, not kept in memory"
            )
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        yield warn(
            f"a limit of {format_bytes(soft)} on address space: TensorFlow wants far more",
            command="ulimit -v unlimited",
        )


def _check_disk(options: Options) -> Iterator[Finding]:
    checkpoint_bytes = _checkpoint_bytes(options.run) if options.run else 0
    wanted = {
        options.local_data: _shards_bytes(options),
        options.run or "runs": _KEPT_CHECKPOINTS * checkpoint_bytes,
        scratch.shared_folder(): 0,
    }
    rooms = []
    for folder, num_bytes in wanted.items():
        existing = _existing(folder)
        free = shutil.disk_usage(existing).free
        if free < max(num_bytes, _FEW_BYTES):
            needs = f", {format_bytes(num_bytes)} are wanted" if num_bytes else ""
            yield fail(
                f"{format_bytes(free)} are free on the disk of {folder}{needs}",
                "make room, or choose another folder",
            )
        elif free < num_bytes + _MANY_BYTES:
            yield warn(
                f"{format_bytes(free)} are free on the disk of {folder}",
                "make room, or choose another folder",
            )
        else:
            rooms.append(
                f"{folder} {format_bytes(free)}"
                + (f" ({format_bytes(num_bytes)} are wanted)" if num_bytes else "")
            )
        if not os.access(existing, os.W_OK):
            yield warn(
                f"{existing} cannot be written to", "DATA= and RUN= choose other folders; TMPDIR= the last"
            )
    if rooms:
        yield ok(f"free on disk: {', '.join(rooms)}")
    if checkpoint_bytes:
        yield ok(f"a checkpoint of {options.run} takes {format_bytes(checkpoint_bytes)}")


def _shards_bytes(options: Options) -> int:
    """Returns what the videos' shards will take in the default format, where they are still to be made."""
    if not options.videos or (options.data and os.path.exists(options.data)):
        return 0
    from ucf50_tfrecord.convert import catalog
    from ucf50_tfrecord.errors import UserError
    from ucf50_tfrecord.specs import ClipFormat

    try:
        return len(catalog.find_videos(options.videos).videos) * ClipFormat().num_bytes
    except UserError:
        return 0  # sets.check tells


def _checkpoint_bytes(run_dir: str) -> int:
    """Returns the size of the largest checkpoint of a run, 0 where there is none."""
    folder = pathlib.Path(run_dir, "checkpoints")
    return max((path.stat().st_size for path in folder.glob("*/ckpt-*.data-*")), default=0)


def check_open_files(limit: int, num_shards: int) -> Iterator[Finding]:
    """Compares the limit of open files with what reading a set of shards takes."""
    from ucf50_tfrecord.dataset import shard_files

    # Training, validation and test clips have readers of their own.
    needed = 3 * min(num_shards, shard_files.MAX_OPEN_FILES) + _FILES_BESIDE_SHARDS
    if limit != resource.RLIM_INFINITY and limit < needed:
        yield warn(
            f"{limit} files may be open at once, up to {needed} are wanted", command=f"ulimit -n {needed}"
        )
    else:
        yield ok(f"{'any number of' if limit == resource.RLIM_INFINITY else limit} files may be open at once")


def _check_file_systems(options: Options) -> Iterator[Finding]:
    for folder in (options.local_data, options.run or "runs"):
        kind = file_system(_existing(folder))
        if kind in _REMOTE or kind.startswith("fuse"):
            yield warn(
                f"{folder} is on {kind}: folders are locked there while they are written, and clips read one by one",
                "mount it with locks that all hosts see (NFS: without nolock); --cache=host reads each clip once",
            )
        for path in (pathlib.Path(folder, "manifest.json"), pathlib.Path(folder, "config.json")):
            if path.is_file():
                yield from _check_lock(path)


def _check_lock(path: pathlib.Path) -> Iterator[Finding]:
    """Checks that the file system has locks, on a file that nobody locks."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pass  # it has
    except OSError as error:
        yield fail(
            f"{path.parent} cannot be locked: {error.strerror}", "mount it with locks, or use another disk"
        )


def file_system(path: pathlib.Path) -> str:
    """Returns the type of the file system that holds a path, as Linux names it, or "" where that is not known."""
    try:
        mounts = [line.split()[1:3] for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return ""
    path = path.resolve()
    holding = [(len(folder), kind) for folder, kind in mounts if path.is_relative_to(folder)]
    return max(holding, default=(0, ""))[1]  # of two mounts at one place the later one; close enough


def _existing(folder: str) -> pathlib.Path:
    path = pathlib.Path(folder).absolute()
    return next(parent for parent in (path, *path.parents) if parent.exists())
