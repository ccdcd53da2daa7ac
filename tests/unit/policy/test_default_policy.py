"""``spinal-default/2`` as a document says what it said as code, of whatever a panel may hold."""

from collections import Counter
from collections.abc import Mapping
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinal.analysis.damage.limits import AGREEING, LIMITS
from spinal.analysis.damage.panel import agreed
from spinal.analysis.damage.signals import measured, not_asked, unmeasured, without_vote
from spinal.documents.comparison import (
    Comparison,
    Damage,
    DamageSignal,
    Looked,
    Scores,
    SettingDifference,
)
from spinal.documents.policy import AgreementRule, LimitRule
from spinal.policy.decide import decide
from spinal.policy.kinds import KINDS
from spinal.policy.shipped import DEFAULT_POLICY, default_policy
from tests.support.fabricated import changed_pair
from tests.unit.policy.oracle import SAME_OUTPUT, decided

LIMIT_RULES = [rule for rule in default_policy().rules if isinstance(rule, LimitRule)]


@cache
def made() -> Comparison:
    return changed_pair().compare()


def with_signals(
    signals: Mapping[str, DamageSignal],
    *,
    settings: tuple[SettingDifference, ...] = (),
    looked: tuple[Looked, ...] = (),
) -> Comparison:
    damage = Damage(level=agreed(signals), signals=dict(signals), calibration="c")
    return made().model_copy(update={"damage": damage, "settings": settings, "looked_at": looked})


def alike(content: Comparison) -> None:
    """The outcome, what is said first, and everything that is said, each once. Among findings that are as bad as each
    other the document's order is that of its rules."""
    outcome, reasons = decided(content)
    found = decide(content)
    assert found.outcome == outcome
    assert Counter(found.reasons) == Counter(reasons)
    assert (found.decided_by is None) == (outcome == "pass")
    worst = next((rule for rule in found.rules if rule.outcome == outcome), None)
    if outcome != "pass":
        assert worst is not None
        assert worst.rule == found.decided_by
        assert found.reasons[0] in worst.reasons


@st.composite
def signals(draw: st.DrawFn, name: str) -> DamageSignal | None:
    """A signal as the panel of this release may hold it, around its limits."""
    limit = LIMITS[name]
    kind = draw(
        st.sampled_from(("measured", "measured", "measured", "few", "unmeasured", "not_asked", "gone", "frame"))
    )
    if kind == "gone":
        return None
    if kind == "unmeasured":
        return unmeasured(name, "r")
    if kind == "not_asked":
        return not_asked(name, "no_pairs")
    scale = abs(limit.damaged)
    values = st.one_of(
        st.sampled_from((limit.watch, limit.damaged, limit.neutral, 1 / 3, 0.1)),
        st.floats(-2 * scale, 2 * scale, allow_nan=False),
    )
    value = draw(values)
    if limit.both:
        value = max(abs(value), 1e-3)
    if kind == "few":
        return measured(name, value, None, n=3)
    low, high = sorted((draw(values), draw(values)))
    found = measured(name, value, (low, high), n=32, se=0.1, of="code" if "category" in name else None)
    return (
        without_vote(found, "frame_changed")
        if kind == "frame" and name in ("hidden_change", "block_swap_mean")
        else found
    )


@st.composite
def former(draw: st.DrawFn, name: str) -> DamageSignal | None:
    """A signal as the release before kept it: no interval, and a level by its value."""
    limit = LIMITS[name]
    value = draw(st.sampled_from((limit.neutral, limit.watch, 1.1 * limit.watch, limit.damaged, 1.1 * limit.damaged)))
    down = limit.damaged < limit.neutral
    level = "none"
    for each, bound in (("watch", limit.watch), ("damaged", limit.damaged)):
        if value <= bound if down else value >= bound:
            level = each
    return DamageSignal.model_validate(
        {"value": value, "watch": limit.watch, "damaged": limit.damaged, "level": level, "unit": limit.unit}
    )


@st.composite
def panels(draw: st.DrawFn, of_former: bool) -> dict[str, DamageSignal]:
    names = ("nll_change", "hidden_change", "block_swap_mean", "non_finite") if of_former else tuple(LIMITS)
    found = {name: draw(former(name) if of_former else signals(name)) for name in names}
    kept = {name: signal for name, signal in found.items() if signal is not None}
    shown = DamageSignal(value=9.0, watch=None, damaged=None, level=None, unit="nats")
    return kept | {"entropy_change": shown}


SETTINGS = st.lists(
    st.builds(
        SettingDifference,
        part=st.sampled_from(("configuration", "generation")),
        key=st.sampled_from(("rope_theta", "eos_token_id", "temperature")),
        reference=st.just("1"),
        candidate=st.just("2"),
        computes=st.booleans(),
    ),
    max_size=10,
).map(tuple)
LOOKED = st.lists(
    st.builds(
        Looked,
        category=st.sampled_from(("code", "ru", None)),
        prompts=st.just(8),
        scored=st.integers(0, 8),
        swapped=st.just(0),
        accounted=st.just(0),
        continued=st.just(0),
    ),
    max_size=10,
).map(tuple)


