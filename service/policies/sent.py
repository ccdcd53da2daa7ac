"""A policy as it was sent: JSON, or YAML for people."""

import json
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from spinal.documents.policy import Policy
from spinal.errors import BodyMalformed, BodyTooLarge, DocumentInvalid, MediaTypeUnsupported
from spinal.policy.reading import MOST_BYTES, make_policy, read_members

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


async def policy_sent(request: Request) -> Policy:
    """The policy in the body. Raises MediaTypeUnsupported, BodyTooLarge, BodyMalformed, DocumentInvalid."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        raise MediaTypeUnsupported(f"a policy is {JSON} or {YAML}", hint=f"set Content-Type: {YAML} for a file in YAML")
    body = await request.body()
    if len(body) > MOST_BYTES:
        raise BodyTooLarge(f"a policy has at most {MOST_BYTES // 1024} KiB", hint="send fewer rules")
    return await run_in_threadpool(_read, body, media_type)


def _read(body: bytes, media_type: str) -> Policy:
    if media_type == JSON:
        try:
            json.loads(body)
        except (ValueError, RecursionError) as error:
            raise BodyMalformed("the body is not JSON", hint=f"send UTF-8 encoded JSON, or {YAML}") from error
    members = read_members(body, ORIGIN)
    _check_texts(members)
    return make_policy(members, ORIGIN)


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
