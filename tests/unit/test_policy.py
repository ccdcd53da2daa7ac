"""The verdict: the worst finding decides, its reasons come first, and every verdict says what it does not cover."""

from dataclasses import replace
from typing import Literal

import pytest

from spinal.documents.account import Account, PlacePart, configuration_carries
from spinal.documents.base import Estimate
from spinal.documents.comparison import Comparison, Damage, DamageSignal, Looked, SettingDifference, Statement, Verdict
from spinal.policy.decide import POLICY, QUIET, decide, judged
from spinal.policy.rules import RULES, Facts, Finding, Outcome, Rule
from tests.support.fabricated import changed_pair, identical_pair

SAID = Statement(about="block_swap", kind="band", text="blocks 3-7 compute something else")
WORST_FIRST = ["fail", "inconclusive", "warn", "pass"]
ONLY_THESE = "only the given prompts were looked at"


def signal(level: str | None, *, alone: bool = False) -> DamageSignal:
    """A signal at that level; without one it was not measured."""
    value = {None: None, "none": 0.1, "watch": 0.3, "damaged": 0.5}[level]
    return DamageSignal(
        value=value,
        watch=0.25,
        damaged=0.4,
        level=level,
        unit="u",
        reason="not_measured" if value is None else None,
        ci=None if value is None else (value, value),
        fails_alone=alone,
    )


def facts(level: Literal["none", "watch", "damaged"], one: DamageSignal) -> Facts:
    return Facts(Damage(level=level, signals={"one": one}, calibration="c"), (SAID,))


FACTS: dict[Outcome, Facts] = {
    "fail": facts("damaged", signal("damaged", alone=True)),
    "inconclusive": facts("none", signal(None)),
    "warn": facts("watch", signal("watch")),
    "pass": facts("none", signal("none")),
}


@pytest.mark.parametrize("outcome", WORST_FIRST)
def test_each_outcome_has_its_facts(outcome: Outcome) -> None:
    found = decide(FACTS[outcome])
    assert (found.outcome, found.policy) == (outcome, "spinal-default/2")
    assert [rule.rule for rule in found.rules] == list(RULES)
    assert min((rule.outcome for rule in found.rules), key=WORST_FIRST.index) == outcome


def test_rules_are_called_as_the_contract_calls_them() -> None:
    assert {rule.name: rule.asks for rule in RULES.values()} == {
        "damage": "does any signal by itself say that the candidate does not work?",
        "margin": "does it still prefer the answers that it should, where pairs were given?",
        "agreement": "do signals that only warn agree, while text is predicted worse?",
        "raised": "is any signal worth a look?",
        "settings": "does it compute under the configuration of the reference?",
        "damage_measured": "was every damage signal that votes measured, and surely enough?",
        "not_looked_at": "what does the verdict not cover?",
    }


@pytest.mark.parametrize("added", WORST_FIRST)
@pytest.mark.parametrize("alone", WORST_FIRST)
def test_the_worst_finding_decides_and_is_said_first(
    added: Outcome, alone: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RULES, "added", Rule("added", "?", lambda _facts: Finding(added, ("added",))))
    found = decide(FACTS[alone])
    assert found.outcome == min(added, alone, key=WORST_FIRST.index)
    assert "added" in found.reasons
    if WORST_FIRST.index(added) < WORST_FIRST.index(alone):
        assert found.reasons[0] == "added"
    if alone != "pass" and WORST_FIRST.index(alone) <= WORST_FIRST.index(added):
        assert found.reasons[0].startswith("one")
    assert (found.reasons[0] == QUIET) == (found.outcome == "pass")


def test_every_verdict_says_what_was_not_looked_at_after_its_reasons() -> None:
    for given in FACTS.values():
        reasons = decide(given).reasons
        at = [number for number, reason in enumerate(reasons) if reason.startswith(ONLY_THESE)]
        assert at == [len(reasons) - 2]


def test_categories_without_enough_scored_prompts_are_named() -> None:
    looked = tuple(
        Looked(category=category, prompts=n, scored=scored, swapped=0, accounted=0, continued=0)
        for category, n, scored in (("en", 64, 64), ("ru", 8, 0), ("de", 5, 4), ("fr", 5, 5), (None, 9, 0))
    )
    found = decide(replace(FACTS["pass"], looked_at=looked))
    named = [reason for reason in found.reasons if "categories not looked at" in reason]
    assert named == [
        "categories not looked at by themselves, with fewer than 5 scored prompts: 'ru' (0 of 8), 'de' (4 of 5)"
    ]
    many = tuple(looked[1].model_copy(update={"category": f"c{i}"}) for i in range(11))
    said = " ".join(decide(replace(FACTS["pass"], looked_at=many)).reasons)
    assert "'c7' (0 of 8) and 3 more" in said
    assert "'c8'" not in said


