"""To whom events are told, one entry each. A new target is an entry here, a function that says who wants to be told of
an event, and a module in ``worker/targets``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, cast
from uuid import UUID

from sqlalchemy.orm import Session

from service.deliveries.events import Event
from service.settings import Settings


@dataclass(frozen=True)
class Place:
    """Where something is to be told."""

    webhook_id: UUID | None = None
    place: dict[str, Any] = field(default_factory=dict)
    """What stands for the webhook where the target is none; kept with the delivery, so it holds no secret."""


Wanted = Callable[[Session, Settings, Event], Sequence[Place]]


@dataclass(frozen=True)
class Target:
    name: str
    wanted_by: str
    """``module:function``, a ``Wanted``: the places that want to be told of an event, in a stable order. Asked once, in
    a transaction of its own for each event; bounded, and nothing outside the database is asked."""
    deliver: str
    """``module:function`` of the worker, which tells it: ``worker.kinds.deliver.Deliver``."""

    def wanted(self) -> Wanted:
        module, _, function = self.wanted_by.partition(":")
        return cast(Wanted, getattr(import_module(module), function))


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("webhook", wanted_by="service.webhooks.wanted:wanted_by", deliver="worker.targets.webhook:deliver"),
        Target("mlflow", "service.integrations.wanted:versions_in_mlflow", "worker.targets.mlflow:deliver"),
    )
}
"""By name."""
