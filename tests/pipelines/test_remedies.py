import pickle

import pytest

from pipelines import remedies
from ucf50_tfrecord.errors import Action, Advice, Change, Remedy, UserError, expect


@pytest.mark.parametrize(
    "remedy, command",
    [
        (Remedy(Action.SET, on_bad_record="skip", method="copy"), "--on_bad_record=skip --fetch=copy"),
        (Remedy(Action.SET, learning_rate=Change.SMALLER), "a smaller --learning_rate"),
        (Remedy(Action.SET, cache_bytes=Change.LARGER), "a larger --fetch_cache_gib"),
        (Remedy(Action.SET, run_dir=Change.OTHER), "another --run"),
        (Remedy(Action.SET, data_dir=...), "--data=…"),
        (Remedy(Action.SET, overwrite=True, calibrate=False), "--overwrite --nocalibrate"),
        (Remedy(Action.SET, cache=("host", "none")), "--cache=host or none"),
        (Remedy(Action.SET, formats=["keras", "onnx"]), "--formats=keras,onnx"),
        (Remedy(Action.SET, output="a b"), "'--output=a b'"),
        (
            Remedy(Action.REPAIR, videos_dir="/v", data_dir="/d", height=16, width=24, num_frames=5),
            "make repair VIDEOS=/v DATA=/d SIZE=16x24 FRAMES=5",
        ),
        (
            Remedy(Action.REPAIR, videos_dir="/v", data_dir="/d", name="x", shard_bytes=1 << 20),
            "make repair VIDEOS=/v DATA=/d 'FLAGS=--name=x --shard_mib=1'",
        ),
        (Remedy(Action.TRAIN), "make train"),
        (Remedy(Action.TRAIN, run_dir="runs/a"), "make train RUN=runs/a and the flags that started it"),
        (Remedy(Action.EVALUATE, run_dir="r", weights="best"), "make evaluate RUN=r FLAGS=--weights=best"),
    ],
)
def test_a_remedy_becomes_a_command(remedy, command):
    assert remedies.command(remedy) == command


@pytest.mark.parametrize("is_script", [False, True])
def test_entry_points_are_named_as_this_one_was_started(monkeypatch, is_script):
    monkeypatch.setattr("sys.orig_argv", ["python", "/bin/ucf50" if is_script else "-m", "train"])
    monkeypatch.setattr("sys.executable", "/a b/python")
    start = "ucf50 " if is_script else "'/a b/python' -m pipelines."
    shown = remedies.command(Remedy(Action.CONVERT, data_dir="d"))
    assert shown == f"{start}convert --videos=<folder of class folders> --data=d"
    shown = remedies.command(Remedy(Action.LAUNCH, num_workers=2))
    assert shown == f"make train WORKERS=2 or {start}launch --workers=2"


def test_a_message_joins_facts_and_remedies():
    ways = (
        Remedy(Action.SET, clip_norm=1),
        Remedy(Action.SET, precision="float32"),
        Remedy(Action.SET, "where memory suffices", cache="host"),
    )
    expected = "It failed. Try: --clip_norm=1 or --precision=float32; where memory suffices: --cache=host"
    assert remedies.message(UserError("It failed", *ways)) == expected
    assert remedies.message(Advice("It failed.", *ways)) == expected
    assert remedies.message(UserError("It failed")) == "It failed" == remedies.message("It failed")


def test_an_error_keeps_its_remedies_between_processes():
    with pytest.raises(UserError) as raised:
        expect(False, "fewer", Remedy(Action.SET, num_parts=2), parts=3)
    copy = pickle.loads(pickle.dumps(raised.value))
    assert str(copy) == "Expected fewer. Received: parts=3"
    assert copy.remedies == (Remedy(Action.SET, num_parts=2),)


@pytest.mark.parametrize("given", ["--finalize", "-finalize", "--finalize=true"])
def test_this_command_is_shown_without_a_flag(monkeypatch, given):
    monkeypatch.setattr(
        "sys.orig_argv", ["python", "-m", "pipelines.compare", "--data=finalize", given, "--cv=2"]
    )
    monkeypatch.setattr("sys.executable", "/bin/python")
    shown = "/bin/python -m pipelines.compare --data=finalize --cv=2"
    assert remedies.this_command(without="finalize") == shown
    assert given in remedies.this_command()
