"""Which signals make a candidate damaged, at which limits, and what the default policy makes of it."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spinal.analysis.damage.behaviour import scored, temperature_change, worst_category, worst_tenth
from spinal.analysis.damage.limits import AGREEING, LIMITS, MIN_PROMPTS, calibration
from spinal.analysis.damage.panel import assess
from spinal.documents.account import Account
from spinal.documents.base import Estimate
from spinal.documents.comparison import Comparison, Damage, DamageSignal, Frame
from spinal.documents.temperatures import TEMPERATURES
from tests.support.fabricated import Pair, changed_pair

PROMPTS, BLOCKS = 32, 10
TERMINAL = (7, 10)


SHOWN = ("entropy_change", "effective_rank_ratio", "top_token_changes")


@dataclass(frozen=True)
class Given:
    """Values of the signals, candidate against a reference of which 30 of 32 greedy continuations end after 100 tokens.
    Each is the same for all prompts."""

    gap: float = 0.0
    hidden: float = 0.0
    swap: float = 0.0
    nll: float | None = 0.0
    non_finite: int = 0
    ended: int = 30
    at_once: int = 0
    length: float = 100.0
    repetition: float = 0.1
    end_log_p: float = -1.0
    log_temperature: float = 0.0
    margin: float | None = None
    frame_changed: bool = False
    profile_2: bool = True


def pair_of(given: Given, prompts: int = PROMPTS) -> Pair:
    """The pair whose candidate behaves so."""
    pair = changed_pair(prompts=prompts)
    ones = np.ones((prompts, BLOCKS + 1))
    evidence = replace(
        pair.evidence,
        function_gap={"last": given.gap * ones, "all": given.gap * ones},
        hidden_change={"last": given.hidden * ones, "all": given.hidden * ones},
        block_swap=np.full((prompts, BLOCKS), given.swap),
    )
    nll = np.full(prompts, np.nan) if given.nll is None else pair.reference_capture.nll + given.nll
    mine, theirs = pair.reference_capture, replace(pair.candidate_capture, nll=nll)
    if given.profile_2:
        mine = replace(mine, **behaviour(Given(), prompts))
        theirs = replace(theirs, **behaviour(given, prompts))
    candidate = pair.candidate.model_copy(update={"non_finite": given.non_finite})
    return replace(pair, evidence=evidence, reference_capture=mine, candidate_capture=theirs, candidate=candidate)


def behaviour(given: Given, prompts: int) -> dict[str, Any]:
    order = np.arange(prompts)
    shifted = np.log(np.array(TEMPERATURES)) - given.log_temperature
    return {
        "greedy_prompts": order,
        "greedy_ended": order < given.ended,
        "greedy_length": np.where(order < given.at_once, 0, round(given.length)),
        "greedy_repetition": np.full(prompts, given.repetition),
        "end_log_p": np.full(prompts, given.end_log_p),
        "nll_tempered": 3.0 + np.tile(shifted**2, (prompts, 1)),
    }


def account(total: float, se: float = 0.1) -> Account:
    """An account of the margin that holds no more than its total."""
    estimate = Estimate(value=total, se=se, ci=(total - 1.96 * se, total + 1.96 * se))
    nothing = Estimate(value=None, reason="r")
    return Account(
        read_out="margin", prompts=64, total=estimate, floor=None, places=(), localization=None,
        blocks_terminal_share=nothing,
    )  # fmt: skip


def panel(given: Given) -> Damage:
    pair = pair_of(given)
    return assess(
        pair.reference_capture,
        pair.candidate_capture,
        pair.evidence,
        given.non_finite,
        TERMINAL,
        frame=Frame(changed=given.frame_changed, residual=0.01, gap=given.gap),
        accounts=None if given.margin is None else {"margin": account(given.margin)},
    )


def compared(**given: Any) -> Comparison:
    return pair_of(Given(**given)).compare()


def test_a_candidate_that_is_its_reference_raises_nothing() -> None:
    found = panel(Given(margin=0.0))
    assert found.level == "none"
    assert {name: signal.level for name, signal in found.signals.items()} == {
        name: None if name in ("nll_change_worst_category", *SHOWN) else "none" for name in (*LIMITS, *SHOWN)
    }
    assert tuple(found.signals)[: len(LIMITS)] == tuple(LIMITS)


# every signal at, below and above its limits


CONTINUOUS = {
    "nll_change": ("nll", 0.0),
    "gap": ("gap", 0.0),
    "hidden_change": ("hidden", 0.0),
    "block_swap_mean": ("swap", 0.0),
    "repetition_change": ("repetition", 0.1),
    "end_log_p_change": ("end_log_p", -1.0),
}
"""Signals whose value is a member of ``Given`` less the reference's."""


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize("which", ["watch", "damaged"])
def test_a_level_begins_at_its_limit(name: str, which: str) -> None:
    member, reference = CONTINUOUS[name]
    limit = getattr(LIMITS[name], which)
    short, far = (limit * (1.0 - 1e-6), limit * (1.0 + 1e-6))
    levels = [panel(Given(**{member: reference + value})).signals[name].level for value in (short, far)]
    assert levels == (["none", "watch"] if which == "watch" else ["watch", "damaged"])


