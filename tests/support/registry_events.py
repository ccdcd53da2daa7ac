"""Events of registries as these send them: recorded from MLflow 3.17 and from the hub's documentation, and signed."""

import json
import time
import uuid
from typing import Any

from spinal.webhook_signing import sign

SECRET = "a secret that both sides know"
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def mlflow(
    entity: str, action: str, data: dict[str, Any], *, secret: str = SECRET, at: float | None = None, id: str = ""
) -> dict[str, Any]:
    """What ``client.post`` is given for an event of MLflow."""
    told = {"entity": entity, "action": action, "timestamp": "2026-11-29T22:00:00.000000+00:00", "data": data}
    body = json.dumps(told).encode()
    delivery, seconds = id or str(uuid.uuid4()), int(time.time() if at is None else at)
    return {
        "content": body,
        "headers": {
            "Content-Type": "application/json",
            "X-MLflow-Delivery-Id": delivery,
            "X-MLflow-Timestamp": str(seconds),
            "X-MLflow-Signature": sign(secret.encode(), delivery, seconds, body),
        },
    }


def created(model: str = "chat", version: str = "2", *, tags: dict[str, str] | None = None, **more: Any) -> Any:
    data = {"name": model, "version": version, "source": "models:/m-1", "run_id": "run1", "tags": tags or {}}
    return mlflow("model_version", "created", data | {"description": None}, **more)


def aliased(alias: str, model: str = "chat", version: str = "2", **more: Any) -> Any:
    return mlflow("model_version_alias", "created", {"name": model, "alias": alias, "version": version}, **more)


def tagged(key: str, value: str, model: str = "chat", version: str = "2", **more: Any) -> Any:
    return mlflow("model_version_tag", "set", {"name": model, "version": version, "key": key, "value": value}, **more)


def tried() -> Any:
    """What MLflow sends where somebody tests a webhook."""
    data = {"name": "example_model", "version": "1", "source": "models:/123", "run_id": "abcd1234abcd5678"}
    more = {"tags": {"example_key": "example_value"}, "description": "An example model version"}
    return mlflow("model_version", "created", data | more)


def pushed(repository: str, commit: str, *, ref: str = "refs/heads/main", secret: str = SECRET) -> dict[str, Any]:
    """What ``client.post`` is given for a commit on a hub."""
    body = {
        "event": {"action": "update", "scope": "repo.content"},
        "repo": {
            "type": "model", "name": repository, "id": "621ffdc036468d709f17434d", "private": False,
            "headSha": commit, "url": {"web": f"https://huggingface.co/{repository}"},
        },
        "updatedRefs": [{"ref": ref, "oldSha": "0" * 40, "newSha": commit}],
        "webhook": {"id": "6390e855e30d9209411de93b", "version": 3},
    }  # fmt: skip
    return {
        "content": json.dumps(body).encode(),
        "headers": {"Content-Type": "application/json", "X-Webhook-Secret": secret},
    }


def generic(kind: str, data: dict[str, Any], *, secret: str = WHSEC, id: str = "") -> dict[str, Any]:
    body = json.dumps({"type": kind, "timestamp": "2026-11-29T22:00:00Z", "data": data}).encode()
    delivery, seconds = id or f"msg_{uuid.uuid4().hex}", int(time.time())
    return {
        "content": body,
        "headers": {
            "Content-Type": "application/json",
            "webhook-id": delivery,
            "webhook-timestamp": str(seconds),
            "webhook-signature": sign(secret, delivery, seconds, body),
        },
    }
