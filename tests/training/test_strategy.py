import concurrent.futures
import json
import re

import pytest
import tensorflow as tf

from pipelines import launch as launch_lib
from tests.conftest import raises_with_remedies
from ucf50_tfrecord.errors import UserError
from ucf50_tfrecord.training import cluster, loop, strategy


@pytest.mark.parametrize(
    "gpus, flags, precision",
    [
        ([], {"avx512_bf16"}, "float32"),
        ([], {"avx512_bf16", "amx_bf16"}, "bfloat16"),
        ([], {"avx2"}, "float32"),
        ([(9, 0)], set(), "bfloat16"),
        ([(8, 0), (7, 5)], set(), "float16"),
        ([(6, 1)], {"amx_bf16"}, "float32"),
    ],
)
def test_auto_precision_follows_the_device(monkeypatch, gpus, flags, precision):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(range(len(gpus))))
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda gpu: {"compute_capability": gpus[gpu]}
    )
    monkeypatch.setattr(strategy, "_cpu_flags", lambda: flags)
    assert strategy.choose_precision("auto") == precision


def test_a_requested_precision_is_kept():
    assert strategy.choose_precision("float16") == "float16"
    assert strategy.keras_policy("float32") == "float32"
    assert strategy.keras_policy("float16") == "mixed_float16"
    with pytest.raises(UserError, match="a precision out of"):
        strategy.choose_precision("int8")
    with pytest.raises(UserError, match="Received: precision='auto'"):
        strategy.keras_policy("auto")


def test_strategies():
    assert isinstance(strategy.make_strategy("one"), tf.distribute.OneDeviceStrategy)
    assert isinstance(strategy.make_strategy("mirrored"), tf.distribute.MirroredStrategy)
    with pytest.raises(UserError, match="a strategy out of"):
        strategy.make_strategy("many")


TASK = {"type": "worker", "index": 1}
TWO = {"cluster": {"worker": ["a:1", "b:1"]}, "task": TASK}


def test_workers_are_those_that_tf_config_names():
    def names(config):
        return cluster.from_tf_config({"TF_CONFIG": json.dumps(config)})

    assert names(TWO) == cluster.Cluster(addresses=("a:1", "b:1"), worker=1)
    with_chief = {"cluster": {"worker": ["a:1", "b:1"], "chief": ["c:1"]}}
    assert names(with_chief | {"task": TASK}) == cluster.Cluster(addresses=("c:1", "a:1", "b:1"), worker=2)
    assert names(with_chief | {"task": {"type": "chief", "index": "0"}}).worker == 0
    assert cluster.from_tf_config({}) is names({}) is names({"cluster": {}}) is None


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "it is not JSON"),
        ("[]", "it names no cluster"),
        ('{"cluster": []}', "it names no cluster"),
        (TWO | {"task": {"type": "worker", "index": 2}}, "there is no task 2 among the 2 of 'worker'"),
        (TWO | {"task": {"type": "worker", "index": -1}}, "there is no task -1"),
        (
            TWO | {"task": {"type": "evaluator", "index": 0}},
            "a task of type 'evaluator' is not in its cluster",
        ),
        (TWO | {"task": {"type": "worker"}}, "its task needs a type and an index"),
        ({"cluster": TWO["cluster"]}, "its task needs a type and an index"),
        ({"cluster": {"ps": ["a:1"]}, "task": TASK}, "its jobs may be chief and worker only, not 'ps'"),
        ({"cluster": {"worker": "a:1"}, "task": TASK}, "'worker' must be a list of host:port"),
        ({"cluster": {"worker": ["a"]}, "task": TASK}, "'worker' must be a list of host:port"),
        ({"cluster": {"chief": ["a:1", "b:1"]}, "task": TASK}, "it may name one chief at most"),
    ],
)
def test_an_unusable_tf_config_is_explained(text, message):
    text = text if isinstance(text, str) else json.dumps(text)
    for name in ("multi_worker", "auto"):
        with pytest.raises(UserError, match=f"Cannot use TF_CONFIG.*{message}.*Expected, for example"):
            cluster.uses_workers(name, {"TF_CONFIG": text})


def test_auto_takes_several_workers_and_one_takes_none():
    two, alone = (
        {"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": 0}})}
        for addresses in (["a:1", "b:1"], ["a:1"])
    )
    assert cluster.uses_workers("auto", two) and not cluster.uses_workers("auto", alone)
    assert cluster.uses_workers("multi_worker", alone) and not cluster.uses_workers("one", two)
    with pytest.raises(UserError, match="set TF_CONFIG.*or start the workers with srun.*Neither was found"):
        cluster.uses_workers("multi_worker", {})


