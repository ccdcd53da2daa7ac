"""The life of a series over HTTP."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text

from service.app import create_app
from service.database.unit_of_work import Ledger
from service.keys.store import create_key
from service.series import members, verbs
from service.series.assessed import keep_assessed
from service.series.store import stale_series
from service.settings import Settings
from spinal.documents.series import Series
from spinal.report.formats import FORMATS
from tests.api.conftest import clone
from tests.support.engine_double import calls

Drain = Callable[[], int]
RUN = {"reference": "local:sft", "prompt_set": "hh-harmless-64"}


@pytest.fixture
def run(models: Path) -> Path:
    """A training run in which every checkpoint has files of its own."""
    folder = models / "run"
    folder.mkdir()
    for step in (100, 200, 300):
        checkpoint(folder, step)
    return folder


def checkpoint(folder: Path, step: int) -> str:
    clone("dpo-short", folder / f"checkpoint-{step}", generation_config__json=f'{{"max_length": {step}}}')
    return f"local:{folder.name}/checkpoint-{step}"


def create(api: TestClient, **changes: Any) -> dict[str, Any]:
    answer = api.post("/v1/series", json=RUN | changes)
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"] == f"/v1/series/{answer.json()['id']}"
    body: dict[str, Any] = answer.json()
    return body


def member(step: int, model: str = "") -> dict[str, Any]:
    return {"step": step, "model": model or f"local:run/checkpoint-{step}"}


def append(api: TestClient, series: dict[str, Any], *members: dict[str, Any]) -> Any:
    return api.post(f"/v1/series/{series['id']}/members", json={"members": list(members)})


def test_a_series_is_followed_from_its_first_member_to_its_document(
    api: TestClient, drain: Drain, run: Path, double: Path
) -> None:
    made = create(api, members=[member(200), member(100)], labels={"run": "a"}, settings={"plateau_from_step": 100})
    assert (made["state"], made["members"]["waiting"], made["members"]["total"]) == ("OPEN", 2, 2)
    assert made["settings"] == {"plateau_from_step": 100}
    here = f"/v1/series/{made['id']}"

    waiting = api.get(f"{here}/document").json()
    assert waiting["schema"] == "spinal.series/1"
    assert [(each["step"], each["state"]) for each in waiting["members"]] == [(100, "waiting"), (200, "waiting")]

    drain()
    added = append(api, made, member(300))
    assert added.status_code == 202
    assert [each["fresh"] for each in added.json()["items"]] == [True]
    drain()

    found = api.get(here, params={"wait": 30}).json()
    assert found["members"] == {"waiting": 0, "measured": 3, "failed": 0, "cancelled": 0, "total": 3}
    assert found["assessed"] is True
    document = Series.model_validate(api.get(f"{here}/document").json())
    assert found["status"] == document.status
    assert [(each.step, each.model, each.state) for each in document.members] == [
        (step, f"local:run/checkpoint-{step}", "measured") for step in (100, 200, 300)
    ]
    assert all(each.verdict is not None and each.comparison for each in document.members)
    assert (document.reference, document.labels, document.closed) == ("local:sft", {"run": "a"}, False)
    assert document.settings.plateau_from_step == 100
    assert api.get(f"{here}/report").json() == document.model_dump(mode="json", by_alias=True)
    page = api.get(f"{here}/report", params={"format": "html"})
    assert page.headers["Content-Type"].startswith("text/html")
    assert all(f"/ui/audits/{each.audit}/report" in page.text for each in document.members)
    for name, made_by in FORMATS.items():
        told = api.get(f"{here}/report", params={"format": name})
        assert (told.status_code, bool(told.text)) == (200, True), name
        assert told.headers["Content-Type"].startswith(made_by.media_type.partition(";")[0]), name

    audits = api.get(made["links"]["audits"]).json()["items"]
    assert {audit["series"] for audit in audits} == {made["id"]}
    assert {audit["id"] for audit in audits} == {each.audit for each in document.members}
    assert {audit["policy"]["digest"] for audit in audits} == {document.policy_digest}
    assert all(audit["labels"] == {"run": "a"} for audit in audits)
    # The reference is traced once.
    assert Counter((what, source) for _, what, source in calls(double))["measure", "local:sft"] == 1


def test_fifty_members_of_two_clients_at_once_are_one_audit_each(
    api: TestClient, api_settings: Settings, models: Path, ledger: Ledger, drain: Drain
) -> None:
    folder = models / "run"
    folder.mkdir()
    steps = list(range(1, 51))
    for step in steps:
        checkpoint(folder, step)
    made = create(api)
    barrier = threading.Barrier(2)
    answers: list[Any] = []

    def send(order: list[int]) -> None:
        barrier.wait()
        for begin in range(0, len(order), 7):
            some = [member(step) for step in order[begin : begin + 7]]
            # Each twice in one request, too.
            answers.append(append(api, made, *some, *some))

    threads = [threading.Thread(target=send, args=(order,)) for order in (steps, steps[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {answer.status_code for answer in answers} <= {200, 202}, [answer.text for answer in answers]
    told = {(item["step"], item["audit"]) for answer in answers for item in answer.json()["items"]}
    assert len(told) == 50
    assert sum(item["fresh"] for answer in answers for item in answer.json()["items"]) == 50
    with ledger.read() as session:
        rows = session.execute(text("SELECT step, audit_id FROM series_members ORDER BY step")).all()
        assert session.execute(text("SELECT count(*) FROM audits")).scalar_one() == 50
    assert {(row.step, str(row.audit_id)) for row in rows} == told
    assert [row.step for row in rows] == steps
    drain()
    found = api.get(f"/v1/series/{made['id']}").json()
    assert (found["members"]["measured"], found["members"]["total"]) == (50, 50)


def test_a_step_stands_for_one_checkpoint(api: TestClient, run: Path) -> None:
    made = create(api, members=[member(100)])
    first = append(api, made, member(100))
    assert (first.status_code, first.json()["items"][0]["fresh"]) == (200, False)
    other = append(api, made, member(300), member(100, "local:run/checkpoint-200"))
    assert (other.status_code, other.json()["code"], other.json()["step"]) == (409, "series_step_taken", 100)
    twice = append(api, made, member(300), member(300, "local:run/checkpoint-200"))
    assert (twice.status_code, twice.json()["code"]) == (409, "series_step_taken")
    # Of a request that is refused nothing is written.
    assert api.get(f"/v1/series/{made['id']}").json()["members"]["total"] == 1


def test_a_member_that_is_no_checkpoint_refuses_its_request_before_anything_is_written(
    api: TestClient, run: Path, ledger: Ledger
) -> None:
    refused = api.post("/v1/series", json=RUN | {"members": [member(100), member(1, "local:absent")]})
    assert (refused.status_code, refused.json()["code"]) == (422, "model_not_found")
    with ledger.read() as session:
        assert session.execute(text("SELECT count(*) FROM series")).scalar_one() == 0
    made = create(api)
    assert append(api, made, member(100), member(1, "local:absent")).json()["code"] == "model_not_found"
    with ledger.read() as session:
        assert session.execute(text("SELECT count(*) FROM audits")).scalar_one() == 0


def test_a_closed_series_takes_no_member_and_knows_those_it_has(api: TestClient, drain: Drain, run: Path) -> None:
    made = create(api, members=[member(100)])
    here = f"/v1/series/{made['id']}"
    closed = api.post(f"{here}/close")
    assert (closed.status_code, closed.json()["state"], closed.json()["members"]["waiting"]) == (200, "CLOSED", 1)
    assert api.post(f"{here}/close").json()["closed_at"] == closed.json()["closed_at"]
    late = append(api, made, member(100), member(200))
    assert (late.status_code, late.json()["code"]) == (409, "series_closed")
    assert append(api, made, member(100)).status_code == 200
    drain()
    document = api.get(f"{here}/document").json()
    assert (document["closed"], [each["state"] for each in document["members"]]) == (True, ["measured"])


def test_cancelling_gives_up_what_goes_on_and_keeps_what_has_ended(api: TestClient, drain: Drain, run: Path) -> None:
    made = create(api, members=[member(100)])
    drain()
    append(api, made, member(200), member(300))
    here = f"/v1/series/{made['id']}"
    cancelled = api.post(f"{here}/cancel").json()
    assert (cancelled["state"], cancelled["members"]["measured"], cancelled["members"]["cancelled"]) == (
        "CANCELLED", 1, 2,
    )  # fmt: skip
    assert api.post(f"{here}/cancel").json() == cancelled
    assert append(api, made, member(400, "local:run/checkpoint-300")).json()["code"] == "series_closed"
    states = {each["step"]: each["state"] for each in api.get(f"{here}/document").json()["members"]}
    assert states == {100: "measured", 200: "cancelled", 300: "cancelled"}
    assert drain() == 0


def test_a_member_that_fails_says_why_in_the_document(api: TestClient, drain: Drain, run: Path, double: Path) -> None:
    made = create(api, members=[member(100)])
    (double / "fail").write_text("non_finite_activations")
    drain()
    found = api.get(f"/v1/series/{made['id']}").json()
    assert (found["members"]["failed"], found["members"]["waiting"]) == (1, 0)
    [failed] = api.get(f"/v1/series/{made['id']}/document").json()["members"]
    assert (failed["state"], failed["verdict"]) == ("failed", None)
    assert "asked for by the test" in failed["reason"]


def test_a_folder_gives_its_checkpoints_by_the_numbers_in_their_names(api: TestClient, run: Path) -> None:
    made = create(api, folder="local:run/checkpoint-?00")
    assert made["members"]["total"] == 3
    checkpoint(run, 1000)
    again = api.post(f"/v1/series/{made['id']}/members", json={"folder": "local:run"})
    assert again.status_code == 202
    assert [(each["step"], each["model"], each["fresh"]) for each in again.json()["items"]] == [
        (step, f"local:run/checkpoint-{step}", step == 1000) for step in (100, 200, 300, 1000)
    ]


@pytest.mark.parametrize(
    ("pattern", "code"),
    [
        ("local:run/none-*", "series_folder_invalid"),
        ("local:run/*", "series_folder_invalid"),
        ("local:run/twice-*", "series_folder_invalid"),
        ("local:absent/checkpoint-*", "model_not_found"),
        ("local:../checkpoint-*", "model_path_refused"),
        ("local:*/checkpoint-*", "model_reference_invalid"),
        ("hub:run/checkpoint-*", "model_reference_invalid"),
    ],
)
def test_a_folder_that_gives_no_steps_is_refused(api: TestClient, run: Path, pattern: str, code: str) -> None:
    for name in ("final", "twice-7", "twice-07"):
        (run / name).mkdir()
    refused = api.post("/v1/series", json=RUN | {"folder": pattern})
    assert refused.json()["code"] == code, refused.text
    assert refused.status_code == 422
    assert refused.json()["hint"]


def test_the_same_request_under_its_key_is_one_series(
    api: TestClient, run: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"Idempotency-Key": "k"}
    body = RUN | {"members": [member(100), member(200)]}
    # Cut off after the first member: what is missing comes when the request is sent again.
    write = verbs.write_member
    written: list[Any] = []

    def cut_off(*given: Any) -> Any:
        if written:
            raise RuntimeError("gone")
        written.append(given)
        return write(*given)

    with monkeypatch.context() as patched:
        patched.setattr(verbs, "write_member", cut_off)
        assert api.post("/v1/series", json=body, headers=headers).status_code == 500
    answers = [api.post("/v1/series", json=body, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert answers[0].json()["members"]["total"] == 2
    other = api.post("/v1/series", json=RUN, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    with ledger.read() as session:
        assert session.execute(text("SELECT count(*) FROM audits")).scalar_one() == 2


def test_requests_under_one_key_at_once_make_one_series(api: TestClient, run: Path) -> None:
    answers: list[Any] = []

    def send() -> None:
        answers.append(api.post("/v1/series", json=RUN | {"members": [member(100)]}, headers={"Idempotency-Key": "k"}))

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made = [answer.json() for answer in answers if answer.status_code == 201]
    assert made
    # On a busy machine one may be told to come again.
    others = {answer.json()["code"] for answer in answers if answer.status_code != 201}
    assert others <= {"idempotency_in_flight", "not_ready"}
    assert len({each["id"] for each in made}) == 1
    assert len(api.get("/v1/audits").json()["items"]) == 1


def test_lists_are_narrowed_and_paged(api: TestClient, run: Path, ledger: Ledger) -> None:
    made = [create(api, labels={"run": str(n % 2)}) for n in range(5)]
    api.post(f"/v1/series/{made[0]['id']}/close")

    def listed(**narrowed: Any) -> list[str]:
        answer = api.get("/v1/series", params=narrowed)
        assert answer.status_code == 200, answer.text
        return [item["id"] for item in answer.json()["items"]]

    ids = [each["id"] for each in made[::-1]]
    assert listed() == ids
    assert listed(label="run:1") == [made[3]["id"], made[1]["id"]]
    assert listed(closed=True) == [made[0]["id"]]
    assert listed(reference="local:other") == []
    # A status is there once it has been worked out.
    assert listed(status="insufficient_series") == []
    keep_all(ledger)
    assert listed(status="insufficient_series") == ids
    assert listed(status="healthy", reference="local:sft") == []
    seen: list[str] = []
    cursor = None
    while cursor is not None or not seen:
        page = api.get("/v1/series", params={"limit": 2} | ({"cursor": cursor} if cursor else {})).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next"]
    assert seen == ids
    assert api.get("/v1/series", params={"cursor": "nonsense"}).status_code == 422


def keep_all(ledger: Ledger) -> int:
    """What the dispatcher does each second."""
    with ledger.read() as session:
        stale = stale_series(session)
    for series, tenant in stale:
        keep_assessed(ledger, tenant, series)
    return len(stale)


def test_a_document_is_kept_until_something_happens_in_its_series(
    api: TestClient, drain: Drain, run: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create(api, members=[member(100)])
    here = f"/v1/series/{made['id']}"
    assert api.get("/v1/series").json()["items"][0]["assessed"] is False
    for happens in (drain, lambda: append(api, made, member(200)), drain, lambda: api.post(f"{here}/close")):
        assert keep_all(ledger) == 1
        assert keep_all(ledger) == 0
        assert api.get("/v1/series").json()["items"][0]["assessed"] is True
        kept = api.get(f"{here}/document").json()
        with monkeypatch.context() as patched:
            # Read as it was kept, and not worked out again.
            patched.setattr("service.series.assessed.assess", None)
            assert api.get(f"{here}/document").json() == kept
        happens()
        assert api.get("/v1/series").json()["items"][0]["assessed"] is False
        # What has happened since is read at once all the same.
        assert api.get(f"{here}/document").json() != kept
        assert api.get(here).json()["assessed"] is True
    assert keep_all(ledger) == 1
    assert keep_all(ledger) == 0


@pytest.fixture
def tenants(api_settings: Settings, ledger: Ledger) -> Iterator[Callable[[str], TestClient]]:
    secured = api_settings.model_copy(update={"auth": "required", "key_pepper": SecretStr("p")})
    with TestClient(create_app(secured), raise_server_exceptions=False) as client:

        def of(tenant: str, *scopes: str) -> TestClient:
            with ledger.begin() as session:
                key = create_key(session, tenant=tenant, scopes=scopes or ("read", "write"), pepper="p")
            other = TestClient(client.app, raise_server_exceptions=False)
            other.headers["Authorization"] = f"Bearer {key}"
            return other

        yield of


def test_another_tenant_sees_no_series_and_changes_none(tenants: Callable[..., TestClient], run: Path) -> None:
    ours, theirs = tenants("ours"), tenants("theirs")
    made = create(ours, members=[member(100)])
    here = f"/v1/series/{made['id']}"
    assert theirs.get("/v1/series").json()["items"] == []
    asked = [
        theirs.get(here),
        theirs.get(f"{here}/document"),
        theirs.get(f"{here}/report"),
        theirs.post(f"{here}/close"),
        theirs.post(f"{here}/cancel"),
        append(theirs, made, member(200)),
    ]
    assert {(answer.status_code, answer.json()["code"]) for answer in asked} == {(404, "series_not_found")}
    assert theirs.get("/v1/audits", params={"series": made["id"]}).json()["items"] == []
    after = ours.get(here).json()
    assert (after["state"], after["members"]["waiting"]) == ("OPEN", 1)


def test_reading_a_series_takes_another_scope_than_changing_it(tenants: Callable[..., TestClient], run: Path) -> None:
    made = create(tenants("ours"))
    reads = tenants("ours", "read")
    here = f"/v1/series/{made['id']}"
    assert reads.get(here).status_code == 200
    refused = [
        reads.post("/v1/series", json=RUN),
        append(reads, made, member(100)),
        reads.post(f"{here}/close"),
        reads.post(f"{here}/cancel"),
    ]
    assert {answer.status_code for answer in refused} == {403}


@pytest.mark.parametrize(
    "changed",
    [
        {"members": [{"step": -1, "model": "local:sft"}]},
        {"members": [{"step": "100", "model": "local:sft"}]},
        {"members": [{"step": 1, "model": "local:sft", "note": ""}]},
        {"members": [{"step": 1, "model": "local:sft"}], "folder": "local:run"},
        {"settings": {"plateau": 1}},
        {"unknown": 1},
    ],
)
def test_what_the_contract_does_not_know_is_refused(api: TestClient, changed: dict[str, Any]) -> None:
    assert api.post("/v1/series", json=RUN | changed).status_code == 422


def test_members_that_come_later_are_audited_as_the_first_ones(api: TestClient, run: Path, ledger: Ledger) -> None:
    made = create(api, members=[member(100)], profile={"swap_prompts": 16}, priority=3, labels={"name": "m", "a": "b"})
    append(api, made, member(200))
    audits = api.get(made["links"]["audits"]).json()["items"]
    assert len({audit["fingerprint"] for audit in audits}) == 1
    assert {audit["priority"] for audit in audits} == {3}
    # Under a common name, which of the two ended first would be the former one of the other.
    assert all(audit["labels"] == {"a": "b"} and audit["former"] is None for audit in audits)


def test_a_policy_that_a_series_names_stays(api: TestClient, run: Path) -> None:
    rule = {"name": "nll", "value": "damage.nll_change", "bad": "above", "limit": 0.05, "severity": "fail"}
    assert api.post("/v1/policies", json={"name": "acme/1", "rules": [rule]}).status_code == 201
    made = create(api, policy="acme/1")
    assert made["policy"]["name"] == "acme/1"
    refused = api.delete("/v1/policies/acme/1")
    assert (refused.status_code, refused.json()["code"]) == (409, "policy_in_use")


def test_a_series_has_a_bounded_number_of_members(api: TestClient, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MOST_MEMBERS", 2)
    made = create(api, members=[member(100), member(200)])
    full = append(api, made, member(300))
    assert (full.status_code, full.json()["code"]) == (409, "series_full")


def test_members_have_one_reference_whatever_becomes_of_its_folder(api: TestClient, run: Path, models: Path) -> None:
    made = create(api, members=[member(100)])
    assert append(api, made, member(200)).status_code == 202
    (models / "sft" / "generation_config.json").write_text('{"max_length": 7}')
    other = append(api, made, member(300))
    assert (other.status_code, other.json()["code"]) == (409, "series_reference_changed")
    # What is there stays, and needs no look at files.
    assert append(api, made, member(200)).status_code == 200


def test_what_a_repeated_request_may_be_refused_for_is_documented(api: TestClient, run: Path) -> None:
    """It appends what the series lacks, which may be closed by then, or have had another reference."""
    key = {"Idempotency-Key": "one"}
    body = RUN | {"folder": "local:run"}
    made = api.post("/v1/series", json=body, headers=key).json()
    api.post(f"/v1/series/{made['id']}/close")
    checkpoint(run, 400)
    refused = api.post("/v1/series", json=body, headers=key)
    assert (refused.status_code, refused.json()["code"]) == (409, "series_closed")
    described = api.get("/openapi.json").json()["paths"]["/v1/series"]["post"]["responses"]["409"]
    examples = described["content"]["application/problem+json"]["examples"]
    assert {"series_closed", "series_reference_changed"} <= set(examples)


def test_one_request_does_not_look_at_members_without_end(
    api: TestClient, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create(api)
    looked = members.resolve_request
    hours = iter(range(100))

    def slowly(*args: Any) -> Any:
        now = float(3600 * next(hours))
        monkeypatch.setattr(members.time, "monotonic", lambda: now)
        return looked(*args)

    with monkeypatch.context() as patch:
        patch.setattr(members, "resolve_request", slowly)
        patch.setattr(members, "time", SimpleNamespace(monotonic=lambda: 0.0))
        refused = append(api, made, member(100), member(200), member(300))
    assert (refused.status_code, refused.json()["code"]) == (422, "inspection_exceeded")
    assert "2 of 3 members" in refused.json()["detail"]
    assert api.get(f"/v1/series/{made['id']}").json()["members"]["total"] == 0
