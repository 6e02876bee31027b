"""Checks that end in all ways a check may, without TensorFlow."""

import os
import time

from ucf50_tfrecord.device_checks.outcomes import Check, judge


def works(options, doing):
    doing("working")
    yield judge("sum", True, found="2", expected="2", figures={"sum": 2, "secs": options.secs})


def fails(options, doing):
    yield judge("product", False, found="5", expected="4", reason="it is wrong")


def raises(options, doing):
    yield from works(options, doing)
    raise KeyError("a name\x1b[1m")


def crashes(options, doing):
    os._exit(3)
    yield


def hangs(options, doing):
    yield from works(options, doing)
    time.sleep(600)


def check(name, **options):
    function = f"{__name__}:{name}"
    return Check(function=function, about=f"what {name}", weight=1, loads_tensorflow=False, **options)
