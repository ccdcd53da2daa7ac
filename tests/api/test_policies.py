"""Policies over HTTP: stored once, never changed, read by their tenant, deleted while no audit names them."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text

from service.app import create_app
from service.database.unit_of_work import Ledger
from service.keys.store import create_key
from service.policies.store import stored_form
from service.settings import Settings
from spinal.cli.following import Interrupts
from spinal.cli.gate import FailsOn, policy_for_server
from spinal.cli.output import Shown
from spinal.cli.remote import run_audit
from spinal.client import Client
from spinal.documents.policy import Policy
from spinal.errors import ExitCode, PolicyInUse, PolicyNameTaken, PolicyNotFound, UsageError
from spinal.policy.shipped import DEFAULT_POLICY, default_policy

Drain = Callable[[], int]
YAML = {"Content-Type": "application/yaml"}
PAIR = {"candidate": "local:dpo-short", "reference": "local:sft", "prompt_set": "hh-harmless-64"}
GAP = {"name": "no-change", "value": "damage.gap", "bad": "above", "limit": 0.0, "severity": "fail", "decides": "value"}
IN_YAML = """
name: acme-release/1
description: nothing may move
rules:
  - name: no-change
    value: damage.gap
    bad: above
    limit: 0.0
    severity: fail
    decides: value
