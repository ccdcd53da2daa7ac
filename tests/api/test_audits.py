"""The life of an audit over HTTP."""

import json
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from service.app import create_app
from service.audits.idempotency import lock_idempotency_key
from service.audits.schemas import AuditIn
from service.database.unit_of_work import Ledger
from service.keys.store import create_key
from service.settings import Settings
from spinal.errors import NonFiniteWeights
from spinal.report.formats import FORMATS
from tests.api.conftest import clone
from tests.support.engine_double import calls
from tests.support.waiting import until

PAIR = {"candidate": "local:dpo-short", "reference": "local:sft", "prompt_set": "hh-harmless-64"}
Drain = Callable[[], int]


def submit(api: TestClient, **changes: Any) -> dict[str, Any]:
    answer = api.post("/v1/audits", json=PAIR | changes)
    assert answer.status_code in (201, 202), answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_an_accepted_audit_is_run_and_read(api: TestClient, drain: Drain) -> None:
    answer = api.post("/v1/audits", json=PAIR | {"labels": {"release": "7"}})
    assert answer.status_code == 202
    assert answer.headers["Retry-After"]
    place = answer.headers["Location"]
    queued = api.get(place).json()
    assert (queued["state"], queued["verdict"], queued["progress"]["fraction"]) == ("QUEUED", None, 0.0)
    assert api.get(f"{place}/scores").json()["code"] == "audit_not_finished"

    assert drain() == 3

    audit = api.get(place).json()
    assert audit["state"] == "SUCCEEDED"
    assert audit["verdict"] in ("pass", "warn")
    assert audit["verdict_reasons"]
    assert {run["state"] for run in audit["progress"]["runs"].values()} == {"SUCCEEDED"}
    links = audit["links"]
    assert api.get(links["scores"]).json()["localization"].keys() >= {"block_swap", "weights"}
    trace = api.get(links["candidate_trace"])
    assert trace.json()["schema"] == "spinal.trace/1"
    assert len(trace.json()["layers"]) == trace.json()["model"]["n_layers"] + 1
    assert "immutable" in trace.headers["Cache-Control"]
    assert api.get(links["candidate_trace"], headers={"If-None-Match": trace.headers["ETag"]}).status_code == 304
    diff = api.get(links["diff"]).json()
    assert diff["diff"]["schema"] == "spinal.diff/1"
    assert diff["comparison"] is not None
    for format, made in FORMATS.items():
        report = api.get(f"{place}/report", params={"format": format})
        assert report.status_code == 200
        assert report.headers["Content-Type"] == made.media_type
        assert report.text
    assert [item["id"] for item in api.get("/v1/audits", params={"label": "release:7"}).json()["items"]] == [
        audit["id"]
    ]
    assert api.get("/v1/audits", params={"label": "release:8"}).json()["items"] == []
    assert len(api.get("/v1/traces").json()["items"]) == 2


def test_the_same_audit_again_computes_nothing(api: TestClient, drain: Drain, double: Path) -> None:
    first = submit(api)
    drain()
    before = calls(double)
    again = api.post("/v1/audits", json=PAIR)
    assert again.status_code == 201
    assert again.json()["state"] == "SUCCEEDED"
    assert again.json()["id"] != first["id"]
    assert again.json()["verdict"] == api.get(f"/v1/audits/{first['id']}").json()["verdict"]
    assert drain() == 0
    assert calls(double) == before


def test_two_audits_that_share_a_reference_trace_it_once(
    api: TestClient, drain: Drain, double: Path, models: Path
) -> None:
    clone("dpo-short", models / "second", generation_config__json="{}")
    submit(api)
    submit(api, candidate="local:second")
    drain()
    asked = Counter((what, source) for _, what, source in calls(double))
    assert asked["measure", "local:sft"] == 1
    # Byte for byte the same weights under another name: one more run, and no second measurement of them is stored.
    assert len(api.get("/v1/traces").json()["items"]) == 2