def test_slurm_tasks_find_themselves_by_their_host():
    """Whatever the order of hosts: TensorFlow sorts them by name, Slurm by number."""
    step = {
        "SLURM_JOB_ID": "1234567",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_NODELIST": "n[9-10]",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
        "SLURM_PROCID": "1",
    }
    port = cluster.slurm_port(step)
    addresses = tuple(f"{host}:{port + place}" for host in ("n10", "n9") for place in range(2))
    assert cluster.is_slurm_step(step) and not cluster.is_slurm_step({"SLURM_JOB_ID": "1"})
    assert cluster.slurm_worker(addresses, step) == 1
    assert cluster.slurm_worker(addresses, step | {"SLURMD_NODENAME": "n9", "SLURM_LOCALID": "1"}) == 3
    with pytest.raises(UserError, match="the address m:.* of this task"):
        cluster.slurm_worker(addresses, step | {"SLURMD_NODENAME": "m", "SLURM_LOCALID": "1"})
    others = {cluster.slurm_port(step | {"SLURM_JOB_ID": str(job)}) for job in range(1000)}
    assert len(others) > 900 and all(1024 < other < 32_768 for other in others)


@pytest.mark.parametrize("bound", [False, True])
def test_slurm_tasks_of_one_host_share_its_gpus(monkeypatch, bound):
    variables = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_NODELIST": "n[9-10]",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
        "SLURMD_NODENAME": "n10",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        **({"SLURM_GPUS_PER_TASK": "4"} if bound else {}),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    seen = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda gpus, kind: seen.extend(gpus))
    resolver = strategy._slurm_resolver(["gpu0", "gpu1", "gpu2", "gpu3"])
    assert (resolver.task_type, resolver.task_id) == ("worker", 1)
    assert resolver.num_accelerators() == {"GPU": 4 if bound else 2}
    assert seen == ([] if bound else ["gpu2", "gpu3"])


def test_workers_stop_after_the_same_step_wherever_the_request_arrives():
    """The request reaches the second of two workers during step 3 (from 0)."""
    asked = [False, False]
    ballots = [loop._StopBallot(lambda worker=worker: asked[worker], 2) for worker in range(2)]
    decisions = []
    for step in range(7):
        votes = [ballot.vote() for ballot in ballots]
        asked[1] = step >= 3
        total = tf.constant(sum(votes))
        decisions.append([ballot.decide(total) for ballot in ballots])
    assert decisions == [[False, False]] * 6 + [[True, True]]


def test_exhausted_memory_is_explained():
    error = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor\nmany lines")
    with raises_with_remedies("Out of memory: OOM when allocating tensor. Try: a smaller --batch_size"):
        with strategy.explain_exhausted_memory():
            raise error


def test_a_full_disk_is_no_exhausted_memory():
    text = "{{function_node __wrapped__SaveV2}} /runs/a/ckpt-1; No space left on device [Op:SaveV2]"
    with pytest.raises(UserError) as raised, strategy.explain_exhausted_memory():
        raise tf.errors.ResourceExhaustedError(None, None, text)
    assert str(raised.value) == "Cannot write /runs/a/ckpt-1: No space left on device"


def test_other_errors_are_not_called_a_lost_worker():
    alone = strategy.make_strategy("one")
    assert strategy.is_chief(alone) and strategy.num_workers(alone) == 1
    assert strategy.gather_from_workers(alone, 5) == [5]
    with pytest.raises(tf.errors.UnavailableError), strategy.explain_lost_workers(alone):
        raise tf.errors.UnavailableError(None, None, "a disk")


def meet_all(count, timeout_secs=30.0, absent=()):
    """Lets workers meet, each in a thread; returns what each raised, or None."""
    addresses = tuple(f"localhost:{port}" for port in launch_lib.free_ports(count))

    def meet(worker):
        try:
            cluster.meet(cluster.Cluster(addresses=addresses, worker=worker), timeout_secs=timeout_secs)
        except UserError as error:
            return str(error)
        return None

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(meet, [worker for worker in range(count) if worker not in absent]))


def test_workers_meet_before_tensorflow_waits_for_them():
    assert meet_all(1) == [None] and meet_all(4) == [None] * 4


def test_missing_workers_are_named():
    first, third = meet_all(3, timeout_secs=1.0, absent=[1])
    assert re.fullmatch(r"Some of the 3 workers did not connect in time: 1 \(localhost:\d+\)", first)
    assert "did not report in time that all 3 workers have started" in third
    [alone] = meet_all(2, timeout_secs=0.5, absent=[0])
    assert alone.startswith("Worker 0 (localhost:")
