"""Registered models over HTTP: organisations, versions that never move, aliases that do, and what audits make of
them."""

from collections.abc import Callable
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
from service.models import verbs
from service.models.store import insert_version
from service.settings import Settings
from tests.api.conftest import clone
from tests.api.test_lists import counted
from tests.support.served import application

Drain = Callable[[], int]
CHAT = "/v1/models/acme/chat"


@pytest.fixture
def chat(api: TestClient) -> dict[str, Any]:
    """``acme/chat`` with versions 1 (sft) and 2 (dpo-short); ``champion`` is 1."""
    return register_chat(api)


def register_chat(api: TestClient) -> dict[str, Any]:
    body = {"name": "acme/chat", "reference": "local:sft", "aliases": ["champion"], "labels": {"team": "a"}}
    made = api.post("/v1/models", json=body)
    assert made.status_code == 201, made.text
    assert made.headers["Location"] == CHAT
    added = api.post(f"{CHAT}/versions", json={"version": "2", "reference": "local:dpo-short", "labels": {"by": "b"}})
    assert added.status_code == 201, added.text
    assert added.headers["Location"] == f"{CHAT}/versions/2"
    found: dict[str, Any] = api.get(CHAT).json()
    return found


def code(answer: Any) -> tuple[int, str]:
    assert answer.headers["Content-Type"] == "application/problem+json", answer.text
    assert answer.json()["hint"]
    return answer.status_code, answer.json()["code"]


def test_a_name_holds_an_organisation_and_versions_and_aliases(api: TestClient, chat: dict[str, Any]) -> None:
    assert (chat["version"], chat["reference"], chat["aliases"], chat["labels"]) == (
        "2", "local:dpo-short", {"champion": "1"}, {"team": "a"},
    )  # fmt: skip
    for address in (CHAT, "/v1/models/acme%2Fchat", f"/v1/models/{chat['id']}"):
        assert api.get(address).json() == chat, address
    assert api.get("/v1/models").json()["items"] == [chat]
    versions = api.get(f"{CHAT}/versions").json()
    assert [(each["name"], each["version"], each["aliases"]) for each in versions["items"]] == [
        ("acme/chat", "2", []), ("acme/chat", "1", ["champion"]),
    ]  # fmt: skip
    for address in (f"{CHAT}/versions/2", "/v1/models/acme%2Fchat/versions/2", f"/v1/models/{chat['id']}/versions/2"):
        assert api.get(address).json() == versions["items"][0], address


def test_a_plain_name_beside_one_of_an_organisation_is_another(api: TestClient, chat: dict[str, Any]) -> None:
    for name in ("acme", "chat", "versions/acme"):
        assert api.post("/v1/models", json={"name": name, "reference": "local:sft"}).status_code == 201
        found = api.get(f"/v1/models/{name}").json()
        assert (found["name"], found["version"], found["aliases"]) == (name, "1", {})
        assert [each["version"] for each in api.get(f"/v1/models/{name}/versions").json()["items"]] == ["1"]
    assert len(api.get("/v1/models").json()["items"]) == 4


NO_NAMES = (
    "", "local", "a/b/c", "/a", "a/", "a//b", "a:1", "a@b", "a b", "-a", "a/-b", ".", "..", "a/..", "ä", "a\n",
    "a/versions", "a/aliases", "x" * 129, f"{'x' * 64}/{'y' * 64}",
)  # fmt: skip


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_would_be_read_as_something_else_is_no_name(api: TestClient, name: str) -> None:
    answer = api.post("/v1/models", json={"name": name, "reference": "local:sft"})
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid"), answer.text
    assert api.get("/v1/models").json()["items"] == []


@pytest.mark.parametrize(
    ("member", "value"),
    [
        *(("version", each) for each in ("", "a/b", "-1", "a:b", "a@b", "x" * 65, "1\n", 1)),
        *(("aliases", [each]) for each in ("", "1", "3a", "a/b", "-a", "x" * 65, "a\n")),
        ("aliases", ["a"] * 101),
    ],
)
def test_no_version_and_no_alias_is_of_another_form(api: TestClient, member: str, value: Any) -> None:
    answer = api.post("/v1/models", json={"name": "m", "reference": "local:sft", member: value})
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid"), answer.text


