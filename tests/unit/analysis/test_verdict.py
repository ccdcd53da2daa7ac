"""The default policy, rule by rule: what it decides and what it says about why."""

from functools import cache

import pytest

from spinal.analysis.damage.limits import LIMITS
from spinal.analysis.damage.panel import agreed
from spinal.analysis.damage.signals import level_of, measured, not_asked, unmeasured
from spinal.documents.comparison import Comparison, Damage, DamageSignal, Statement, Verdict
from spinal.policy.decide import decide
from spinal.policy.words import FARTHEST, LOOKS, MEANINGS, sentence
from tests.support.fabricated import changed_pair

HERE = "blocks 3-4 compute something else"
SAID = Statement(about="block_swap", kind="band", text=HERE)


NOTHING = Statement(about="block_swap", kind="none", text="no block computes anything else")


@cache
def made() -> Comparison:
    return changed_pair().compare()


STANDING = {
    "nll_change": (0.3, 1.0), "nll_change_worst_category": (0.5, 1.0), "end_share_change": (-0.25, -0.5),
    "end_at_once_change": (0.25, 0.5), "end_log_p_change": (-1.0, -3.0), "log_temperature": (0.15, 0.25),
    "non_finite": (1.0, 1.0), "margin_change": (-0.5, -2.0), "gap": (0.5, 1.0), "hidden_change": (0.4, 0.8),
    "block_swap_mean": (0.25, 0.4), "repetition_change": (0.2, 0.5), "length_ratio": (1 / 3, 1 / 10),
    "nll_change_worst_tenth": (1.0, 3.0),
}  # fmt: skip
"""Limits for these tests: what is said does not depend on how the panel's own are calibrated."""


def at(
    name: str, value: float, low: float | None = None, high: float | None = None, of: str | None = None
) -> DamageSignal:
    ci = (value if low is None else low, value if high is None else high)
    watch, damaged = STANDING[name]
    level = level_of(value, ci, watch, damaged)
    found = measured(name, value, ci, n=32, se=0.1, of=of)
    return found.model_copy(update={"watch": watch, "damaged": damaged, "level": level})


def verdict(*, said: tuple[Statement, ...] = (SAID,), **signals: DamageSignal) -> Verdict:
    damage = Damage(level=agreed({"nll_change": at("nll_change", 0.0)} | signals), signals=signals, calibration="")
    return decide(made().model_copy(update={"damage": damage, "statements": said or (NOTHING,)}))


def test_the_reason_of_a_failure_comes_first_in_words_and_with_the_limit() -> None:
    found = verdict(
        nll_change=at("nll_change", 3.87, 3.5, 4.2),
        gap=at("gap", 0.6, 0.5, 0.7),
        hidden_change=unmeasured("hidden_change", "r"),
    )
    assert found.outcome == "fail"
    assert found.reasons[:3] == (
        "predicts text 48 times worse: +3.87 nats a token [3.5, 4.2], limit 1.0",
        "hidden_change could not be measured (r), so damage cannot be ruled out",
        "draws between 1 token in 22 and 1 token in 3 differently: 0.6 rad [0.5, 0.7], worth a look from 0.5, "
        "limit 1.0",
    )
    assert found.reasons[-1] == HERE


SENTENCES = {
    "nll_change": (0.405, "predicts text 1.5 times worse: +0.405 nats a token"),
    "nll_change_worst_category": (9.2, "predicts text of category 'ru' 9,897 times worse: +9.2 nats a token"),
    "nll_change_worst_tenth": (1.2, "predicts the tenth of the prompts that got worse most 3.3 times worse: +1.2 "),
    "end_share_change": (-0.75, "no longer ends 75% of its answers within the tokens that it was given: −0.75 of"),
    "end_at_once_change": (0.5, "now says nothing in 50% of its answers: +0.5 of greedy"),
    "end_log_p_change": (-3.0, "ends 20 times less likely where an answer is over: −3 nats"),
    "log_temperature": (0.3, "is too sure or too unsure of itself: its temperature is off by a factor of 1.3: 0.3 "),
    "non_finite": (3.0, "computes numbers that are not finite: 3 activations, limit 1.0"),
    "margin_change": (-5.0, "prefers the rejected answers more than the reference does: −5 nats"),
    "gap": (0.6, "draws between 1 token in 22 and 1 token in 3 differently: 0.6 rad"),
    "hidden_change": (0.5, "ends in other hidden states: 0.5 of the length of the last hidden state"),
    "block_swap_mean": (0.5, "has blocks that answer the same input differently: 0.5 of a block's own update"),
    "repetition_change": (0.3, "repeats itself in 30% more of what it says: +0.3 of 3-grams"),
    "length_ratio": (0.25, "answers 4 times as short: 0.25 times as long"),
}


