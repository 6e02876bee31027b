"""Checks this machine's GPUs, their driver, the CPU cores, and environment variables that slow training."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping

from tools.checkup.finding import Answer, Finding, NoAnswer, Options, fail, ok, run_bounded, warn
from tools.checkup.packages import ask_tensorflow, install_command
from ucf50_tfrecord.specs import format_bytes

_SMI_SECS = 30.0
_SMI_FIELDS = ("name", "driver_version", "memory.total", "memory.free", "mig.mode.current")  # memory in MiB
_MIN_SHM_BYTES = 1 << 30
_BUSY_FRACTION = 0.5


def _is_off(value: str) -> bool:
    return value.lower() in ("0", "false", "off", "no")


def _is_below_cores(value: str) -> bool:
    return value.isdecimal() and 0 < int(value) < len(os.sched_getaffinity(0))


def _has_cuda(value: str) -> bool:
    folders = filter(None, value.split(os.pathsep))
    return any(any(pathlib.Path(folder).glob("libcud*.so*")) for folder in folders)


# Environment variables that training obeys silently. Each has a function that tells whether a value is harmful,
# and the effect of harmful values.
_VARIABLES: dict[str, tuple[Callable[[str], bool], str]] = {
    "TF_ENABLE_ONEDNN_OPTS": (_is_off, "turns oneDNN off: steps on the CPU are slower"),
    "TF_XLA_FLAGS": (
        lambda value: "auto_jit" in value,
        "compiles everything: no cuDNN kernel for LSTM and GRU",
    ),
    "TF_NUM_INTRAOP_THREADS": (_is_below_cores, "keeps TensorFlow from using all cores"),
    "TF_NUM_INTEROP_THREADS": (_is_below_cores, "keeps TensorFlow from using all cores"),
    "TF_FORCE_GPU_ALLOW_GROWTH": (_is_off, "reserves all of a GPU's memory at the start"),
    "LD_LIBRARY_PATH": (_has_cuda, "puts other CUDA libraries before those that TensorFlow brings"),
}


def check(options: Options) -> Iterator[Finding]:
    """Yields findings on this machine's GPUs, CPU cores, environment variables and fastest precision."""
    from pipelines import console

    answer = ask_tensorflow(options.run)
    found = {} if isinstance(answer, NoAnswer) else answer.value
    gpus = found.get("gpus", [])
    if console.has_nvidia_driver():
        rows = _ask_smi()
        if isinstance(rows, str):
            yield warn(f"nvidia-smi gives no answer: {rows}", "reinstall the driver, or restart")
        else:
            yield from check_gpus(rows)
        if not isinstance(answer, NoAnswer):
            yield _check_seen(answer)
    elif found:
        yield ok("no NVIDIA driver: TensorFlow computes on the CPU")
    if len(gpus) > 1:
        yield from _check_several(len(gpus))
    yield from check_cores(len(os.sched_getaffinity(0)), os.cpu_count() or 1, cpu_quota())
    yield from check_variables(os.environ)
    if found:
        yield ok(f"--precision=auto is {found['precision']}: {found['reason']}")


def check_gpus(rows: list[dict[str, str]]) -> Iterator[Finding]:
    """Yields a finding for each GPU, given what nvidia-smi prints for _SMI_FIELDS."""
    for number, row in enumerate(rows):
        total, free = (_mebibytes(row[name]) for name in ("memory.total", "memory.free"))
        memory = f"{free / 1024:.1f} of {total / 1024:.1f} GiB free" if total else "memory unknown"
        text = f"GPU {number}: {row['name']}, driver {row['driver_version']}, {memory}"
        if row["mig.mode.current"] == "Enabled":
            yield warn(
                f"{text}; it is split into MIG instances, and a process uses one of them",
                "choose one (nvidia-smi -L lists them)",
                command="export CUDA_VISIBLE_DEVICES=MIG-<its UUID>",
            )
        elif total and free < _BUSY_FRACTION * total:
            yield warn(
                f"{text}: other processes use it",
                "stop them (nvidia-smi lists them), or choose another GPU by CUDA_VISIBLE_DEVICES",
            )
        else:
            yield ok(text)


