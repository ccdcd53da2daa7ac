"""Reports for pipelines over HTTP."""

from collections.abc import Callable
from xml.etree.ElementTree import fromstring

import pytest
from fastapi.testclient import TestClient

from spinal.report.formats import FORMATS
from spinal.report.formats.format import verdict_format

PAIR = {"candidate": "local:dpo-short", "reference": "local:sft", "prompt_set": "hh-harmless-64"}
Drain = Callable[[], int]


def audited(api: TestClient, drain: Drain, **changed: str | None) -> str:
    asked = {name: value for name, value in (PAIR | changed).items() if value is not None}
    address = str(api.post("/v1/audits", json=asked).json()["links"]["self"])
    drain()
    return address


def test_a_report_tells_the_verdict_of_its_audit_and_links_to_its_page(api: TestClient, drain: Drain) -> None:
    address = audited(api, drain)
    audit = api.get(address).json()
    root = fromstring(api.get(f"{address}/report", params={"format": "junit"}).text)
    told = {one.attrib["name"]: one.attrib["value"] for one in root.iter("property")}
    assert told["verdict"] == audit["verdict"]
    assert told["link.report"].endswith(f"/ui/audits/{audit['id']}/report")
    names = [case.attrib["name"] for case in root.iter("testcase")]
    rules = api.get(f"{address}/report").json()["verdict"]["rules"]
    assert names == [rule["rule"] for rule in rules]
    links = api.get(f"{address}/report", params={"format": "gitlab-annotations"}).json()
    assert links["spinal"][0]["external_link"]["url"] == told["link.report"]


def test_what_counts_as_a_failure_is_asked_for(api: TestClient, drain: Drain, monkeypatch: pytest.MonkeyPatch) -> None:
    address = audited(api, drain)
    refused = api.get(f"{address}/report", params={"format": "junit", "fail_on": "pass"})
    assert refused.status_code == 422
    made = verdict_format("told", (), "text/plain", lambda _, reader: reader.fail_on)
    monkeypatch.setitem(FORMATS, "told", made)
    answers = [
        api.get(f"{address}/report", params={"format": "told"} | more).text for more in ({}, {"fail_on": "warn"})
    ]
    assert answers == ["fail", "warn"]


@pytest.mark.parametrize("format", [made.name for made in FORMATS.values() if made.needs_verdict])
def test_an_audit_without_a_reference_has_no_verdict_to_tell(format: str, api: TestClient, drain: Drain) -> None:
    answer = api.get(f"{audited(api, drain, reference=None)}/report", params={"format": format})
    assert answer.status_code == 409
    assert answer.json()["code"] == "no_verdict"
    assert answer.json()["hint"]
