"""Measures how fast this machine decodes videos, reads clips and trains, and names the bottleneck."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from tools.checkup import sets
from tools.checkup.finding import Finding, NoAnswer, Options, ask, fail, ok, warn
from ucf50_tfrecord.remote import is_remote

_FRACTIONS = {"decode": 0.2, "input": 0.3, "step": 0.5}  # of Options.speed_secs
_TIMEOUT_SECS = 300.0
_MAX_WAIT_FRACTION = 0.05  # as in training/meter.py
_UCF50_VIDEOS = 6681


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """The rates of this machine, in clips/s."""

    decode: float  # on one core
    input: float
    step: float  # on one device
    num_cores: int = 1  # that can decode
    num_devices: int = 1  # that training uses
    fits_in_memory: bool = False  # whether --cache=auto keeps the clips in memory

    @property
    def wait_fraction(self) -> float:
        """The fraction of the training time that is spent waiting for clips."""
        return max(0.0, 1 - self.input / (self.step * self.num_devices))


def check(options: Options) -> Iterator[Finding]:
    """Yields findings on how fast this machine decodes, reads and trains; takes about options.speed_secs."""
    if not options.speed_secs:
        yield ok("not measured (--nospeed)")
        return
    cores = len(os.sched_getaffinity(0))
    if os.getloadavg()[0] > 0.5 * cores:
        yield warn(f"other work is running (load {os.getloadavg()[0]:.1f}): the rates are too low")
    try:
        decoded, trained = _measure(options)
    except NoAnswer as error:
        yield fail(f"the speed could not be measured: {error}")
        return
    if not decoded["rate"]:
        yield fail(f"no video of {decoded['what']} decodes", "make shards names the reasons")
        return
    yield ok(f"decode {decoded['rate']:,.0f} clips/s per core ({decoded['what']})")
    yield ok(f"input {trained['input']:,.0f} clips/s, streamed ({trained['what']})")
    yield ok(f"step {trained['step']:,.0f} clips/s ({trained['how']})")
    measured = {name: trained[name] for name in ("input", "step", "num_devices", "fits_in_memory")}
    yield from name_bottleneck(Rates(decode=decoded["rate"], num_cores=cores, **measured))


def _measure(options: Options) -> tuple[dict[str, Any], dict[str, Any]]:
    """Calls `decode` and `train` of benchmarks.machine on the first set of local shards, else on demo clips.

    Shards at a URL are not used, since the time of copying them would be measured.
    """
    secs = {name: fraction * options.speed_secs for name, fraction in _FRACTIONS.items()}
    manifests = map(sets.load_manifest, sets.find_folders(options))
    folders = (manifest.data_dir for manifest in manifests if not isinstance(manifest, Exception))
    data = next((folder for folder in folders if not is_remote(folder)), None)
    with tempfile.TemporaryDirectory() as folder:
        decoded = _ask("decode", options.videos, data, folder, secs["decode"])
        trained = _ask("train", decoded["data"], secs["input"], secs["step"])
    return decoded, trained if data else trained | {"what": "demo clips"}


def _ask(function: str, *arguments: Any) -> dict[str, Any]:
    """Calls a function of benchmarks.machine in a process of its own; returns its result."""
    return ask("benchmarks.machine", function, *arguments, timeout_secs=_TIMEOUT_SECS).value


def name_bottleneck(rates: Rates) -> Iterator[Finding]:
    """Yields findings on the bottleneck of training, with its fix, and on the time to convert UCF50."""
    text = f"the input is the bottleneck: a step waits {rates.wait_fraction:.0%} of its time for clips"
    if rates.wait_fraction <= _MAX_WAIT_FRACTION:
        ratio = rates.input / (rates.step * rates.num_devices)
        yield ok(
            f"the step is the bottleneck: the input is {ratio:.1f} times as fast. "
            "Training is faster on a GPU or more GPUs, with smaller frames (--size), or with another --model"
        )
    elif rates.fits_in_memory:
        yield ok(f"{text} when streamed; --cache=auto keeps them in memory, as they fit")
    else:
        yield warn(
            text,
            "keep the clips in memory (--cache=host), store frames raw (--encoding=raw) or smaller (--size), "
            "or use faster storage or more cores",
        )
    secs = _UCF50_VIDEOS / (rates.decode * rates.num_cores)
    shown = f"{secs / 60:.0f} min" if secs >= 120 else f"{secs:.0f} s"
    yield ok(
        f"converting UCF50's {_UCF50_VIDEOS:,} videos takes about {shown} on {rates.num_cores} cores, once"
    )