def test_a_version_never_moves(api: TestClient, chat: dict[str, Any]) -> None:
    before = api.get(f"{CHAT}/versions").json()
    same = {"version": "2", "reference": "local:dpo-short", "labels": {"by": "b"}}
    again = api.post(f"{CHAT}/versions", json=same)
    assert (again.status_code, again.json()) == (200, before["items"][0])
    changes: tuple[dict[str, Any], ...] = ({"reference": "local:sft"}, {"labels": {}}, {"labels": {"by": "c"}})
    for change in changes:
        assert code(api.post(f"{CHAT}/versions", json=same | change)) == (409, "model_version_taken"), change
    taken = api.post("/v1/models", json={"name": "acme/chat", "reference": "local:sft", "version": "3"})
    assert code(taken) == (409, "model_name_taken")
    assert f"{CHAT}/versions" in taken.json()["hint"]
    assert api.get(f"{CHAT}/versions").json() == before


def test_the_newest_version_is_the_one_that_was_registered_last(api: TestClient, chat: dict[str, Any]) -> None:
    assert api.post(f"{CHAT}/versions", json={"version": "0", "reference": "local:sft"}).status_code == 201
    assert api.get(CHAT).json()["version"] == "0"
    assert api.delete(f"{CHAT}/versions/0").status_code == 204
    assert api.get(CHAT).json() == chat


def test_versions_come_page_by_page_newest_first(api: TestClient, chat: dict[str, Any], ledger: Ledger) -> None:
    with ledger.begin() as session:
        for number in range(3, 8):
            insert_version(session, chat["id"], str(number), reference="local:sft", labels={})
    address, seen = f"{CHAT}/versions?limit=3", []
    while address:
        answer = api.get(address)
        seen += [each["version"] for each in answer.json()["items"]]
        address = answer.headers["Link"].partition("<")[2].partition(">")[0] if answer.json()["next"] else ""
        assert (answer.json()["next"] is None) == ("Link" not in answer.headers)
    assert seen == ["7", "6", "5", "4", "3", "2", "1"]
    for cursor in ("x", "WyJhIl0", "WyItMSJd", "WyI5OTk5OTk5OTk5Il0"):
        assert api.get(f"{CHAT}/versions", params={"cursor": cursor}).json()["code"] == "request_invalid"


def test_an_alias_is_made_moved_and_taken_back(api: TestClient, chat: dict[str, Any]) -> None:
    made = api.put(f"{CHAT}/aliases/candidate", json={"version": "2"})
    assert made.status_code == 200
    assert (made.json()["alias"], made.json()["version"], made.json()["reference"]) == (
        "candidate", "2", "local:dpo-short",
    )  # fmt: skip
    assert api.put(f"{CHAT}/aliases/candidate", json={"version": "2"}).json() == made.json()
    moved = api.put(f"{CHAT}/aliases/candidate", json={"version": "1"}).json()
    assert (moved["reference"], moved["moved_at"] > made.json()["moved_at"]) == ("local:sft", True)
    assert api.get(CHAT).json()["aliases"] == {"candidate": "1", "champion": "1"}
    assert api.delete(f"{CHAT}/aliases/candidate").status_code == 204
    assert code(api.delete(f"{CHAT}/aliases/candidate")) == (404, "model_alias_not_found")
    assert api.get(CHAT).json() == chat


def test_a_version_goes_unless_an_alias_points_at_it_or_it_is_the_last(api: TestClient, chat: dict[str, Any]) -> None:
    kept = api.delete(f"{CHAT}/versions/1")
    assert code(kept) == (409, "model_version_in_use")
    assert "champion" in kept.json()["detail"]
    assert api.delete(f"{CHAT}/aliases/champion").status_code == 204
    assert api.delete(f"{CHAT}/versions/1").status_code == 204
    assert code(api.delete(f"{CHAT}/versions/1")) == (404, "model_version_not_found")
    assert code(api.delete(f"{CHAT}/versions/2")) == (409, "model_version_in_use")
    assert api.delete(CHAT).status_code == 204
    assert code(api.delete(CHAT)) == (404, "registered_model_not_found")


