"""A hub of models: webhooks that carry their secret as it is, without id, time or signature.

Whoever has seen one event can send it again: an event is known by repository, branches and commits, so that nothing
comes of that but a look at what was refused before.
"""

import hmac
import random
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from service.integrations.adapters.base import (
    Adapter,
    Headers,
    Missed,
    Sign,
    Told,
    members_of,
    refuse,
    text_of,
    whole_or_missed,
)
from service.registries import Registry
from spinal.checkpoints.sources.reach import Reach
from spinal.documents.canonical import digest_of
from spinal.errors import ModelNotFound, RequestInvalid, SourceUnavailable

SECRET = "X-Webhook-Secret"  # noqa: S105  the name of a header
MAIN = "main"
REF = re.compile(r"refs/(?:heads|tags)/(.{1,200})")
COMMIT = re.compile(r"[0-9a-f]{40}")
MOST_REFS = 100


def _verify(headers: Headers, _body: bytes, secrets: Sequence[str], _now: float) -> None:
    sent = headers.get(SECRET)
    if not sent:
        raise refuse("absent", f"the header {SECRET} is missing", "give the webhook a secret")
    # As it came: HTTP knows no encoding of headers.
    given = sent.encode("latin-1", "replace")
    if not any([hmac.compare_digest(secret.encode(), given) for secret in secrets]):  # noqa: C419  all of them
        raise refuse("wrong", "the secret is none of this registry", "give both sides the same secret")


def _read(_headers: Headers, body: bytes, document: dict[str, Any]) -> Told:
    event, repo = members_of(document, "event"), members_of(document, "repo")
    scope, action = text_of(event, "scope", "/event"), text_of(event, "action", "/event")
    kind = f"{scope}.{action}"
    updated = document.get("updatedRefs")
    if repo.get("type") != "model" or not scope.startswith("repo") or not updated:
        # Two of them that are the same word for word are the same to us: nothing comes of either.
        return Told(digest_of({"body": body.decode("utf-8", "replace")}), kind, ignored="no commit of a model is in it")
    model = text_of(repo, "name", "/repo")
    moved = sorted(_moved(updated))
    signs = []
    for name, commit in moved:
        signs.append(Sign(model, commit, "alias", name))
        if name == MAIN:
            signs.append(Sign(model, commit, "created"))
    ignored = None if signs else "no branch or tag has come to a commit"
    return Told(
        digest_of([model, [list(each) for each in moved]]), kind, tuple(signs), by_content=True, ignored=ignored
    )


def _moved(updated: object) -> Iterator[tuple[str, str]]:
    """Branches and tags with the commits that they came to."""
    if not isinstance(updated, list) or len(updated) > MOST_REFS:
        raise RequestInvalid(f"/updatedRefs: not a list of at most {MOST_REFS}", hint="send what the hub sends")
    for each in updated:
        ref, commit = (each.get("ref"), each.get("newSha")) if isinstance(each, dict) else (None, None)
        named = REF.fullmatch(ref) if isinstance(ref, str) and ref.isprintable() else None
        if named is not None and isinstance(commit, str) and COMMIT.fullmatch(commit):
            yield named[1], commit


def _look(registry: Registry, reach: Reach, deadline: float) -> Iterator[Sign | Missed]:
    """Of rules that name one repository: what others mean, a hub does not list."""
    asked = {(rule.model, name) for rule in registry.rules if "*" not in rule.model for name in rule.aliases or (MAIN,)}
    # In another order each time: where the time runs out, not always the same ones are left out.
    for model, name in random.sample(sorted(asked), len(asked)):
        # Each has a time of its own beside: the last one may end that much later.
        if time.monotonic() > deadline:
            raise SourceUnavailable("the hub did not tell of all that it was asked for in the time of one poll")
        yield from whole_or_missed(model, _at(reach, model, name))


def _at(reach: Reach, model: str, name: str) -> Iterator[Sign]:
    try:
        commit = reach.pin(f"hf:{model}@{name}").revision
    except ModelNotFound:
        return
    if commit is not None:
        yield Sign(model, commit, "alias", name)
        if name == MAIN:
            yield Sign(model, commit, "created")


HUGGINGFACE = Adapter(_verify, _read, _look)