def test_only_knobs_of_the_comparison_changed_traces_nothing_anew(api: TestClient, drain: Drain, double: Path) -> None:
    submit(api)
    drain()
    submit(api, profile={"swap_prompts": 16})
    drain()
    assert Counter(what for _, what, _ in calls(double)) == {"measure": 2, "compare": 2}


@pytest.mark.parametrize(
    ("one_key", "tenants", "audits"),
    [(False, 1, 50), (True, 1, 1), (True, 2, 2)],
    ids=["no key", "one key", "one key of two tenants"],
)
def test_fifty_identical_posts_at_once_make_three_runs(
    keyed: Any, ledger: Ledger, drain: Drain, one_key: bool, tenants: int, audits: int
) -> None:
    barrier = threading.Barrier(50)
    headers = {"Idempotency-Key": "one"} if one_key else {}

    def post(number: int) -> str:
        caller = ("writer", "stranger")[number % tenants]
        barrier.wait()

        def accepted() -> str | None:
            found = keyed(caller, "POST", "/v1/audits", json=PAIR, headers=headers)
            # A pool of ten connections turns some away, a key in use some others: they come back, as they are told.
            assert found.status_code in (202, 409, 503), found.text
            assert found.status_code == 202 or found.headers["Retry-After"]
            assert found.status_code != 409 or found.json()["code"] == "idempotency_in_flight"
            return str(found.json()["id"]) if found.status_code == 202 else None

        return until(accepted, "202", timeout=60.0) or ""

    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(post, range(50)))
    assert len(set(found)) == audits
    for tenant in range(tenants):
        assert len({found[number] for number in range(tenant, 50, tenants)}) == audits // tenants
    with ledger.read() as session:
        # Of each tenant, since work is shared inside a tenant alone.
        assert session.execute(text("SELECT count(*) FROM runs")).scalar() == 3 * tenants
        assert session.execute(text("SELECT count(*) FROM audits")).scalar() == audits
    assert drain() == 3 * tenants


def test_a_key_whose_request_is_being_carried_out_answers_409_at_once(api: TestClient, ledger: Ledger) -> None:
    with ledger.begin() as session:
        assert lock_idempotency_key(session, "default", "busy")
        answer = api.post("/v1/audits", json=PAIR, headers={"Idempotency-Key": "busy"})
        assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_in_flight")
        assert answer.headers["Retry-After"]
        assert api.post("/v1/audits", json=PAIR, headers={"Idempotency-Key": "free"}).status_code == 202
    assert api.post("/v1/audits", json=PAIR, headers={"Idempotency-Key": "busy"}).status_code == 202


def test_what_a_caller_left_out_does_not_make_a_repeated_request_another_one(api: TestClient, ledger: Ledger) -> None:
    first = api.post("/v1/audits", json=PAIR, headers={"Idempotency-Key": "k"})
    with ledger.read() as session:
        assert session.execute(text("SELECT request FROM audits")).scalar_one() == PAIR
    spelled = api.post("/v1/audits", json=PAIR | {"priority": 0}, headers={"Idempotency-Key": "k"})
    assert (first.status_code, spelled.status_code) == (202, 422)
    again = api.post("/v1/audits", json=PAIR, headers={"Idempotency-Key": "k"})
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])


AS_SENT = {None: "27b3b4d9d5cfde4b4dcb27c7a2c07bfe46daeca2a242b51f66aca94c001fc7ac",
           64: "bcd2ca0efa91e056d4ce05043ec7ce99ac38146c1fc55b766c13810dd97b99ed"}  # fmt: skip
SPELLED_OUT = {None: "4673e72e348f07068f47bd3b52b817950685d852f4c5399bb8743c2545a13a58",
               64: "17caa9179ce474d6db2dcca8fb173a32242f6cd69d702278f5f4805a0ae29928"}  # fmt: skip
"""Digests of requests as e56491c and the release before it kept them (made with its code), by ``max_tokens``."""


