"""Flags that are made from dataclass fields; in a process of its own, as flags are global."""

import json

from tests.conftest import run_code

DEFINE = """
import dataclasses, json, sys
from absl import flags
from pipelines.spec_flags import SpecFlags
from ucf50_tfrecord.choices import Encoding
from ucf50_tfrecord.settings import setting

@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    size: int
    frames: int = setting(15, "Frames.")
    rate: float = setting(0.5, "Rate.")
    flip: bool = setting(False, "Flip.")
    folder: str | None = setting(None, "Folder.")
    encoding: str = setting(Encoding.RAW, "Encoding.")
    steps: int = setting(1, "Steps.")
    hidden: int = 3

SPEC = SpecFlags(Spec, names={"frames": "num"}, defaults={"rate": 0.25})
own = {flag.name: flag.help for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])}
try:
    flags.FLAGS(sys.argv)
    print(json.dumps([own, dataclasses.asdict(SPEC.build(size=7))]))
except flags.Error as error:
    print(error)
"""
DEFAULTS = """
import json
from absl import flags
from pipelines import train

print(json.dumps({name: flags.FLAGS[name].default for name in flags.FLAGS}))
"""


def test_flags_take_default_type_and_help_from_the_fields():
    own, spec = json.loads(run_code(DEFINE, check=True).stdout)
    assert sorted(own) == ["encoding", "flip", "folder", "num", "rate", "steps"]
    assert own["num"] == "Frames."
    assert spec == {
        "size": 7,
        "frames": 15,
        "rate": 0.25,
        "flip": False,
        "folder": None,
        "encoding": "raw",
        "steps": 1,
        "hidden": 3,
    }
    given = ("--num=3", "--rate=1e-3", "--flip", "--folder=x", "--encoding=png", "--steps=2")
    _, spec = json.loads(run_code(DEFINE, *given, check=True).stdout)
    assert [spec[name] for name in ("frames", "rate", "flip", "folder")] == [3, 1e-3, True, "x"]
    assert (spec["encoding"], spec["steps"]) == ("png", 2)


def test_wrong_types_and_unknown_words_are_refused():
    assert "flag --num=many" in run_code(DEFINE, "--num=many").stdout
    assert "value should be one of <raw|jpeg|png|raw+jpeg>" in run_code(DEFINE, "--encoding=gif").stdout


def test_the_flags_of_training_keep_their_defaults():
    """A changed default changes what the commands of users do."""
    defaults = json.loads(run_code(DEFAULTS, check=True).stdout)
    expected = {
        "frames": 15,
        "size": "64",
        "encoding": "raw",
        "num_folds": 25,
        "video_timeout_secs": 120.0,
        "model": "lstm",
        "epochs": 20,
        "batch_size": 16,
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "schedule": "constant",
        "precision": "auto",
        "frame_order": "kept",
        "cache": "auto",
        "on_bad_record": "stop",
        "fetch": "copy",
        "fetch_cache_gib": 20.0,
        "log_every_steps": 20,
        "checkpoint_secs": 300.0,
    }
    assert {name: defaults[name] for name in expected} == expected
