"""Records: what one entry of a prompt file says, whichever format the file has."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from spinal.checkpoints.repetition import without_repetition
from spinal.errors import PromptSetInvalid
from spinal.prompts.sets import Conversation, Message, Prompt, check_further, check_text


@dataclass(frozen=True)
class Entry:
    """A prompt, and what is known of it."""

    prompt: Prompt
    continuation: str | None = None
    """Its own continuation: of a pair, the answer that was preferred."""
    rejected: str | None = None
    """The answer that was not."""
    refusals: tuple[str, ...] = ()
    """Openings of an answer that would be a refusal."""
    category: str | None = None
    """What it is an example of; never blank."""


BESIDE = ("continuation", "completion", "rejected", "refusal", "category")
"""Members that are read of a record beside those that make it one."""
ASSISTANT_TURN = "\n\nAssistant:"
ROLES = {"human": "user", "gpt": "assistant"}
"""Names of roles in ``conversations`` -> those of ``messages``."""
EXAMPLE = 'for example {"prompt": "How do I reset a password?"}'


def parse_json(text: str, where: str) -> Any:
    """The JSON value in ``text``; raises PromptSetInvalid."""
    try:
        return json.loads(text, object_pairs_hook=without_repetition)
    except RecursionError as error:
        raise PromptSetInvalid(f"{where}: nested too deeply", hint="one JSON object a line") from error
    except ValueError as error:
        raise PromptSetInvalid(f"{where}: not JSON ({error})", hint="one JSON object a line") from error


def read_entry(entry: Any, where: str) -> Entry | None:
    """Prompt and continuation of text, of a record, or of a list of messages; None for a record that has none to use.

    Raises PromptSetInvalid.
    """
    if isinstance(entry, str):
        found: Entry | None = Entry(entry)
    elif isinstance(entry, list | tuple):
        found = split_conversation(read_messages(list(entry), where))
    elif isinstance(entry, dict):
        found = _record(entry, where)
    else:
        raise PromptSetInvalid(f"{where}: expected a JSON object or text", hint=EXAMPLE)
    if found is not None:
        check_text(found.prompt, found.continuation, where=where)
        check_further(found.rejected, found.refusals, found.category, where=where)
    return found


def split_pair(chosen: str, rejected: str) -> Entry | None:
    """Prompt and both answers of an hh-rlhf pair, or None where the two sides share no prompt."""
    cut = chosen.rfind(ASSISTANT_TURN)
    if cut < 0:
        return None
    cut += len(ASSISTANT_TURN)
    prompt, answer = chosen[:cut], chosen[cut:]
    if rejected[:cut] != prompt or ASSISTANT_TURN in rejected[cut:]:
        return None
    other = rejected[cut:]
    return Entry(prompt, answer, other) if _can_be_told_apart(answer, other) else None


def split_conversation(messages: Conversation) -> Entry | None:
    """The chat up to the assistant's last turn, which is its continuation; None where nothing comes before it."""
    if messages[-1].role != "assistant":
        return Entry(messages)
    return Entry(messages[:-1], messages[-1].content) if len(messages) > 1 else None


def read_messages(entries: list[Any], where: str) -> Conversation:
    """Messages with ``role`` and ``content``, or ``from`` and ``value``; raises PromptSetInvalid."""
    if not entries:
        raise PromptSetInvalid(f"{where}: a chat without messages", hint="remove it")
    return tuple(_message(entry, f"{where}, message {number}") for number, entry in enumerate(entries, start=1))


def _message(entry: Any, where: str) -> Message:
    if isinstance(entry, dict):
        _require_text(entry, where)
        role = entry.get("role", entry.get("from"))
        content = _content(entry.get("content", entry.get("value")))
        if isinstance(role, str) and content is not None:
            return Message(ROLES.get(role, role), content)
    raise PromptSetInvalid(
        f"{where}: needs 'role' and 'content' as text", hint='for example {"role": "user", "content": "Hello"}'
    )


def _require_text(message: dict[str, Any], where: str) -> None:
    """Refuse what a template would write out, or a model see, beside the text: without it another prompt is read."""
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    kinds = [part.get("type") for part in parts if isinstance(part, dict)]
    other = next((kind for kind in kinds if kind != "text"), None)
    if other is not None or message.get("tool_calls") or message.get("function_call"):
        what = "calls a tool" if other is None else f"holds a part of type {str(other)[:40]!r}"
        raise PromptSetInvalid(f"{where}: {what}, and only text is read", hint="write the whole prompt out as text")


def _content(content: Any) -> str | None:
    """Text, or the text of parts that are all text."""
    if (
        isinstance(content, list)
        and content
        and all(isinstance(part, dict) and part.get("type") == "text" for part in content)
    ):
        texts = [part.get("text") for part in content]
        return "".join(texts) if all(isinstance(text, str) for text in texts) else None
    return content if isinstance(content, str) else None


