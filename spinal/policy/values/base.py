"""What a rule may ask for: a value with its interval, and how it is listed."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spinal.documents.base import Estimate
from spinal.documents.comparison import ComparisonContent, DamageSignal

Interval = tuple[float, float]
OF_THAT_RELEASE = "not in comparisons of that release"
NORMAL = 1.959964
"""Half a 95% interval of a normal variable, in standard errors."""


@dataclass(frozen=True)
class Value:
    """What a comparison holds at one path. Without a value there is a ``reason``."""

    value: float | None
    ci: Interval | None = None
    se: float | None = None
    reason: str | None = None
    of: str | None = None
    """What it is about where that is one of many."""
    asked: bool = True
    """False where profile, prompts, model or caller give no such value: nothing failed."""
    signal: DamageSignal | None = None
    """The signal of the damage panel that it is, if any: it has a sentence of its own."""

    @property
    def error(self) -> float | None:
        """Its standard error, or that of a normal variable with its interval."""
        if self.se is not None or self.ci is None:
            return self.se
        return (self.ci[1] - self.ci[0]) / 2.0 / NORMAL


@dataclass(frozen=True)
class Named:
    """A path, or a family of them with ``<...>`` for what differs, as the list of values shows it."""

    path: str
    means: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    """The range in which it can lie."""
    neutral: float = 0.0
    """The value of a candidate that is its reference."""


@dataclass(frozen=True)
class Sources:
    """What values are read from."""

    content: ComparisonContent
    former: ComparisonContent | None = None


@dataclass(frozen=True)
class Namespace:
    """Paths that begin alike."""

    name: str
    listed: Callable[[], Sequence[Named]]
    """Every path or family, for people."""
    find: Callable[[str], Named | None]
    """The one that the rest of a path names, if it names one."""
    read: Callable[[Sources, str], Value]
    """The value there, of a path that :attr:`find` knows."""


def absent(reason: str, *, asked: bool = False) -> Value:
    """No value, with why."""
    return Value(None, reason=reason, asked=asked)


def of_estimate(estimate: Estimate) -> Value:
    """An estimate of a document as a value."""
    return Value(estimate.value, estimate.ci, estimate.se, estimate.reason)


def exactly(value: float) -> Value:
    """What was counted or read, and knows no sampling."""
    return Value(value, (value, value), 0.0)


def by_name(
    prefix: str, members: dict[str, Named]
) -> tuple[Callable[[], Sequence[Named]], Callable[[str], Named | None]]:
    """:attr:`Namespace.listed` and :attr:`Namespace.find` of a fixed set of members."""
    assert all(named.path == f"{prefix}.{member}" for member, named in members.items())
    return (lambda: tuple(members.values())), members.get