BEYOND: dict[str, dict[str, Any]] = {
    "nll_change": {"nll": 1.2},
    "end_share_change": {"ended": 0},
    "end_log_p_change": {"end_log_p": -9.0},
    "log_temperature": {"log_temperature": 0.5},
    "non_finite": {"non_finite": 1},
    "margin_change": {"margin": -5.0},
}


@pytest.mark.parametrize("name", BEYOND)
def test_what_fails_alone_is_enough_for_damage(name: str) -> None:
    found = panel(Given(**BEYOND[name]))
    assert {raised for raised, signal in found.signals.items() if signal.level == "damaged"} == {name}
    assert found.signals[name].fails_alone
    assert found.level == "damaged"


def test_every_signal_that_fails_alone_is_tried() -> None:
    alone = {name for name, limit in LIMITS.items() if limit.fails_alone}
    assert alone == {*BEYOND, "nll_change_worst_category"}


MEMBERS = {"nll": "nll_change", "gap": "gap", "hidden": "hidden_change", "swap": "block_swap_mean",
           "repetition": "repetition_change", "end_log_p": "end_log_p_change", "log_temperature": "log_temperature",
           "ended": "end_share_change", "at_once": "end_at_once_change", "length": "length_ratio"}  # fmt: skip
"""Members of ``Given`` by the signal that they make."""


def lying(member: str, where: str) -> Any:
    """A value of a member with which its signal lies short of watch, between the limits, or well beyond both;
    ``better`` is on the good side, ``short`` of a ratio beyond both below 1."""
    limit = LIMITS[MEMBERS[member]]
    value = {
        "none": limit.neutral + 0.5 * (limit.watch - limit.neutral),
        "watch": (limit.watch + limit.damaged) / 2,
        "damaged": limit.neutral + 1.6 * (limit.damaged - limit.neutral),
        "better": limit.neutral - 2.0 * (limit.damaged - limit.neutral),
        "short": 0.5 / limit.damaged,
    }[where]
    if member == "length":
        return 100.0 * value
    if member in ("ended", "at_once"):
        return round(min(max(getattr(Given(), member) + PROMPTS * value, 0), PROMPTS if member == "ended" else 30))
    return getattr(Given(), member) + value


