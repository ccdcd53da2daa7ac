"""A value with its interval against a limit: what decides, what is too small, not sure or not there, and waivers."""

from datetime import date
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinal.documents.account import Account, AccountContrast
from spinal.documents.base import Estimate
from spinal.documents.comparison import Comparison, Null, Outcome, RuleOutcome, SettingDifference, Side, Verdict
from spinal.documents.policy import Policy
from spinal.policy.decide import ONLY_WAIVED, decide
from spinal.policy.reading import make_policy
from tests.support.fabricated import changed_pair, sha

TODAY = date(2026, 11, 28)
TOTAL = "accounts.kl.total"


@cache
def made() -> Comparison:
    return changed_pair().compare()


def measured(value: float | None, ci: tuple[float, float] | None = None, *, se: float | None = None) -> Comparison:
    """A comparison of which the whole change of KL is that."""
    nothing = Estimate(value=None, reason="r")
    total = Estimate(value=value, ci=ci, se=se, reason="not_measured" if value is None else None)
    account = Account(
        read_out="kl", prompts=16, total=total,
        floor=None, places=(), localization=None, blocks_terminal_share=nothing,
    )  # fmt: skip
    return made().model_copy(update={"accounts": {"kl": account}})


def policy(**members: Any) -> Policy:
    rule = {"name": "drift", "value": TOTAL, "bad": "above", "limit": 1.0, "severity": "fail"} | members
    return make_policy({"name": "acme/1", "rules": [rule]}, "p")


def judged(content: Comparison, former: Comparison | None = None, **members: Any) -> tuple[Verdict, RuleOutcome]:
    verdict = decide(content, policy(**members), former=former, today=TODAY)
    return verdict, verdict.rules[0]


SURE, OPEN, GOOD = (1.2, 1.8), (0.8, 2.2), (0.2, 0.8)


@pytest.mark.parametrize(
    ("value", "ci", "members", "outcome"),
    [
        (1.5, SURE, {}, "fail"),
        (1.5, SURE, {"severity": "warn"}, "warn"),
        (1.5, OPEN, {}, "pass"),
        (1.5, OPEN, {"unsure": "inconclusive"}, "inconclusive"),
        (1.5, OPEN, {"decides": "value"}, "fail"),
        (0.9, OPEN, {"decides": "far_end"}, "fail"),
        (0.9, OPEN, {"decides": "value"}, "pass"),
        (0.5, GOOD, {"decides": "far_end"}, "pass"),
        # Without an interval, what is not beyond the limit is not surely beyond it, and what is may be.
        (1.5, None, {}, "inconclusive"),
        (1.5, None, {"unmeasured": "warn"}, "warn"),
        (1.5, None, {"unmeasured": "pass"}, "pass"),
        (0.5, None, {}, "pass"),
        (0.5, None, {"decides": "far_end"}, "inconclusive"),
        (1.5, None, {"decides": "far_end"}, "fail"),
        (1.5, None, {"decides": "value"}, "fail"),
        # At the limit it is bad.
        (1.0, (1.0, 1.0), {}, "fail"),
        (1.5, SURE, {"minimum_effect": 2.0}, "pass"),
        (1.5, SURE, {"minimum_effect": 1.5}, "fail"),
        (1.5, OPEN, {"watch": 0.5}, "warn"),
        (1.5, SURE, {"watch": 0.5}, "fail"),
        (0.6, (0.4, 0.8), {"watch": 0.5}, "warn"),
        (0.4, (0.3, 0.5), {"watch": 0.5}, "pass"),
        (0.6, (-0.1, 0.8), {"watch": 0.5, "watch_surely_beyond": 0.0}, "pass"),
        (0.6, (0.1, 0.8), {"watch": 0.5, "watch_surely_beyond": 0.0}, "warn"),
        (None, None, {}, "inconclusive"),
        (None, None, {"unmeasured": "fail"}, "fail"),
        (None, None, {"unmeasured": "pass"}, "pass"),
        # It was asked for and could not be measured.
        (None, None, {"not_asked": "pass"}, "inconclusive"),
        (0.1, (0.05, 0.2), {"bad": "below", "limit": 0.5}, "fail"),
        (0.4, (0.3, 0.7), {"bad": "below", "limit": 0.5}, "pass"),
        (0.4, (0.3, 0.7), {"bad": "below", "limit": 0.5, "decides": "value"}, "fail"),
        (0.6, (0.4, 0.7), {"bad": "below", "limit": 0.5, "decides": "far_end"}, "fail"),
    ],
)
def test_what_decides(
    value: float | None, ci: tuple[float, float] | None, members: dict[str, Any], outcome: Outcome
) -> None:
    verdict, rule = judged(measured(value, ci), **members)
    assert (verdict.outcome, rule.outcome) == (outcome, outcome)
    assert (rule.path, rule.value, rule.ci, rule.unit) == (TOTAL, value, ci, "nats")
    assert (rule.bad, rule.severity) == (members.get("bad", "above"), members.get("severity", "fail"))
    assert bool(rule.reasons) == (outcome != "pass")
    assert verdict.decided_by == (None if outcome == "pass" else "drift")
    if outcome != "pass":
        assert verdict.reasons[0] == rule.reasons[0]