@pytest.mark.parametrize("name", LIMITS)
def test_every_signal_has_a_sentence(name: str) -> None:
    value, said = SENTENCES[name]
    told = sentence(name, at(name, value, of="ru"))
    assert told.startswith(said)
    assert "limit" in told


def test_every_signal_has_words() -> None:
    assert set(MEANINGS) == set(LIMITS)
    assert set(LOOKS) == set(LIMITS) - {"non_finite"}


def test_what_could_not_be_measured_is_no_pass() -> None:
    found = verdict(hidden_change=at("hidden_change", 0.1), nll_change=unmeasured("nll_change", "not_measured"))
    assert found.outcome == "inconclusive"
    assert found.reasons[0] == "nll_change could not be measured (not_measured), so damage cannot be ruled out"


def test_what_was_raised_is_said_beside_what_could_not_be_measured() -> None:
    found = verdict(hidden_change=at("hidden_change", 0.5), nll_change=unmeasured("nll_change", "not_measured"))
    assert found.outcome == "inconclusive"
    assert (
        found.reasons[1]
        == "ends in other hidden states: 0.5 of the length of the last hidden state, worth a look from 0.4, limit 0.8"
    )


def test_what_was_not_asked_for_is_said_and_decides_nothing() -> None:
    found = verdict(nll_change=at("nll_change", 0.1), margin_change=not_asked("margin_change", "no_pairs"))
    assert found.outcome == "pass"
    assert any("whether it prefers the answers that it should (no pairs)" in reason for reason in found.reasons)


@pytest.mark.parametrize(("value", "outcome"), [(1.0, "pass"), (-0.4, "pass"), (-1.0, "warn"), (-3.0, "fail")])
def test_a_lost_margin_is_a_rule_of_its_own(value: float, outcome: str) -> None:
    found = verdict(margin_change=at("margin_change", value))
    assert found.outcome == outcome
    assert {rule.rule: rule.outcome for rule in found.rules}["margin_change"] == outcome
    assert [rule.rule for rule in found.rules if rule.outcome == outcome != "pass"] in ([], ["margin_change"])


def test_two_that_agree_are_said_with_the_text_that_is_predicted_worse() -> None:
    found = verdict(
        nll_change=at("nll_change", 0.5),
        hidden_change=at("hidden_change", 0.9),
        block_swap_mean=at("block_swap_mean", 0.5),
    )
    assert found.outcome == "fail"
    assert found.reasons[0] == (
        "predicts text 1.6 times worse: +0.5 nats a token, worth a look from 0.3, limit 1.0, and 2 signals of how far "
        "it moved agree with that"
    )
    assert found.reasons[1] == "ends in other hidden states: 0.9 of the length of the last hidden state, limit 0.8"


def test_a_quiet_panel_passes_whatever_its_shown_signals_are() -> None:
    for value in (9.0, None):
        shown = DamageSignal(value=value, watch=None, damaged=None, level=None, unit="nats", reason="r")
        found = verdict(nll_change=at("nll_change", 0.1), entropy_change=shown)
        assert found.outcome == "pass"
        assert found.policy == "spinal-default/2"
        assert (found.reasons[0], found.reasons[-1]) == ("no sure sign of damage in anything that was measured", HERE)


@pytest.mark.parametrize("value", [0.0, 0.5, 5.0])
def test_a_signature_is_said_and_never_judged(value: float) -> None:
    signal = at("nll_change", value)
    assert len({verdict(said=said, nll_change=signal).outcome for said in ((SAID,), ())}) == 1
    assert verdict(nll_change=signal).reasons[-1] == HERE


@pytest.mark.parametrize(("value", "least"), [(0.3, False), (0.9 * FARTHEST, False), (FARTHEST, True), (1.4, True)])
def test_a_temperature_beyond_those_that_are_tried_is_a_bound(value: float, least: bool) -> None:
    found = sentence("log_temperature", measured("log_temperature", value, (value, value)))
    assert ("off by a factor of at least" in found) is least


@pytest.mark.parametrize("share", [True, False])
def test_what_one_signal_looked_at_was_looked_at(share: bool) -> None:
    """Without whole continuations, whether answers end is still read off what the model goes on with."""
    none = not_asked("end_share_change", "r")
    found = verdict(
        end_share_change=at("end_share_change", 0.0) if share else none,
        end_at_once_change=not_asked("end_at_once_change", "r"),
        end_log_p_change=not_asked("end_log_p_change", "r"),
    )
    assert any("whether and when its answers end (r)" in reason for reason in found.reasons) is not share
