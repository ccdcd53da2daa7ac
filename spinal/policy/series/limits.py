"""Damage limits at each step: what a member's own verdict found beyond a limit on a damage value."""

from collections.abc import Sequence
from dataclasses import dataclass

from spinal.documents.comparison import RuleOutcome, Verdict
from spinal.documents.policy import Policy

OF_DAMAGE = ("damage.", "categories.")
"""How paths of damage values begin."""


@dataclass(frozen=True)
class AtStep:
    """What the limits of one member say."""

    beyond: tuple[RuleOutcome, ...]
    """Rules that fail it for damage, and count."""
    waived: tuple[RuleOutcome, ...]
    """Those that would, and are waived: told, and counted for nothing."""
    open: tuple[RuleOutcome, ...]
    """Those that have no answer."""
    within: frozenset[str] = frozenset()
    """Names of those that have one and find nothing to fail it for."""
    limited: bool = True
    """Whether any rule could fail it for damage."""


def limits_at(verdict: Verdict, policy: Policy) -> AtStep:
    """Sort the damage rules of a verdict: limits and agreements on damage values, and the damage panel itself."""
    panels = {rule.name for rule in policy.rules if rule.kind == "panel"}
    of_one_value = {rule.name for rule in policy.rules if rule.kind == "limit"}
    asked = [
        rule
        for rule in verdict.rules
        if rule.rule in panels or (rule.path is not None and rule.path.startswith(OF_DAMAGE))
    ]
    return AtStep(
        beyond=tuple(rule for rule in asked if rule.outcome == "fail"),
        waived=tuple(rule for rule in asked if rule.outcome != "fail" and _would_fail(rule)),
        open=tuple(rule for rule in asked if rule.outcome == "inconclusive"),
        within=frozenset(rule.rule for rule in asked if _answered(rule, of_one_value) and not _would_fail(rule)),
        limited=any(rule.rule in panels or rule.severity != "warn" for rule in asked),
    )


def _would_fail(rule: RuleOutcome) -> bool:
    """Whether it fails the member, or would but for a waiver."""
    return rule.outcome == "fail" or (rule.waived is not None and rule.waived.would_be == "fail")


def _answered(rule: RuleOutcome, of_one_value: set[str]) -> bool:
    """A policy may let pass what was not measured: that is no answer."""
    return rule.outcome != "inconclusive" and (rule.value is not None or rule.rule not in of_one_value)


def waived_in(limits: Sequence[AtStep]) -> frozenset[str]:
    """Names of the rules that fail no member for being waived."""
    waived = {rule.rule for at in limits for rule in at.waived}
    return frozenset(waived - {rule.rule for at in limits for rule in at.beyond})


def signal_of(rule: RuleOutcome) -> str:
    """What an alarm on that rule is about: the signal, the category's value, or the rule where it is on many."""
    return rule.rule if rule.path is None else rule.path.removeprefix("damage.")
