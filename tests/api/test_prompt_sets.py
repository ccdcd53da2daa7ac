"""Prompt sets over HTTP: text and chats, what was left out, and that a run reads what was sent."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from service.database.unit_of_work import Ledger
from service.prompt_sets.store import find_prompt_set, load_prompt_set
from spinal.given import read_prompts

PAIR = {"candidate": "local:dpo-short", "reference": "local:sft"}
CHAT: list[dict[str, str]] = [{"role": "user", "content": "How do I plant a tree?"}]
ANSWERED = [*CHAT, {"role": "assistant", "content": " Dig."}]


def test_chats_are_stored_as_chats_and_audited(api: TestClient, ledger: Ledger, drain: Any) -> None:
    chats = [ANSWERED, [*CHAT, {"role": "assistant", "content": "Why?"}, {"role": "user", "content": "For shade."}]]
    sent = [{"messages": chat} for chat in chats] + [{"prompt": f"question {n}"} for n in range(16)]
    stored = api.post("/v1/prompt-sets", json={"prompts": sent}).json()
    made = read_prompts(sent)
    assert (stored["digest"], stored["count"], stored["remarks"]) == (made.digest, 18, [])
    with ledger.read() as session:
        kept = load_prompt_set(session, made.digest)
    assert (kept, kept.digest) == (made, made.digest)
    assert api.post("/v1/audits", json=PAIR | {"prompt_set": made.digest}).status_code == 202
    assert drain() == 3


def test_what_is_left_out_is_told(api: TestClient) -> None:
    sent = [{"prompt": "a b"}, {"prompt": "a b"}, {"prompt": " "}, {"messages": ANSWERED[1:]}]
    stored = api.post("/v1/prompt-sets", json={"prompts": sent}).json()
    assert stored["count"] == 1
    assert stored["remarks"] == [
        "the request: left out 3 (1 with no prompt and answer to tell apart, 1 seen before, 1 blank)"
    ]


@pytest.mark.parametrize(
    "item",
    [{}, {"prompt": "a b", "messages": CHAT}, {"messages": []}, {"messages": ["a b"]}, {"messages": [{"role": "user"}]},
     {"messages": CHAT, "continuation": "c"}, {"messages": [CHAT[0] | {"content": "a\0b"}]}],
)  # fmt: skip
def test_what_is_neither_text_nor_a_chat_is_refused(item: object, api: TestClient) -> None:
    answer = api.post("/v1/prompt-sets", json={"prompts": [item]})
    assert answer.status_code == 422
    assert answer.json()["code"] == "request_invalid"


FURTHER: list[dict[str, Any]] = [
    {"prompt": "why?", "continuation": " so.", "rejected": " no.", "refusal": " I will not", "category": "reasons"},
    {"messages": ANSWERED, "rejected": " Never.", "refusal": [" No", " I cannot"], "category": "trees"},
    {"messages": [{"role": "user", "content": "And water?"}]},
    *({"prompt": f"question {n}"} for n in range(16)),
]


def test_what_is_known_of_a_prompt_beside_its_answer_is_stored_with_it_and_audited(
    api: TestClient, ledger: Ledger, drain: Any
) -> None:
    stored = api.post("/v1/prompt-sets", json={"prompts": FURTHER, "name": "pairs"}).json()
    assert stored["count"] == 19
    with ledger.read() as session:
        kept = load_prompt_set(session, stored["digest"])
        mine = find_prompt_set(session, "default", "pairs")
        [known] = session.execute(text("SELECT prompts, continuations, count FROM prompt_sets")).all()
    assert (kept.digest, mine.digest) == (stored["digest"], stored["digest"])
    assert kept.rejected[:3] == (" no.", " Never.", None)
    assert kept.continuations[:3] == (" so.", " Dig.", None)
    assert kept.refusals[:3] == ((" I will not",), (" No", " I cannot"), ())
    assert kept.categories[:3] == ("reasons", "trees", None)
    # The release before finds no prompt, and refuses that; it would have passed over the members that it does not know.
    assert tuple(known) == ([], [], 19)
    same = read_prompts([{"prompt": "why?", "continuation": " so."}, *FURTHER[3:]])
    assert same.digest != kept.digest
    assert api.post("/v1/audits", json=PAIR | {"prompt_set": "pairs"}).status_code == 202
    assert drain() == 3
    with ledger.read() as session:
        assert session.execute(text("SELECT min(spec_version) FROM runs")).scalar_one() >= 5


@pytest.mark.parametrize("change", ["later - 'rejected'", "later || '{\"categories\": null}'", "'{}'"])
def test_prompts_that_are_not_those_of_their_digest_are_not_measured(
    api: TestClient, ledger: Ledger, drain: Any, change: str
) -> None:
    api.post("/v1/prompt-sets", json={"prompts": FURTHER, "name": "pairs"})
    audit = api.post("/v1/audits", json=PAIR | {"prompt_set": "pairs"}).json()
    with ledger.begin() as session:
        session.execute(text(f"UPDATE prompt_sets SET later = {change}"))
    drain()
    ended = api.get(f"/v1/audits/{audit['id']}").json()
    assert ended["state"] == "FAILED"
    assert ended["error"]["code"] in ("document_invalid", "prompt_set_empty")


def test_a_set_without_any_of_them_is_stored_as_ever(api: TestClient, ledger: Ledger) -> None:
    stored = api.post("/v1/prompt-sets", json={"prompts": [{"prompt": "why?", "refusal": [], "category": None}]})
    assert stored.json()["digest"] == read_prompts(["why?"]).digest
    with ledger.read() as session:
        [kept] = session.execute(text("SELECT prompts, continuations, later FROM prompt_sets")).all()
    assert tuple(kept) == (["why?"], [None], {})


@pytest.mark.parametrize(
    ("item", "code"),
    [
        ({"prompt": "a", "rejected": " b"}, "request_invalid"),
        ({"messages": CHAT, "rejected": " b"}, "request_invalid"),
        ({"prompt": "a", "refusal": ["x"] * 33}, "request_invalid"),
        ({"prompt": "a", "refusal": "x" * 1001}, "request_invalid"),
        ({"prompt": "a", "refusal": ["a\0"]}, "request_invalid"),
        ({"prompt": "a", "refusal": [7]}, "request_invalid"),
        ({"prompt": "a", "category": "x" * 101}, "request_invalid"),
        ({"prompt": "a", "category": "a\nb"}, "request_invalid"),
        ({"prompt": "a", "category": 7}, "request_invalid"),
        ({"prompt": "a", "continuation": "b", "rejected": "x" * 200_001}, "request_invalid"),
        ({"prompt": "a", "category": "a\u2028b"}, "prompt_set_invalid"),
    ],
)
def test_what_is_said_of_a_prompt_has_limits(item: object, code: str, api: TestClient) -> None:
    answer = api.post("/v1/prompt-sets", json={"prompts": [item]})
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert answer.headers["content-type"] == "application/problem+json"
