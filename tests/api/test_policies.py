"""Policies over HTTP: stored once, never changed, read by their tenant, deleted while no audit names them."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.policies.store import stored_form
from spinal.documents.policy import Policy
from spinal.policy.shipped import DEFAULT_POLICY, read_policy

YAML = {"Content-Type": "application/yaml"}
STRICT = """
name: acme-release/1
description: nothing may move
rules:
  - name: no-change
    value: damage.gap
    bad: above
    limit: 0.0
    decides: value
    severity: fail
"""


def policy(name: str = "acme-release/1", **rule: Any) -> dict[str, Any]:
    """A policy of one rule."""
    of = {"name": "no-change", "value": "damage.gap", "bad": "above", "limit": 0.0, "severity": "fail"}
    return {"name": name, "description": "nothing may move", "rules": [of | {"decides": "value"} | rule]}


def test_yaml_and_json_are_one_policy(api: TestClient) -> None:
    stored = api.post("/v1/policies", content=STRICT, headers=YAML)
    assert (stored.status_code, stored.headers["location"]) == (201, "/v1/policies/acme-release/1")
    expected = stored_form(Policy.model_validate(policy()))
    assert (stored.json()["digest"], stored.json()["document"]) == (expected.digest, expected.document)
    again = api.post("/v1/policies", json=policy())
    assert (again.status_code, again.json()) == (200, stored.json())
    for named in ("acme-release/1", expected.digest):
        assert api.get(f"/v1/policies/{named}").json() == stored.json()
