"""Chooses the devices that train and the precision of computation.

Also turns TensorFlow's errors about lost workers and full memory into UserErrors. A worker is one process of
a training that may have several.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping

import tensorflow as tf

from ucf50_tfrecord.choices import Cache, Precision, Strategy
from ucf50_tfrecord.errors import Action, Change, Remedy, UserError, expect
from ucf50_tfrecord.texts import file_problem, tensorflow_reason
from ucf50_tfrecord.training import cluster as cluster_lib

# Variables that are set if srun was told to bind GPUs; each task then sees its own GPUs only.
_GPUS_BOUND = {"SLURM_GPUS_PER_TASK", "SLURM_GPU_BIND"}

# Time limit for connecting the workers' devices once all workers have started. It usually takes seconds.
BUILD_SECS = 120.0
_WATCH = """
import os, select, signal, sys
if not select.select([sys.stdin], [], [], float(sys.argv[1]))[0]:
    sys.stderr.write(
        f"error: all workers had started {sys.argv[1]} s ago, but one has not answered since. Start all "
        "workers with the same command again.\\n")
    os.kill(int(sys.argv[2]), signal.SIGKILL)
"""


def make_strategy(
    name: str, *, join_secs: float = 600.0, environment: Mapping[str, str] = os.environ
) -> tf.distribute.Strategy:
    """Builds the distribution strategy of a given name.

    For a strategy with several workers, call this function before anything runs in TensorFlow.

    Args:
      name: the strategy's name. "one": one device. "mirrored": all GPUs of this process, or all CPU devices
        if there is no GPU. "multi_worker": the GPUs (or the CPU) of all workers that TF_CONFIG or Slurm
        names, see cluster.uses_workers. "auto": multi_worker if TF_CONFIG names several workers, else
        mirrored if there are several GPUs, else one.
      join_secs: the longest wait for all workers to start.
      environment: the environment variables that name the workers.

    Raises:
      UserError: if the name is unknown, or workers cannot be found or reached.
    """
    uses_workers = cluster_lib.uses_workers(name, environment)
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)  # leaves memory for other users of the GPU
    if uses_workers:
        return _join_workers(join_secs)
    gpus = tf.config.list_logical_devices("GPU")
    devices = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
    if name == Strategy.MIRRORED or (name == Strategy.AUTO and len(gpus) > 1):
        return tf.distribute.MirroredStrategy(devices)
    return tf.distribute.OneDeviceStrategy(devices[0])


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Tells whether this process is the first or the only worker, which writes the run's files."""
    return strategy.extended.should_checkpoint


def num_workers(strategy: tf.distribute.Strategy) -> int:
    """Returns the number of workers, the processes that train together; 1 for a process that trains alone."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    spec = strategy.cluster_resolver.cluster_spec()
    return sum(spec.num_tasks(job) for job in spec.jobs)


def num_workers_here(strategy: tf.distribute.Strategy) -> int:
    """Returns the number of workers on this worker's host, including this worker."""
    if num_workers(strategy) == 1:
        return 1
    resolver = strategy.cluster_resolver
    spec = resolver.cluster_spec()
    own = cluster_lib.host(spec.task_address(resolver.task_type, resolver.task_id))
    return sum(cluster_lib.host(address) == own for job in spec.jobs for address in spec.job_tasks(job))


def gather_from_workers(strategy: tf.distribute.Strategy, value: int) -> list[int]:
    """Waits until all workers have called this function; returns their values, in the order of the workers.

    Raises:
      tf.errors.OpError: if a worker is lost before it calls this function, see explain_lost_workers.
    """
    count = num_workers(strategy)
    if count == 1:
        return [value]
    resolver = strategy.cluster_resolver
    jobs = sorted(resolver.cluster_spec().jobs)  # the chief before the workers
    before = jobs[: jobs.index(resolver.task_type)]
    place = sum(resolver.cluster_spec().num_tasks(job) for job in before) + resolver.task_id
    mine = tf.one_hot(place, count, on_value=tf.constant(value, tf.int64), off_value=tf.constant(0, tf.int64))
    return strategy.reduce(tf.distribute.ReduceOp.SUM, mine, axis=None).numpy().tolist()