def test_a_finding_is_said_with_its_value_interval_and_limit() -> None:
    verdict, rule = judged(measured(1.5, SURE), asks="does it drift?")
    assert verdict.reasons[0] == ("accounts.kl.total, KL(reference || candidate): 1.5 nats [1.2, 1.8], limit 1")
    assert (rule.asks, rule.limit) == ("does it drift?", 1.0)
    verdict, rule = judged(measured(0.6, (0.4, 0.8)), watch=0.5)
    assert verdict.reasons[0].endswith("0.6 nats [0.4, 0.8], worth a look from 0.5, limit 1")
    assert rule.limit == 0.5
    verdict, _ = judged(measured(None))
    assert verdict.reasons[0] == "accounts.kl.total has no value (not_measured), so rule drift has no answer"


def test_a_pass_says_that_no_rule_found_anything_and_what_was_not_looked_at() -> None:
    verdict, _ = judged(measured(0.5, GOOD))
    assert verdict.reasons[0] == "no rule of acme/1 found anything"
    assert any(reason.startswith("only the given prompts were looked at") for reason in verdict.reasons)
    assert verdict.policy_digest == policy().digest


LEVELS = st.floats(0.0, 10.0)


@given(value=LEVELS, worse=LEVELS, low=LEVELS, high=LEVELS, bad=st.sampled_from(("above", "below")))
def test_a_worse_value_never_has_a_better_verdict(
    value: float, worse: float, low: float, high: float, bad: str
) -> None:
    """The value and both ends moved to the bad side together."""
    order = ("pass", "warn", "fail")
    low, high = min(low, value), max(high, value)
    shift = worse if bad == "above" else -worse
    members: dict[str, Any] = {"bad": bad, "limit": 5.0, "watch": 4.0 if bad == "above" else 6.0}
    now, _ = judged(measured(value, (low, high)), **members)
    then, _ = judged(measured(value + shift, (low + shift, high + shift)), **members)
    assert order.index(then.outcome) >= order.index(now.outcome)


# what a call does not have


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("contrasts.kl.total", "no control was named"),
        ("contrasts.scores.delta_align", "no control was named"),
        ("former.damage.nll_change", "no former comparison was given"),
        ("accounts.margin.total", "no account of the preference margin was drawn up"),
        ("damage.margin_change", "no_pairs"),
        ("categories.code.nll_change", "no prompt of category 'code'"),
    ],
)
def test_a_value_that_the_call_cannot_give_is_what_the_rule_says(path: str, reason: str) -> None:
    verdict, rule = judged(made(), value=path)
    assert (verdict.outcome, rule.value) == ("inconclusive", None)
    assert reason in rule.reasons[0]
    assert judged(made(), value=path, not_asked="pass")[0].outcome == "pass"
    assert judged(made(), value=path, unmeasured="warn")[0].outcome == "warn"


AGREE: dict[str, Any] = {
    "kind": "agreement", "name": "both", "severity": "fail", "at_least": 2,
    "among": [{"value": "damage.gap", "bad": "above", "limit": 0.0},
              {"value": "contrasts.kl.total", "bad": "above", "limit": 1.0}],
    "while": {"value": TOTAL, "bad": "above", "limit": 1.0},
}  # fmt: skip