def of_gap(gap: float | None, *, computes: bool, carries: bool | None = True) -> Facts:
    one = signal("none").model_copy(update={"value": gap})
    rope = SettingDifference(
        part="configuration", key="rope_theta", reference="10000.0", candidate="500.0", computes=computes
    )
    return Facts(
        Damage(level="none", signals={"gap": one}, calibration="c"),
        (SAID,),
        settings=(rope,),
        configuration_carries=carries,
    )


@pytest.mark.parametrize(
    ("gap", "computes", "outcome"),
    [(0.29, True, "warn"), (0.29, False, "pass"), (0.001, True, "pass"), (None, True, "pass")],
)
def test_another_configuration_that_computes_something_else_is_worth_a_look(
    gap: float | None, computes: bool, outcome: str
) -> None:
    found = RULES["settings"].judge(of_gap(gap, computes=computes))
    assert (found.outcome if found else "pass") == outcome
    if found is not None:
        assert found.reasons == ("computes under another configuration: rope_theta: 10000.0 -> 500.0",)


def test_settings_of_which_nothing_tells_what_they_compute_may_compute_something_else() -> None:
    """Without an account: the weights may have moved the output as well."""
    found = RULES["settings"].judge(of_gap(0.29, computes=True, carries=None))
    assert found is not None
    assert found.reasons == ("may compute something else under another configuration: rope_theta: 10000.0 -> 500.0",)
    assert RULES["settings"].judge(of_gap(0.29, computes=True, carries=False)) is None


@pytest.mark.parametrize(
    ("phi", "carries"),
    [(0.0, False), (-1.6e-11, False), (1e-9, False), (2e-9, True), (-0.3, True), (None, True)],
)
def test_a_configuration_carries_what_lies_above_rounding(phi: float | None, carries: bool) -> None:
    """A key that computes nothing beside a real change leaves a rounding: it is not said to compute something else."""
    part = PlacePart(
        place="configuration", block=None, identical=False, phi=Estimate(value=phi), interaction=0.0,
        share=Estimate(value=None, reason="r"),
    )  # fmt: skip
    account = Account(
        read_out="kl", prompts=8, total=Estimate(value=0.03), floor=1e-9, places=(part,), localization=None,
        blocks_terminal_share=Estimate(value=None, reason="r"),
    )  # fmt: skip
    assert configuration_carries({"kl": account}) is carries


def test_statements_are_the_place_of_the_change_where_there_are_any() -> None:
    told = tuple(
        Statement(about="block_swap", kind="band", text=text) for text in ("blocks 3-7 changed", "the rest did not")
    )
    found = decide(replace(FACTS["warn"], statements=told))
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


def settings_facts(*settings: SettingDifference, carries: bool | None) -> Facts:
    """Of a candidate whose output moved, and whose configuration carries part of that, or none, or nobody knows."""
    moved = {"gap": signal("none")}
    return Facts(Damage(level="none", signals=moved, calibration="c"), (), (), settings, carries)


@pytest.mark.parametrize(("carries", "outcome"), [(True, "warn"), (None, "warn"), (False, "pass")])
def test_a_setting_is_worth_a_look_unless_it_was_seen_to_compute_nothing(carries: bool | None, outcome: str) -> None:
    longer = SettingDifference(
        part="configuration", key="max_position_embeddings", reference="512", candidate="4096", computes=True
    )
    found = decide(settings_facts(longer, carries=carries))
    assert found.outcome == outcome
    assert any("another configuration" in reason for reason in found.reasons) == (outcome == "warn")


@pytest.mark.parametrize(("key", "named"), [("eos_token_id", True), ("stop_strings", True), ("temperature", False)])
def test_another_end_in_use_is_named(key: str, named: bool) -> None:
    """The measurement ends answers by configuration and tokenizer: it says so where use would end them elsewhere."""
    other = SettingDifference(part="generation", key=key, reference="0", candidate="5", computes=False)
    found = decide(settings_facts(other, carries=False))
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