def wait_for_workers(strategy: tf.distribute.Strategy) -> None:
    """Returns once all workers have called this function.

    Raises:
      tf.errors.OpError: if a worker is lost before it calls this function, see explain_lost_workers.
    """
    gather_from_workers(strategy, 0)


@contextlib.contextmanager
def explain_lost_workers(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Turns TensorFlow's error about the loss of another worker into a UserError.

    TensorFlow raises the error in the code that waits for the lost worker: at once if the connection breaks,
    otherwise after ten seconds without a heartbeat.

    Raises:
      UserError: in place of TensorFlow's error.
    """
    try:
        yield
    except tf.errors.OpError as error:
        is_lost = isinstance(error, tf.errors.UnavailableError) or "remote target /job" in error.message
        if num_workers(strategy) == 1 or not is_lost:
            raise
        raise UserError(
            f"{_name_lost(error, strategy)} has exited or cannot be reached, so training cannot continue. Start "
            "all workers with the same command again: they resume from the last checkpoint."
        ) from error


@contextlib.contextmanager
def explain_exhausted_memory() -> Iterator[None]:
    """Turns TensorFlow's error about full device memory or a full disk into a UserError.

    Raises:
      UserError: in place of TensorFlow's error, which is the same for both.
    """
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        if problem := file_problem(error):
            raise UserError(f"Cannot write {problem}") from error
        raise UserError(
            f"Out of memory: {tensorflow_reason(error)}",
            Remedy(Action.SET, batch_size=Change.SMALLER),
            Remedy(Action.SET, precision=(Precision.BFLOAT16, Precision.FLOAT16)),
            Remedy(Action.SET, cache=(Cache.HOST, Cache.NONE)),
            Remedy(Action.SET, "convert smaller clips", size=Change.SMALLER),
            Remedy(Action.SET, "convert smaller clips", num_frames=Change.SMALLER),
        ) from error


def _name_lost(error: tf.errors.OpError, strategy: tf.distribute.Strategy) -> str:
    resolver = strategy.cluster_resolver
    own = resolver.task_type, resolver.task_id  # the message also names the worker that noticed
    found = re.findall(r"/job:(\w+)/replica:0/task:(\d+)", error.message)
    others = [(job, int(index)) for job, index in found if (job, int(index)) != own]
    if not others:
        return "Another worker"
    job, index = others[0]
    return f"{job.capitalize()} {index} ({resolver.cluster_spec().task_address(job, index)})"


def _join_workers(join_secs: float) -> tf.distribute.Strategy:
    """Builds the strategy over all workers, once all of them have started."""
    gpus = tf.config.list_physical_devices("GPU")
    cluster = cluster_lib.from_tf_config(os.environ)
    if cluster is not None:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    else:
        resolver = _slurm_resolver(gpus)
        addresses = tuple(resolver.cluster_spec().job_tasks("worker"))
        cluster = cluster_lib.Cluster(addresses=addresses, worker=resolver.task_id)
    # Without this, TensorFlow would wait forever for missing workers, out of reach of signals and of Python's
    # time limits.
    cluster_lib.meet(cluster, timeout_secs=join_secs)
    kinds = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=kinds.NCCL if gpus else kinds.RING
    )
    try:
        with _exits_if_late(BUILD_SECS):
            return tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
    except tf.errors.OpError as error:
        raise UserError(f"Cannot train with the other workers: {tensorflow_reason(error)}") from error


@contextlib.contextmanager
def _exits_if_late(secs: float) -> Iterator[None]:
    """Kills this process, with a message, if the block runs for more than `secs` seconds.

    If a worker exits after all workers have started, but before TensorFlow has connected to it, the other
    workers wait forever in C++. Neither Python's signal handlers nor its threads run there. So another
    process watches this one.
    """
    command = [sys.executable, "-c", _WATCH, f"{secs:g}", str(os.getpid())]
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # unaffected by Ctrl-C
    try:
        yield
    finally:
        watcher.stdin.close()  # ends the watcher, as the exit of this process would
        watcher.wait()


def _slurm_resolver(
    gpus: list[tf.config.PhysicalDevice],
) -> tf.distribute.cluster_resolver.ClusterResolver:
    """Returns a resolver of the workers that srun started. Also chooses this worker's part of its host's GPUs.

    TensorFlow's own resolver only finds the workers' addresses here, because it has three faults: it does not
    run without a GPU, it assumes that ranks follow the order of the hosts' names, and it overrides Slurm's
    own binding of GPUs.

    Args:
      gpus: the GPUs that this process sees.

    Raises:
      UserError: if Slurm's variables cannot be understood.
    """
    environment = os.environ
    try:
        cluster = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=cluster_lib.slurm_port(environment),
            gpus_per_node=int(environment["SLURM_STEP_NUM_TASKS"]),  # one per task; only used to count
            gpus_per_task=1,
            auto_set_gpu=False,
        ).cluster_spec()
        worker = cluster_lib.slurm_worker(tuple(cluster.job_tasks("worker")), environment)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"Cannot find the workers in Slurm's environment: {error}") from error
    host = cluster_lib.host(cluster.task_address("worker", worker))
    neighbours = [
        index
        for index, address in enumerate(cluster.job_tasks("worker"))
        if cluster_lib.host(address) == host
    ]
    if gpus and not _GPUS_BOUND & environment.keys():
        count = len(gpus) // len(neighbours)
        expect(count > 0, f"a GPU for each of the {len(neighbours)} tasks on {host}", gpus=len(gpus))
        first = neighbours.index(worker) * count
        gpus = gpus[first : first + count]
        tf.config.set_visible_devices(gpus, "GPU")
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        cluster, task_type="worker", task_id=worker, num_accelerators={"GPU": len(gpus)}, rpc_layer="grpc"
    )


def device_type() -> str:
    """Returns "GPU" if TensorFlow sees a GPU, else "CPU"."""
    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


@dataclasses.dataclass(frozen=True)
class PrecisionChoice:
    """A choice of the precision of computation.

    precision: the precision, never AUTO.
    reason: the reason for the choice, as the end of a sentence.
    """

    precision: Precision
    reason: str


def choose_precision(precision: Precision | str) -> Precision:
    """Resolves AUTO to a precision in which the devices are fast; returns any other precision unchanged.

    AUTO stands for bfloat16 if the devices are fast in it (GPUs from compute capability 8.0, CPUs with AMX), for
    float16 on GPUs from compute capability 7.0, and for float32 otherwise. On a CPU with AVX512_BF16 but without
    AMX, a training step in bfloat16 takes 1.3 to 1.6 times as long as in float32.
    """
    precision = Precision(precision)
    return fastest_precision().precision if precision == Precision.AUTO else precision


def keras_policy(precision: str) -> str:
    """Returns the name of the Keras dtype policy that computes in `precision`, with variables in float32."""
    expect(Precision(precision) != Precision.AUTO, "a precision other than auto", precision=precision)
    return "float32" if precision == Precision.FLOAT32 else f"mixed_{precision}"


def fastest_precision() -> PrecisionChoice:
    """Returns the precision that AUTO stands for on this process's devices; see choose_precision."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        if "amx_bf16" in _cpu_flags():
            return PrecisionChoice(Precision.BFLOAT16, "the CPU computes in it (amx_bf16)")
        return PrecisionChoice(Precision.FLOAT32, "there is no GPU, and the CPU has no amx_bf16")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    capability = min(detail.get("compute_capability", (0, 0)) for detail in details)
    fast = Precision.FLOAT16 if capability >= (7, 0) else Precision.FLOAT32
    precision = Precision.BFLOAT16 if capability >= (8, 0) else fast
    return PrecisionChoice(
        precision, f"the oldest GPU's compute capability is {'.'.join(map(str, capability))}"
    )


def _cpu_flags() -> set[str]:
    """Returns the CPU's feature flags, which Linux lists; an empty set on other systems."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((set(line.split(":")[1].split()) for line in lines if line.startswith("flags")), set())
