"""A policy as it was sent: JSON, or YAML for people."""

import json
from collections.abc import Callable
from typing import Any

import yaml
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from spinal.documents.policy import Policy
from spinal.errors import BodyMalformed, BodyTooLarge, MediaTypeUnsupported

MOST_BYTES = 64 * 1024
"""Of a policy: some hundred rules."""
YAML = "application/yaml"


class _Plain(yaml.SafeLoader):
    """YAML without what lets a short text stand for a long one, or say a thing twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read; write it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.YAMLError(f"the key {key.value!r} stands there twice")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Plain)  # noqa: S506  a safe loader that reads less


READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "application/json": ("JSON", json.loads),
    YAML: ("YAML", _yaml),
    "application/x-yaml": ("YAML", _yaml),
    "text/yaml": ("YAML", _yaml),
}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {name: {"schema": {"$ref": "#/components/schemas/Policy"}} for name in ("application/json", YAML)},
    }
}
"""What the contract says of the body, which the framework does not read."""


async def policy_sent(request: Request) -> Policy:
    """The policy in the body. Raises MediaTypeUnsupported, BodyMalformed, BodyTooLarge, RequestValidationError."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in READERS:
        raise MediaTypeUnsupported(
            f"a policy is application/json or {YAML}", hint=f"set Content-Type: {YAML} for a YAML file"
        )
    body = await request.body()
    if len(body) > MOST_BYTES:
        raise BodyTooLarge(f"a policy has at most {MOST_BYTES // 1024} KiB", hint="send fewer rules")
    return await run_in_threadpool(_read, body, *READERS[media_type])


def _read(body: bytes, name: str, read: Callable[[str], Any]) -> Policy:
    try:
        return Policy.model_validate(_storable(read(body.decode("utf-8"))))
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        raise RequestValidationError([item | {"loc": ("body", *item["loc"])} for item in found]) from error
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark
        where = "" if at is None else f", line {at.line + 1}"
        raise BodyMalformed(f"the body is not YAML{where}: {error.problem}", hint="send UTF-8 encoded YAML") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        why = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise BodyMalformed(f"the body is not {name}: {why}", hint=f"send UTF-8 encoded {name}") from error


def _storable(value: Any) -> Any:
    """``value``, whose texts a database takes; raises ValueError."""
    if isinstance(value, str):
        value.encode("utf-8")
        if "\x00" in value:
            raise ValueError("a text holds the character NUL")
    elif isinstance(value, dict):
        for member in (*value.keys(), *value.values()):
            _storable(member)
    elif isinstance(value, list):
        for item in value:
            _storable(item)
    return value
