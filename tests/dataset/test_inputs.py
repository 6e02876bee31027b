"""How clips are read, as it is asked for."""

import pytest

from ucf50_tfrecord.dataset.inputs import InputSpec
from ucf50_tfrecord.errors import UserError


@pytest.mark.parametrize("gib", [float("inf"), float("nan"), -1.0])
def test_a_copy_cache_without_size_is_refused(gib):
    with pytest.raises(
        UserError, match="Expected fetch_cache_gib from 0 to 1000000. Received: fetch_cache_gib="
    ):
        InputSpec(fetch_cache_gib=gib)


def test_an_unknown_word_is_refused():
    with pytest.raises(UserError, match="a cache out of .* Received: cache='ram'"):
        InputSpec(cache="ram")
