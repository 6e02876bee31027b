"""Writes results in Prometheus' text format, version 0.0.4, for node_exporter's textfile collector.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping

from ucf50_tfrecord.choices import Finding
from ucf50_tfrecord.monitoring.drift import FINDABLE, Check, Test
from ucf50_tfrecord.monitoring.results import Results
from ucf50_tfrecord.monitoring.stream import Batch

_PREFIX = "ucf50_monitor_"
_BATCHES: Mapping[str, tuple[str, Callable[[Batch, Check], float]]] = {
    "drift": ("1 if the batch has drifted, else 0.", lambda batch, check: check.finding == Finding.DRIFT),
    "enough_videos": (
        "1 if the batch is large enough for a negative finding, else 0.",
        lambda batch, check: check.findable <= FINDABLE,
    ),
    "findable": (
        "Least change that is found in 4 of 5 streams, from 0 to 1.",
        lambda batch, check: check.findable,
    ),
    "videos": ("Predicted videos of the batch.", lambda batch, check: len(batch.videos)),
    "failed_videos": (
        "Videos of the batch that could not be predicted.",
        lambda batch, check: batch.num_failed,
    ),
}
_TESTS: Mapping[str, tuple[str, Callable[[Test], float]]] = {
    "statistic": ("Statistic of a measure's test.", lambda test: test.statistic),
    "threshold": ("Statistic from which a measure's test raises an alarm.", lambda test: test.threshold),
    "p_value": ("P value of a measure's test.", lambda test: test.p),
    "alarm": ("1 if a measure's test raises an alarm, else 0.", lambda test: test.is_alarm),
}


@dataclasses.dataclass(frozen=True)
class Family:
    """A gauge with its samples.

    samples: tuples of a sample's labels and its value.
    """

    name: str
    help: str
    samples: list[tuple[dict[str, str], float]]


def to_text(results: Results, time_secs: float) -> str:
    """Returns results as a text of gauges.

    Args:
      results: the results.
      time_secs: time of the check, in seconds since 1970.
    """
    return "".join(map(_render, _families(results, time_secs)))


def _families(results: Results, time_secs: float) -> Iterator[Family]:
    run = {"run": results.run}
    parts = list(zip(results.batches, results.checks))
    for name, (text, value) in _BATCHES.items():
        yield Family(
            name, text, [(run | {"batch": batch.name}, value(batch, check)) for batch, check in parts]
        )
    for name, (text, of_test) in _TESTS.items():
        samples = [
            (run | {"batch": batch.name, "measure": str(test.measure)}, of_test(test))
            for batch, check in parts
            for test in check.tests
        ]
        yield Family(name, text, samples)
    yield Family("level", "Probability of an alarm without drift.", [(run, results.level)])
    yield Family("time_seconds", "Time of the check, in seconds since 1970.", [(run, time_secs)])


def _render(family: Family) -> str:
    name = _PREFIX + family.name
    lines = [f"# HELP {name} {family.help}", f"# TYPE {name} gauge"]
    for labels, value in family.samples:
        written = ",".join(f'{label}="{_escape(text)}"' for label, text in labels.items())
        lines.append(f"{name}{{{written}}} {_number(value)}")
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    """Escapes a label's value; a file name that is not UTF-8 shows its bytes as \\udcXX."""
    valid = text.encode("utf-8", "backslashreplace").decode()
    return valid.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return "+Inf" if math.isinf(value) else repr(float(value))
