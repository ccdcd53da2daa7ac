"""The verdict: the worst finding decides, its reasons come first, and every verdict says what it does not cover."""

from functools import cache
from typing import Any, Literal

import pytest

from spinal.analysis.damage.panel import agreed
from spinal.analysis.damage.signals import measured, unmeasured
from spinal.documents.account import Account, PlacePart, configuration_carries
from spinal.documents.base import Estimate
from spinal.documents.comparison import (
    Comparison,
    Damage,
    DamageSignal,
    Looked,
    Outcome,
    RuleOutcome,
    SettingDifference,
    Statement,
    Verdict,
)
from spinal.documents.policy import LimitRule, Policy
from spinal.policy.decide import POLICY, decide, judged
from spinal.policy.shipped import default_policy
from tests.support.fabricated import changed_pair, identical_pair

SAID = Statement(about="block_swap", kind="band", text="blocks 3-7 compute something else")
WORST_FIRST = ["fail", "inconclusive", "warn", "pass"]
ONLY_THESE = "only the given prompts were looked at"


@cache
def made() -> Comparison:
    return changed_pair().compare()


def of(signals: dict[str, DamageSignal], **changes: Any) -> Comparison:
    """A comparison with these signals, one sentence on where, and what else is given."""
    damage = Damage(level=agreed(signals), signals=signals, calibration="c")
    return made().model_copy(update={"damage": damage, "statements": (SAID,), **changes})


def at(value: float) -> dict[str, DamageSignal]:
    return {"nll_change": measured("nll_change", value, (value, value), n=32)}


GIVEN: dict[Outcome, Comparison] = {
    "fail": of(at(2.0)),
    "inconclusive": of({"nll_change": unmeasured("nll_change", "not_measured")}),
    "warn": of(at(0.5)),
    "pass": of(at(0.1)),
}


@pytest.mark.parametrize("outcome", WORST_FIRST)
def test_each_outcome_has_its_comparison(outcome: Outcome) -> None:
    found = decide(GIVEN[outcome])
    assert (found.outcome, found.policy) == (outcome, "spinal-default/2")
    assert [rule.rule for rule in found.rules] == [rule.name for rule in default_policy().rules]
    assert min((rule.outcome for rule in found.rules), key=WORST_FIRST.index) == outcome
    assert found.decided_by == (None if outcome == "pass" else "nll_change")


@pytest.mark.parametrize("added", WORST_FIRST)
@pytest.mark.parametrize("alone", WORST_FIRST)
def test_the_worst_finding_decides_and_is_said_first(added: Outcome, alone: Outcome) -> None:
    """A rule more, on a value that there is, or without one where it is to be inconclusive."""
    value = "damage.entropy_change" if added == "inconclusive" else "blocks.changed"
    severity: Literal["fail", "warn"] = "warn" if added == "warn" else "fail"
    limit = 1e9 if added == "pass" else 1.0
    rule = LimitRule(name="added", value=value, bad="above", limit=limit, severity=severity)
    default = default_policy()
    found = decide(GIVEN[alone], default.model_copy(update={"rules": (*default.rules, rule)}))
    assert found.outcome == min(added, alone, key=WORST_FIRST.index)
    assert found.rules[-1].outcome == added
    if added != "pass":
        assert any(value in reason for reason in found.reasons)
    if WORST_FIRST.index(added) < WORST_FIRST.index(alone):
        assert (value in found.reasons[0], found.decided_by) == (True, "added")
    if alone != "pass" and WORST_FIRST.index(alone) <= WORST_FIRST.index(added):
        assert (found.reasons[0] in found.rules[0].reasons, found.decided_by) == (True, "nll_change")
    assert (found.reasons[0] == default.quiet) == (found.outcome == "pass")


def test_every_verdict_says_what_was_not_looked_at_after_its_reasons() -> None:
    alone = LimitRule(name="alone", value="damage.nll_change", bad="above", limit=1.0, severity="fail")
    for policy in (None, Policy(name="alone/1", rules=(alone,))):
        for given in GIVEN.values():
            reasons = decide(given, policy).reasons
            at = [number for number, reason in enumerate(reasons) if reason.startswith(ONLY_THESE)]
            assert at == [len(reasons) - 2]