@pytest.mark.parametrize("kept", [AS_SENT, SPELLED_OUT])
@pytest.mark.parametrize("tokens", [None, 64])
def test_a_key_from_before_answers_the_same_request_whatever_the_defaults_are_today(
    api: TestClient, ledger: Ledger, kept: dict[int | None, str], tokens: int | None
) -> None:
    body: dict[str, Any] = PAIR | ({} if tokens is None else {"profile": {"seed": 3, "max_tokens": tokens}})
    first = api.post("/v1/audits", json=body, headers={"Idempotency-Key": "k"})
    with ledger.begin() as session:
        session.execute(
            text("UPDATE idempotency_keys SET body_digest = :old, body_digest_rfc8785 = NULL"), {"old": kept[tokens]}
        )
    again = api.post("/v1/audits", json=body, headers={"Idempotency-Key": "k"})
    assert (again.status_code, again.json().get("id")) == (202, first.json()["id"]), again.text
    # Neither a knob that the former did not have nor another profile is the same request.
    for changes in ({"stitch_prompts": 64}, {"sampling": "first"}, {"name": "spinal/2"}):
        other = body | {"profile": body.get("profile", {}) | changes}
        answer = api.post("/v1/audits", json=other, headers={"Idempotency-Key": "k"})
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused"), changes


def test_defaults_of_the_profiles_name_are_no_part_of_what_was_sent() -> None:
    for name in ({}, {"name": "spinal/1"}, {"name": "spinal/2"}):
        body = AuditIn.model_validate(PAIR | {"profile": name | {"seed": 1}})
        assert body.model_dump(mode="json", exclude_unset=True) == PAIR | {"profile": name | {"seed": 1}}


