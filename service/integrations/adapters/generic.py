"""Whatever can sign as Standard Webhooks has it: a CI job, a registry without an adapter of its own."""

from collections.abc import Sequence
from typing import Any

from service.integrations.adapters.base import Adapter, Headers, Sign, Told, members_of, text_of
from service.integrations.adapters.signed import Names, verify

HEADERS = Names("webhook-id", "webhook-timestamp", "webhook-signature")
TYPES = {"version.created": "created", "version.aliased": "alias"}
TESTS = ("test", "webhook.test", "ping")


def _verify(headers: Headers, body: bytes, secrets: Sequence[str], now: float) -> None:
    verify(HEADERS, headers, body, secrets, now)


def _read(headers: Headers, _body: bytes, document: dict[str, Any]) -> Told:
    delivery, kind = headers[HEADERS.id], text_of(document, "type")
    if kind in TESTS:
        return Told(delivery, kind, test=True)
    if kind not in TYPES:
        return Told(delivery, kind, ignored="no rule can be about such an event")
    data = members_of(document, "data")
    model, version = text_of(data, "model", "/data"), text_of(data, "version", "/data")
    if kind == "version.aliased":
        return Told(delivery, kind, (Sign(model, version, "alias", text_of(data, "alias", "/data")),))
    return Told(delivery, kind, (Sign(model, version, "created"),))


GENERIC = Adapter(_verify, _read)