def test_categories_without_enough_scored_prompts_are_named() -> None:
    looked = tuple(
        Looked(category=category, prompts=n, scored=scored, swapped=0, accounted=0, continued=0)
        for category, n, scored in (("en", 64, 64), ("ru", 8, 0), ("de", 5, 4), ("fr", 5, 5), (None, 9, 0))
    )
    found = decide(of(at(0.1), looked_at=looked))
    named = [reason for reason in found.reasons if "categories not looked at" in reason]
    assert named == [
        "categories not looked at by themselves, with fewer than 5 scored prompts: 'ru' (0 of 8), 'de' (4 of 5)"
    ]
    many = tuple(looked[1].model_copy(update={"category": f"c{i}"}) for i in range(11))
    said = " ".join(decide(of(at(0.1), looked_at=many)).reasons)
    assert "'c7' (0 of 8) and 3 more" in said
    assert "'c8'" not in said


ROPE = SettingDifference(part="configuration", key="rope_theta", reference="10000.0", candidate="500.0", computes=True)


def account(phi: float | None) -> Account:
    """One of which the configuration carries ``phi``."""
    part = PlacePart(
        place="configuration", block=None, identical=False, phi=Estimate(value=phi), interaction=0.0,
        share=Estimate(value=None, reason="r"),
    )  # fmt: skip
    return Account(
        read_out="kl", prompts=8, total=Estimate(value=0.03), floor=1e-9, places=(part,), localization=None,
        blocks_terminal_share=Estimate(value=None, reason="r"),
    )  # fmt: skip


CARRIES = {True: {"kl": account(-0.3)}, False: {"kl": account(0.0)}, None: {}}


def of_gap(
    gap: float | None, *, carries: bool | None = True, setting: SettingDifference = ROPE, allowed: tuple[str, ...] = ()
) -> RuleOutcome:
    """What the rule on settings says."""
    one = unmeasured("gap", "r") if gap is None else measured("gap", gap, (gap, gap), n=32)
    default = default_policy()
    rules = tuple(
        rule.model_copy(update={"allowed": allowed}) if rule.kind == "settings" else rule for rule in default.rules
    )
    content = of({"gap": one}, settings=(setting,), accounts=CARRIES[carries])
    found = decide(content, default.model_copy(update={"rules": rules}))
    return next(rule for rule in found.rules if rule.rule == "settings")


@pytest.mark.parametrize(
    ("gap", "computes", "outcome"),
    [(0.29, True, "warn"), (0.29, False, "pass"), (0.001, True, "pass"), (None, True, "pass")],
)
def test_another_configuration_that_computes_something_else_is_worth_a_look(
    gap: float | None, computes: bool, outcome: str
) -> None:
    found = of_gap(gap, setting=ROPE.model_copy(update={"computes": computes}))
    assert found.outcome == outcome
    if outcome != "pass":
        assert found.reasons == ("computes under another configuration: rope_theta: 10000.0 -> 500.0",)
    assert of_gap(gap, allowed=("rope_theta",)).outcome == "pass"


@pytest.mark.parametrize(("carries", "outcome"), [(True, "warn"), (None, "warn"), (False, "pass")])
def test_a_setting_is_worth_a_look_unless_it_was_seen_to_compute_nothing(carries: bool | None, outcome: str) -> None:
    """Without an account nothing tells what it computes: the weights may have moved the output as well."""
    found = of_gap(0.29, carries=carries)
    assert found.outcome == outcome
    verb = {True: "computes", None: "may compute something else"}
    assert found.reasons == (
        () if carries is False else (f"{verb[carries]} under another configuration: rope_theta: 10000.0 -> 500.0",)
    )


@pytest.mark.parametrize(
    ("phi", "carries"),
    [(0.0, False), (-1.6e-11, False), (1e-9, False), (2e-9, True), (-0.3, True), (None, True)],
)
def test_a_configuration_carries_what_lies_above_rounding(phi: float | None, carries: bool) -> None:
    """A key that computes nothing beside a real change leaves a rounding: it is not said to compute something else."""
    assert configuration_carries({"kl": account(phi)}) is carries


def test_statements_are_the_place_of_the_change_where_there_are_any() -> None:
    told = tuple(
        Statement(about="block_swap", kind="band", text=text) for text in ("blocks 3-7 changed", "the rest did not")
    )
    found = decide(of(at(0.5), statements=told))
    assert found.reasons[-2:] == ("blocks 3-7 changed", "the rest did not")
    assert not any("sits in blocks" in reason for reason in found.reasons)


# what earlier releases stored


