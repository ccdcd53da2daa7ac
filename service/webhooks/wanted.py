"""The webhooks that want to be told of an event."""

from sqlalchemy.orm import Session

from service.deliveries.events import Event
from service.deliveries.targets import Place
from service.settings import Settings
from service.webhooks.content import facts_of
from service.webhooks.filters import TEST, wants
from service.webhooks.store import listening


def wanted_by(session: Session, _settings: Settings, event: Event) -> list[Place]:
    """Those that are there and enabled at this moment. Tests are sent by whoever asks for them."""
    found = [] if event.type == TEST else listening(session, event.tenant)
    if not found:
        return []
    facts = facts_of(session, event)
    return [
        Place(webhook_id=webhook.id) for webhook in found if wants(webhook.events, webhook.filters, event.type, facts)
    ]