@pytest.mark.parametrize(
    ("signals", "level", "outcome"),
    [
        ({}, "none", "pass"),
        (dict.fromkeys(MEMBERS, "none"), "none", "pass"),
        *(
            ({name: where}, level, outcome)
            for name in ("nll", "end_log_p", "log_temperature", "ended")
            for where, level, outcome in (("watch", "watch", "warn"), ("damaged", "damaged", "fail"))
        ),
        *(
            ({name: where}, "watch", "warn")
            for name in ("gap", "hidden", "swap", "repetition", "length", "at_once")
            for where in ("watch", "damaged")
        ),
        *(({name: "better"}, "none", "pass") for name in ("nll", "end_log_p", "ended", "repetition")),
        ({"log_temperature": "better"}, "damaged", "fail"),
        ({"length": "short"}, "watch", "warn"),
        ({"hidden": "damaged", "swap": "damaged"}, "watch", "warn"),
        ({"hidden": "damaged", "swap": "damaged", "gap": "damaged", "nll": "none"}, "watch", "warn"),
        ({"hidden": "damaged", "nll": "watch"}, "watch", "warn"),
        ({"hidden": "watch", "swap": "watch", "gap": "watch", "nll": "watch"}, "watch", "warn"),
        ({"hidden": "damaged", "swap": "damaged", "nll": "watch"}, "damaged", "fail"),
        ({"gap": "damaged", "swap": "damaged", "nll": "watch"}, "damaged", "fail"),
        ({"repetition": "damaged", "length": "damaged", "nll": "watch"}, "damaged", "fail"),
        ({"nll": None}, "none", "inconclusive"),
        ({"hidden": "damaged", "swap": "damaged", "nll": None}, "watch", "inconclusive"),
        ({"non_finite": 1}, "damaged", "fail"),
        ({"non_finite": 1, "nll": None}, "damaged", "fail"),
    ],
)
def test_one_signal_that_is_damage_by_itself_or_two_that_agree(
    signals: dict[str, Any], level: str, outcome: str
) -> None:
    result = compared(
        **{name: lying(name, where) if isinstance(where, str) else where for name, where in signals.items()}
    )
    assert result.damage.level == level
    assert result.verdict.outcome == outcome
    assert result.verdict.reasons


def test_what_lies_below_the_floor_and_beyond_the_grid_is_damage_all_the_same() -> None:
    for far in ({"end_log_p": -1e9}, {"log_temperature": 9.0}, {"log_temperature": -9.0}):
        assert compared(**far).verdict.outcome == "fail"


def test_a_lost_margin_is_judged_below_a_negative_limit() -> None:
    """Its standard error is 0.1: the upper end of an interval reaches 0.196 above the value."""
    limit = LIMITS["margin_change"]
    for total, level in (
        (5.0, "none"),
        (limit.watch + 0.01, "none"),
        (limit.watch - 0.01, "watch"),
        (limit.damaged - 0.19, "watch"),
        (limit.damaged - 0.2, "damaged"),
    ):
        signal = panel(Given(margin=total)).signals["margin_change"]
        assert (signal.value, signal.level, signal.n) == (total, level, 64)


def test_what_is_shown_has_its_interval_and_no_vote() -> None:
    pair = pair_of(Given())
    top = np.tile([0.0, 0.5, np.nan, 1.0], 8)
    found = replace(pair, evidence=replace(pair.evidence, top_changed=top)).compare().damage.signals
    assert found["top_token_changes"].value == 0.5
    assert (found["top_token_changes"].n, found["entropy_change"].n) == (24, PROMPTS)
    for name in SHOWN:
        assert (found[name].watch, found[name].level) == (None, None)
    ci = found["top_token_changes"].ci
    assert ci is not None
    assert ci[0] < 0.5 < ci[1]
    assert pair.compare().damage.signals["top_token_changes"].reason == "not_measured"


def test_a_margin_that_noise_may_have_lowered_raises_nothing() -> None:
    limit = LIMITS["margin_change"]
    pair, total = pair_of(Given()), 1.5 * limit.watch
    levels = []
    for se in (abs(total) / 1.9, abs(total) / 2.0):
        found = assess(
            pair.reference_capture, pair.candidate_capture, pair.evidence, 0, TERMINAL,
            accounts={"margin": account(total, se)},
        )  # fmt: skip
        levels.append(found.signals["margin_change"].level)
    assert levels == ["none", "watch"]


# value and bound


