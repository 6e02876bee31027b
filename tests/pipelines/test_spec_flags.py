"""Flags that are made from dataclass fields; in a process of its own, as flags are global."""

import dataclasses
import json

from pipelines import remedies
from tests.conftest import run_code
from ucf50_tfrecord.choices import Encoding
from ucf50_tfrecord.dataset.inputs import InputSpec
from ucf50_tfrecord.specs import AugmentSpec, ClipFormat, DecodeLimits, FoldRule, ModelSpec, TrainSpec
from ucf50_tfrecord.training.run import RunOptions

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
    assert f"value should be one of <{'|'.join(Encoding)}>" in run_code(DEFINE, "--encoding=gif").stdout


def test_the_flags_of_training_have_the_defaults_of_the_fields():
    defaults = json.loads(run_code(DEFAULTS, check=True).stdout)
    specs = (ClipFormat, FoldRule, DecodeLimits, ModelSpec, AugmentSpec, TrainSpec, InputSpec, RunOptions)
    expected = {
        remedies.FLAGS.get(field.name, field.name): field.default
        for spec in specs
        for field in dataclasses.fields(spec)
        if "help" in field.metadata and field.default is not dataclasses.MISSING
    }
    assert len(expected) > 40
    assert {name: defaults[name] for name in expected} == expected
    assert defaults["size"] == f"{ClipFormat.height}" == f"{ClipFormat.width}"