def _check_seen(answer: Answer) -> Finding:
    """Returns a finding on whether TensorFlow sees the GPUs of this machine's NVIDIA driver."""
    found = answer.value
    if found["gpus"]:
        gpus = ", ".join(f"{gpu['name']} ({gpu['capability']})" for gpu in found["gpus"])
        return ok(
            f"TensorFlow sees {len(found['gpus'])} GPU(s), compute capability: {gpus}; it is built with "
            f"CUDA {found['cuda']}, cuDNN {found['cudnn']}"
        )
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return fail(
            "TensorFlow sees no GPU: CUDA_VISIBLE_DEVICES hides them", command="unset CUDA_VISIBLE_DEVICES"
        )
    # A line is, for example, "W0000 00:00:1.2 3 gpu_device.cc:4] Cannot dlopen some GPU libraries. …".
    lines = [line for line in answer.notices.splitlines() if re.search("dlopen|dlerror|cuInit", line)]
    reason = f": {lines[0].rpartition('] ')[2]}" if lines else ""
    if not found["is_cuda_build"]:
        reason = ", which is built without CUDA"
    return fail(
        f"there is an NVIDIA driver, but no GPU for TensorFlow{reason}",
        "install the extra gpu, which brings the CUDA libraries",
        command=install_command("convert,train,gpu"),
    )


def _check_several(num_gpus: int) -> Iterator[Finding]:
    yield ok(f"--strategy=auto trains on all {num_gpus} GPUs")
    shm_bytes = shutil.disk_usage("/dev/shm").total if os.path.isdir("/dev/shm") else 0
    if shm_bytes < _MIN_SHM_BYTES:
        yield warn(
            f"/dev/shm has {format_bytes(shm_bytes)}; NCCL exchanges gradients through it",
            command="docker run --shm-size=1g …",
        )


def check_cores(usable: int, machine: int, quota: float | None) -> Iterator[Finding]:
    """Yields a finding on the CPU cores, and on whether control groups let this process use all their time.

    Args:
      usable: number of cores that this process may run on.
      machine: number of the machine's cores.
      quota: CPU time that control groups allow, in cores; None if they set no limit.
    """
    text = f"{usable} of {machine} CPU cores" if usable < machine else f"{usable} CPU cores"
    if quota is None or quota >= usable:
        yield ok(text)
        return
    cores = "0" if quota < 2 else f"0-{int(quota) - 1}"
    yield warn(
        f"{text}, but a control group allows only the CPU time of {quota:g}: threads on more cores are suspended",
        "use no more cores than that",
        command=f"taskset --cpu-list {cores} make train …",
    )


def cpu_quota() -> float | None:
    """Returns the CPU time, in cores, that control groups allow this process; None if they set no limit."""
    from ucf50_tfrecord.dataset import memory

    quotas = []
    for folder in memory.cgroup_folders("cpu"):
        for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            try:
                quota, period = " ".join((folder / name).read_text() for name in files).split()
            except OSError:
                continue  # files of the other version of control groups, or the root, which has no limit
            if quota not in ("max", "-1"):
                quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def check_variables(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Yields a warning for each environment variable whose value harms training, such as by slowing it."""
    for name, (is_harmful, effect) in _VARIABLES.items():
        value = environment.get(name, "").strip()
        if is_harmful(value):
            yield warn(f"{name}={value} {effect}", command=f"unset {name}")


def _ask_smi() -> list[dict[str, str]] | str:
    """Returns the values of _SMI_FIELDS of each GPU; the reason if nvidia-smi lists none."""
    command = ["nvidia-smi", f"--query-gpu={','.join(_SMI_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        result = run_bounded(command, _SMI_SECS)
    except (OSError, NoAnswer) as error:
        return str(error)
    rows = [[cell.strip() for cell in line.split(",")] for line in result.stdout.splitlines()]
    if result.returncode or not rows or any(len(row) != len(_SMI_FIELDS) for row in rows):
        return " ".join((result.stdout or result.stderr).split()) or f"status {result.returncode}"
    return [dict(zip(_SMI_FIELDS, row)) for row in rows]


def _mebibytes(text: str) -> float:
    return float(text) if re.fullmatch(r"[\d.]+", text) else 0.0  # "[N/A]" on some GPUs