@pytest.mark.parametrize(
    ("total", "among", "outcome"),
    [
        # One agrees and the other, of a control that nobody named, could.
        (1.5, None, "inconclusive"),
        (None, None, "inconclusive"),
        (0.5, None, "pass"),
        (1.5, {"value": "damage.hidden_change", "bad": "above", "limit": 3.0}, "pass"),
        (1.5, {"value": "damage.hidden_change", "bad": "above", "limit": 0.0}, "fail"),
    ],
)
def test_agreement_that_cannot_be_told_is_what_the_rule_says(
    total: float | None, among: dict[str, Any] | None, outcome: Outcome
) -> None:
    rule = AGREE if among is None else AGREE | {"among": [AGREE["among"][0], among]}
    content = measured(total, None if total is None else (total, total))
    verdict = decide(content, make_policy({"name": "a/1", "rules": [rule]}, "p"), today=TODAY)
    assert verdict.outcome == outcome
    lenient = make_policy({"name": "a/1", "rules": [rule | {"unmeasured": "pass"}]}, "p")
    assert decide(content, lenient, today=TODAY).outcome == ("pass" if outcome == "inconclusive" else outcome)


def test_settings_that_differ_and_an_output_that_was_not_measured() -> None:
    rope = SettingDifference(part="configuration", key="rope_theta", reference="1", candidate="2", computes=True)
    gap = made().damage.signals["gap"].model_copy(update={"value": None, "reason": "r"})
    damage = made().damage.model_copy(update={"signals": made().damage.signals | {"gap": gap}})
    content = made().model_copy(update={"settings": (rope,), "damage": damage})
    rule = {"kind": "settings", "name": "settings"}
    for members, outcome in (
        ({}, "inconclusive"),
        ({"unmeasured": "pass"}, "pass"),
        ({"allowed": ["rope_theta"]}, "pass"),
    ):
        assert decide(content, make_policy({"name": "a/1", "rules": [rule | members]}, "p")).outcome == outcome


def test_a_contrast_with_a_control_is_read_where_there_is_one() -> None:
    contrast = AccountContrast(read_out="kl", prompts=16, total=Estimate(value=1.5, ci=SURE), places={})
    side = Side(digest=sha("c"), source="local:control", weights_digest=sha("c"))
    null = Null(statistic="s", values=(), observed=None, percentile=None, note="n",
                contrast={"delta_align": Estimate(value=2.0, ci=(1.5, 2.5))})  # fmt: skip
    with_control = made().model_copy(
        update={"control": side, "account_contrasts": {"kl": contrast}, "nulls": {"control": null}}
    )
    _, rule = judged(with_control, value="contrasts.kl.total")
    assert (rule.outcome, rule.value) == ("fail", 1.5)
    _, rule = judged(with_control, value="contrasts.scores.delta_align")
    assert (rule.outcome, rule.value) == ("fail", 2.0)


# a former comparison


def test_a_value_is_read_beside_that_of_a_former_comparison_with_both_errors() -> None:
    before, now = measured(0.5, (0.4, 0.6), se=0.03), measured(2.0, (1.9, 2.1), se=0.04)
    verdict, rule = judged(now, before, value=f"former.{TOTAL}")
    assert verdict.former == before.digest
    assert rule.value == pytest.approx(1.5)
    assert rule.ci == pytest.approx((1.5 - 1.96 * 0.05, 1.5 + 1.96 * 0.05), abs=1e-4)
    assert (rule.outcome, rule.unit) == ("fail", "nats")
    # Of a value without a standard error, that of its interval.
    _, rule = judged(measured(2.0, (1.9, 2.1)), measured(0.5, (0.4, 0.6)), value=f"former.{TOTAL}")
    assert rule.ci == pytest.approx((1.5 - 0.1 * 2**0.5, 1.5 + 0.1 * 2**0.5))
    # And without an interval on either side there is none.
    _, rule = judged(measured(2.0, (1.9, 2.1)), measured(0.5), value=f"former.{TOTAL}")
    assert (rule.outcome, rule.ci) == ("inconclusive", None)


def test_a_former_that_no_rule_reads_is_not_named() -> None:
    verdict, _ = judged(measured(1.5, SURE), made())
    assert verdict.former is None


