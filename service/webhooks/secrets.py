"""Secrets of webhooks: derived from the pepper of the service whenever they are needed, and stored nowhere.

Whoever reads the database can sign nothing, and another pepper makes others of all of them.
"""

import hashlib
import hmac
from dataclasses import dataclass
from uuid import UUID

from spinal.errors import WebhooksNotConfigured
from spinal.webhook_signing import key_pair, shared_secret

LABEL = "spinal webhook secret 1"
"""What else is derived from the pepper has another one."""


@dataclass(frozen=True)
class Secrets:
    """Of one generation of a webhook."""

    signs: str
    """``whsec_...``, or ``whsk_...``, which nobody is shown."""
    verifies: str
    """What a receiver is given: ``whsec_...`` once, or ``whpk_...`` whenever it asks."""


def secrets_of(pepper: str, tenant: str, webhook: UUID, generation: int, signature: str) -> Secrets:
    """Raises WebhooksNotConfigured where there is no pepper."""
    if not pepper:
        raise WebhooksNotConfigured(
            "secrets of webhooks are derived from SPINAL_KEY_PEPPER, which is not set here",
            hint="set SPINAL_KEY_PEPPER for the API and for the workers that deliver",
        )
    # No part of it can hold the separator: a tenant is a text that Postgres takes.
    named = "\0".join((LABEL, signature, tenant, str(webhook), str(generation)))
    key = hmac.new(pepper.encode(), named.encode(), hashlib.sha256).digest()
    if signature == "v1a":
        return Secrets(*key_pair(key))
    shared = shared_secret(key)
    return Secrets(shared, shared)
