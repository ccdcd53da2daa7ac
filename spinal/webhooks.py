"""For whoever receives webhooks: is it ours, and what does it say?

>>> from spinal.webhooks import verify
>>> verify(b"{}", {"webhook-id": "1"}, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
Traceback (most recent call last):
spinal.errors.deliveries.SignatureInvalid: the time of the message is absent, or no whole number of seconds
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from spinal.errors.deliveries import SignatureInvalid
from spinal.webhook_signing import TOLERANCE_S, Secret, verify_headers


def verify(
    body: bytes, headers: Mapping[str, str], secret: Secret | Sequence[Secret], *, tolerance_s: float = TOLERANCE_S
) -> dict[str, Any]:
    """The event in ``body`` (the bytes as they came), once its signature is verified.

    ``headers`` in any case; ``secret`` is ``whsec_...``, or ``whpk_...`` of a webhook that signs with a key, or several
    of them. Raises SignatureInvalid for everything that is not to be believed. The same event may come more than once:
    its id is ``headers["webhook-id"]``.
    """
    verify_headers(secret, headers, body, tolerance_s=tolerance_s)
    try:
        event = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise SignatureInvalid("the body is signed, and is no JSON") from error
    if not isinstance(event, dict):
        raise SignatureInvalid("the body is signed, and is no JSON object")
    return event
