"""Prompt sets that a service stores: what it takes, what it calls them, and how they are written on the way."""

import json
import re
from pathlib import PurePath
from typing import Any

from spinal.errors import PromptSetInvalid
from spinal.prompts.builtin import BUILTIN_SETS, is_builtin
from spinal.prompts.sets import Conversation, Prompt, PromptSet, prompt_to_json

MAX_PROMPTS = 10_000
MAX_TEXT = 200_000
"""Characters of a prompt, of a message, and of an answer."""
MAX_MESSAGES, MAX_ROLE = 1_000, 100
"""Messages of a chat, and characters of the name of a role."""
MAX_NAME = 128
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
DIGEST = re.compile(r"[0-9a-f]{64}\Z")
LINES = ("application/jsonl", "application/x-ndjson", "application/x-jsonlines")
"""Media types of JSON lines, none of which is registered; the first is the one that we send."""


def check_storable(prompts: PromptSet) -> None:
    """Whether a service takes the set; raises PromptSetInvalid, naming the prompt."""
    if len(prompts) > MAX_PROMPTS:
        raise PromptSetInvalid(
            f"{len(prompts)} prompts, and at most {MAX_PROMPTS} are stored as one set", hint="store a part of them"
        )
    for number in range(len(prompts)):
        one = prompts.chosen([number])
        texts = [
            *_texts(one.prompts[0]),
            *one.continuations,
            *one.rejected,
            *(o for group in one.refusals for o in group),
        ]
        for text in filter(None, texts):
            # Postgres keeps no NUL in JSON; other control characters are legitimate in prompts.
            if len(text) > MAX_TEXT or "\0" in text:
                what = (
                    "NUL, which cannot be stored" if "\0" in text else f"{len(text)} characters, at most {MAX_TEXT} go"
                )
                raise PromptSetInvalid(f"prompt {number + 1}: a text with {what}", hint="change or remove it")


def check_name(name: str | None, prompts: PromptSet) -> None:
    """Whether the set can be found by that name; raises PromptSetInvalid. A built-in set keeps its own, and what looks
    like a digest is one."""
    if name is None:
        return
    if len(name) > MAX_NAME or NAME.match(name) is None:
        raise PromptSetInvalid(
            f"{name[:MAX_NAME]!r} is no name of a prompt set",
            hint=f"up to {MAX_NAME} letters, digits, '.', '_' and '-', beginning with a letter or digit",
        )
    taken = name in BUILTIN_SETS and not is_builtin(prompts.chosen(range(len(prompts)), name))
    if taken or DIGEST.match(name):
        said = "is that of a built-in set with other prompts" if taken else "would be read as a digest"
        raise PromptSetInvalid(f"the name {name} {said}", hint="choose another name")


def name_of_file(name: str) -> str | None:
    """What a set from a file is called where nobody says otherwise; None where nothing of the name is left.

    Examples
    --------
    >>> name_of_file("our prompts (v2).jsonl.gz")
    'our-prompts-v2'
    """
    stem = PurePath(name.removesuffix(".gz")).stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:MAX_NAME] or None


def to_lines(prompts: PromptSet) -> bytes:
    """JSON lines from which :func:`spinal.prompts.formats.parse_prompts` reads the same set, digest and all."""
    lines = (json.dumps(record, ensure_ascii=False, separators=(",", ":")) for record in records(prompts))
    return "".join(line + "\n" for line in lines).encode()


def records(prompts: PromptSet) -> list[dict[str, Any]]:
    """One record for each prompt, with what is known of it."""
    return [_record(prompts.chosen([number])) for number in range(len(prompts))]


def _record(one: PromptSet) -> dict[str, Any]:
    prompt = one.prompts[0]
    found: dict[str, Any] = {"prompt": prompt_to_json(prompt), "continuation": one.continuations[0]}
    if one.rejected and (rejected := one.rejected[0]) is not None:
        # A side of a pair may begin with its prompt, which is then no part of the answer: so it is put there.
        found["rejected"] = prompt + rejected if isinstance(prompt, str) else _answered(prompt, rejected)
    if one.refusals and one.refusals[0]:
        found["refusal"] = list(one.refusals[0])
    if one.categories and one.categories[0] is not None:
        found["category"] = one.categories[0]
    return {name: value for name, value in found.items() if value is not None}


def _answered(chat: Conversation, answer: str) -> list[dict[str, str]]:
    return [*prompt_to_json(chat), {"role": "assistant", "content": answer}]


def _texts(prompt: Prompt) -> list[str]:
    if isinstance(prompt, str):
        return [prompt]
    if len(prompt) > MAX_MESSAGES or any(len(message.role) > MAX_ROLE for message in prompt):
        raise PromptSetInvalid(
            f"a chat has at most {MAX_MESSAGES} messages, and a role at most {MAX_ROLE} characters",
            hint="shorten it, or leave it out",
        )
    return [part for message in prompt for part in message]