def test_the_bound_decides_on_damage_and_the_value_on_watch() -> None:
    pair = pair_of(Given())
    spread = np.random.default_rng(3).standard_normal(PROMPTS)
    spread = (spread - spread.mean()) / spread.std(ddof=1)
    limit = LIMITS["nll_change"]
    for mean, sd, level in (
        (1.2 * limit.damaged, 0.1, "damaged"),
        (1.2 * limit.damaged, 2.0, "watch"),
        (0.9 * limit.damaged, 0.01, "watch"),
        (0.95 * limit.watch, 2.0, "none"),
    ):
        nll = pair.reference_capture.nll + mean + sd * spread
        signal = (
            replace(pair, candidate_capture=replace(pair.candidate_capture, nll=nll))
            .compare()
            .damage.signals["nll_change"]
        )
        assert signal.value == pytest.approx(mean)
        assert signal.se == pytest.approx(sd / math.sqrt(PROMPTS))
        assert signal.n == PROMPTS
        assert signal.ci is not None
        assert signal.level == level, (mean, sd, signal.ci)


@pytest.mark.parametrize("prompts", [1, MIN_PROMPTS - 1, MIN_PROMPTS])
def test_few_prompts_are_sure_of_nothing(prompts: int) -> None:
    result = pair_of(Given(nll=5.0), prompts).compare()
    sure = prompts >= MIN_PROMPTS
    assert (result.damage.signals["nll_change"].ci is not None) == sure
    assert result.damage.signals["nll_change"].level == ("damaged" if sure else "watch")
    assert result.verdict.outcome == ("fail" if sure else "inconclusive")


# categories


def by_category(changes: dict[str, list[float]]) -> DamageSignal:
    """The signal of the worst category, of prompts with these changes of NLL."""
    pair = changed_pair(prompts=sum(map(len, changes.values())))
    values = np.array([value for of in changes.values() for value in of])
    candidate = replace(pair.reference_capture, nll=pair.reference_capture.nll + values)
    names = tuple(name for name, of in changes.items() for _ in of)
    return worst_category(scored(pair.reference_capture, candidate), names)


def test_a_category_of_few_prompts_that_is_destroyed_is_found_among_many_others() -> None:
    """64 English prompts that did not change, 8 Russian ones that are worse by 10: the mean is at watch only."""
    signal = by_category({"en": [0.0] * 64, "ru": [10.0 + 0.1 * i for i in range(8)]})
    assert (signal.of, signal.n, signal.level) == ("ru", 8, "damaged")
    assert signal.value == pytest.approx(10.35)


def test_categories_are_corrected_for_their_number() -> None:
    """One category with a mean and spread for which the bound lies beyond the limit alone, and short of it among 50."""
    limit = LIMITS["nll_change_worst_category"].damaged
    spread = np.array([-1.0, 1.0] * 6)
    mean = limit + 0.1 + 2.201 * 0.5 * spread.std(ddof=1) / math.sqrt(12)
    doubtful = list(mean + 0.5 * spread)
    alone = by_category({"a": doubtful})
    among = by_category({"a": doubtful} | {f"b{i}": [0.0] * 5 for i in range(49)})
    assert (alone.level, among.level) == ("damaged", "watch")
    assert alone.value == among.value
    assert alone.ci is not None
    assert among.ci is not None
    assert among.ci[0] < limit < alone.ci[0]


def test_a_category_of_too_few_prompts_is_not_judged() -> None:
    signal = by_category({"a": [0.0] * 5, "b": [50.0] * 4})
    assert (signal.of, signal.level) == ("a", "none")
    none = by_category({"a": [0.0] * 4, "b": [50.0] * 4})
    assert (none.value, none.watch, none.reason) == (None, None, "too_few_prompts_in_every_category")


def test_the_surest_damage_is_named_before_the_largest_mean() -> None:
    wild = [0.0, 0.0, 0.0, 0.0, 30.0]
    signal = by_category({"wild": wild, "sure": [2.0, 2.1, 2.0, 2.1, 2.0, 2.1, 2.0]})
    assert (signal.of, signal.level) == ("sure", "damaged")
    assert by_category({"wild": wild, "fine": [0.0] * 9}).of == "wild"


