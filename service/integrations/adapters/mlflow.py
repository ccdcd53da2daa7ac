"""MLflow: webhooks of its model registry, signed like Standard Webhooks under other names of headers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from service.integrations.adapters.base import (
    MOST_NAME,
    Adapter,
    Headers,
    Missed,
    Sign,
    Told,
    members_of,
    text_of,
    whole_or_missed,
)
from service.integrations.adapters.signed import Names, verify
from service.registries import Registry
from spinal.checkpoints.mlflow_registry import Listed, opened
from spinal.checkpoints.sources.reach import Reach
from spinal.errors import RequestInvalid

HEADERS = Names("X-MLflow-Delivery-Id", "X-MLflow-Timestamp", "X-MLflow-Signature")
OURS = "spinal."
"""What our own tags begin with."""
OF_TESTS = {"name": "example_model", "version": "1"}
OF_TEST = {
    "model_version.created": {"run_id": "abcd1234abcd5678", "source": "models:/123"},
    "model_version_alias.created": {"alias": "example_alias"},
    "model_version_tag.set": {"key": "example_key", "value": "example_value"},
}
"""Type -> what MLflow's own test sends (``mlflow/webhooks/types.py``): an event like others, of no model."""
STAGE_OF_NONE = "None"


def _verify(headers: Headers, body: bytes, secrets: Sequence[str], now: float) -> None:
    verify(HEADERS, headers, body, [secret.encode() for secret in secrets], now)


def _read(headers: Headers, _body: bytes, document: dict[str, Any]) -> Told:
    delivery = headers[HEADERS.id]
    kind = f"{text_of(document, 'entity')}.{text_of(document, 'action')}"
    data = members_of(document, "data")
    if data.get("name") == OF_TESTS["name"] and _is_test(kind, data):
        return Told(delivery, kind, test=True)
    if kind not in OF_TEST:
        return Told(delivery, kind, ignored="no rule can be about such an event")
    model, version = text_of(data, "name", "/data"), text_of(data, "version", "/data")
    if kind == "model_version_alias.created":
        return Told(delivery, kind, (Sign(model, version, "alias", text_of(data, "alias", "/data")),))
    if kind == "model_version_tag.set":
        key = text_of(data, "key", "/data")
        if key.startswith(OURS):
            return Told(delivery, kind, ignored="it is a tag of our own")
        return Told(delivery, kind, tuple(_tags(model, version, {key: data.get("value")})))
    tags = data.get("tags")
    if tags is not None and not isinstance(tags, dict):
        raise RequestInvalid("/data/tags: not an object", hint="send what the registry sends")
    return Told(delivery, kind, (Sign(model, version, "created"), *_tags(model, version, tags or {})))


def _is_test(kind: str, data: Mapping[str, Any]) -> bool:
    if kind not in OF_TEST:
        return True
    return all(data.get(name) == value for name, value in (OF_TESTS | OF_TEST[kind]).items())


def _tags(model: str, version: str, tags: Mapping[str, Any]) -> Iterator[Sign]:
    """Those that a rule can name."""
    for key, value in tags.items():
        if isinstance(value, str) and 0 < len(key) <= MOST_NAME and not key.startswith(OURS):
            yield Sign(model, version, "tag", key, value)


def _look(registry: Registry, reach: Reach, deadline: float) -> Iterator[Sign | Missed]:
    with opened(reach) as server:
        for model, aliases in server.models(lambda name: any(rule.names(name) for rule in registry.rules), deadline):
            for alias, version in aliases.items():
                yield Sign(model, version, "alias", alias)
            yield from whole_or_missed(model, _of_versions(model, server.versions(model, deadline)))


def _of_versions(model: str, versions: Iterable[Listed]) -> Iterator[Sign]:
    for each in versions:
        yield Sign(model, each.number, "created")
        yield from _tags(model, each.number, each.tags)
        if each.stage not in ("", STAGE_OF_NONE):
            yield Sign(model, each.number, "stage", each.stage)


MLFLOW = Adapter(_verify, _read, _look)
