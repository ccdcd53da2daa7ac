"""The verdict: the worst finding decides, and the default policy says what it said before its rules were a table."""

from itertools import product

import pytest

from spinal.documents.comparison import Damage, DamageSignal, Localization
from spinal.policy.decide import decide
from spinal.policy.rules import RULES, Facts, Finding, Outcome, Rule

NOWHERE = Localization(
    center=None, spread=None, window50=None, window80=None, gini=None, effective_blocks=None, terminal_share=None,
    terminal_share_null=0.3, peak=None, ci={}, reason="no_detectable_change",
)  # fmt: skip
PLACED = NOWHERE.model_copy(update={"window80": (3, 7), "center": 0.5, "reason": None})
LEVELS = ("none", "watch", "damaged")


def signal(value: float | None, level: str | None, *, votes: bool = True) -> DamageSignal:
    return DamageSignal(
        value=value,
        watch=0.25 if votes else None,
        damaged=0.4 if votes else None,
        level=level,
        unit="u",
        reason="not_measured" if value is None else None,
    )


def facts(level: str, first: str | None, *, shown: bool, place: Localization, identical: bool) -> Facts:
    signals = {
        "one": signal(None if first is None else 0.5, first),
        "two": signal(0.3, "watch" if level != "none" else "none"),
        "shown": signal(1.0 if shown else None, None, votes=False),
    }
    damage = Damage(level=level, signals=signals, calibration="c")
    return Facts(damage, {"block_swap": place}, identical)


def before(damage: Damage, block_swap: Localization, *, identical: bool) -> tuple[str, tuple[str, ...]]:
    """The gate as one function, as it was until it became a table of rules."""
    raised = tuple(
        f"{name} = {signal.value:.4g} {signal.unit} is at '{signal.level}'"
        for name, signal in damage.signals.items()
        if signal.value is not None and signal.level in ("watch", "damaged")
    )
    unmeasured = tuple(
        f"{name} could not be measured ({signal.reason}), so damage cannot be ruled out"
        for name, signal in damage.signals.items()
        if signal.watch is not None and signal.value is None
    )
    if identical:
        where = "both sides hold the same weights: there is no change to place"
    elif block_swap.window80 is None:
        where = "no block computes anything else than in the reference"
    else:
        where = "80% of the change in what blocks compute sits in blocks 3-7 (shown, not judged)"
    if damage.level == "damaged":
        return "fail", ("the candidate looks damaged", *raised, where)
    if unmeasured:
        return "inconclusive", (*unmeasured, *raised, where)
    if damage.level == "watch":
        return "warn", ("a damage signal is raised", *raised, where)
    return "pass", ("the damage panel is quiet", where)


def test_the_default_policy_says_what_it_always_said() -> None:
    for level, first, shown, place, identical in product(
        LEVELS, (*LEVELS, None), (True, False), (NOWHERE, PLACED), (True, False)
    ):
        if level == "none" and first in ("watch", "damaged"):
            continue  # the panel's level is at least that of its signals
        given = facts(level, first, shown=shown, place=place, identical=identical)
        found = decide(given)
        assert (found.outcome, found.reasons) == before(given.damage, place, identical=identical), given


@pytest.mark.parametrize(("reason", "said"), [(None, "not measured"), ("insufficient_rank", "insufficient rank")])
def test_a_place_that_was_not_measured_says_why(reason: str | None, said: str) -> None:
    place = NOWHERE.model_copy(update={"reason": reason})
    found = decide(facts("none", "none", shown=True, place=place, identical=False))
    assert found.reasons[-1] == f"whether and where blocks compute something else was not measured ({said})"


def test_rules_are_called_as_the_contract_calls_them() -> None:
    assert {rule.name: rule.asks for rule in RULES.values()} == {
        "damage": "does the candidate still work?",
        "damage_measured": "was every damage signal that votes measured?",
    }


@pytest.mark.parametrize("added", ["fail", "inconclusive", "warn", "pass"])
def test_the_worst_finding_decides(added: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "added", Rule("added", "?", lambda _facts: Finding(added, ("added",))))
    order = ["fail", "inconclusive", "warn", "pass"]
    for level, first in (("damaged", "none"), ("none", None), ("watch", "none"), ("none", "none")):
        given = facts(level, first, shown=True, place=PLACED, identical=False)
        alone = before(given.damage, PLACED, identical=False)[0]
        found = decide(given)
        assert found.outcome == min(added, alone, key=order.index)
        assert ("added" in found.reasons) == (found.outcome == added)