@given(panel=panels(of_former=False), settings=SETTINGS, looked=LOOKED)
def test_the_document_says_what_the_code_said(
    panel: dict[str, DamageSignal], settings: tuple[SettingDifference, ...], looked: tuple[Looked, ...]
) -> None:
    alike(with_signals(panel, settings=settings, looked=looked))


@given(panel=panels(of_former=True))
def test_the_document_says_what_the_code_said_of_comparisons_of_the_release_before(
    panel: dict[str, DamageSignal],
) -> None:
    alike(with_signals(panel))


def test_a_level_that_no_signal_explains_is_judged_as_it_was() -> None:
    for level in ("none", "watch", "damaged"):
        damage = made().damage.model_copy(update={"level": level})
        alike(made().model_copy(update={"damage": damage}))
    # A signal of a later release, which this policy knows no rule for.
    later = unmeasured("nll_change", "r")
    alike(with_signals(dict(made().damage.signals) | {"of_tomorrow": later}))


# the limits


def test_limits_are_those_of_the_panel() -> None:
    """A change in one has to be made in the other, under the next number of the policy."""
    stated = {
        rule.value.removeprefix("damage."): (
            rule.watch, rule.limit, rule.severity == "fail", rule.watch_surely_beyond is not None, rule.bad,
        )
        for rule in LIMIT_RULES if rule.name != "length_ratio_short"
    }  # fmt: skip
    assert stated == {
        name: (
            limit.watch, limit.damaged, limit.fails_alone, limit.watch_if_sure,
            "below" if limit.damaged < limit.neutral else "above",
        )
        for name, limit in LIMITS.items()
    }  # fmt: skip


def test_the_other_side_of_a_ratio_is_its_reciprocal() -> None:
    (short,) = [rule for rule in LIMIT_RULES if rule.name == "length_ratio_short"]
    limit = LIMITS["length_ratio"]
    assert (short.watch, short.limit, short.bad) == (1 / limit.watch, 1 / limit.damaged, "below")
    assert [name for name, each in LIMITS.items() if each.both] == ["length_ratio"]


def test_what_agrees_is_what_the_panel_has_agree() -> None:
    (rule,) = [rule for rule in default_policy().rules if isinstance(rule, AgreementRule)]
    sides = [(test.value, test.bad, test.limit) for test in rule.among]
    expected = [(f"damage.{name}", "above", LIMITS[name].damaged) for name in AGREEING]
    assert sides == [*expected, ("damage.length_ratio", "below", 1 / LIMITS["length_ratio"].damaged)]
    assert (rule.at_least, rule.while_.value, rule.while_.limit) == (2, "damage.nll_change", LIMITS["nll_change"].watch)


def test_what_rounding_makes_of_one_model_is_what_it_was() -> None:
    (settings,) = [rule for rule in default_policy().rules if rule.kind == "settings"]
    assert settings.same_output == SAME_OUTPUT


# what it judges, and what it never does


def test_the_name_and_the_document_go_together() -> None:
    """Released rules never change. Before a release, this digest follows limits.py; after one, the next number does."""
    policy = default_policy()
    assert policy.name == DEFAULT_POLICY
    assert decide(made()).policy_digest == policy.digest
    assert policy.digest == "dd5b23c057112c1f3d5e75c7b3b54a82401b705997370b65704dc952b0b305d6"


def test_the_default_looks_at_damage_alone() -> None:
    paths = {path for rule in default_policy().rules for _, path, *_ in KINDS[rule.kind].values(rule)}
    assert paths
    assert {path.partition(".")[0] for path in paths} == {"damage"}


strengths = st.one_of(st.none(), st.floats(-1e3, 1e3))


@given(panel=panels(of_former=False), strength=st.tuples(strengths, strengths, strengths))
def test_the_strength_of_a_signature_decides_nothing(
    panel: dict[str, DamageSignal], strength: tuple[float | None, float | None, float | None]
) -> None:
    content = with_signals(panel)
    scores: Scores = content.scores.model_copy(
        update=dict(zip(("delta_align", "contraction_rise", "spinal_score"), strength, strict=True))
    )
    stronger = content.model_copy(update={"scores": scores, "localization": {}, "nulls": {}})
    assert decide(stronger) == decide(content)


@pytest.mark.parametrize(
    "name", [name for name, limit in LIMITS.items() if limit.fails_alone and name != "margin_change"]
)
def test_damage_fails_wherever_it_sits(name: str) -> None:
    """Blocks, read-out, embeddings, configuration, how answers end, one category: each shows in a signal, and whichever
    it is, it decides."""
    limit = LIMITS[name]
    value = 2.0 * limit.damaged
    panel = {
        each: measured(each, bound.neutral, (bound.neutral, bound.neutral), n=32) for each, bound in LIMITS.items()
    }
    found = decide(with_signals(panel | {name: measured(name, value, (value, value), n=32)}))
    assert (found.outcome, found.decided_by) == ("fail", name)
    (rule,) = [rule for rule in found.rules if rule.rule == name]
    assert (rule.value, rule.ci, rule.limit, rule.severity, rule.path) == (
        value, (value, value), limit.damaged, "fail", f"damage.{name}",
    )  # fmt: skip
