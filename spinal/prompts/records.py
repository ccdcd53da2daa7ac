"""Records: what one entry of a prompt file says, whichever format the file has."""

import json
from collections.abc import Callable
from typing import Any

from spinal.checkpoints.repetition import without_repetition
from spinal.errors import PromptSetInvalid
from spinal.prompts.sets import Conversation, Message, Prompt, check_text

Pair = tuple[Prompt, str | None]
"""A prompt and its continuation, where it has one."""
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


def read_entry(entry: Any, where: str) -> Pair | None:
    """Prompt and continuation of text, of a record, or of a list of messages; None for a record that has none to use.

    Raises PromptSetInvalid.
    """
    if isinstance(entry, str):
        pair: Pair | None = (entry, None)
    elif isinstance(entry, list | tuple):
        pair = split_conversation(read_messages(list(entry), where))
    elif isinstance(entry, dict):
        pair = _record(entry, where)
    else:
        raise PromptSetInvalid(f"{where}: expected a JSON object or text", hint=EXAMPLE)
    if pair is not None:
        check_text(*pair, where=where)
    return pair


def split_pair(chosen: str, rejected: str) -> tuple[str, str] | None:
    """Prompt and chosen answer of an hh-rlhf pair, or None where the two sides share no prompt."""
    cut = chosen.rfind(ASSISTANT_TURN)
    if cut < 0:
        return None
    cut += len(ASSISTANT_TURN)
    prompt, answer = chosen[:cut], chosen[cut:]
    if rejected[:cut] != prompt or ASSISTANT_TURN in rejected[cut:]:
        return None
    other = rejected[cut:]
    return (prompt, answer) if _can_be_told_apart(answer, other) else None


def split_conversation(messages: Conversation) -> Pair | None:
    """The chat up to the assistant's last turn, which is its continuation; None where nothing comes before it."""
    if messages[-1].role != "assistant":
        return messages, None
    return (messages[:-1], messages[-1].content) if len(messages) > 1 else None


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


def _record(record: dict[str, Any], where: str) -> Pair | None:
    if record.get("tools"):
        raise PromptSetInvalid(
            f"{where}: a chat with 'tools', and only text is read", hint="write the whole prompt out as text"
        )
    for members, read in RECORDS.items():
        if all(isinstance(record.get(member), str | list) for member in members):
            return read(record, where)
    raise PromptSetInvalid(
        f"{where}: needs 'prompt', 'messages', or 'chosen' and 'rejected'; it has "
        f"{', '.join(repr(name) for name in list(record)[:5]) or 'nothing'}",
        hint=EXAMPLE,
    )


def _prompt(record: dict[str, Any], where: str) -> Pair:
    name = "continuation" if record.get("continuation") is not None else "completion"
    continuation = record.get(name)
    if isinstance(continuation, list) and len(continuation) == 1:
        continuation = read_messages(continuation, f"{where}, {name}")[0].content
    if continuation is not None and not isinstance(continuation, str):
        raise PromptSetInvalid(f"{where}: {name!r} must be text")
    prompt = record["prompt"]
    return prompt if isinstance(prompt, str) else read_messages(prompt, where), continuation


def _chat(record: dict[str, Any], where: str) -> Pair | None:
    found = record.get("messages", record.get("conversations"))
    if not isinstance(found, list):
        raise PromptSetInvalid(f"{where}: a chat is a list of messages")
    return split_conversation(read_messages(found, where))


def _preference_pair(record: dict[str, Any], where: str) -> Pair | None:
    chosen, rejected = record["chosen"], record["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str):
        return split_pair(chosen, rejected)
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise PromptSetInvalid(f"{where}: 'chosen' and 'rejected' must both be text, or both messages")
    mine, other = read_messages(chosen, where), read_messages(rejected, where)
    alike = mine[:-1] == other[:-1] and mine[-1].role == other[-1].role == "assistant"
    return split_conversation(mine) if alike and _can_be_told_apart(mine[-1].content, other[-1].content) else None


def _can_be_told_apart(answer: str, other: str) -> bool:
    return bool(answer.strip() and other.strip() and answer.strip() != other.strip())


def _text(record: dict[str, Any], where: str) -> Pair:
    if not isinstance(record["text"], str):
        raise PromptSetInvalid(f"{where}: 'text' must be text")
    return record["text"], None


RECORDS: dict[tuple[str, ...], Callable[[dict[str, Any], str], Pair | None]] = {
    ("prompt",): _prompt,
    ("chosen", "rejected"): _preference_pair,
    ("messages",): _chat,
    ("conversations",): _chat,
    ("text",): _text,
}
"""Members that a record has, as text or as a list -> what it means; None leaves the record out."""
