"""What computes: GPUs and their driver, the CPU's cores, and the precision that follows."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

from tools.checkup.finding import Answer, Finding, NoAnswer, Options, fail, ok, run_bounded, warn
from tools.checkup.packages import ask_tensorflow, install_command
from ucf50_tfrecord.specs import format_bytes

_SMI_SECS = 30.0
# By CUDA's major version; source: its release notes, "minimum required driver version".
_MIN_DRIVERS = {"11": 450, "12": 525, "13": 580}
_SMI_FIELDS = ("name", "driver_version", "memory.total", "memory.free", "mig.mode.current")  # memory in MiB
_MIN_SHM_BYTES = 1 << 30
_BUSY_SHARE = 0.5


def check(options: Options) -> Iterator[Finding]:
    from pipelines import console

    answer = ask_tensorflow(options.run)
    found = {} if isinstance(answer, NoAnswer) else answer.value
    gpus = found.get("gpus", [])
    if console.has_nvidia_driver():
        rows = _ask_smi()
        if isinstance(rows, str):
            yield warn(f"nvidia-smi gives no answer: {rows}", "see the driver's installation, or restart")
        else:
            yield from check_gpus(rows)
            yield from check_driver(rows[0]["driver_version"], found.get("cuda", ""))
        if found:
            yield from _check_seen(answer)
            yield from _check_libraries(found)
    elif found:
        yield ok("no NVIDIA driver: TensorFlow computes on the CPU")
    if len(gpus) > 1:
        yield from _check_several(gpus)
    yield from check_cores(len(os.sched_getaffinity(0)), os.cpu_count() or 1, cpu_quota())
    if found:
        yield ok(f"--precision=auto is {found['precision']}: {found['reason']}")


def check_gpus(rows: list[dict[str, str]]) -> Iterator[Finding]:
    """Yields a line for each GPU of nvidia-smi's, by _SMI_FIELDS."""
    for number, row in enumerate(rows):
        total, free = (_mebibytes(row[name]) for name in ("memory.total", "memory.free"))
        room = f"{free / 1024:.1f} of {total / 1024:.1f} GiB free" if total else "memory unknown"
        text = f"GPU {number}: {row['name']}, driver {row['driver_version']}, {room}"
        if row["mig.mode.current"] == "Enabled":
            yield warn(
                f"{text}; it is cut into MIG instances, of which a process uses one",
                "name it (nvidia-smi -L lists them)",
                command="export CUDA_VISIBLE_DEVICES=MIG-<its UUID>",
            )
        elif total and free < _BUSY_SHARE * total:
            yield warn(
                f"{text}: others use it", "nvidia-smi names them; CUDA_VISIBLE_DEVICES chooses another GPU"
            )
        else:
            yield ok(f"{text}; memory is taken as needed")


def check_driver(driver: str, cuda: str) -> Iterator[Finding]:
    """Compares the driver's version with what TensorFlow's CUDA wants."""
    wanted = _MIN_DRIVERS.get(cuda.partition(".")[0])
    version = driver.partition(".")[0]
    if wanted and version.isdecimal() and int(version) < wanted:
        yield fail(
            f"driver {driver} is too old for TensorFlow's CUDA {cuda}", f"install driver {wanted} or newer"
        )


def _check_seen(answer: Answer) -> Iterator[Finding]:
    """Checks that TensorFlow sees the driver's GPUs."""
    found = answer.value
    if found["gpus"]:
        capabilities = ", ".join(f"{gpu['name']} ({gpu['capability']})" for gpu in found["gpus"])
        yield ok(
            f"TensorFlow sees {len(found['gpus'])} GPU(s), compute capability: {capabilities}; it is built with "
            f"CUDA {found['cuda']}, cuDNN {found['cudnn']}"
        )
    elif os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        yield fail(
            "TensorFlow sees no GPU: CUDA_VISIBLE_DEVICES hides them", command="unset CUDA_VISIBLE_DEVICES"
        )
    elif not found["is_cuda_build"]:
        yield fail(
            "there is an NVIDIA driver, but this TensorFlow is built without CUDA",
            command=install_command("gpu"),
        )
    else:
        # Such as "W0000 00:00:1.2 3 gpu_device.cc:4] Cannot dlopen some GPU libraries. …".
        lines = [line for line in answer.notices.splitlines() if re.search("dlopen|dlerror|cuInit", line)]
        why = f": {lines[0].rpartition('] ')[2]}" if lines else ""
        yield fail(
            f"there is an NVIDIA driver, but TensorFlow sees no GPU{why}",
            "install tensorflow[and-cuda], the extra `gpu`, which brings the CUDA libraries",
            command=install_command("convert,train,gpu"),
        )


