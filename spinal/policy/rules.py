"""Rules of the release gate: what was found -> a finding, or nothing. One function and one line in ``RULES`` for each.

A rule looks at what a comparison holds and says what it makes of it. None judges a signature: the strongest one among
the checkpoints with a known history belongs to a wrecked model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from spinal.documents.comparison import Damage, Localization, Outcome


@dataclass(frozen=True)
class Facts:
    """What rules may look at."""

    damage: Damage
    localization: Mapping[str, Localization]
    identical: bool
    """Whether both sides hold the same weights."""


@dataclass(frozen=True)
class Finding:
    """What one rule makes of the facts."""

    outcome: Outcome
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Rule:
    """One question of the gate."""

    name: str
    asks: str
    """The question in words, for the contract."""
    judge: Callable[[Facts], Finding | None]


def _damaged(facts: Facts) -> Finding | None:
    if facts.damage.level == "damaged":
        return Finding("fail", ("the candidate looks damaged",))
    if facts.damage.level == "watch":
        return Finding("warn", ("a damage signal is raised",))
    return None


def _unmeasured(facts: Facts) -> Finding | None:
    """Damage cannot be ruled out where a signal that votes has no value."""
    reasons = tuple(
        f"{name} could not be measured ({signal.reason}), so damage cannot be ruled out"
        for name, signal in facts.damage.signals.items()
        if signal.watch is not None and signal.value is None
    )
    return Finding("inconclusive", reasons) if reasons else None


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("damage", "does the candidate still work?", _damaged),
        Rule("damage_measured", "was every damage signal that votes measured?", _unmeasured),
    )
}
"""By name, in the order in which they are asked."""
