"""A module that raises an error when it is imported, for tests of models of the user's own."""

1 / 0  # noqa: B018
