"""The same training on one device, on two of one process, and by two workers: processes of their own."""

import json
import os
import signal
import time

import numpy as np
import pytest

from pipelines.launch import free_ports, worker_environments
from tests.warm import start_code

WORKER = """
import json, sys
import tensorflow as tf
strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before anything else uses TensorFlow
from ucf50_tfrecord import manifest, models
from ucf50_tfrecord.dataset.clips import load_clips
from ucf50_tfrecord.dataset.feed import Feed
from ucf50_tfrecord.evaluation import runner
from ucf50_tfrecord.specs import ModelSpec
import keras
data, batch_size, cache = sys.argv[1], int(sys.argv[2]), sys.argv[3]
clips = load_clips(manifest.load(data), [1, 2])
feed = Feed(clips, strategy=strategy, cache=cache)
batches = feed.batches(batch_size=batch_size, seed=7)
seen = []
for _ in range(-(-len(clips) // batch_size)):
    batch = next(batches)
    index, mask = (strategy.experimental_local_results(batch[name])[0].numpy() for name in ("index", "mask"))
    seen.append(index[mask].tolist())
keras.utils.set_random_seed(0)
with strategy.scope():
    model = models.build_model(ModelSpec(name="seed_pool", num_classes=3, num_frames=5, height=16, width=24))
evaluate = runner.Evaluator(runner.Predictor(model, strategy), feed, batch_size=batch_size)
print(json.dumps([seen, evaluate("shuffle1").logits.tolist(), evaluate().scores["accuracy"]]))
"""
ONE = WORKER.replace(
    "tf.distribute.MultiWorkerMirroredStrategy()", 'tf.distribute.OneDeviceStrategy("CPU:0")'
)


def start(code, arguments, **variables):
    return start_code(code, *arguments, env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", **variables})


def results_of(processes):
    """What each process printed: one JSON value a line."""
    results = []
    for process in processes:
        stdout, stderr = process.communicate(timeout=500)
        assert process.returncode == 0, stderr[-3000:]
        results.append([json.loads(line) for line in stdout.splitlines()])
    return results


def test_two_workers_feed_and_evaluate_every_clip_once(data_dir):
    """12 clips in batches of 5: the workers' parts are uneven, and the last batch leaves one without."""
    arguments = [str(data_dir), "5", "device"]
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
    tasks = [{"cluster": cluster, "task": {"type": "worker", "index": index}} for index in range(2)]
    processes = [start(WORKER, arguments, TF_CONFIG=json.dumps(task)) for task in tasks]
    [first], [second], [one] = results_of([*processes, start(ONE, arguments)])
    for step, expected in enumerate(one[0]):
        assert first[0][step] + second[0][step] == expected
    assert sorted(sum(one[0], [])) == list(range(12))
    for found in (first, second):  # each knows all clips' logits
        np.testing.assert_allclose(found[1], one[1], atol=1e-5)
        assert found[2] == one[2]


JOIN = """
from ucf50_tfrecord.training import strategy
strategy.BUILD_SECS = 1.0
strategy.make_strategy("multi_worker")
"""
MEET = """
import os
from ucf50_tfrecord.training import cluster
cluster.meet(cluster.from_tf_config(os.environ), timeout_secs=100)
"""


@pytest.mark.parametrize("remaining", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_worker_that_exits_after_the_meeting_keeps_no_other_waiting(remaining):
    environments = worker_environments(2, [])
    codes = [JOIN if worker == remaining else MEET for worker in range(2)]
    processes = [
        start(code, [], **environment) for code, environment in zip(codes, environments, strict=True)
    ]
    _, stderr = processes[remaining].communicate(timeout=500)
    assert processes[remaining].returncode == -signal.SIGKILL
    assert "error: all workers had started 1 s ago, but one has not answered since." in stderr
    assert processes[1 - remaining].wait(timeout=30) == 0


TRAIN = """
import json, sys, tensorflow as tf
data_dir, run_dir, model, precision, cache, settings, *names = sys.argv[1:]
if "mirrored" in names:
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.training import test_loop
for name in names:
    seen = []
    trained = test_loop.train(
        data_dir, f"{run_dir}/{name}", strategy=name, model=model, precision=precision,
        batch_size=10, learning_rate=1e-4, dropout=0.3, ema=0.9, clip_norm=1.0, steps_per_call=2,
        log_every_steps=1, augment=test_loop.EVERY_AUGMENTATION, cache=cache,
        **{"encoder": {"num_frames": 3}} | json.loads(settings),
        listener={"report": seen.append})
    losses = test_loop.losses(seen) + [seen[-1].scores["train_loss"]]
    print(json.dumps([losses, trained.evaluate().logits.tolist()]))
"""


def slurm_step(task):
    """What srun tells the tasks of a step of two on this machine."""
    return {
        "SLURM_JOB_ID": str(int(time.time()) % 100_000),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURMD_NODENAME": "localhost",
        "SLURM_PROCID": str(task),
        "SLURM_LOCALID": str(task),
    }


DROPS = {"encoder": {"num_frames": 3, "stochastic_depth": 0.5}}


@pytest.mark.parametrize(
    "model, precision, cache, settings, with_workers",
    [
        ("seed_pool", "float32", "host", {"mixup": 0.4, "cutmix": 1.0}, False),
        pytest.param("seed_pool", "float32", "none", {"mixup": 0.4}, True, marks=pytest.mark.slow),
        ("seed_pool", "float32", "host", {"teachers": "a", "temperature": 3.0}, False),
        pytest.param("seed_pool", "float32", "none", {"teachers": "a"}, True, marks=pytest.mark.slow),
        pytest.param("lstm", "float32", "device", {}, True, marks=pytest.mark.slow),
        pytest.param("lstm", "float16", "host", {}, False, marks=pytest.mark.slow),
        pytest.param("transformer", "float32", "host", DROPS, False, marks=pytest.mark.slow),
    ],
)
def test_two_replicas_train_as_one_device_does(
    data_dir, tmp_path, model, precision, cache, settings, with_workers
):
    """24 clips in batches of 10: in the last one the replicas have 4 and 0 clips that count.

    The replicas are two devices of one process; and two processes, as Slurm would start them. Where clips are mixed,
    each replica has 6 slots in place of 5, so that no pair is divided. Padding counts in batch norm: seed_pool has none.
    """
    arguments = [data_dir, tmp_path, model, precision, cache, json.dumps(settings)]
    step = [slurm_step(task) for task in range(2)] if with_workers else []
    workers = [start(TRAIN, [*arguments, "multi_worker"], **variables) for variables in step]
    alone, *others = results_of([start(TRAIN, [*arguments, "one", "mirrored"]), *workers])
    one, mirrored = alone
    tolerance = 1e-4 if precision == "float32" else 0.02
    for found in (mirrored, *(worker for [worker] in others)):
        for expected_values, found_values in zip(one, found, strict=True):
            np.testing.assert_allclose(found_values, expected_values, rtol=tolerance, atol=tolerance)
