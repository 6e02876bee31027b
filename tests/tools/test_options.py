"""docs/options.md against the flags that the entry points have."""

from tools import write_options


def test_the_options_page_is_up_to_date():
    """Run: python -m tools.write_options."""
    assert write_options.OPTIONS.read_text() == write_options.make_page()
