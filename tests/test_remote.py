import pytest

from ucf50_tfrecord import remote
from ucf50_tfrecord.specs import UserError


class Failing:
    def read(self, url, start, end):
        raise OSError("no answer\n\t when reading it")


def test_a_failure_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(remote, "_store", lambda scheme: Failing())
    with pytest.raises(UserError, match="^Cannot read gs://bucket/x: no answer when reading it$"):
        remote.read("gs://bucket/x")
