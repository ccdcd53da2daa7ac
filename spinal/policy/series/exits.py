"""What a series means to a pipeline: one table for the command line, the reports and whoever else ends by it."""

from typing import Literal

from spinal.documents.series import Status
from spinal.errors import ExitCode

FailsOn = Literal["fail", "warn"]
"""The mildest outcome that fails a pipeline: damage alone, or early warning, too."""
EXITS: dict[Status, ExitCode] = {
    "destabilised": ExitCode.FAILED,
    "inconclusive": ExitCode.INCONCLUSIVE,
    "insufficient_series": ExitCode.INCONCLUSIVE,
    "watch": ExitCode.PASS,
    "healthy": ExitCode.PASS,
}
WARNS: frozenset[Status] = frozenset({"watch"})
"""Statuses that fail where early warning is to fail."""


def series_exit(status: Status, fail_on: FailsOn = "fail") -> ExitCode:
    """The exit code of a command that ends by this status.

    >>> series_exit("destabilised"), series_exit("watch"), series_exit("watch", "warn")
    (<ExitCode.FAILED: 1>, <ExitCode.PASS: 0>, <ExitCode.FAILED: 1>)
    """
    return ExitCode.FAILED if status in WARNS and fail_on == "warn" else EXITS[status]
