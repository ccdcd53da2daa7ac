"""Tells a webhook: one POST of the event, signed, to an address that was judged, followed nowhere."""

import time
from dataclasses import dataclass
from typing import cast

from sqlalchemy.orm import Session

from service.webhooks import store
from service.webhooks.content import body_of
from service.webhooks.secrets import secrets_of
from service.webhooks.store import FAILING_FOR_S, Webhook
from spinal.errors import SourceRefused, SourceUnavailable, WebhooksNotConfigured
from spinal.net.http import REDIRECTS, Answer, Http, retry_after_s
from spinal.text import rfc3339
from spinal.webhook_signing import sign
from worker.job import NotSetUpHere
from worker.kinds.deliver import LONGEST_ASKED_S, Asked, Told

GONE = 410
ASKS_TO_WAIT = frozenset({429, 503})
CONNECT_S = 5.0


@dataclass(frozen=True)
class Message:
    webhook: Webhook | None
    body: bytes | None
    """None where what it tells of is gone."""


def deliver(asked: Asked) -> Told:
    """Raises NotSetUpHere where this worker was given no pepper: another one may have been."""
    message = cast(Message, asked.read(lambda session: _read(session, asked)))
    webhook = message.webhook
    if webhook is None:
        return Told(False, detail=store.DELETED, unwanted=True)
    if webhook.disabled_at is not None:
        return Told(False, detail=f"the webhook is disabled: {webhook.disabled_why}", unwanted=True)
    if message.body is None:
        return Told(False, detail="what it tells of was deleted", unwanted=True)
    try:
        headers = headers_of(asked, webhook, message.body)
    except WebhooksNotConfigured as error:
        raise NotSetUpHere(error.detail) from None
    told = _post(asked, webhook.url, message.body, headers)
    return _with_consequences(webhook, told)


def _read(session: Session, asked: Asked) -> Message:
    event, webhook_id = asked.delivery.event, asked.delivery.webhook_id
    webhook = None if webhook_id is None else store.find_webhook(session, event.tenant, webhook_id)
    return Message(webhook, body_of(session, asked.settings, event))


def headers_of(asked: Asked, webhook: Webhook, body: bytes) -> dict[str, str]:
    """Those of Standard Webhooks, signed at this moment by every secret that is in use, and those of CloudEvents in
    binary mode. Raises WebhooksNotConfigured."""
    event, now = asked.delivery.event, int(time.time())
    generations = (webhook.generation, webhook.generation - 1) if webhook.former_signs else (webhook.generation,)
    pepper = asked.settings.key_pepper.get_secret_value()
    keys = [secrets_of(pepper, webhook.tenant, webhook.id, each, webhook.signature) for each in generations]
    return {
        "Content-Type": "application/json",
        "webhook-id": str(event.id),
        "webhook-timestamp": str(now),
        "webhook-signature": " ".join(sign(key.signs, str(event.id), now, body) for key in keys),
        "ce-specversion": "1.0",
        "ce-id": str(event.id),
        "ce-type": event.type,
        "ce-source": asked.settings.public_url or "urn:spinal",
        "ce-subject": f"{event.subject_kind}/{event.subject}",
        "ce-time": rfc3339(event.created_at, "auto"),
    }


def _post(asked: Asked, url: str, body: bytes, headers: dict[str, str]) -> Told:
    answer_s = asked.settings.delivery_answer_s
    try:
        with Http(asked.settings.webhooks_reach(), connect_s=min(CONNECT_S, answer_s), read_s=answer_s) as http:
            answer = http.post(url, body, headers=headers, deadline=asked.ends, head_only=True)
    except (SourceRefused, SourceUnavailable) as error:
        return Told(False, detail=error.detail)
    return _told(answer)


def _told(answer: Answer) -> Told:
    status = answer.status
    if 200 <= status < 300:
        return Told(True, status)
    if status in REDIRECTS:
        return Told(False, status, f"it redirects ({status}), which is not followed: give the webhook its new address")
    if status == GONE:
        return Told(False, status, "it answered 410: gone for good", final=True)
    wait_s = retry_after_s(answer.headers, most_s=LONGEST_ASKED_S) if status in ASKS_TO_WAIT else None
    asks = "" if wait_s is None else f", and asks to wait for {wait_s:.0f} s"
    return Told(False, status, f"it answered {status}{asks}", retry_after_s=wait_s)


def _with_consequences(webhook: Webhook, told: Told) -> Told:
    """What an outcome means for the webhook: written with it."""
    if told.ok:
        return Told(True, told.status, also=lambda session: _taken(session, webhook))

    def not_taken(session: Session) -> None:
        since_s = store.note_outcome(session, webhook.id, ok=False)
        if told.status == GONE:
            store.disable_webhook(session, webhook.id, "its receiver answered 410: gone for good")
        elif since_s >= FAILING_FOR_S:
            store.disable_webhook(session, webhook.id, f"nothing was taken for {FAILING_FOR_S / 86_400:.0f} days")

    def end_others(session: Session) -> None:
        known = store.find_webhook(session, webhook.tenant, webhook.id)
        if known is None or known.disabled_at is not None:
            store.end_waiting(session, webhook.id)

    return Told(False, told.status, told.detail, told.retry_after_s, told.final, also=not_taken, afterwards=end_others)


def _taken(session: Session, webhook: Webhook) -> None:
    store.note_outcome(session, webhook.id, ok=True)
