"""What a listing that is narrowed binds in its statement."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID


class HasLabels(Protocol):
    """A filter of a listing: its members are named as the conditions are."""

    @property
    def labels(self) -> Sequence[tuple[str, str]]: ...


def bound(narrowed: HasLabels, after: tuple[datetime, UUID] | None) -> dict[str, Any]:
    """Name -> value of every condition that is asked for; ``after`` is the (created_at, id) of the last row seen."""
    by: dict[str, Any] = {name: value for name, value in vars(narrowed).items() if value not in (None, ())}
    if narrowed.labels:
        by["labels"] = json.dumps(dict(narrowed.labels))
    if after is not None:
        by["after"], by["after_id"] = after
    return by
