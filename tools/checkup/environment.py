"""Variables of the environment that change what this project does."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping

from tools.checkup.finding import Finding, Options, fail, ok, warn

# What hands an address to libraries that want its scheme.
_ENDPOINTS = ("S3_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
_OFF = ("0", "false", "off", "no")


def check(options: Options) -> Iterator[Finding]:
    from pipelines import console

    traps = [
        *_check_workers(os.environ),
        *check_variables(
            os.environ, has_gpu=console.has_nvidia_driver(), num_cores=len(os.sched_getaffinity(0))
        ),
        *_check_encoding(),
    ]
    yield from traps or [ok("no variable of the environment stands in the way")]
    yield check_sandbox()


def _check_workers(environment: Mapping[str, str]) -> Iterator[Finding]:
    from ucf50_tfrecord.errors import UserError
    from ucf50_tfrecord.training import cluster

    try:
        named = cluster.from_tf_config(environment)
    except UserError as error:
        yield fail(str(error), command="unset TF_CONFIG")
        return
    if named is not None and len(named.addresses) > 1:
        yield warn(
            f"TF_CONFIG names {len(named.addresses)} workers: training waits for all of them",
            "where it is left over:",
            command="unset TF_CONFIG",
        )


def check_sandbox() -> Finding:
    """Starts a process as decoding does, and tells what restricts it."""
    from ucf50_tfrecord import workers
    from ucf50_tfrecord.specs import DecodeLimits

    with workers.IsolatedPool.within(DecodeLimits()) as pool:
        sandbox = pool.start()
    files = f"Landlock, version {sandbox.landlock_abi} (files)" if sandbox.landlock_abi else ""
    calls = "seccomp (sockets, programs, other processes)" if sandbox.seccomp else ""
    in_force = " and ".join(filter(None, (files, calls)))
    if files and calls:
        return ok(f"processes that decode videos are restricted by {in_force}")
    return warn(
        f"processes that decode videos are restricted by {in_force or 'nothing'}: the kernel, or the container's "
        "profile, does not offer more",
        "convert videos of strangers on Linux 5.13 or later, where Landlock is switched on",
    )


def check_variables(environment: Mapping[str, str], *, has_gpu: bool, num_cores: int) -> Iterator[Finding]:
    """Yields the variables that do harm."""

    def value(name: str) -> str:
        return environment.get(name, "").strip()

    if value("KERAS_BACKEND") not in ("", "tensorflow"):
        yield fail(
            f"KERAS_BACKEND={value('KERAS_BACKEND')}: the models and the training step are TensorFlow's",
            command="unset KERAS_BACKEND",
        )
    for name in _ENDPOINTS:
        if value(name) and "://" not in value(name):
            yield warn(
                f"{name}={value(name)} has no scheme: it is taken for https, or for no address",
                command=f"export {name}=http://{value(name)}",
            )
    if value("TF_ENABLE_ONEDNN_OPTS").lower() in _OFF:
        yield warn(
            "TF_ENABLE_ONEDNN_OPTS turns oneDNN off: steps on the CPU are slower, and differ in the last digits",
            command="unset TF_ENABLE_ONEDNN_OPTS",
        )
    if "auto_jit" in value("TF_XLA_FLAGS"):
        yield warn(
            "TF_XLA_FLAGS has XLA compile what it likes: recurrent models lose cuDNN's kernel; --xla is there for it",
            command="unset TF_XLA_FLAGS",
        )
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        if value(name).isdecimal() and 0 < int(value(name)) < num_cores:
            yield warn(
                f"{name}={value(name)} keeps TensorFlow from using {num_cores} cores", command=f"unset {name}"
            )
    if has_gpu and value("TF_FORCE_GPU_ALLOW_GROWTH").lower() in _OFF:
        yield warn(
            "TF_FORCE_GPU_ALLOW_GROWTH has TensorFlow take all of a GPU's memory at once",
            command="unset TF_FORCE_GPU_ALLOW_GROWTH",
        )


def _check_encoding() -> Iterator[Finding]:
    for what, encoding in (("file names", sys.getfilesystemencoding()), ("output", sys.stdout.encoding)):
        if encoding.lower().replace("-", "") != "utf8":
            yield warn(
                f"{what} are taken for {encoding}, not UTF-8", command="export LC_ALL=C.UTF-8 PYTHONUTF8=1"
            )
