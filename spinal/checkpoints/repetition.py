"""JSON objects in which a member is named twice: readers would differ on which of them counts."""

from collections import Counter
from typing import Any

from spinal.errors.faults import shown


def without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A hook of ``json``: the object of ``pairs``; raises ValueError for a member that is there twice."""
    members = dict(pairs)
    if len(members) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"member {shown(twice)!r} occurs twice")
    return members
