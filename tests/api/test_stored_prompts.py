"""Prompt sets by name, and as the file that the command line reads: one reader, one digest, one meaning of a name."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text

from service.app import create_app
from service.database.unit_of_work import Ledger
from service.keys.store import create_key
from service.settings import Settings
from spinal.client import Client
from spinal.errors import BodyTooLarge, PromptSetInvalid, StoredPromptSetNotFound
from spinal.prompts.builtin import builtin_prompts
from spinal.prompts.formats import Source, parse_prompts
from spinal.prompts.stored import MAX_PROMPTS, MAX_TEXT, to_lines

PAIR = {"candidate": "local:dpo-short", "reference": "local:sft"}
LINES = "\n".join(
    [
        "# what a person wrote",
        *(json.dumps({"prompt": f"question {n}", "note": "is passed over"}) for n in range(16)),
        json.dumps({"prompt": "why?", "chosen": "why? so.", "rejected": "why? no.", "category": "reasons"}),
        json.dumps({"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}]}),
        json.dumps("only text"),
        "",
    ]
).encode()
JSONL = {"Content-Type": "application/jsonl"}


def push(api: TestClient, raw: bytes = LINES, name: str = "mine", media_type: str = "application/jsonl") -> Any:
    headers = {"Content-Type": media_type}
    return api.post("/v1/prompt-sets", content=raw, params={"name": name}, headers=headers)


@pytest.mark.parametrize(
    "media_type", ["application/jsonl", "application/x-ndjson; charset=utf-8", "Application/X-JSONLines"]
)
def test_the_file_of_the_command_line_is_taken_as_it_is(api: TestClient, media_type: str) -> None:
    stored = push(api, media_type=media_type)
    assert stored.status_code == 201, stored.text
    here = parse_prompts(Source("prompts.jsonl", LINES))
    assert stored.json() == {
        "digest": here.digest, "name": "mine", "count": 19, "builtin": False,
        "remarks": ["the request: left out 1 (1 comment lines)"],
    }  # fmt: skip


def test_what_was_stored_under_a_name_is_audited_by_that_name_and_shown(api: TestClient, drain: Any) -> None:
    digest = push(api).json()["digest"]
    audit = api.post("/v1/audits", json=PAIR | {"prompt_set": "mine"})
    assert audit.status_code == 202, audit.text
    assert audit.json()["prompt_set"]["digest"] == digest
    assert drain() == 3
    for named in ("mine", digest):
        shown = api.get(f"/v1/prompt-sets/{named}", params={"prompts": 100}).json()
        assert (shown["digest"], shown["name"], shown["count"]) == (digest, "mine", 19)
        assert shown["categories"] == {"reasons": 1}
        again = "\n".join(map(json.dumps, shown["prompts"])).encode()
        assert push(api, again, "again").json()["digest"] == digest
        assert push(api).json()["digest"] == digest
    assert len(api.get("/v1/prompt-sets/mine").json()["prompts"]) == 19
    assert api.get("/v1/prompt-sets/mine", params={"prompts": 0}).json()["prompts"] == []


def test_a_set_stored_twice_is_the_same_set_and_the_newest_of_a_name_is_meant(api: TestClient, ledger: Ledger) -> None:
    first, second = LINES, LINES + b'"another"\n'
    digests = [push(api, raw).json()["digest"] for raw in (first, second, first)]
    assert digests[0] == digests[2] != digests[1]
    assert api.get("/v1/prompt-sets/mine").json()["digest"] == digests[0]
    with ledger.read() as session:
        assert session.execute(text("SELECT count(*) FROM prompt_sets")).scalar_one() == 2
    # To be asked for by its digest does not make a set the newest of its name.
    assert api.post("/v1/audits", json=PAIR | {"prompt_set": digests[1]}).status_code == 202
    assert api.get("/v1/prompt-sets/mine").json()["digest"] == digests[0]


@pytest.mark.parametrize("name", ["hh-harmless-64", "a" * 64, "-x", "with space", "x" * 129, "ü"])
@pytest.mark.parametrize("as_lines", [True, False])
def test_a_name_by_which_nobody_would_find_the_set_is_refused(api: TestClient, name: str, as_lines: bool) -> None:
    body = {"name": name, "prompts": [{"prompt": "why?"}]}
    answer = push(api, name=name) if as_lines else api.post("/v1/prompt-sets", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] in ("prompt_set_invalid", "request_invalid")


def test_a_built_in_set_may_be_stored_under_its_own_name(api: TestClient) -> None:
    built_in = builtin_prompts("hh-harmless-64")
    assert push(api, to_lines(built_in), "hh-harmless-64").json()["digest"] == built_in.digest
    shown = api.get("/v1/prompt-sets/hh-harmless-64").json()
    assert (shown["digest"], shown["builtin"]) == (built_in.digest, True)


@pytest.mark.parametrize(
    ("raw", "code", "says"),
    [
        (b"", "prompt_set_empty", "the request"),
        (b"# nothing\n", "prompt_set_empty", "the request"),
        (b'{"prompt": "a b"}\n{"prompt": }\n', "prompt_set_invalid", "line 2: not JSON"),
        (b'{"prompt": "a b"}\n{"answer": "c"}\n', "prompt_set_invalid", "line 2: needs 'prompt'"),
        (b'{"prompt": "a\\u0000b"}\n', "prompt_set_invalid", "prompt 1: a text with NUL"),
        (b'{"prompt": "a\\ud800b"}\n', "prompt_set_invalid", "surrogate"),
        (b'{"prompt": "\xff"}\n', "prompt_set_invalid", "not UTF-8"),
        (b"[" * 100_000, "prompt_set_invalid", "line 1"),
        (json.dumps("x" * (MAX_TEXT + 1)).encode(), "prompt_set_invalid", f"{MAX_TEXT + 1} characters"),
        (b"".join(b'"%d"\n' % n for n in range(MAX_PROMPTS + 1)), "prompt_set_invalid", f"{MAX_PROMPTS + 1} prompts"),
    ],
    ids=["empty", "comment", "not JSON", "no prompt", "NUL", "surrogate", "not UTF-8", "deep", "long", "many"],
)
def test_a_file_that_cannot_be_stored_is_refused_and_nothing_kept(
    api: TestClient, ledger: Ledger, raw: bytes, code: str, says: str
) -> None:
    answer = push(api, raw)
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
    assert says in answer.json()["detail"]
    with ledger.read() as session:
        assert session.execute(text("SELECT count(*) FROM prompt_sets")).scalar_one() == 0


def test_what_is_neither_json_nor_lines_is_refused_by_the_route_behind(api: TestClient) -> None:
    answer = push(api, media_type="text/plain")
    assert answer.status_code in (415, 422)
    assert push(api, media_type="application/json").status_code == 400
    unknown = api.post("/v1/prompt-sets", content=LINES, params={"nmae": "mine"}, headers=JSONL)
    assert (unknown.status_code, unknown.json()["code"]) == (422, "request_invalid")


# by the client


@pytest.fixture
def tenants(api_settings: Settings, ledger: Ledger) -> Iterator[dict[str, Client]]:
    """A client for each of two tenants, on a service that takes small bodies."""
    with ledger.begin() as session:
        keys = {
            tenant: create_key(session, tenant=tenant, scopes=("read", "write"), pepper="p")
            for tenant in ("ours", "theirs")
        }
    settings = api_settings.model_copy(
        update={"auth": "required", "key_pepper": SecretStr("p"), "max_body_bytes": 4096}
    )
    with TestClient(create_app(settings), raise_server_exceptions=False) as inside:

        def answer(request: httpx.Request) -> httpx.Response:
            found = inside.request(
                request.method, str(request.url), content=request.read(), headers=dict(request.headers)
            )
            return httpx.Response(found.status_code, headers=found.headers, content=found.content)

        yield {
            tenant: Client("http://testserver", key, transport=httpx.MockTransport(answer))
            for tenant, key in keys.items()
        }


def test_what_is_too_large_is_not_sent(tenants: dict[str, Client], ledger: Ledger) -> None:
    fits = parse_prompts(Source("x.jsonl", LINES))
    assert tenants["ours"].push_prompt_set(fits, name="mine")["count"] == 19
    large = parse_prompts(Source("x.txt", b"".join(b"question number %d\n" % n for n in range(500))))
    with pytest.raises(BodyTooLarge, match=r"are \d+ bytes of JSON lines, and this service takes 4096"):
        tenants["ours"].push_prompt_set(large)
    with pytest.raises(PromptSetInvalid, match="built-in"):
        tenants["ours"].push_prompt_set(fits, name="hh-harmless-64")


def test_a_tenant_reads_its_own_sets_and_no_other(tenants: dict[str, Client], ledger: Ledger) -> None:
    made = parse_prompts(Source("x.jsonl", LINES))
    tenants["theirs"].push_prompt_set(made, name="mine")
    for named in ("mine", made.digest):
        with pytest.raises(StoredPromptSetNotFound):
            tenants["ours"].prompt_set(named)
        assert tenants["theirs"].prompt_set(named)["count"] == 19
    # Nor one that nobody has, which a process of the release before stored.
    with ledger.begin() as session:
        session.execute(text("DELETE FROM tenant_prompt_sets"))
    with pytest.raises(StoredPromptSetNotFound):
        tenants["ours"].prompt_set(made.digest)
    with pytest.raises(StoredPromptSetNotFound):
        tenants["ours"].prompt_set("../audits")