def _check_libraries(found: dict) -> Iterator[Finding]:
    """Compares the CUDA libraries that are installed with those TensorFlow was built with."""
    for name, built in (("cuda-runtime", found["cuda"]), ("cudnn", found["cudnn"])):
        installed = {
            item.name: item.version
            for item in importlib.metadata.distributions()
            if re.fullmatch(rf"nvidia-{name}(-cu\d+)?", item.name or "")
        }
        for package, version in installed.items():
            if built and version.split(".")[0] != str(built).split(".")[0]:
                yield warn(
                    f"{package} {version}: this TensorFlow was built with {built}",
                    command=install_command("convert,train,gpu"),
                )
    for folder in filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)):
        if any(pathlib.Path(folder).glob("libcud*.so*")):
            yield warn(
                f"LD_LIBRARY_PATH puts the CUDA libraries of {folder} before those that came with TensorFlow",
                command="unset LD_LIBRARY_PATH",
            )


def _check_several(gpus: list[dict[str, str]]) -> Iterator[Finding]:
    yield ok(f"--strategy=auto trains on all {len(gpus)} GPUs, which NCCL joins")
    if len({gpu["capability"] for gpu in gpus}) > 1:
        yield warn(
            "GPUs of several kinds: the slowest sets the pace", "CUDA_VISIBLE_DEVICES chooses among them"
        )
    shm_bytes = shutil.disk_usage("/dev/shm").total if os.path.isdir("/dev/shm") else 0
    if shm_bytes < _MIN_SHM_BYTES:
        yield warn(
            f"/dev/shm has {format_bytes(shm_bytes)}, through which NCCL joins GPUs",
            "docker run --shm-size=1g",
        )


def check_cores(usable: int, machine: int, quota: float | None) -> Iterator[Finding]:
    """Compares the cores that this process may run on, the machine's, and the share of time that it may take."""
    text = f"{usable} of {machine} CPU cores" if usable < machine else f"{usable} CPU cores"
    if quota is not None and quota < usable:
        cores = max(1, int(quota))
        yield warn(
            f"{text}, but a control group allows the time of {quota:g}: more threads than that are halted",
            "take no more cores than that",
            command=(
                f"taskset --cpu-list 0-{cores - 1} make train …"
                if cores > 1
                else "taskset --cpu-list 0 make train …"
            ),
        )
    else:
        yield ok(text)


def cpu_quota() -> float | None:
    """Returns how many cores' time the control groups around this process allow, or None without a limit."""
    from ucf50_tfrecord.dataset import memory

    quotas = []
    for folder in memory.cgroup_folders("cpu"):
        for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            try:
                quota, period = " ".join((folder / name).read_text() for name in files).split()
            except OSError:
                continue  # of the other version, or the root, which has no limit
            if quota not in ("max", "-1"):
                quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def _ask_smi() -> list[dict[str, str]] | str:
    """Returns nvidia-smi's GPUs by _SMI_FIELDS, or why it gives none."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_SMI_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        ended = run_bounded(command, _SMI_SECS)
    except (OSError, NoAnswer) as error:
        return str(error)
    rows = [[cell.strip() for cell in line.split(",")] for line in ended.stdout.splitlines()]
    if ended.returncode or not rows or any(len(row) != len(_SMI_FIELDS) for row in rows):
        return " ".join((ended.stdout or ended.stderr).split()) or f"status {ended.returncode}"
    return [dict(zip(_SMI_FIELDS, row)) for row in rows]


def _mebibytes(text: str) -> float:
    return float(text) if re.fullmatch(r"[\d.]+", text) else 0.0  # "[N/A]" on some
