"""What an adapter says of an event: whether it is its registry's, and which versions it is about."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from service.registries import Registry, Rule
from spinal.checkpoints.sources.reach import Reach
from spinal.errors import RequestInvalid, SignatureInvalid, SourceUnavailable, SpinalError, UsageError

MOST_NAME = 256
Headers = Mapping[str, str]
"""Names are found whatever their case."""
By = Literal["created", "alias", "tag", "stage"]


@dataclass(frozen=True)
class Sign:
    """Something about one version by which a rule may choose it."""

    model: str
    version: str
    by: By
    name: str = ""
    """Of the alias, the tag or the stage."""
    value: str = ""
    """Of the tag."""

    def is_chosen_by(self, rule: Rule) -> bool:
        if not rule.names(self.model):
            return False
        if rule.aliases:
            return self.by == "alias" and self.name in rule.aliases
        if rule.tags:
            return self.by == "tag" and rule.tags.get(self.name) == self.value
        if rule.stage is not None:
            return self.by == "stage" and self.name == rule.stage
        return self.by == "created"


@dataclass(frozen=True)
class Missed:
    """A model that could not be looked at, of a registry that answers."""

    model: str
    error: SpinalError


OF_ALL = (SourceUnavailable, UsageError)
"""What is wrong with a registry as a whole, or with the operator's own files: other models are not asked for then."""


def whole_or_missed(model: str, signs: Iterable[Sign]) -> Iterator[Sign | Missed]:
    """All ``signs`` of a model, or that it was missed: what ends in the midst of them is not kept by half. Raises what
    is wrong with the whole registry."""
    try:
        found = list(signs)
    except OF_ALL:
        raise
    except SpinalError as error:
        yield Missed(model, error)
        return
    yield from found


@dataclass(frozen=True)
class Told:
    """An event that was read."""

    delivery: str
    """By which the same event is known when it comes again."""
    type: str
    signs: tuple[Sign, ...] = ()
    by_content: bool = False
    """Whether ``delivery`` is made of what the event says, so that the same may come in other words."""
    test: bool = False
    """Whether somebody only tries whether we are there."""
    ignored: str | None = None
    """Why nothing can come of it."""


@dataclass(frozen=True)
class Adapter:
    verify: Callable[[Headers, bytes, Sequence[str], float], None]
    """Of headers, body, secrets and the time: whether one of the secrets signed it. Raises SignatureInvalid."""
    read: Callable[[Headers, bytes, dict[str, Any]], Told]
    """Of an event that is verified: what it says. Raises RequestInvalid."""
    look: Callable[[Registry, Reach, float], Iterable[Sign | Missed]] | None = None
    """Of a registry, the reach of its tenant and a deadline (``time.monotonic``): everything by which its rules may
    choose a version now, and what could not be looked at. Raises SpinalError where that is so of the whole registry,
    and SourceUnavailable behind the deadline."""


def refuse(reason: Literal["absent", "malformed", "wrong", "stale"], detail: str, hint: str) -> SignatureInvalid:
    """The refusal of an event; ``reason`` is for machines."""
    return SignatureInvalid(detail, hint=hint, reason=reason)


def text_of(document: Mapping[str, Any], name: str, where: str = "") -> str:
    """A member that names something. Raises RequestInvalid."""
    found = document.get(name)
    if not isinstance(found, str) or not 0 < len(found) <= MOST_NAME or not found.isprintable():
        raise RequestInvalid(
            f"{where}/{name}: not a text of 1 to {MOST_NAME} printable characters", hint="send what the registry sends"
        )
    return found


def members_of(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A member that is an object. Raises RequestInvalid."""
    found = document.get(name)
    if not isinstance(found, dict):
        raise RequestInvalid(f"/{name}: not an object", hint="send what the registry sends")
    return found
