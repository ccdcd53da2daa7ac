"""Whether a webhook wants to be told of an event: decided by values alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.deliveries.events import TYPES

TEST = "webhook.test"
EVERY = "*"
NAMED = tuple(name for name in TYPES if name != TEST)
"""Types that a webhook may ask for; of a test it is told because somebody asked for that test."""
GROUPS = tuple(dict.fromkeys(f"{name.partition('.')[0]}.{EVERY}" for name in NAMED))
PATTERNS = (*NAMED, *GROUPS, EVERY)
VERDICTS = ("pass", "warn", "fail", "inconclusive")


@dataclass(frozen=True)
class Facts:
    """What filters look at of an audit or a series."""

    labels: Mapping[str, str] = field(default_factory=dict)
    models: Sequence[str] = ()
    """As they were named: candidate and reference; of a series its reference."""
    verdict: str | None = None


def covers(pattern: str, kind: str) -> bool:
    """Whether ``audit.failed``, ``audit.*`` or ``*`` names the type of an event."""
    return pattern in (kind, EVERY) or (pattern.endswith(f".{EVERY}") and kind.startswith(pattern[:-1]))


def wants(events: Sequence[str], filters: Mapping[str, Any], kind: str, facts: Facts) -> bool:
    """``verdicts`` narrows audits alone: one without a verdict has none of them, and series are told of. Of ``models``
    one has to be among the event's, and all ``labels`` have to be."""
    if not any(covers(pattern, kind) for pattern in events):
        return False
    verdicts, models, labels = filters.get("verdicts"), filters.get("models"), filters.get("labels") or {}
    if verdicts and kind.startswith("audit.") and facts.verdict not in verdicts:
        return False
    if models and not set(models) & set(facts.models):
        return False
    return all(facts.labels.get(key) == value for key, value in labels.items())