def test_what_cannot_be_compared_with_the_former_is_inconclusive_and_says_why() -> None:
    now = measured(2.0, (1.9, 2.1))
    other: dict[str, dict[str, Any]] = {
        "another reference": {"reference": now.reference.model_copy(update={"weights_digest": sha("x")})},
        "another profile": {"fingerprint": sha("x")},
        "other prompts or by another engine": {"reference": now.reference.model_copy(update={"digest": sha("x")})},
    }
    for said, changes in other.items():
        before = measured(0.5, (0.4, 0.6)).model_copy(update=changes)
        verdict, rule = judged(now, before, value=f"former.{TOTAL}", not_asked="pass")
        assert verdict.outcome == "inconclusive"
        assert said in rule.reasons[0]
    before = measured(None)
    verdict, rule = judged(now, before, value=f"former.{TOTAL}")
    assert "the former comparison has none" in rule.reasons[0]


# waivers


def waived(until: str, **members: Any) -> dict[str, Any]:
    return {"waiver": {"reason": "known since the last release", "expires": until}, **members}


@pytest.mark.parametrize("until", ["2026-11-28", "2030-01-01"])
@pytest.mark.parametrize("severity", ["fail", "warn"])
def test_a_waived_finding_is_told_with_what_it_would_have_been_and_does_not_count(until: str, severity: str) -> None:
    """Its last day counts."""
    verdict, rule = judged(measured(1.5, SURE), **waived(until, severity=severity))
    assert (verdict.outcome, verdict.decided_by, rule.outcome) == ("pass", None, "pass")
    assert rule.waived is not None
    assert (rule.waived.would_be, rule.waived.expires.isoformat()) == (severity, until)
    assert rule.reasons, "what it found is kept"
    assert verdict.reasons[0] == ONLY_WAIVED
    assert any(
        f"waived until {until} (known since the last release), else {severity}" in each for each in verdict.reasons
    )


def test_an_inconclusive_answer_can_be_waived() -> None:
    verdict, rule = judged(measured(None), **waived("2030-01-01"))
    assert verdict.outcome == "pass"
    assert rule.waived is not None
    assert rule.waived.would_be == "inconclusive"


def test_an_expired_waiver_does_not_hold_and_the_verdict_says_so() -> None:
    verdict, rule = judged(measured(1.5, SURE), **waived("2026-11-27"))
    assert (verdict.outcome, rule.outcome, rule.waived) == ("fail", "fail", None)
    assert verdict.decided_by == "drift"
    said = "the waiver of rule drift (known since the last release) expired on 2026-11-27"
    assert said in verdict.reasons
    assert said in rule.reasons
    # Also where it would have waived nothing: it can go.
    verdict, _ = judged(measured(0.5, GOOD), **waived("2026-11-27"))
    assert verdict.outcome == "pass"
    assert said in verdict.reasons


def test_a_waiver_of_a_rule_that_finds_nothing_is_no_finding() -> None:
    verdict, rule = judged(measured(0.5, GOOD), **waived("2030-01-01"))
    assert (verdict.outcome, rule.waived, rule.reasons) == ("pass", None, ())
    assert verdict.reasons[0] == "no rule of acme/1 found anything"


def test_a_waiver_says_nothing_of_the_other_rules() -> None:
    rules = [
        {"name": "drift", "value": TOTAL, "bad": "above", "limit": 1.0, "severity": "fail", **waived("2030-01-01")},
        {"name": "strict", "value": TOTAL, "bad": "above", "limit": 0.5, "severity": "warn"},
    ]
    verdict = decide(measured(1.5, SURE), make_policy({"name": "acme/1", "rules": rules}, "p"), today=TODAY)
    assert (verdict.outcome, verdict.decided_by) == ("warn", "strict")


def test_a_waiver_of_the_default_holds_against_the_panel_as_well() -> None:
    """A panel that is damaged for what is waived is explained; agreement is a rule of its own."""
    from spinal.policy.shipped import default_policy

    members = default_policy().spelled_out() | {"name": "acme/1"}
    nll = made().damage.signals["nll_change"].model_copy(update={"value": 2.0, "ci": (2.0, 2.0), "level": "damaged"})
    damage = made().damage.model_copy(
        update={"level": "damaged", "signals": made().damage.signals | {"nll_change": nll}}
    )
    broken = made().model_copy(update={"damage": damage})
    assert decide(broken, make_policy(members, "p"), today=TODAY).outcome == "fail"
    members["rules"][0]["waiver"] = {"reason": "known", "expires": "2030-01-01"}
    verdict = decide(broken, make_policy(members, "p"), today=TODAY)
    assert verdict.outcome == "pass"
    assert verdict.rules[0].waived is not None
