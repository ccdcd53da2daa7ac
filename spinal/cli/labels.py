"""Labels of audits on the command line."""

from collections.abc import Sequence

from spinal.errors import UsageError


def read_labels(given: Sequence[str] | None) -> dict[str, str]:
    """Labels of ``key=value``; raises UsageError."""
    found = {}
    for item in given or ():
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UsageError(f"--label {item!r} is not key=value", hint="for example --label release=2026-11")
        found[key] = value
    return found