def test_one_idempotency_key_is_one_audit(api: TestClient, drain: Drain) -> None:
    key = {"Idempotency-Key": str(uuid4())}

    def post(_: int) -> Any:
        return until(
            lambda: (found := api.post("/v1/audits", json=PAIR, headers=key)).status_code == 202 and found, "a 202"
        )

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(16)))
    assert len({answer.json()["id"] for answer in answers}) == 1
    drain()
    replayed = api.post("/v1/audits", json=PAIR, headers=key)
    assert replayed.status_code == 202
    other = api.post("/v1/audits", json=PAIR | {"priority": 3}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_validate_only_writes_nothing(api: TestClient, drain: Drain, ledger: Ledger) -> None:
    found = api.post("/v1/audits?validate_only=true", json=PAIR)
    assert found.status_code == 200
    assert found.json()["runs_needed"] == 3
    with ledger.read() as session:
        assert session.execute(text("SELECT count(*) FROM audits")).scalar() == 0
    submit(api)
    drain()
    assert api.post("/v1/audits?validate_only=true", json=PAIR).json()["runs_needed"] == 0


def test_waiting_ends_when_the_audit_ends(api: TestClient, drain: Drain) -> None:
    audit = submit(api)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(api.get, f"/v1/audits/{audit['id']}", params={"wait": 30})
        drain()
        assert waiting.result(20).json()["state"] == "SUCCEEDED"


def test_cancelling_a_queued_audit_frees_its_runs(api: TestClient, drain: Drain, double: Path) -> None:
    audit = submit(api)
    for _ in range(2):
        answer = api.post(f"/v1/audits/{audit['id']}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (200, "CANCELLED")
    assert drain() == 0
    assert calls(double) == []
    # The same request later is new work, not a dead end.
    submit(api)
    assert drain() == 3


def test_cancelling_one_of_two_audits_leaves_the_shared_run(api: TestClient, drain: Drain) -> None:
    first, second = submit(api), submit(api)
    api.post(f"/v1/audits/{first['id']}/cancel")
    drain()
    assert api.get(f"/v1/audits/{second['id']}").json()["state"] == "SUCCEEDED"
    assert api.get(f"/v1/audits/{first['id']}").json()["state"] == "CANCELLED"


def test_a_cause_that_no_database_can_hold_is_written_out(
    api: TestClient, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise NonFiniteWeights("tensor a\0b of file \udcff", tensors=["a\0b"])

    monkeypatch.setattr("tests.support.engine_double.measure", fail)
    audit = submit(api, reference=None)
    drain()
    error = api.get(f"/v1/audits/{audit['id']}").json()["error"]
    assert (error["code"], error["detail"], error["tensors"]) == (
        "non_finite_weights", "tensor a\\x00b of file \\udcff", ["a\\x00b"],
    )  # fmt: skip


def test_a_failed_measurement_says_why(api: TestClient, drain: Drain, double: Path) -> None:
    (double / "fail").write_text("non_finite_weights")
    audit = submit(api)
    drain()
    found = api.get(f"/v1/audits/{audit['id']}").json()
    assert found["state"] == "FAILED"
    assert found["error"]["code"] == "non_finite_weights"
    assert api.get(f"/v1/audits/{audit['id']}/scores").json()["code"] == "audit_failed"


def test_a_retryable_failure_ends_after_three_attempts_with_their_history(
    api: TestClient, drain: Drain, double: Path
) -> None:
    (double / "fail").write_text("internal_error")
    audit = submit(api)
    drain()
    error = api.get(f"/v1/audits/{audit['id']}").json()["error"]
    assert error["code"] == "attempts_exhausted"
    assert [attempt["code"] for attempt in error["attempts"]] == ["internal_error"] * 3


def test_files_changed_after_submission_are_not_audited(api: TestClient, drain: Drain, models: Path) -> None:
    audit = submit(api)
    (models / "dpo-short" / "config.json").write_bytes((models / "sft" / "config.json").read_bytes() + b" ")
    drain()
    assert api.get(f"/v1/audits/{audit['id']}").json()["error"]["code"] == "model_changed"


def test_pages_of_audits_are_complete_and_disjoint(api: TestClient) -> None:
    made = {submit(api)["id"] for _ in range(5)}
    seen: list[str] = []
    cursor = None
    while True:
        params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        answer = api.get("/v1/audits", params=params)
        seen += [item["id"] for item in answer.json()["items"]]
        cursor = answer.json()["next"]
        if cursor is None:
            break
        assert 'rel="next"' in answer.headers["Link"]
    assert len(seen) == 5
    assert set(seen) == made


def test_registered_names_and_stored_prompts_can_be_audited(api: TestClient, drain: Drain) -> None:
    made = api.post("/v1/models", json={"name": "prod-base", "reference": "local:sft"})
    assert made.status_code == 201
    assert (
        api.post("/v1/models", json={"name": "prod-base", "reference": "local:sft"}).json()["code"]
        == "model_name_taken"
    )
    prompts = api.post("/v1/prompt-sets", json={"prompts": [{"prompt": f"question {n}"} for n in range(32)]}).json()
    audit = submit(api, reference="prod-base", prompt_set=prompts["digest"])
    drain()
    assert api.get(f"/v1/audits/{audit['id']}").json()["state"] == "SUCCEEDED"


@pytest.fixture
def keyed(api_settings: Settings, ledger: Ledger) -> Any:
    """(client factory by key, keys by name) of an API that requires keys."""
    required = api_settings.model_copy(update={"auth": "required", "key_pepper": type(api_settings.key_pepper)("p")})
    with ledger.begin() as session:
        keys = {
            name: create_key(session, tenant=tenant, scopes=scopes, pepper="p")
            for name, tenant, scopes in (
                ("writer", "a", ("read", "write")),
                ("reader", "a", ("read",)),
                ("stranger", "b", ("read", "write")),
            )
        }
    with TestClient(create_app(required), raise_server_exceptions=False) as client:

        def call(name: str | None, method: str, path: str, **options: Any) -> Any:
            headers = {"Authorization": f"Bearer {keys.get(name, name)}"} if name else {}
            return client.request(method, path, headers=headers | options.pop("headers", {}), **options)

        yield call


def test_keys_scopes_and_tenants(keyed: Any, drain: Drain) -> None:
    assert keyed(None, "GET", "/livez").status_code == 200
    for name in (None, "spk_x_y", "nonsense"):
        answer = keyed(name, "POST", "/v1/audits", json=PAIR)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"]
    assert keyed("reader", "POST", "/v1/audits", json=PAIR).json()["code"] == "forbidden"
    audit = keyed("writer", "POST", "/v1/audits", json=PAIR).json()
    place = f"/v1/audits/{audit['id']}"
    assert keyed("reader", "GET", place).status_code == 200
    assert drain() == 3
    links = keyed("reader", "GET", place).json()["links"]
    results = [links[name] for name in ("candidate_trace", "reference_trace", "diff", "scores", "report")]
    for method, path in (("GET", place), ("POST", f"{place}/cancel"), *(("GET", path) for path in results)):
        assert keyed("reader" if method == "GET" else "writer", method, path).status_code == 200
        assert keyed("stranger", method, path).status_code == 404
    for path in ("/v1/audits", "/v1/traces"):
        assert keyed("reader", "GET", path).json()["items"]
        assert keyed("stranger", "GET", path).json()["items"] == []


def test_a_prompt_set_is_its_tenants_and_so_is_its_name(keyed: Any) -> None:
    prompts = [{"prompt": f"question {n}"} for n in range(32)]

    def stored(caller: str, name: str | None) -> str:
        answer = keyed(caller, "POST", "/v1/prompt-sets", json={"name": name, "prompts": prompts})
        return str(answer.json()["digest"])

    def own(caller: str) -> list[tuple[str, str | None]]:
        items = keyed(caller, "GET", "/v1/prompt-sets").json()["items"]
        return [(item["digest"], item["name"]) for item in items if not item["builtin"]]

    def audited(caller: str, named: str) -> Any:
        return keyed(caller, "POST", "/v1/audits", json=PAIR | {"prompt_set": named}).json()

    digest = stored("writer", "ours")
    assert own("reader") == [(digest, "ours")]
    assert own("stranger") == []
    for named in (digest, "ours"):
        assert audited("writer", named)["prompt_set"] == {"digest": digest, "name": "ours", "count": 32}
        assert audited("stranger", named)["code"] == "prompt_set_not_found"
    # The same content under another name is the same content, and nobody learns of the other.
    assert stored("stranger", "theirs") == digest
    assert (own("reader"), own("stranger")) == ([(digest, "ours")], [(digest, "theirs")])
    assert audited("stranger", "ours")["code"] == "prompt_set_not_found"
    assert audited("stranger", "theirs")["prompt_set"]["name"] == "theirs"
    assert audited("stranger", digest)["prompt_set"]["name"] == "theirs"
    assert audited("writer", digest)["prompt_set"]["name"] == "ours"


def test_what_others_have_made_is_not_told_to_be_there(keyed: Any, drain: Drain) -> None:
    def foreseen(caller: str) -> Any:
        found = keyed(caller, "POST", "/v1/audits", params={"validate_only": True}, json=PAIR).json()
        return found["cached"], found["runs_needed"]

    roles = ("candidate", "reference", "compare")
    assert foreseen("writer") == (dict.fromkeys(roles, False), 3)
    keyed("writer", "POST", "/v1/audits", json=PAIR)
    assert drain() == 3
    assert foreseen("writer") == (dict.fromkeys(roles, True), 0)
    assert foreseen("stranger") == (dict.fromkeys(roles, False), 3)


def test_a_name_that_the_release_before_may_have_taken_from_another_tenant_is_not_shown(
    api: TestClient, ledger: Ledger
) -> None:
    audit = submit(api)
    with ledger.begin() as session:
        session.execute(
            text("""UPDATE audits SET spec = jsonb_set(spec, '{prompt_set,name}', '"another tenant called it so"')
                    - 'own_names'""")
        )
    assert api.get(f"/v1/audits/{audit['id']}").json()["prompt_set"]["name"] is None
    assert api.get("/v1/audits").json()["items"][0]["prompt_set"]["name"] is None


def test_without_a_database_every_answer_is_503_and_says_so(api_settings: Settings) -> None:
    unreachable = api_settings.model_copy(
        update={"database_url": type(api_settings.database_url)("postgresql+psycopg://x:y@127.0.0.1:1/z")}
    )
    with TestClient(create_app(unreachable), raise_server_exceptions=False) as client:
        for method, path in (("GET", "/readyz"), ("GET", "/v1/audits"), ("POST", "/v1/audits")):
            answer = client.request(method, path, json=PAIR if method == "POST" else None)
            assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert answer.headers["Retry-After"]
        assert client.get("/livez").status_code == 200


@pytest.mark.parametrize(("at", "status"), [("0001", 503), ("9999", 200), (None, 503)])
def test_ready_at_this_migration_or_a_later_one(api: TestClient, ledger: Ledger, at: str | None, status: int) -> None:
    """A later one: while a release rolls out, the code before it goes on serving."""
    assert api.get("/readyz").status_code == 200
    with ledger.begin() as session:
        session.execute(text("DELETE FROM alembic_version"))
        if at is not None:
            session.execute(text("INSERT INTO alembic_version VALUES (:at)"), {"at": at})
    answer = api.get("/readyz")
    assert answer.status_code == status
    if status == 503:
        assert answer.json()["code"] == "not_ready"


def test_a_control_is_traced_like_the_candidate_and_stands_in_the_scores(
    api: TestClient, drain: Drain, models: Path, double: Path
) -> None:
    clone("sft", models / "twin", config__json=(models / "sft" / "config.json").read_bytes() + b"\n")
    audit = submit(api, control="local:twin")
    assert (audit["control"], audit["control_trace"]) == ("local:twin", None)
    assert drain() == 4
    done = api.get(f"/v1/audits/{audit['id']}").json()
    assert done["state"] == "SUCCEEDED", done["error"]
    assert set(done["progress"]["runs"]) == {"candidate", "reference", "control", "compare"}
    assert done["progress"]["phase"] == "finished"
    told = [run for run in done["progress"]["runs"].values() if run["total"] is not None]
    assert told
    assert all(run["done"] == run["total"] for run in told), "a run that has finished has done all"
    trace = api.get(done["links"]["control_trace"]).json()
    assert (trace["digest"], trace["model"]["source"]) == (done["control_trace"], "local:twin")
    scores = api.get(done["links"]["scores"]).json()
    assert scores["nulls"]["control"]["contrast"].keys() >= {"delta_align", "coherence"}
    # Without the control it is another comparison of the same traces: nothing is measured again.
    before = len(calls(double))
    assert drain() == 0
    submit(api)
    assert drain() == 1
    assert [what for _, what, _ in calls(double)[before:]] == ["compare"]
    assert submit(api, control="local:twin")["state"] == "SUCCEEDED"


def test_a_control_needs_a_reference_and_must_fit_it(api: TestClient, models: Path) -> None:
    alone = api.post("/v1/audits", json={"candidate": "local:sft", "control": "local:sft"})
    assert alone.status_code == 422
    assert alone.json()["code"] == "request_invalid"
    assert "reference" in alone.text
    missing = api.post("/v1/audits", json=PAIR | {"control": "local:nowhere"})
    assert (missing.status_code, missing.json()["code"]) == (422, "model_not_found")
    # As many blocks as no longer fit the reference, and as the weights still hold.
    smaller = json.loads((models / "sft" / "config.json").read_text()) | {"num_hidden_layers": 8}
    clone("sft", models / "small", config__json=json.dumps(smaller))
    assert api.post("/v1/audits", json=PAIR | {"control": "local:small"}).json()["code"] == "pair_mismatch"


def test_a_device_that_is_too_small_fails_at_once_and_says_so(api: TestClient, drain: Drain, double: Path) -> None:
    """The engine has already tried half the batch: the same work on the same kind of worker would fail again."""
    (double / "fail").write_text("out_of_memory")
    audit = submit(api, reference=None)
    assert drain() == 1
    done = api.get(f"/v1/audits/{audit['id']}").json()
    assert (done["state"], done["error"]["code"]) == ("FAILED", "out_of_memory")
