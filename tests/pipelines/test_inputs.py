"""The flags of the input."""

import pytest

from tests.conftest import run_code

FETCH = """
import sys
from absl import flags
from pipelines import inputs
flags.FLAGS(sys.argv)
inputs.fetch_spec()
"""


@pytest.mark.parametrize("gib", ["inf", "nan", "-1"])
def test_a_folder_of_no_size_is_a_users_mistake(gib):
    result = run_code(FETCH, f"--fetch_cache_gib={gib}")
    expected = "errors.UserError: Expected --fetch_cache_gib from 0 to 1e6. Received: fetch_cache_gib="
    assert expected in result.stderr.splitlines()[-1]
