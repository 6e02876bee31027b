"""The receiver of a fetch's progress."""

from __future__ import annotations


class FetchListener:
    """Receives the progress of a fetch; this base class ignores it. Subclasses may show it."""

    def start(self, doing: str, total: int, *, unit: str, done: int = 0) -> None:
        """Receives the start of a step.

        Args:
          doing: the step's name, such as "downloading".
          total: number of units, such as bytes; 0 if unknown.
          unit: "B" for bytes, or the name of a unit.
          done: number of units that are done already.
        """

    def update(self, num_units: int) -> None:
        """Receives the number of units done since the previous call."""

    def retry(self, reason: str, wait_secs: float) -> None:
        """Receives why the transfer stopped, and the seconds until it is tried again."""

    def restart(self, reason: str) -> None:
        """Receives why a download has to begin again at its first byte."""