def former(**values: tuple[float, str]) -> Comparison:
    """A comparison as the release before stored it: signals without intervals, nothing of what came later."""
    made = changed_pair().compare()
    limits = {"hidden_change": (0.4, 0.8), "block_swap_mean": (0.25, 0.4), "nll_change": (0.3, 1.0)}
    signals = {
        name: {"value": values.get(name, (0.0, "none"))[0], "watch": limits[name][0], "damaged": limits[name][1],
               "level": values.get(name, (0.0, "none"))[1], "unit": "u", "reason": None}
        for name in limits
    }  # fmt: skip
    signals["non_finite"] = {"value": 0.0, "watch": 1.0, "damaged": 1.0, "level": "none", "unit": "u", "reason": None}
    document = made.model_dump(mode="json", by_alias=True)
    for later in ("accounts", "control_accounts", "noise_accounts", "account_contrasts", "settings", "frame",
                  "unchanged_blocks", "statements", "prompt_changes", "looked_at"):  # fmt: skip
        del document[later]
    levels = [level for _, level in values.values()]
    agreed = levels.count("damaged") >= 2
    document["damage"] = {
        "level": "damaged" if agreed else "watch" if levels else "none", "signals": signals, "calibration": "c",
    }  # fmt: skip
    document["verdict"] = {"outcome": "pass", "policy": "spinal-default/1", "reasons": ["as it was"]}
    return Comparison.model_validate(document)


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ({}, "pass"),
        ({"nll_change": (0.5, "watch")}, "warn"),
        ({"hidden_change": (0.9, "damaged")}, "warn"),
        # How sure it is that it lies beyond its limit was not stored.
        ({"nll_change": (3.87, "damaged")}, "inconclusive"),
        ({"nll_change": (3.87, "damaged"), "hidden_change": (0.9, "damaged")}, "fail"),
        ({"nll_change": (0.5, "watch"), "hidden_change": (0.9, "damaged"), "block_swap_mean": (0.5, "damaged")},
         "fail"),
    ],
)  # fmt: skip
def test_comparisons_of_earlier_releases_are_judged(values: dict[str, tuple[float, str]], outcome: str) -> None:
    stored = former(**values)
    assert (stored.verdict.policy, stored.verdict.reasons) == ("spinal-default/1", ("as it was",))
    found = judged(stored).verdict
    assert (found.outcome, found.policy) == (outcome, POLICY)
    assert any("not in comparisons of that release" in reason for reason in found.reasons)


def test_a_verdict_of_an_earlier_policy_is_shown_as_it_is() -> None:
    stored = {"outcome": "warn", "policy": "spinal-default/1", "reasons": ["a damage signal is raised"]}
    assert Verdict.model_validate(stored).model_dump(exclude_defaults=True) == {
        **stored, "reasons": ("a damage signal is raised",),
    }  # fmt: skip


def test_a_comparison_that_was_stored_has_the_verdict_of_the_one_that_was_made() -> None:
    """The command line judges what it made, the server what it reads from its tables."""
    made = changed_pair().compare()
    assert judged(Comparison.model_validate(made.model_dump(mode="json", by_alias=True))) == made


@pytest.mark.parametrize(("key", "named"), [("eos_token_id", True), ("stop_strings", True), ("temperature", False)])
def test_another_end_in_use_is_named(key: str, named: bool) -> None:
    """The measurement ends answers by configuration and tokenizer: it says so where use would end them elsewhere."""
    other = SettingDifference(part="generation", key=key, reference="0", candidate="5", computes=False)
    found = decide(of(at(0.1), settings=(other,), accounts=CARRIES[False]))
    assert found.outcome == "pass"
    assert any(f"differs in {key}: 0 -> 5" in reason for reason in found.reasons) is named


@pytest.mark.parametrize(("gap", "change", "unseen"), [(0.0, 0.04, True), (0.01, 0.04, False), (0.0, 0.0, False)])
def test_a_difference_that_no_prompt_shows_is_said_to_be_unseen(gap: float, change: float, unseen: bool) -> None:
    """Rows of the embeddings, or experts, that no prompt meets: a quiet panel says nothing of them."""
    made = identical_pair().compare()
    signals = dict(made.damage.signals)
    signals["gap"] = signals["gap"].model_copy(update={"value": gap})
    made = made.model_copy(
        update={
            "damage": made.damage.model_copy(update={"signals": signals}),
            "weight_change_other": {"embeddings": change},
        }
    )
    found = judged(made).verdict
    assert any("these prompts do not show it" in reason for reason in found.reasons) is unseen