def _record(record: dict[str, Any], where: str) -> Entry | None:
    if record.get("tools"):
        raise PromptSetInvalid(
            f"{where}: a chat with 'tools', and only text is read", hint="write the whole prompt out as text"
        )
    for members, read in RECORDS.items():
        if all(isinstance(record.get(member), str | list) for member in members):
            found = read(record, where)
            refusals, category = _refusals(record, where), _category(record, where)
            return None if found is None else replace(found, refusals=refusals, category=category)
    raise PromptSetInvalid(
        f"{where}: needs 'prompt', 'messages', or 'chosen' and 'rejected'; it has "
        f"{', '.join(repr(name) for name in list(record)[:5]) or 'nothing'}",
        hint=EXAMPLE,
    )


def _category(record: dict[str, Any], where: str) -> str | None:
    category = record.get("category")
    if isinstance(category, int) and not isinstance(category, bool):
        # Tables of labels number their kinds.
        category = str(category)
    if category is not None and not isinstance(category, str):
        raise PromptSetInvalid(f"{where}: 'category' must be text")
    return (category or "").strip() or None


def _refusals(record: dict[str, Any], where: str) -> tuple[str, ...]:
    given = record.get("refusal")
    openings = [given] if isinstance(given, str) else given or []
    if not isinstance(openings, list) or not all(isinstance(opening, str) for opening in openings):
        raise PromptSetInvalid(f"{where}: 'refusal' must be text, or a list of texts")
    return tuple(dict.fromkeys(opening for opening in openings if opening.strip()))


def _prompt(record: dict[str, Any], where: str) -> Entry:
    given = record["prompt"]
    prompt = given if isinstance(given, str) else read_messages(given, where)
    name = "continuation" if record.get("continuation") is not None else "completion"
    continuation = record.get(name)
    if isinstance(continuation, list) and len(continuation) == 1:
        continuation = read_messages(continuation, f"{where}, {name}")[0].content
    if continuation is not None and not isinstance(continuation, str):
        raise PromptSetInvalid(f"{where}: {name!r} must be text")
    chosen, rejected = (_answer(prompt, record.get(side), f"{where}, {side}") for side in ("chosen", "rejected"))
    if continuation is None:
        continuation = chosen
    elif record.get("chosen") is not None and chosen != continuation:
        # The rejected answer is the other half of a pair, and this is none of its halves.
        return Entry(prompt, continuation)
    if rejected is None or not _can_be_told_apart(continuation or "", rejected):
        return Entry(prompt, continuation)
    return Entry(prompt, continuation, rejected)


def _answer(prompt: Prompt, side: Any, where: str) -> str | None:
    """The answer in one side of a pair beside its prompt: text, or a chat that ends with the assistant; with the prompt
    before it or alone. None for anything else, which says nothing of this prompt."""
    if isinstance(side, str):
        return side.removeprefix(prompt) if isinstance(prompt, str) else side
    if not isinstance(side, list) or not side:
        return None
    *before, last = read_messages(side, where)
    asked = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    return last.content if last.role == "assistant" and tuple(before) in ((), asked) else None


def _chat(record: dict[str, Any], where: str) -> Entry | None:
    found = record.get("messages", record.get("conversations"))
    if not isinstance(found, list):
        raise PromptSetInvalid(f"{where}: a chat is a list of messages")
    return split_conversation(read_messages(found, where))


def _preference_pair(record: dict[str, Any], where: str) -> Entry | None:
    chosen, rejected = record["chosen"], record["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str):
        return split_pair(chosen, rejected)
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise PromptSetInvalid(f"{where}: 'chosen' and 'rejected' must both be text, or both messages")
    mine, other = read_messages(chosen, where), read_messages(rejected, where)
    alike = mine[:-1] == other[:-1] and mine[-1].role == other[-1].role == "assistant"
    found = split_conversation(mine) if alike and _can_be_told_apart(mine[-1].content, other[-1].content) else None
    return None if found is None else replace(found, rejected=other[-1].content)


def _can_be_told_apart(answer: str, other: str) -> bool:
    return bool(answer.strip() and other.strip() and answer.strip() != other.strip())


def _text(record: dict[str, Any], where: str) -> Entry:
    if not isinstance(record["text"], str):
        raise PromptSetInvalid(f"{where}: 'text' must be text")
    return Entry(record["text"])


RECORDS: dict[tuple[str, ...], Callable[[dict[str, Any], str], Entry | None]] = {
    ("prompt",): _prompt,
    ("chosen", "rejected"): _preference_pair,
    ("messages",): _chat,
    ("conversations",): _chat,
    ("text",): _text,
}
"""Members that a record has, as text or as a list -> what it means; None leaves the record out."""