def test_a_typo_does_not_stay(api: TestClient, chat: dict[str, Any]) -> None:
    """A name that is taken back can be given anew."""
    assert api.delete(CHAT).status_code == 204
    assert register_chat(api)["id"] != chat["id"]


def test_a_model_is_described_anew_and_nothing_else_of_it_changes(api: TestClient, chat: dict[str, Any]) -> None:
    changes: tuple[dict[str, Any], ...] = (
        {"description": "d"}, {"labels": {"a": "b"}}, {"description": None, "labels": {}},
    )  # fmt: skip
    for sent in changes:
        before = api.get(CHAT).json()
        assert api.patch(CHAT, json=sent).json() == before | sent
        assert api.get(CHAT).json() == before | sent
    for wrong in ({}, {"name": "x"}, {"reference": "local:sft"}, {"labels": None}, {"description": "\x00"}):
        assert code_of(api.patch(CHAT, json=wrong)) == "request_invalid", wrong


def code_of(answer: Any) -> str:
    return str(answer.json()["code"])


def test_what_is_not_there_is_404_with_a_code_of_its_own(api: TestClient, chat: dict[str, Any]) -> None:
    nowhere = "/v1/models/acme/nowhere"
    version = {"version": "1", "reference": "local:sft"}
    for answer in (
        api.get(nowhere),
        api.patch(nowhere, json={"description": "d"}),
        api.delete(nowhere),
        api.get(f"{nowhere}/versions"),
        api.post(f"{nowhere}/versions", json=version),
        api.get(f"{nowhere}/versions/1"),
        api.delete(f"{nowhere}/versions/1"),
        api.put(f"{nowhere}/aliases/champion", json={"version": "1"}),
        api.delete(f"{nowhere}/aliases/champion"),
    ):
        assert code(answer) == (404, "registered_model_not_found"), answer.request.url
    for answer in (
        api.get(f"{CHAT}/versions/3"),
        api.delete(f"{CHAT}/versions/3"),
        api.put(f"{CHAT}/aliases/champion", json={"version": "3"}),
    ):
        assert code(answer) == (404, "model_version_not_found"), answer.request.url
    assert api.get("/v1/models/a/b/c").status_code == 422
    assert api.get(CHAT).json() == chat


def test_parts_of_a_model_are_no_models(api: TestClient, chat: dict[str, Any]) -> None:
    """Least of all ones that are deleted with what was meant to be a list."""
    for name in ("acme/chat", "acme%2Fchat", "acme"):
        for method, part in (
            ("DELETE", "versions"), ("PATCH", "versions"), ("PATCH", "versions/1"), ("POST", "versions/1"),
            ("PUT", "versions/1"), ("GET", "aliases/champion"), ("PATCH", "aliases/champion"),
        ):  # fmt: skip
            refused = api.request(method, f"/v1/models/{name}/{part}", json={"description": "d"})
            assert (refused.status_code, code_of(refused)) == (405, "method_not_allowed"), (method, name, part)
    for nowhere in (
        f"{CHAT}/aliases",
        f"{CHAT}/versions/",
        f"{CHAT}/versions/1/2",
        "/v1/models/acme/versions/versions/1",
    ):
        assert api.get(nowhere, follow_redirects=False).status_code in (307, 404, 422), nowhere
    assert api.get(CHAT).json() == chat
    assert api.get("/v1/models/").json()["items"] == [chat]


def test_a_model_has_no_more_aliases_than_a_list_can_show(
    api: TestClient, chat: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "MOST_ALIASES", 2)
    assert api.put(f"{CHAT}/aliases/second", json={"version": "1"}).status_code == 200
    assert code(api.put(f"{CHAT}/aliases/third", json={"version": "1"})) == (409, "model_aliases_full")
    assert api.put(f"{CHAT}/aliases/second", json={"version": "2"}).status_code == 200


