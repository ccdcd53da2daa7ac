"""A policy as it was sent: JSON, or YAML for people."""

import json
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from service.http.bodies import require_uncompressed
from spinal.documents.policy import Policy
from spinal.errors import BodyMalformed, BodyTooLarge, DocumentInvalid, MediaTypeUnsupported
from spinal.policy.reading import HINT, MOST_BYTES, make_policy, read_members

JSON, YAML = "application/json", "application/yaml"
MEDIA_TYPES = (JSON, YAML, "application/x-yaml", "text/yaml")
ORIGIN = "the body"
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {name: {"schema": {"$ref": "#/components/schemas/Policy"}} for name in (JSON, YAML)},
    }
}
"""What the contract says of the body, which the framework does not read."""


@dataclass(frozen=True)
class Sent:
    """A body that nobody has looked into yet: not before its sender is known."""

    body: bytes
    media_type: str

    def policy(self) -> Policy:
        """The policy in the body; raises BodyMalformed, DocumentInvalid."""
        if self.media_type == JSON:
            try:
                json.loads(self.body)
            except (ValueError, RecursionError) as error:
                raise BodyMalformed("the body is not JSON", hint=f"send UTF-8 encoded JSON, or {YAML}") from error
        members = read_members(self.body, ORIGIN)
        try:
            _check_texts(members)
        except RecursionError as error:
            raise DocumentInvalid(f"{ORIGIN}: too many levels within each other", hint=HINT) from error
        return make_policy(members, ORIGIN)


async def body_sent(request: Request) -> Sent:
    """The body, whole; raises MediaTypeUnsupported, BodyTooLarge."""
    require_uncompressed(request)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        raise MediaTypeUnsupported(f"a policy is {JSON} or {YAML}", hint=f"set Content-Type: {YAML} for a file in YAML")
    body = await request.body()
    if len(body) > MOST_BYTES:
        raise BodyTooLarge(f"a policy has at most {MOST_BYTES // 1024} KiB", hint="send fewer rules")
    return Sent(body, media_type)


def _check_texts(value: Any) -> None:
    """Raises DocumentInvalid for a text that a database does not take."""
    if isinstance(value, str):
        if "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise DocumentInvalid(f"{ORIGIN}: a text holds NUL or half a character", hint="send plain text")
    elif isinstance(value, dict):
        for member in (*value.keys(), *value.values()):
            _check_texts(member)
    elif isinstance(value, list):
        for item in value:
            _check_texts(item)