def test_the_worst_tenth_is_seen_where_no_category_names_it() -> None:
    change = np.zeros(40)
    change[7:11] = 4.0
    signal = worst_tenth(change)
    assert (signal.value, signal.n) == (4.0, 40)
    assert not signal.fails_alone
    generator = np.random.default_rng(0)
    # Oracle: the standard deviation of the statistic over samples of an exponential distribution, whose expected
    # shortfall of the last tenth is 1 + log 10. 400 samples give a standard deviation within 10%.
    draws = [worst_tenth(generator.exponential(size=200)) for _ in range(400)]
    values = np.array([draw.value for draw in draws])
    errors = np.array([draw.se for draw in draws])
    assert values.mean() == pytest.approx(1 + math.log(10), abs=0.1)
    assert np.median(errors) == pytest.approx(values.std(), rel=0.15)


# temperature and endings


@pytest.mark.parametrize("shift", [-0.9, -0.33, 0.0, 0.05, 0.5, 1.0])
def test_a_change_of_temperature_is_found_either_way(shift: float) -> None:
    """Logits multiplied by exp(shift) fit best at temperature exp(shift); of a parabola the minimum is exact."""
    signal = panel(Given(log_temperature=shift)).signals["log_temperature"]
    assert signal.value == pytest.approx(abs(shift), abs=1e-9)
    assert signal.ci is not None
    assert signal.ci[0] <= signal.ci[1]
    assert signal.n == PROMPTS


def test_the_interval_of_a_change_of_temperature_covers() -> None:
    """Each prompt has a temperature of its own. 1,000 samples of 32 prompts; the truth is that of the mean curve, a
    parabola whose minimum is the mean: between 92% and 98% (a standard deviation of .7%)."""
    generator = np.random.default_rng(0)
    grid = np.log(np.array(TEMPERATURES))
    pair = pair_of(Given())
    inside = 0
    for _ in range(1000):
        of_prompt = 0.3 + 0.2 * generator.standard_normal((PROMPTS, 1))
        candidate = replace(pair.candidate_capture, nll_tempered=3.0 + (grid - of_prompt) ** 2)
        both = scored(pair.reference_capture, candidate)
        signal = temperature_change(both, pair.reference_capture, candidate)
        assert signal.ci is not None
        inside += signal.ci[0] <= 0.3 <= signal.ci[1]
    assert 0.92 <= inside / 1000 <= 0.98


def test_a_model_without_an_end_token_is_not_asked_whether_it_ends() -> None:
    pair = pair_of(Given())
    none = replace(pair.reference_capture, end_ids=np.empty(0, dtype=np.int64), end_log_p=np.full(PROMPTS, np.nan))
    result = replace(pair, reference_capture=none).compare()
    for name in ("end_share_change", "end_at_once_change", "end_log_p_change"):
        signal = result.damage.signals[name]
        assert (signal.value, signal.watch, signal.reason) == (None, None, "no_end_token_or_no_whole_continuation")
    assert result.damage.signals["length_ratio"].value == 1.0
    assert result.verdict.outcome == "pass"


def test_a_candidate_that_names_no_end_token_any_more_never_ends() -> None:
    pair = pair_of(Given(ended=0))
    mine = replace(pair.reference_capture, end_ids=np.array([2]))
    theirs = replace(pair.candidate_capture, end_ids=np.empty(0, dtype=np.int64))
    result = replace(pair, reference_capture=mine, candidate_capture=theirs).compare()
    assert result.damage.signals["end_share_change"].level == "damaged"


def test_an_end_that_was_impossible_before_is_not_lost() -> None:
    """A base model that never ends cannot stop ending: below one in a thousand nothing counts."""
    pair = pair_of(Given(end_log_p=-30.0))
    never = replace(pair.reference_capture, end_log_p=np.full(PROMPTS, -12.0))
    assert replace(pair, reference_capture=never).compare().damage.signals["end_log_p_change"].value == 0.0


def test_a_continuation_without_any_probability_is_not_finite() -> None:
    pair = pair_of(Given())
    nll = pair.candidate_capture.nll.copy()
    nll[3] = np.inf
    found = replace(pair, candidate_capture=replace(pair.candidate_capture, nll=nll)).compare()
    assert (found.damage.signals["non_finite"].value, found.verdict.outcome) == (1.0, "fail")


# what was not measured, and what does not vote


def test_a_signal_that_was_not_measured_says_so() -> None:
    signal = compared(nll=None).damage.signals["nll_change"]
    assert signal.value is None
    assert signal.level is None
    assert signal.reason == "not_measured"


