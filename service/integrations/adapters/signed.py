"""Signatures as Standard Webhooks has them (:mod:`spinal.webhook_signing`), with one word for what is wrong."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from service.integrations.adapters.base import Headers, refuse
from spinal.errors import SignatureInvalid
from spinal.webhook_signing import MESSAGE_ID, TIMESTAMP, TOLERANCE_S, Secret
from spinal.webhook_signing import verify as verify_signature

ONE = r"v[0-9][a-z]?,[A-Za-z0-9+/]{1,300}={0,2}"
SIGNATURES = re.compile(rf"{ONE}(?: {ONE}){{0,15}}")


@dataclass(frozen=True)
class Names:
    """Of the headers."""

    id: str
    timestamp: str
    signature: str


def verify(names: Names, headers: Headers, body: bytes, secrets: Sequence[Secret], now: float) -> None:
    """Raises SignatureInvalid. What is not signed by a secret learns nothing of the clock: staleness is said last."""
    forms = {names.id: MESSAGE_ID, names.timestamp: TIMESTAMP, names.signature: SIGNATURES}
    found = {name: headers.get(name) or "" for name in forms}
    for name, sent in found.items():
        if not sent:
            raise refuse("absent", f"the header {name} is missing", "give the webhook a secret, so that it signs")
    for name, form in forms.items():
        if not form.fullmatch(found[name]):
            raise refuse("malformed", f"the header {name} is not what a registry sends", "send what the registry sends")
    _require(secrets, found, names, body, now, math.inf, "wrong")
    _require(secrets, found, names, body, now, TOLERANCE_S, "stale")


def _require(
    secrets: Sequence[Secret],
    found: dict[str, str],
    names: Names,
    body: bytes,
    now: float,
    tolerance_s: float,
    reason: Literal["wrong", "stale"],
) -> None:
    sent = (found[names.id], found[names.timestamp], found[names.signature])
    try:
        verify_signature(secrets, *sent, body, tolerance_s=tolerance_s, now=now)
    except SignatureInvalid as error:
        hints = {"wrong": "give both sides the same secret", "stale": "send it when it happens; are both clocks right?"}
        raise refuse(reason, error.detail, hints[reason]) from None
