"""Prompt sets over HTTP: text and chats, what was left out, and that a run reads what was sent."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.database.unit_of_work import Ledger
from service.prompt_sets.store import load_prompt_set
from spinal.local import read_prompts

PAIR = {"candidate": "local:dpo-short", "reference": "local:sft"}
CHAT: list[dict[str, str]] = [{"role": "user", "content": "How do I plant a tree?"}]
ANSWERED = [*CHAT, {"role": "assistant", "content": " Dig."}]


def test_chats_are_stored_as_chats_and_audited(api: TestClient, ledger: Ledger, drain: Any) -> None:
    chats = [ANSWERED, [*CHAT, {"role": "assistant", "content": "Why?"}, {"role": "user", "content": "For shade."}]]
    sent = [{"messages": chat} for chat in chats] + [{"prompt": f"question {n}"} for n in range(16)]
    stored = api.post("/v1/prompt-sets", json={"prompts": sent}).json()
    made = read_prompts(sent)  # type: ignore[arg-type]  # records, as in a file
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
