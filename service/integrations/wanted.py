"""Which registries are told of the end of an audit."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from service.deliveries.events import Event
from service.deliveries.targets import Place
from service.integrations.store import place_of, places_of_audit
from service.settings import Settings


def versions_in_mlflow(session: Session, settings: Settings, event: Event) -> Sequence[Place]:
    """The versions that the audit was made of, where their registry is written to."""
    if event.subject_kind != "audit":
        return ()
    found = []
    for each in places_of_audit(session, event.subject):
        registry = settings.registries.by_name.get(each.key.registry)
        if registry is not None and registry.write_back and registry.kind == "mlflow":
            found.append(Place(place=place_of(each.key)))
    return found