"""


def policy(name: str = "acme-release/1", **rule: Any) -> dict[str, Any]:
    """A policy of one rule."""
    return {"name": name, "description": "nothing may move", "rules": [GAP | rule]}


def store(api: TestClient, sent: dict[str, Any]) -> dict[str, Any]:
    answer = api.post("/v1/policies", json=sent)
    assert answer.status_code in (200, 201), answer.text
    found: dict[str, Any] = answer.json()
    return found


def audit(api: TestClient, **changes: Any) -> dict[str, Any]:
    answer = api.post("/v1/audits", json=PAIR | changes)
    assert answer.status_code in (201, 202), answer.text
    found: dict[str, Any] = answer.json()
    return found


def ended(api: TestClient, sent: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = api.get(sent["links"]["self"]).json()
    assert found["state"] == "SUCCEEDED", found
    return found


def test_yaml_and_json_are_one_policy(api: TestClient) -> None:
    stored = api.post("/v1/policies", content=IN_YAML, headers=YAML)
    assert (stored.status_code, stored.headers["location"]) == (201, "/v1/policies/acme-release/1")
    expected = stored_form(Policy.model_validate(policy()))
    assert (stored.json()["digest"], stored.json()["document"]) == (expected.digest, expected.document)
    again = api.post("/v1/policies", json=policy())
    assert (again.status_code, again.json()) == (200, stored.json())
    for named in ("acme-release/1", expected.digest):
        assert api.get(f"/v1/policies/{named}").json() == stored.json()


def test_a_name_and_version_never_come_to_mean_something_else(api: TestClient) -> None:
    stored = store(api, policy())
    other = api.post("/v1/policies", json=policy(limit=0.5))
    assert (other.status_code, other.json()["code"]) == (409, "policy_name_taken")
    assert stored["digest"][:12] in other.json()["detail"]
    assert "next version" in other.json()["hint"]
    assert api.get("/v1/policies/acme-release/1").json() == stored
    assert store(api, policy("acme-release/2", limit=0.5))["name"] == "acme-release/2"


def test_what_ships_is_there_for_everybody_and_stays(api: TestClient) -> None:
    [shipped] = api.get("/v1/policies").json()["items"]
    made = default_policy()
    assert (shipped["name"], shipped["digest"], shipped["builtin"]) == (DEFAULT_POLICY, made.digest, True)
    assert shipped["rules"] == len(made.rules)
    read = api.get(f"/v1/policies/{DEFAULT_POLICY}").json()
    assert read == api.get(f"/v1/policies/{made.digest}").json()
    assert read["document"] == made.spelled_out()
    assert api.post("/v1/policies", json=read["document"]).status_code == 200
    gone = api.delete(f"/v1/policies/{DEFAULT_POLICY}")
    assert (gone.status_code, gone.json()["code"]) == (409, "policy_in_use")
    for name in (DEFAULT_POLICY, "spinal-default/77"):
        refused = api.post("/v1/policies", json=policy(name))
        assert (refused.status_code, refused.json()["code"]) == (422, "document_invalid")
        assert name in refused.json()["detail"]


def test_policies_are_listed_by_name_in_pages(api: TestClient) -> None:
    names = [f"acme-{letter}/1" for letter in "cabd"]
    for name in names:
        store(api, policy(name))
    found, url = [], "/v1/policies?limit=2"
    while url:
        page = api.get(url)
        found.append([item["name"] for item in page.json()["items"]])
        url = page.headers["link"].split(">")[0].lstrip("<") if "link" in page.headers else ""
    assert found == [[DEFAULT_POLICY, "acme-a/1", "acme-b/1"], ["acme-c/1", "acme-d/1"]]


REFUSED: dict[str, tuple[str, str | bytes, str, int, str]] = {
    "another media type": ("text/plain", IN_YAML, "application/yaml", 415, "media_type_unsupported"),
    "no JSON": ("application/json", IN_YAML, "not JSON", 400, "body_malformed"),
    "not UTF-8": ("application/yaml", b"name: \xff", "UTF-8", 422, "document_invalid"),
    "no mapping": ("application/yaml", "- a", "mapping", 422, "document_invalid"),
    "an alias": ("application/yaml", IN_YAML.replace("nothing", "&a nothing") + "quiet: *a", "alias", 422,
                 "document_invalid"),
    "a key twice": ("application/yaml", IN_YAML + "name: acme-release/2", "twice", 422, "document_invalid"),
    "no such value": ("application/yaml", IN_YAML.replace("damage.gap", "damage.gip"), "damage.gip", 422,
                      "document_invalid"),
    "no such member": ("application/yaml", IN_YAML + "rule: []", "rule", 422, "document_invalid"),
    "no rules": ("application/json", json.dumps({"name": "a/1", "rules": []}), "rules", 422, "document_invalid"),
    "a name without version": ("application/json", json.dumps(policy("acme")), "name/version", 422,
                               "document_invalid"),
    "a number in quotes": ("application/json", json.dumps(policy(limit="0.5")), "without quotes", 422,
                           "document_invalid"),
    "a number that is none": ("application/json", json.dumps(policy(limit=float("nan"))), "finite", 422,
                              "document_invalid"),
    "a day that is none": (
        "application/yaml", IN_YAML + "    waiver: {reason: known, expires: 2027-02-30}", "no such day", 422,
        "document_invalid",
    ),
    "JSON in 16 bits": ("application/json", json.dumps(policy()).encode("utf-16"), "UTF-8", 422, "document_invalid"),
    "NUL": ("application/json", json.dumps(policy() | {"quiet": "a\0b"}), "NUL", 422, "document_invalid"),
    "half a character": ("application/json", json.dumps(policy() | {"quiet": "\ud800"}), "character", 422,
                         "document_invalid"),
    "too large": ("application/yaml", IN_YAML + "#" * 300_000, "256 KiB", 413, "body_too_large"),
    "nested deep": ("application/json", "[" * 100_000, "JSON", 400, "body_malformed"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_policy_is_refused_with_its_cause(api: TestClient, what: str) -> None:
    media_type, body, says, status, code = REFUSED[what]
    answer = api.post("/v1/policies", content=body, headers={"Content-Type": media_type})
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert says in answer.json()["detail"] + answer.json()["hint"]
    assert len(api.get("/v1/policies").json()["items"]) == 1


@pytest.mark.parametrize("path", ["acme/1", "0" * 64])
def test_what_is_not_there_is_not_found(api: TestClient, path: str) -> None:
    for method in ("GET", "DELETE"):
        answer = api.request(method, f"/v1/policies/{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "policy_not_found")
    answer = api.post("/v1/audits", json=PAIR | {"policy": path})
    assert (answer.status_code, answer.json()["code"]) == (404, "policy_not_found")
    assert api.get("/v1/audits").json()["items"] == []


@pytest.mark.parametrize("named", ["../../etc/passwd", "pyproject.toml", "ACME/1", "", "acme/1 ", 7])
def test_a_policy_is_named_by_name_and_version_or_digest_and_by_no_path(api: TestClient, named: object) -> None:
    answer = api.post("/v1/audits", json=PAIR | {"policy": named})
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    assert answer.json()["errors"][0]["pointer"] == "/policy"


def test_a_policy_without_a_reference_would_judge_nothing_and_is_refused(api: TestClient) -> None:
    answer = api.post("/v1/audits", json={"candidate": "local:sft", "policy": DEFAULT_POLICY})
    assert answer.status_code == 422
    assert "no" in answer.json()["detail"]
    alone = api.post("/v1/audits", json={"candidate": "local:sft"})
    assert (alone.status_code, alone.json()["policy"]) == (202, None)


def test_one_policy_turns_a_pass_into_a_fail_with_rule_value_and_limit(api: TestClient, drain: Drain) -> None:
    """And nothing is measured for it: what was found is the same, what is said of it is not."""
    plain = audit(api)
    assert drain() == 3
    before = ended(api, plain)
    assert before["policy"] == {"name": DEFAULT_POLICY, "digest": default_policy().digest}
    assert before["verdict"] in ("pass", "warn")
    stored = api.post("/v1/policies", content=IN_YAML, headers=YAML).json()
    known = {"name": "acme-release/1", "digest": stored["digest"]}
    would = api.post("/v1/audits?validate_only=true", json=PAIR | {"policy": "acme-release/1"}).json()
    assert (would["policy"], would["runs_needed"], would["former"]) == (known, 0, None)
    strict = audit(api, policy="acme-release/1")
    after = ended(api, strict)
    assert (after["verdict"], after["decided_by"], after["policy"]) == ("fail", "no-change", known)
    assert after["comparison"] == before["comparison"]
    verdict = api.get(strict["links"]["self"] + "/scores").json()["verdict"]
    assert (verdict["policy"], verdict["policy_digest"], verdict["decided_by"]) == (*known.values(), "no-change")
    [rule] = verdict["rules"]
    gap = api.get(strict["links"]["self"] + "/scores").json()["damage"]["signals"]["gap"]["value"]
    assert (rule["rule"], rule["outcome"], rule["path"], rule["limit"]) == ("no-change", "fail", "damage.gap", 0.0)
    assert rule["value"] == gap
    reports = {kind: api.get(f"{strict['links']['self']}/report?format={kind}").text for kind in ("json", "html", "md")}
    assert json.loads(reports["json"])["verdict"] == verdict
    for kind in ("html", "md"):
        assert "acme-release/1" in reports[kind], kind
    # The other audit, and the comparison read alone, say what they said: of the policy that ships.
    assert ended(api, plain) == before
    diff = api.get(after["links"]["diff"]).json()["comparison"]["verdict"]
    assert (diff["policy"], diff["policy_digest"], diff["outcome"]) == (*before["policy"].values(), before["verdict"])
    for named, expected in (
        *((each, [strict["id"]]) for each in known.values()),
        *((each, [plain["id"]]) for each in before["policy"].values()),
        ("acme-release/2", []),
    ):
        assert [item["id"] for item in api.get(f"/v1/audits?policy={named}").json()["items"]] == expected


def test_a_policy_that_an_audit_names_stays_and_another_goes(api: TestClient, drain: Drain) -> None:
    used, unused = store(api, policy()), store(api, policy("acme-release/2"))
    named = audit(api, policy=used["digest"])
    for path in ("acme-release/1", used["digest"]):
        answer = api.delete(f"/v1/policies/{path}")
        assert (answer.status_code, answer.json()["code"]) == (409, "policy_in_use")
    drain()
    assert ended(api, named)["policy"]["name"] == "acme-release/1"
    assert api.delete("/v1/policies/acme-release/1").status_code == 409
    gone = api.delete(f"/v1/policies/{unused['digest']}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert api.get("/v1/policies/acme-release/2").status_code == 404
    # As nothing has named it, its name is free.
    assert store(api, policy("acme-release/2", limit=1.0))["digest"] != unused["digest"]


def test_a_repeated_request_is_the_same_one_with_and_without_a_policy(api: TestClient) -> None:
    store(api, policy())
    key = {"Idempotency-Key": "k"}
    first = api.post("/v1/audits", json=PAIR | {"policy": "acme-release/1"}, headers=key).json()
    again = api.post("/v1/audits", json=PAIR | {"policy": "acme-release/1"}, headers=key)
    assert (again.status_code, again.json()["id"]) == (202, first["id"])
    for other in (PAIR, PAIR | {"policy": DEFAULT_POLICY}):
        answer = api.post("/v1/audits", json=other, headers=key)
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


def test_a_waiver_holds_through_its_last_day_when_the_audit_settles(api: TestClient, drain: Drain) -> None:
    today = datetime.now(UTC).date()
    outcomes = {}
    for number, days in enumerate((1, -1), 1):
        waiver = {"reason": "known", "expires": str(today + timedelta(days=days))}
        store(api, policy(f"acme-waived/{number}", waiver=waiver))
        sent = audit(api, policy=f"acme-waived/{number}")
        drain()
        outcomes[days] = ended(api, sent)["verdict"]
        [rule] = api.get(sent["links"]["scores"] or sent["links"]["self"] + "/scores").json()["verdict"]["rules"]
        assert (rule["waived"] is not None) == (days > 0)
    assert outcomes == {1: "pass", -1: "fail"}


def _name(ledger: Ledger, sent: dict[str, Any], **columns: str) -> None:
    """Give a stored audit other content, as one of other files has: nothing is measured for it."""
    with ledger.begin() as session:
        session.execute(text("ALTER TABLE audits DISABLE TRIGGER audits_terminal"))
        for place, value in columns.items():
            session.execute(
                text("UPDATE audits SET spec = jsonb_set(spec, CAST(:place AS text[]), to_jsonb(CAST(:value AS text)))"
                     " WHERE id = :id"),
                {"id": sent["id"], "place": "{" + place.replace("__", ",") + "}", "value": value},
            )  # fmt: skip
        session.execute(text("ALTER TABLE audits ENABLE TRIGGER audits_terminal"))


LINE = {"labels": {"name": "chat"}}
NO_WORSE = {"value": "former.damage.gap", "limit": 1e-9}


def test_an_audit_is_read_against_the_last_one_of_its_name(api: TestClient, drain: Drain, ledger: Ledger) -> None:
    store(api, policy("acme-next/1", **NO_WORSE))
    nameless = audit(api)
    first = audit(api, policy="acme-next/1", **LINE)
    drain()
    assert (ended(api, nameless)["former"], ended(api, first)["former"]) == (None, None)
    assert ended(api, first)["verdict"] == "inconclusive"
    # The same content again is no next version: it would differ in nothing from itself.
    assert audit(api, policy="acme-next/1", **LINE)["former"] is None
    _name(ledger, first, candidate__snapshot="f" * 64)
    would = api.post("/v1/audits?validate_only=true", json=PAIR | LINE).json()
    assert would["former"] == first["id"]
    second = audit(api, policy="acme-next/1", **LINE)
    assert second["former"] == first["id"]
    found = ended(api, second)
    verdict = api.get(second["links"]["self"] + "/scores").json()["verdict"]
    assert (found["verdict"], verdict["former"], verdict["rules"][0]["value"]) == ("pass", found["comparison"], 0.0)
    # Where no rule asks for it, the former audit is named and not read.
    third = ended(api, audit(api, **LINE))
    assert third["former"] == first["id"]
    assert api.get(third["links"]["scores"]).json()["verdict"]["former"] is None


@pytest.mark.parametrize("apart", ["name", "prompt_set__digest", "comparison_fingerprint", "reference__snapshot"])
def test_what_differs_in_more_than_the_candidate_is_no_former_audit(
    api: TestClient, drain: Drain, ledger: Ledger, apart: str
) -> None:
    first = audit(api, **({"labels": {"name": "other"}} if apart == "name" else LINE))
    drain()
    changes = {} if apart == "name" else {apart: "e" * 64}
    _name(ledger, first, candidate__snapshot="f" * 64, **changes)
    assert audit(api, **LINE)["former"] is None
    with ledger.begin() as session:
        session.execute(text("ALTER TABLE audits DISABLE TRIGGER audits_terminal"))
        session.execute(text("UPDATE audits SET labels = '{}' WHERE id = :id"), {"id": first["id"]})
        session.execute(text("ALTER TABLE audits ENABLE TRIGGER audits_terminal"))


def test_a_version_that_failed_is_nothing_to_be_as_good_as(api: TestClient, drain: Drain, ledger: Ledger) -> None:
    store(api, policy())
    passed, failed = audit(api, **LINE), audit(api, policy="acme-release/1", **LINE)
    drain()
    assert ended(api, failed)["verdict"] == "fail"
    for each in (passed, failed):
        _name(ledger, each, candidate__snapshot="f" * 64)
    assert audit(api, **LINE)["former"] == passed["id"]


@pytest.fixture
def two(api_settings: Settings, ledger: Ledger) -> Iterator[Callable[..., Any]]:
    """``two(tenant, method, path, ...)``; a third caller of ``ours`` may only read."""
    with ledger.begin() as session:
        keys = {
            caller: create_key(session, tenant=tenant, scopes=scopes, pepper="p")
            for caller, tenant, scopes in (
                ("ours", "ours", ("read", "write")), ("theirs", "theirs", ("read", "write")),
                ("reader", "ours", ("read",)), ("writer", "ours", ("write",)),
            )
        }  # fmt: skip
    settings = api_settings.model_copy(update={"auth": "required", "key_pepper": SecretStr("p")})
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield lambda caller, method, path, **options: client.request(
            method, path, headers={"Authorization": f"Bearer {keys[caller]}"}, **options
        )


def test_a_policy_is_its_tenants_own(two: Callable[..., Any]) -> None:
    ours = two("ours", "POST", "/v1/policies", json=policy()).json()
    for path in ("acme-release/1", ours["digest"]):
        for method in ("GET", "DELETE"):
            answer = two("theirs", method, f"/v1/policies/{path}")
            assert (answer.status_code, answer.json()["code"]) == (404, "policy_not_found")
        assert two("theirs", "POST", "/v1/audits", json=PAIR | {"policy": path}).status_code == 404
    assert [item["name"] for item in two("theirs", "GET", "/v1/policies").json()["items"]] == [DEFAULT_POLICY]
    # The same name is free for them, and says something else.
    theirs = two("theirs", "POST", "/v1/policies", json=policy(limit=0.5))
    assert theirs.status_code == 201
    assert two("ours", "GET", "/v1/policies/acme-release/1").json() == ours
    assert two("theirs", "DELETE", "/v1/policies/acme-release/1").status_code == 204
    assert two("ours", "GET", "/v1/policies/acme-release/1").status_code == 200
    assert two("theirs", "GET", "/v1/audits?policy=acme-release/1").json()["items"] == []


def test_who_may_only_read_stores_and_deletes_nothing(two: Callable[..., Any]) -> None:
    stored = two("writer", "POST", "/v1/policies", json=policy())
    assert stored.status_code == 201
    for method, path in (("POST", ""), ("DELETE", "/acme-release/1"), ("DELETE", f"/{stored.json()['digest']}")):
        answer = two("reader", method, f"/v1/policies{path}", json=policy())
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert two("reader", "GET", "/v1/policies/acme-release/1").status_code == 200
    assert two("writer", "GET", "/v1/policies/acme-release/1").status_code == 403


@pytest.fixture
def client(api: TestClient) -> Iterator[Client]:
    def answer(request: httpx.Request) -> httpx.Response:
        sent = {name: value for name, value in request.headers.items() if name in ("content-type", "idempotency-key")}
        found = api.request(request.method, str(request.url), content=request.content, headers=sent)
        return httpx.Response(found.status_code, content=found.content, headers={"Content-Type": "application/json"})

    with Client("http://testserver", transport=httpx.MockTransport(answer)) as made:
        yield made


def run(client: Client, policy: Policy | str | None, fail_on: FailsOn = "fail") -> ExitCode:
    """``spinal audit --wait``, with all that was measured there."""
    _, code = run_audit(
        client, PAIR["candidate"], PAIR["reference"], control=None, prompt_set=PAIR["prompt_set"], profile={},
        signature=None, policy=policy, labels={}, deadline=time.monotonic() + 5.0, interrupts=Interrupts("http://testserver"),
        shown=Shown(fail_on=fail_on),
    )  # fmt: skip
    return code


def test_the_command_line_pushes_a_file_names_it_and_exits_by_its_verdict(
    api: TestClient, client: Client, drain: Drain, tmp_path: Path
) -> None:
    audit(api)
    drain()
    assert run(client, None) is ExitCode.PASS
    for severity, number in (("fail", 1), ("warn", 2)):
        path = tmp_path / f"{severity}.yaml"
        path.write_text(IN_YAML.replace("severity: fail", f"severity: {severity}").replace("/1", f"/{number}"))
        read = policy_for_server(str(path))
        assert isinstance(read, Policy)
        for named in (read, read, read.name, read.digest):
            assert policy_for_server(named) == named if isinstance(named, str) else True
            assert run(client, named) is (ExitCode.FAILED if severity == "fail" else ExitCode.PASS)
            assert run(client, named, "warn") is ExitCode.FAILED
    assert [each["name"] for each in client.policies()] == [DEFAULT_POLICY, "acme-release/1", "acme-release/2"]
    with pytest.raises(PolicyInUse):
        client.delete_policy("acme-release/1")
    with pytest.raises(PolicyNotFound):
        run(client, "acme-release/3")
    with pytest.raises(PolicyNameTaken):
        client.push_policy(IN_YAML.replace("limit: 0.0", "limit: 0.5"))
    assert client.push_policy(IN_YAML) == client.policy("acme-release/1")


@pytest.mark.parametrize("named", ["release.yaml", "ACME/1", "acme", ""])
def test_what_is_neither_a_file_nor_a_name_is_refused_before_any_request(named: str) -> None:
    with pytest.raises(UsageError, match="neither a file, nor name and version") as refused:
        policy_for_server(named)
    assert refused.value.hint
