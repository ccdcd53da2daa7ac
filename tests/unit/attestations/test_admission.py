"""The examples for admission ask for what the service writes, and let nothing in that has no attestation."""

from pathlib import Path
from typing import Any

import yaml

from spinal.attestations.statement import PASSED, SVR, policy_property
from tests.conftest import EXAMPLES

FOLDER: Path = EXAMPLES / "admission"
ASKED = [PASSED, policy_property("0" * 64)]


def example(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())["spec"]
    return found


def test_kyverno_denies_in_absence() -> None:
    spec = example("kyverno.yaml")
    assert (spec["validationFailureAction"], spec["failurePolicy"]) == ("Enforce", "Fail")
    [[image]] = [rule["verifyImages"] for rule in spec["rules"]]
    assert (image["required"], image["verifyDigest"]) == (True, True)
    [attestation] = image["attestations"]
    assert attestation["type"] == SVR
    [condition] = attestation["conditions"][0]["all"]
    assert (condition["key"], condition["operator"], condition["value"]) == (ASKED, "AllIn", "{{ properties }}")


def test_policy_controller_denies_in_absence() -> None:
    spec = example("policy-controller.yaml")
    assert spec["mode"] == "enforce"
    [authority] = spec["authorities"]
    [attestation] = authority["attestations"]
    assert attestation["predicateType"] == SVR
    said = attestation["policy"]["data"]
    assert "default isCompliant = false" in said
    assert all(f'properties[_] == "{asked}"' in said for asked in ASKED)
    assert SVR in said
