"""Secrets of webhooks: derived from the pepper of the service whenever they are needed, and stored nowhere.

Whoever reads the database can sign nothing, and another pepper makes others of all of them.
"""

from dataclasses import dataclass
from uuid import UUID

from service.platform.derived import derived_key, mac
from spinal.errors import WebhooksNotConfigured
from spinal.webhook_signing import key_pair, shared_secret

PURPOSE = "webhook-secret/1"


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
    parts = (signature, tenant, str(webhook), str(generation))
    key = mac(derived_key(pepper, PURPOSE), *(part.encode("utf-8", "surrogatepass") for part in parts))
    if signature == "v1a":
        return Secrets(*key_pair(key))
    shared = shared_secret(key)
    return Secrets(shared, shared)