def test_a_list_of_200_models_costs_at_most_three_statements(api: TestClient, ledger: Ledger) -> None:
    with ledger.begin() as session:
        session.execute(
            text("""INSERT INTO models (id, tenant, name, reference)
                    SELECT gen_random_uuid(), 'default', 'acme/m' || n, 'local:' || n FROM generate_series(1, 220) n""")
        )
        session.execute(text("INSERT INTO model_aliases SELECT id, 'champion', '1' FROM models"))
    with counted(api) as statements:
        found = api.get("/v1/models", params={"limit": 200}).json()
    assert len(found["items"]) == 200
    assert all(each["aliases"] == {"champion": "1"} and each["version"] == "1" for each in found["items"])
    assert len(statements) <= 3, statements


# what is pinned


def test_what_is_stored_is_what_the_reference_meant(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that pins says by what name that is found again; a folder keeps the name that it was given."""
    moved = {"main": "c1"}

    def survey(references: dict[str, str], _roots: Any) -> dict[str, Any]:
        return {role: SimpleNamespace(source=f"hub:org/name@{moved['main']}") for role in references}

    monkeypatch.setattr(application(api).state.inspectors, "survey", survey)
    first = {"name": "hubbed", "reference": "hub:org/name@main"}
    assert api.post("/v1/models", json=first).json()["reference"] == "hub:org/name@c1"
    second = {"version": "2", "reference": "hub:org/name@main"}
    assert api.post("/v1/models/hubbed/versions", json=second).status_code == 201
    assert api.post("/v1/models/hubbed/versions", json=second).status_code == 200
    moved["main"] = "c2"
    taken = api.post("/v1/models/hubbed/versions", json=second)
    assert code(taken) == (409, "model_version_taken")
    assert "hub:org/name@c1" in taken.json()["detail"]
    monkeypatch.undo()
    folder = api.post("/v1/models", json={"name": "folder", "reference": "local:./sft"})
    assert folder.json()["reference"] == "local:./sft"


def test_what_cannot_be_audited_becomes_no_version(api: TestClient, chat: dict[str, Any]) -> None:
    for reference, expected in (
        ("local:nothing", "model_not_found"),
        ("local:/etc", "model_path_refused"),
        ("nowhere://x", "model_reference_invalid"),
        ("acme/chat:1", "model_reference_invalid"),
    ):
        answer = api.post(f"{CHAT}/versions", json={"version": "3", "reference": reference})
        assert code(answer) == (422, expected)
    assert api.get(CHAT).json() == chat


# what audits make of it

PROMPTS = {"prompt_set": "hh-harmless-64"}


def submit(api: TestClient, **body: Any) -> dict[str, Any]:
    answer = api.post("/v1/audits", json=PROMPTS | body)
    assert answer.status_code in (201, 202), answer.text
    accepted: dict[str, Any] = answer.json()
    return accepted


@pytest.mark.parametrize(
    ("named", "version", "more", "source"),
    [
        ("acme/chat", "2", {}, "local:dpo-short"),
        ("acme/chat:1", "1", {}, "local:sft"),
        ("acme/chat:2", "2", {}, "local:dpo-short"),
        ("acme/chat@champion", "1", {"alias": "champion"}, "local:sft"),
        ("ID", "2", {}, "local:dpo-short"),
        ("ID:1", "1", {}, "local:sft"),
        ("ID@champion", "1", {"alias": "champion"}, "local:sft"),
    ],
)
def test_an_audit_says_what_was_named_and_what_it_meant(
    api: TestClient, chat: dict[str, Any], named: str, version: str, more: dict[str, str], source: str
) -> None:
    named = named.replace("ID", chat["id"])
    audit = submit(api, candidate=named, reference="local:sft")
    assert (audit["candidate"], audit["reference"]) == (named, "local:sft")
    told = {"name": "acme/chat", "version": version}
    assert audit["registered"] == {"candidate": {"alias": None} | told | more | {"reference": source}}
    checked = api.post("/v1/audits?validate_only=true", json=PROMPTS | {"candidate": named}).json()
    assert (checked["candidate"]["registered"], checked["candidate"]["source"]) == (told | more, source)
    assert api.get("/v1/audits").json()["items"][0]["registered"] == audit["registered"]


@pytest.mark.parametrize(
    ("named", "expected", "said"),
    [
        ("acme/chat:3", "model_not_found", "no version '3'"),
        ("acme/chat@nobody", "model_not_found", "no alias 'nobody'"),
        ("acme/chat:champion", "model_not_found", "no version 'champion'"),
        ("acme/chat@1", "model_not_found", "'acme/chat@1'"),
        ("acme/nowhere", "model_not_found", "'acme/nowhere'"),
        ("acme/nowhere:3", "model_not_found", "'acme/nowhere'"),
        ("nowhere@champion", "model_not_found", "'nowhere'"),
        ("nowhere:3", "model_reference_invalid", "'nowhere'"),
        ("hf://x", "model_reference_invalid", "'hf'"),
        ("acme/chat:", "model_reference_invalid", "'acme/chat'"),
        ("acme/chat:a/b", "model_reference_invalid", "'acme/chat'"),
        ("local:acme/chat", "model_not_found", "local:acme/chat"),
        ("a/b/c", "model_not_found", "'a/b/c'"),
        ("../sft", "model_not_found", "'../sft'"),
    ],
)
def test_a_name_that_means_nothing_is_refused(
    api: TestClient, chat: dict[str, Any], named: str, expected: str, said: str
) -> None:
    answer = api.post("/v1/audits", json=PROMPTS | {"candidate": named})
    assert code(answer) == (422, expected), answer.text
    assert said in answer.json()["detail"]


def test_a_source_is_never_taken_for_a_name(api: TestClient, ledger: Ledger, models: Path) -> None:
    """Not even beside a model that a release registered before the source was there."""
    with ledger.begin() as session:
        session.execute(
            text("INSERT INTO models (id, tenant, name, reference) VALUES "
                 "(gen_random_uuid(), 'default', 'local', 'local:dpo-short')")
        )  # fmt: skip
    clone("sft", models / "1")
    assert submit(api, candidate="local:1")["registered"] == {}
    assert submit(api, candidate="local")["registered"]["candidate"]["reference"] == "local:dpo-short"


def test_what_was_submitted_keeps_what_its_alias_meant(api: TestClient, chat: dict[str, Any], drain: Drain) -> None:
    audit = submit(api, candidate="acme/chat@champion", reference="acme/chat:2")
    assert api.put(f"{CHAT}/aliases/champion", json={"version": "2"}).status_code == 200
    moved = submit(api, candidate="acme/chat@champion", reference="acme/chat:2")
    assert api.delete(CHAT).status_code == 204
    drain()
    for each, source in ((audit, "local:sft"), (moved, "local:dpo-short")):
        done = api.get(f"/v1/audits/{each['id']}").json()
        assert (done["state"], done["candidate"]) == ("SUCCEEDED", "acme/chat@champion")
        assert done["registered"] == each["registered"]
        assert done["registered"]["candidate"]["reference"] == source
        assert api.get(done["links"]["candidate_trace"]).json()["model"]["source"] == source


def test_members_of_a_series_are_compared_with_what_its_alias_meant(
    api: TestClient, chat: dict[str, Any], models: Path
) -> None:
    asked = PROMPTS | {"reference": "acme/chat@champion", "control": "acme/chat@champion"}
    made = api.post("/v1/series", json=asked)
    assert made.status_code == 201, made.text
    series = made.json()
    assert series["reference"] == "acme/chat@champion"
    members = f"/v1/series/{series['id']}/members"
    assert api.put(f"{CHAT}/aliases/champion", json={"version": "2"}).status_code == 200
    clone("dpo-short", models / "step-2")
    for step, model in enumerate(("acme/chat:2", "local:step-2")):
        added = api.post(members, json={"members": [{"step": step, "model": model}]})
        assert added.status_code == 202, added.text
        assert api.delete(CHAT).status_code == (204 if step == 0 else 404)
    second, first = api.get("/v1/audits").json()["items"]
    for audit in (first, second):
        assert audit["reference"] == "acme/chat@champion"
        for role in ("reference", "control"):
            assert audit["registered"][role] == {
                "name": "acme/chat", "version": "1", "alias": "champion", "reference": "local:sft",
            }  # fmt: skip
    assert first["registered"]["candidate"]["version"] == "2"
    assert "candidate" not in second["registered"]


def test_a_series_of_the_release_before_is_followed_by_its_names(
    api: TestClient, chat: dict[str, Any], ledger: Ledger
) -> None:
    made = api.post("/v1/series", json=PROMPTS | {"reference": "acme/chat:1"}).json()
    with ledger.begin() as session:
        session.execute(text("UPDATE series SET spec = spec - 'meant'"))
    body = {"members": [{"step": 1, "model": "local:dpo-short"}]}
    assert api.post(f"/v1/series/{made['id']}/members", json=body).status_code == 202
    assert api.get("/v1/audits").json()["items"][0]["registered"]["reference"]["version"] == "1"


def test_an_audit_of_the_release_before_names_no_version(api: TestClient, chat: dict[str, Any], ledger: Ledger) -> None:
    audit = submit(api, candidate="acme/chat")
    with ledger.begin() as session:
        session.execute(text("UPDATE audits SET spec = spec #- '{candidate,registered}'"))
    assert api.get(f"/v1/audits/{audit['id']}").json()["registered"] == {}


# whose


def test_writing_takes_the_scope_of_registering_and_every_tenant_has_its_own(
    api_settings: Settings, ledger: Ledger
) -> None:
    settings = api_settings.model_copy(update={"auth": "required", "key_pepper": SecretStr("p")})
    with ledger.begin() as session:
        keys = {
            name: create_key(session, tenant=tenant, scopes=scopes, pepper="p")
            for name, tenant, scopes in (
                ("writer", "a", ("read", "write")),
                ("reader", "a", ("read",)),
                ("stranger", "b", ("read", "write")),
            )
        }
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:

        def ask(who: str, method: str, path: str, **options: Any) -> Any:
            return client.request(method, path, headers={"Authorization": f"Bearer {keys[who]}"}, **options)

        body = {"name": "acme/chat", "reference": "local:sft", "aliases": ["champion"]}
        assert ask("writer", "POST", "/v1/models", json=body).status_code == 201
        version = {"version": "2", "reference": "local:dpo-short"}
        assert ask("writer", "POST", f"{CHAT}/versions", json=version).status_code == 201
        known = ask("reader", "GET", CHAT).json()
        writes: list[tuple[str, str, dict[str, Any]]] = [
            ("POST", f"{CHAT}/versions", {"json": version}),
            ("PUT", f"{CHAT}/aliases/champion", {"json": {"version": "2"}}),
            ("DELETE", f"{CHAT}/aliases/champion", {}),
            ("DELETE", f"{CHAT}/versions/2", {}),
            ("PATCH", CHAT, {"json": {"description": "d"}}),
            ("DELETE", CHAT, {}),
        ]
        for method, path, options in writes:
            assert code(ask("reader", method, path, **options)) == (403, "forbidden"), (method, path)
            for address in (path, path.replace("acme/chat", known["id"])):
                refused = ask("stranger", method, address, **options)
                assert code(refused) == (404, "registered_model_not_found"), (method, address)
        for path in (CHAT, f"/v1/models/{known['id']}", f"{CHAT}/versions", f"{CHAT}/versions/1"):
            assert ask("stranger", "GET", path).status_code == 404
        for named in ("acme/chat", "acme/chat:1", "acme/chat@champion", known["id"]):
            refused = ask("stranger", "POST", "/v1/audits", json=PROMPTS | {"candidate": named})
            assert code(refused) == (422, "model_not_found"), named
        assert ask("stranger", "POST", "/v1/models", json=body).status_code == 201
        assert ask("reader", "GET", CHAT).json() == known
        assert ask("stranger", "DELETE", CHAT).status_code == 204
        assert ask("reader", "GET", CHAT).json() == known
