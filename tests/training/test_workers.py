"""Two input workers, each a process of its own, under MultiWorkerMirroredStrategy."""

import json
import os
import socket
import subprocess
import sys

import numpy as np

from tests.conftest import REPOSITORY

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
evaluate = runner.Evaluator(model, feed, strategy=strategy, batch_size=batch_size)
print(json.dumps([seen, evaluate("shuffle").logits.tolist(), evaluate().scores["accuracy"]]))
"""
ONE = WORKER.replace(
    "tf.distribute.MultiWorkerMirroredStrategy()", 'tf.distribute.OneDeviceStrategy("CPU:0")'
)


def start(code, arguments, task=None):
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    if task is not None:
        environment["TF_CONFIG"] = json.dumps(task)
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(("localhost", 0))
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def test_two_workers_feed_and_evaluate_every_clip_once(data_dir):
    """12 clips in batches of 5: the workers' parts are uneven, and the last batch leaves one without."""
    arguments = [str(data_dir), "5", "device"]
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
    tasks = [{"cluster": cluster, "task": {"type": "worker", "index": index}} for index in range(2)]
    processes = [start(WORKER, arguments, task) for task in tasks] + [start(ONE, arguments)]
    results = []
    for process in processes:
        stdout, stderr = process.communicate(timeout=200)
        assert process.returncode == 0, stderr[-3000:]
        results.append(json.loads(stdout.splitlines()[-1]))
    first, second, one = results
    for step, expected in enumerate(one[0]):
        assert first[0][step] + second[0][step] == expected
    assert sorted(sum(one[0], [])) == list(range(12))
    for found in (first, second):  # each knows all clips' logits
        np.testing.assert_allclose(found[1], one[1], atol=1e-5)
        assert found[2] == one[2]
