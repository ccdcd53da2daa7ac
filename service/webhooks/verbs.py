"""What callers do with webhooks: make, read, change, rotate, test, delete them, and look at what they were told."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from service.database.ids import new_id
from service.database.unit_of_work import Ledger, Reads
from service.deliveries.events import add_event, find_event
from service.deliveries.outbox import add_delivery
from service.deliveries.targets import Place
from service.settings import Settings
from service.webhooks import store
from service.webhooks.filters import TEST
from service.webhooks.secrets import Secrets, secrets_of
from service.webhooks.store import Told, Webhook
from spinal.errors import (
    DeliveryNotFound,
    SourceRefused,
    WebhookDisabled,
    WebhookLimitReached,
    WebhookNotFound,
    WebhookRotated,
    WebhookUrlRefused,
)
from spinal.net.addresses import literal_of
from spinal.net.targets import check, target_of

TARGET = "webhook"
SHOWN_AGAIN_S = 600.0
"""So long a rotation whose answer was lost may be asked for once more."""


@dataclass(frozen=True)
class Shown:
    """A webhook with what its receiver verifies by."""

    webhook: Webhook
    secret: str | None
    """``whsec_...``, when it was just made or rotated."""
    public_key: str | None
    former_public_key: str | None
    """While it signs, too."""


def create_webhook(ledger: Ledger, settings: Settings, tenant: str, members: dict[str, Any]) -> Shown:
    """Raises WebhookUrlRefused, WebhookLimitReached, and WebhooksNotConfigured before anything is written."""
    check_url(settings, members["url"])
    webhook = new_id()
    secrets_of(_pepper(settings), tenant, webhook, 1, members.get("signature", "v1"))
    with ledger.begin() as session:
        if not store.insert_webhook(session, webhook, tenant, members, most=settings.webhooks):
            raise WebhookLimitReached(
                f"this tenant has {settings.webhooks} webhooks, which is as many as it may have",
                hint="delete one that nobody needs (DELETE /v1/webhooks/{id})",
            )
        made = _found(store.find_webhook(session, tenant, webhook), webhook)
    return shown(settings, made, with_secret=True)


def read_webhook(ledger: Reads, settings: Settings, tenant: str, webhook: UUID) -> Shown:
    """Raises WebhookNotFound."""
    with ledger.read() as session:
        return shown(settings, _found(store.find_webhook(session, tenant, webhook), webhook))


def list_webhooks(
    ledger: Reads, settings: Settings, tenant: str, *, after: tuple[datetime, UUID] | None, limit: int
) -> list[Shown]:
    with ledger.read() as session:
        found = store.list_webhooks(session, tenant, after=after, limit=limit)
    return [shown(settings, webhook) for webhook in found]


def change_webhook(ledger: Ledger, settings: Settings, tenant: str, webhook: UUID, members: dict[str, Any]) -> Shown:
    """``enabled`` False ends what waits for it; True begins anew. Raises WebhookNotFound, WebhookUrlRefused."""
    columns = {name: value for name, value in members.items() if name != "enabled"}
    if "url" in columns:
        check_url(settings, columns["url"])
    with ledger.begin() as session:
        known = _found(store.find_webhook(session, tenant, webhook), webhook)
        # Whatever is locked of runs is locked ahead of the webhook.
        if members.get("enabled") is False:
            store.end_waiting(session, known.id)
        if columns:
            store.change_webhook(session, tenant, webhook, columns)
        if members.get("enabled") is False:
            store.disable_webhook(session, webhook, "somebody disabled it")
        elif members.get("enabled") is True and known.disabled_at is not None:
            store.enable_webhook(session, tenant, webhook)
        changed = _found(store.find_webhook(session, tenant, webhook), webhook)
    return shown(settings, changed)


def rotate_webhook(
    ledger: Ledger,
    settings: Settings,
    tenant: str,
    webhook: UUID,
    *,
    overlap_s: float,
    generation: int | None = None,
) -> Shown:
    """Another secret; the present one signs, too, for so long. With ``generation`` only that one is replaced: a request
    that soon comes twice shows the same secret twice. Nobody else is shown a secret that is there already. Raises
    WebhookNotFound, WebhookRotated, WebhooksNotConfigured."""
    secrets_of(_pepper(settings), tenant, webhook, 1, "v1")
    with ledger.begin() as session:
        rotated = store.rotate_secret(session, tenant, webhook, overlap_s=overlap_s, generation=generation)
        changed = _found(store.find_webhook(session, tenant, webhook), webhook)
        if not rotated and not store.was_just_rotated(
            session, tenant, webhook, generation or 0, within_s=SHOWN_AGAIN_S
        ):
            raise WebhookRotated(
                f"webhook {webhook} is at generation {changed.generation}",
                hint="read it, and name its present generation; or name none, to replace whichever it is",
            )
    return shown(settings, changed, with_secret=True)


def delete_webhook(ledger: Ledger, tenant: str, webhook: UUID) -> None:
    """What waits for it ends. Raises WebhookNotFound."""
    with ledger.begin() as session:
        known = _found(store.find_webhook(session, tenant, webhook), webhook)
        store.end_waiting(session, known.id)
        store.delete_webhook(session, tenant, webhook)


def send_test(ledger: Ledger, settings: Settings, tenant: str, webhook: UUID) -> Told:
    """An event of its own, told to this webhook alone. Raises WebhookNotFound, WebhookDisabled."""
    with ledger.begin() as session:
        _enabled(_found(store.find_webhook(session, tenant, webhook), webhook))
        event = add_event(session, tenant, TEST, TARGET, webhook, {})
        delivery = add_delivery(session, settings, event, TARGET, Place(webhook_id=webhook))
        return _delivery(store.read_delivery(session, tenant, webhook, delivery), delivery)


def list_deliveries(
    ledger: Reads, tenant: str, webhook: UUID, *, after: tuple[datetime, UUID] | None, limit: int
) -> list[Told]:
    """Newest first. Raises WebhookNotFound."""
    with ledger.read() as session:
        _found(store.find_webhook(session, tenant, webhook), webhook)
        return store.list_deliveries(session, tenant, webhook, after=after, limit=limit)


def read_delivery(ledger: Reads, tenant: str, webhook: UUID, delivery: UUID) -> Told:
    """Raises WebhookNotFound, DeliveryNotFound."""
    with ledger.read() as session:
        _found(store.find_webhook(session, tenant, webhook), webhook)
        return _delivery(store.read_delivery(session, tenant, webhook, delivery), delivery)


def send_again(ledger: Ledger, settings: Settings, tenant: str, webhook: UUID, delivery: UUID) -> Told:
    """The same event under the same id. What still waits is tried at once, and is no further delivery. Raises
    WebhookNotFound, DeliveryNotFound, WebhookDisabled."""
    with ledger.begin() as session:
        _enabled(_found(store.find_webhook(session, tenant, webhook), webhook))
        told = _delivery(store.read_delivery(session, tenant, webhook, delivery), delivery)
        # Its run is locked ahead of the webhook.
        if not store.hurry(session, told.id):
            number, open_one = store.sent_again(session, webhook, told.event_id)
            event = find_event(session, told.event_id)
            if open_one is None and event is not None:
                place = Place(webhook_id=webhook)
                open_one = add_delivery(session, settings, event, TARGET, place, sent_again=number + 1)
            delivery = delivery if open_one is None else open_one
        return _delivery(store.read_delivery(session, tenant, webhook, delivery), delivery)


def check_url(settings: Settings, url: str) -> None:
    """Raises WebhookUrlRefused. Where a name leads is seen when something is sent there."""
    reach = settings.webhooks_reach()
    try:
        target = target_of(url)
        check(target, reach)
    except SourceRefused as error:
        raise WebhookUrlRefused(
            error.detail.replace("listed for this source", "one that webhooks of this service may lead to"),
            hint="give an address like https://hooks.example.org/spinal; operators list hosts in SPINAL_WEBHOOK_HOSTS, "
            "and those of the own network in SPINAL_WEBHOOK_PRIVATE, too",
        ) from None
    address = literal_of(target.host)
    if address is not None and not reach.admits(address, target.host, target.port, clear=target.scheme == "http"):
        raise WebhookUrlRefused(
            f"{target.host} is no public address",
            hint="an operator lists addresses of the own network in SPINAL_WEBHOOK_PRIVATE",
        )


def shown(settings: Settings, webhook: Webhook, *, with_secret: bool = False) -> Shown:
    """With its secret where that was just made; a public key is no secret. Without a pepper there is neither."""
    if webhook.signature == "v1":
        secret = _secrets(settings, webhook, 0).verifies if with_secret else None
        return Shown(webhook, secret, None, None)
    if not _pepper(settings):
        return Shown(webhook, None, None, None)
    former = _secrets(settings, webhook, 1).verifies if webhook.former_signs else None
    return Shown(webhook, None, _secrets(settings, webhook, 0).verifies, former)


def _secrets(settings: Settings, webhook: Webhook, before: int) -> Secrets:
    generation = webhook.generation - before
    return secrets_of(_pepper(settings), webhook.tenant, webhook.id, generation, webhook.signature)


def _pepper(settings: Settings) -> str:
    return settings.key_pepper.get_secret_value()


def _found(webhook: Webhook | None, webhook_id: UUID) -> Webhook:
    if webhook is None:
        raise WebhookNotFound(f"no webhook {webhook_id}", hint="list them with GET /v1/webhooks")
    return webhook


def _enabled(webhook: Webhook) -> None:
    if webhook.disabled_at is not None:
        raise WebhookDisabled(
            f"the webhook is disabled: {webhook.disabled_why}",
            hint="enable it first (PATCH /v1/webhooks/{id} with enabled: true)",
        )


def _delivery(told: Told | None, delivery: UUID) -> Told:
    if told is None:
        raise DeliveryNotFound(
            f"no delivery {delivery} of this webhook", hint="list them with GET /v1/webhooks/{id}/deliveries"
        )
    return told