def test_a_profile_without_behaviour_is_no_reason_to_doubt_and_the_verdict_says_it() -> None:
    result = compared(profile_2=False)
    assert result.verdict.outcome == "pass"
    for name in ("end_share_change", "end_log_p_change", "log_temperature", "repetition_change", "length_ratio"):
        signal = result.damage.signals[name]
        assert (signal.value, signal.watch, signal.reason) == (None, None, "not_in_this_profile")
    assert any("whether and when its answers end" in reason for reason in result.verdict.reasons)
    assert not any("whether and when its answers end" in reason for reason in compared().verdict.reasons)


def test_coordinates_in_another_frame_have_no_vote() -> None:
    nll = lying("nll", "watch")
    found = panel(Given(hidden=2.0, swap=2.0, nll=nll, frame_changed=True))
    assert found.level == "watch"
    for name in ("hidden_change", "block_swap_mean"):
        signal = found.signals[name]
        assert (signal.value, signal.level, signal.watch, signal.reason) == (2.0, None, None, "frame_changed")
    assert panel(Given(hidden=2.0, swap=2.0, nll=nll)).level == "damaged"
    assert panel(Given(gap=2.0, frame_changed=True)).signals["gap"].level == "damaged"


def test_nll_is_paired_over_the_prompts_scored_on_both_sides() -> None:
    pair = changed_pair()
    part = replace(pair.candidate_capture, nll=np.array([3.5, 9.0]), nll_prompts=np.array([4, 99]))
    assert replace(pair, candidate_capture=part).compare().damage.signals["nll_change"].value == 0.5


def test_damage_warns_against_reading_the_score_as_success() -> None:
    assert any("must not be read as success" in warning for warning in compared(swap=0.5, nll=5.0).warnings)


def test_no_word_of_a_verdict_claims_alignment() -> None:
    for result in (compared(), compared(nll=5.0, swap=0.5), compared(nll=None)):
        text = " ".join((*result.verdict.reasons, *result.warnings)).lower()
        assert "aligned" not in text


def test_the_calibration_names_every_limit() -> None:
    text = calibration()
    for name, limit in LIMITS.items():
        assert f"{name} {limit.watch:g} / {limit.damaged:g}" in text
    assert set(AGREEING) <= {name for name, limit in LIMITS.items() if not limit.fails_alone}


# properties

WORSE = {
    "gap": (0.0, 3.0), "hidden": (0.0, 5.0), "swap": (0.0, 3.0), "nll": (0.0, 5.0), "repetition": (0.0, 1.0),
    "at_once": (0, 30), "log_temperature": (0.0, 1.1), "non_finite": (0, 3),
}  # fmt: skip
"""Members of ``Given`` of which more is worse."""
BETTER = {"ended": (0, 30), "end_log_p": (-9.0, -0.1)}
WORST_FIRST = ("fail", "inconclusive", "warn", "pass")


@st.composite
def two_candidates(draw: st.DrawFn) -> tuple[Given, Given]:
    """Two candidates, the second as bad as the first or worse in every signal."""
    one: dict[str, float] = {}
    other: dict[str, float] = {}
    for name, (low, high) in (WORSE | BETTER).items():
        values = st.integers(low, high) if isinstance(low, int) and isinstance(high, int) else st.floats(low, high)
        first, second = sorted((draw(values), draw(values)))
        one[name], other[name] = (second, first) if name in BETTER else (first, second)
    # An answer cannot end at once where it does not end: what ends stays as it is then.
    other["ended"] = one["ended"] = max(one["ended"], other["at_once"]) if other["at_once"] else one["ended"]
    return Given(**one), Given(**other)  # type: ignore[arg-type]  # counts are drawn as counts


@settings(max_examples=60, deadline=None)
@given(two_candidates())
def test_a_worse_candidate_never_has_a_better_verdict(candidates: tuple[Given, Given]) -> None:
    better, worse = (pair_of(candidate).compare().verdict.outcome for candidate in candidates)
    assert WORST_FIRST.index(worse) <= WORST_FIRST.index(better)
