"""What a kind of rule is, and what it may ask."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import Any

from spinal.documents.comparison import ComparisonContent, Outcome
from spinal.documents.policy import LimitRule, Policy, Severity, Side, Waiver
from spinal.policy.values import Sources, Value, read

NAMED = 8
"""Categories or settings of which a reason names so many at most."""


@dataclass(frozen=True)
class Finding:
    """One thing that a rule makes of a comparison. One of outcome ``pass`` is a remark that the verdict carries."""

    outcome: Outcome
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What a rule makes of a comparison, with the value that it looked at where that is a single one."""

    findings: tuple[Finding, ...] = ()
    severity: Severity | None = None
    path: str | None = None
    value: Value | None = None
    unit: str = ""
    bad: Side | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Kind:
    """One kind of rule."""

    name: str
    judge: Callable[[Any, "Context"], Answer]
    """The rule's document and what it may ask -> its answer."""
    values: Callable[[Any], tuple[tuple[str, str, Side, float], ...]]
    """Every limit that a rule sets: the member that names the value, the path, the bad side and the limit."""


@dataclass(frozen=True, eq=False)
class Context:
    """One comparison under one policy."""

    policy: Policy
    sources: Sources
    kinds: Mapping[str, Kind]
    today: date
    """In UTC."""
    _answers: dict[str, Answer] = field(default_factory=dict)

    @property
    def content(self) -> ComparisonContent:
        return self.sources.content

    def answer(self, rule: Any) -> Answer:
        """What a rule of the policy says, whatever its waiver."""
        if rule.name not in self._answers:
            self._answers[rule.name] = self.kinds[rule.kind].judge(rule, self)
        return self._answers[rule.name]

    def holds(self, waiver: Waiver | None) -> bool:
        return waiver is not None and self.today <= waiver.expires

    def read(self, path: str) -> Value:
        return read(path, self.sources)

    def limit_alone(self, path: str, bad: Side) -> float | None:
        """The limit of a rule on that value, if there is one: where it would be found by itself."""
        return next((rule.limit for rule in self._limits if (rule.value, rule.bad) == (path, bad)), None)

    def fails(self, path: str) -> bool:
        """Whether a rule on that one value fails, and counts."""
        return any(
            finding.outcome == "fail"
            for rule in self._limits
            if rule.value == path and not self.holds(rule.waiver)
            for finding in self.answer(rule).findings
        )

    @cached_property
    def _limits(self) -> tuple[LimitRule, ...]:
        return tuple(rule for rule in self.policy.rules if isinstance(rule, LimitRule))
