"""The document of a series: which status follows from what, and what its sentences say."""

from datetime import date
from typing import Any

import numpy as np
import pytest

from spinal.documents.account import Account
from spinal.documents.comparison import ComparisonContent, DamageSignal
from spinal.documents.policy import Policy
from spinal.documents.schemas import parse
from spinal.documents.series import Series, SeriesSettings
from spinal.policy.decide import decide
from spinal.policy.reading import make_policy
from spinal.policy.series import Member, assess
from spinal.policy.series.arrays import group_shares
from spinal.policy.shipped import default_policy
from tests.support.contents import account, parts
from tests.support.series import PROMPTS, TODAY, compared, measured, run

NLL = {
    "name": "nll", "value": "damage.nll_change", "bad": "above", "limit": 1.0, "watch": 0.3, "severity": "fail",
    "not_asked": "pass",
}  # fmt: skip


def policy(*rules: dict[str, Any]) -> Policy:
    return make_policy({"name": "acme/1", "rules": list(rules or [NLL])}, "policy")


def calm(members: int, seed: int = 0, level: float = 0.02, spread: float = 0.05) -> np.ndarray:
    """(n, P) changes in which nothing happens."""
    generator = np.random.default_rng(seed)
    return level + 0.1 * generator.standard_normal(PROMPTS) + spread * generator.standard_normal((members, PROMPTS))


def fallen(members: int, at: int, size: float = 0.5) -> np.ndarray:
    values = calm(members)
    values[at:] += size
    return values


def gaps(members: int, *, faster_from: int | None = None) -> np.ndarray:
    line = 0.05 + 0.01 * np.arange(members)
    if faster_from is not None:
        line[faster_from:] += 0.08 * np.arange(1, members - faster_from + 1)
    return np.abs(line[:, None] + 0.002 * np.random.default_rng(1).standard_normal((members, PROMPTS)))


def series(members: list[Member], **options: Any) -> Series:
    return assess("local:base", members, **options)


def test_a_calm_run_is_healthy_and_says_how_much_was_measured() -> None:
    found = series(run({"nll_change": calm(10), "gap": gaps(10)}))
    assert (found.status, found.onset_step, found.first_alarm_step, found.alarms) == ("healthy", None, None, ())
    assert "10 checkpoints, steps 100 to 1000" in found.reasons[0]
    assert any("not looked at" in reason and "preference margin" in reason for reason in found.reasons)


def test_a_fall_is_destabilised_and_says_between_which_steps_by_how_much() -> None:
    found = series(run({"nll_change": fallen(10, 6), "gap": gaps(10)}))
    assert found.status == "destabilised"
    assert found.alarmed == ("nll_change",)
    alarm = found.alarms[0]
    assert (alarm.kind, alarm.role, alarm.step, alarm.worse_from_step) == ("drawdown", "damage", 800, 700)
    assert alarm.onset_step <= 600
    assert (found.onset_step, found.worse_from_step, found.first_alarm_step) == (alarm.onset_step, 700, 800)
    assert f"between steps {alarm.onset_step} and 700" in alarm.text
    assert "nats a token [" in alarm.text
    assert found.reasons[0] == alarm.text
    point = found.signals["nll_change"].points[-1]
    assert point.beyond
    assert point.fall_low is not None
    assert point.least_effect == pytest.approx(0.1), "a third of the watch limit"
    assert point.fall_low > 0.1


def test_a_break_after_a_drift_lies_between_the_steps_that_are_named() -> None:
    """The drift is beyond noise from the second checkpoint on, and amounts to nothing until it breaks."""
    values = calm(10, spread=0.005) + 0.008 * np.arange(10)[:, None]
    values[8:] += 0.5
    found = series(run({"nll_change": values}))
    assert (found.onset_step, found.worse_from_step, found.first_alarm_step) == (100, 900, 1000)
    assert "between steps 100 and 900" in found.reasons[0]
    assert "beyond noise from step 200 on" in found.reasons[0]
    assert "the last" not in found.reasons[0]


def test_a_fall_that_is_made_good_again_says_so() -> None:
    values = calm(10, spread=0.01)
    values[4:6] += 0.7
    found = series(run({"nll_change": values}))
    assert (found.status, found.worse_from_step) == ("destabilised", 500)
    assert "at step 1000, the last, no longer surely by as much as counts" in found.reasons[0]


def test_a_healthy_rise_of_nll_is_no_fall() -> None:
    values = calm(20) + np.linspace(0.0, 0.08, 20)[:, None]
    found = series(run({"nll_change": values}))
    assert found.status == "healthy"
    distances = [point.distance or 0.0 for point in found.signals["nll_change"].points]
    assert max(distances) > (found.signals["nll_change"].threshold or 0.0), "the least effect keeps it from counting"


def test_early_warning_alone_is_watch() -> None:
    found = series(run({"nll_change": calm(16), "gap": gaps(16, faster_from=8)}))
    assert (found.status, found.onset_step, found.alarmed, found.warned) == ("watch", None, (), ("gap",))
    alarm = found.alarms[0]
    assert (alarm.kind, alarm.role, alarm.onset_step) == ("change_point", "early_warning", 800)
    assert found.first_warning_step == alarm.step
    assert 1200 <= alarm.step <= 1600
    assert "early warning" in alarm.text
    assert [one.step for one in found.signals["gap"].change_points] == [800]


def test_damage_and_early_warning_are_told_apart() -> None:
    found = series(run({"nll_change": fallen(16, 12), "gap": gaps(16, faster_from=8)}))
    assert (found.status, found.alarmed, found.warned) == ("destabilised", ("nll_change",), ("gap",))
    assert [alarm.role for alarm in found.alarms] == ["damage", "early_warning"]
    assert found.first_alarm_step == 1400
    assert found.first_warning_step is not None


@pytest.mark.parametrize("count", [0, 1, 4])
def test_fewer_than_five_members_without_damage_are_too_few(count: int) -> None:
    found = series(run({"nll_change": fallen(4, 2)})[:count])
    assert found.status == "insufficient_series"
    assert "from 5 on" in found.reasons[0]
    assert all(signal.threshold is None for signal in found.signals.values())


def test_a_member_beyond_a_damage_limit_is_enough_however_short_the_series() -> None:
    found = series(run({"nll_change": fallen(3, 1, size=2.0)}))
    assert found.status == "destabilised"
    alarm = found.alarms[0]
    assert (alarm.kind, alarm.signal, alarm.step, alarm.onset_step) == ("limit", "nll_change", 200, 100)
    assert "between steps 100 and 200" in alarm.text
    assert [one.kind for one in found.alarms] == ["limit"], "the next member says nothing new"


def test_the_first_member_beyond_a_limit_began_no_later_than_itself() -> None:
    found = series(run({"nll_change": calm(1, level=2.0)}))
    assert (found.status, found.onset_step, found.first_alarm_step) == ("destabilised", 100, 100)
    assert "the first that is measured" in found.reasons[0]


@pytest.mark.parametrize(
    ("expires", "status"), [("2026-12-31", "healthy"), ("2026-01-31", "destabilised")], ids=["holds", "expired"]
)
def test_a_waived_limit_is_told_and_counts_for_nothing(expires: str, status: str) -> None:
    waived = policy(NLL | {"waiver": {"reason": "a known change of format", "expires": expires}})
    found = series(run({"nll_change": calm(8, level=2.0)}, policy=waived), policy=waived)
    assert found.status == status
    assert any("a known change of format" in remark for remark in found.remarks) == (status == "healthy")


def test_limits_on_other_values_than_damage_are_no_damage() -> None:
    total = {
        "name": "drift", "value": "scores.delta_align", "bad": "above", "limit": -9.0, "severity": "fail",
        "decides": "value",
    }  # fmt: skip
    asked = policy(NLL, total)
    members = run({"nll_change": calm(8)}, policy=asked)
    assert {member.verdict.outcome for member in members if member.verdict} == {"fail"}
    assert series(members, policy=asked).status == "healthy"


def test_a_failed_member_leaves_a_calm_run_inconclusive_and_a_fallen_one_fallen() -> None:
    lost = Member(450, "local:checkpoint-450", "failed", reason="out of memory")
    calm_run = series([*run({"nll_change": calm(8)}), lost])
    assert calm_run.status == "inconclusive"
    assert "step 450 (out of memory)" in calm_run.reasons[0]
    assert series([*run({"nll_change": fallen(8, 5)}), lost]).status == "destabilised"
    assert series([*run({"nll_change": calm(3)}), lost]).status == "inconclusive"


@pytest.mark.parametrize("state", ["waiting", "cancelled"])
def test_members_that_wait_or_were_cancelled_do_not_keep_the_others_from_being_judged(state: Any) -> None:
    members = [*run({"nll_change": calm(8)}), Member(900, "local:checkpoint-900", state)]
    found = series(members, closed=False)
    assert found.status == "healthy"
    assert [member.state for member in found.members][-1] == state
    assert any("step 900" in reason for reason in found.reasons) == (state == "waiting")
    assert not found.closed


def test_a_signal_that_a_rule_needs_and_has_no_answer_on_is_inconclusive() -> None:
    members = run({"nll_change": calm(6)})
    content = members[3].content
    assert content is not None
    lost = content.damage.signals["nll_change"].model_copy(
        update={"value": None, "ci": None, "level": None, "reason": "not_measured"}
    )
    panel = content.damage.model_copy(update={"signals": content.damage.signals | {"nll_change": lost}})
    members[3] = measured(400, content.model_copy(update={"damage": panel, "by_prompt": {}}))
    found = series(members)
    assert found.status == "inconclusive"
    assert "step 400" in found.reasons[0]
    # Nobody asks for it: it is stepped over, and said.
    other = policy({**NLL, "name": "gap", "value": "damage.gap", "limit": 3.0, "watch": 2.0})
    unasked = series(
        [measured(each.step, each.content, other) for each in members if each.content is not None], policy=other
    )
    assert unasked.status == "healthy"
    assert any("nll_change: no value at step 400" in remark for remark in unasked.remarks)


def test_members_of_a_release_that_kept_no_prompts_are_not_paired_and_not_called_healthy() -> None:
    members = run({"nll_change": calm(8)})
    old = [
        Member(each.step, each.model, each.state, each.content.model_copy(update={"by_prompt": {}}), each.verdict)
        for each in members
        if each.content is not None
    ]
    found = series([*old[:2], *members[2:]])
    assert found.status == "inconclusive"
    assert "steps 100 and 200" in found.reasons[0]
    assert found.signals["nll_change"].threshold is not None, "the other six are looked at"
    assert series(old).signals["nll_change"].reason is not None


def test_the_worst_category_is_named_and_looking_at_all_is_corrected_for() -> None:
    categories = ["en", "ru", "de", "fr"] * (PROMPTS // 4)
    values = calm(10)
    values[6:, 1::4] += 0.9
    found = series(run({"nll_change": values}, categories=categories))
    assert found.alarmed[0] == "nll_change_worst_category" or "nll_change_worst_category" in found.alarmed
    alarm = next(one for one in found.alarms if one.signal == "nll_change_worst_category")
    assert (alarm.of, alarm.worse_from_step) == ("ru", 700)
    assert "category 'ru'" in alarm.text
    worst, whole = found.signals["nll_change_worst_category"], found.signals["nll_change"]
    assert worst.points[-1].of == "ru"
    assert (worst.threshold or 0.0) > (whole.threshold or 0.0)
    assert worst.least_effect == pytest.approx(0.5 / 3)


def test_a_margin_that_is_lost_is_damage_and_one_that_grows_is_not() -> None:
    grown = np.linspace(0.2, 2.0, 10)[:, None] + 0.1 * calm(10)
    assert series(run({"nll_change": calm(10), "margin_change": grown})).status == "healthy"
    lost = grown.copy()
    lost[7:] -= 0.8
    found = series(run({"nll_change": calm(10), "margin_change": lost}))
    assert found.alarmed == ("margin_change",)
    signal = found.signals["margin_change"]
    assert (signal.better, signal.least_effect) == ("higher", None)
    best = signal.points[6].value
    assert best is not None
    assert signal.points[-1].least_effect == pytest.approx(0.1 * best, rel=1e-6)


def test_answers_that_stop_ending_are_damage() -> None:
    ended = np.zeros((8, PROMPTS))
    ended[5:, : PROMPTS // 3] = -1.0
    found = series(run({"nll_change": calm(8), "end_share_change": ended}))
    assert "end_share_change" in found.alarmed
    alarm = next(one for one in found.alarms if one.signal == "end_share_change" and one.kind == "drawdown")
    assert (alarm.onset_step, alarm.step) == (500, 700)
    assert series(run({"nll_change": calm(8), "end_share_change": 0.0 * ended})).status == "healthy"


def shared(late: float) -> Account:
    return account(parts([1.0, 1.0, 1.0, 1.0, late / 2, late / 2], 0.5, 0.5), read_out="kl")


def test_shares_of_the_account_are_followed_by_thirds_and_warn() -> None:
    assert group_shares(compared(1, {}, account=shared(2.0))) == pytest.approx(
        {
            "embeddings": 0.5 / 7,
            "first_third": 2 / 7,
            "middle_third": 2 / 7,
            "last_third": 2 / 7,
            "read_out": 0.5 / 7,
        }
    )
    values = calm(14)
    members = [
        measured(step, compared(step, {"nll_change": values[step - 1]}, account=shared(2.0 if step <= 8 else 12.0)))
        for step in range(1, 15)
    ]
    found = series(members)
    assert found.status == "watch"
    assert "kl_share_last_third" in found.warned
    assert found.members[0].carried["block 5"] == pytest.approx(1.0 / 7)
    alarm = next(one for one in found.alarms if one.signal == "kl_share_last_third")
    assert (alarm.onset_step, alarm.step) == (8, 12)
    assert found.alarmed == ()


def test_an_account_without_shares_has_no_row_and_says_why() -> None:
    none = account(parts([1.0, -1.0, 0.5]), read_out="kl", reason="cancelling")
    found = series([measured(1, compared(1, {"nll_change": calm(1)[0]}, account=none))])
    assert found.members[0].carried == {}
    assert found.signals["kl_share_last_third"].points[0].reason == "cancelling"


def test_a_cusum_looks_from_the_approved_step_on_alone() -> None:
    line = np.full(20, 0.1) + 0.0004 * np.random.default_rng(0).standard_normal(20)
    line[14:] += 0.4
    values = {"nll_change": calm(20), "gap": np.repeat(line[:, None], PROMPTS, axis=1)}
    approved = series(run(values), settings=SeriesSettings(plateau_from_step=100))
    (cusum,) = [one for one in approved.alarms if one.kind == "cusum"]
    assert (cusum.onset_step, cusum.signal) == (1400, "gap")
    assert not [one for one in series(run(values)).alarms if one.kind == "cusum"]
    late = series(run(values), settings=SeriesSettings(plateau_from_step=1950))
    assert any("1 checkpoint on the plateau" in remark for remark in late.remarks)


def test_least_effects_follow_the_watch_limits_of_the_policy() -> None:
    strict = policy(NLL | {"watch": 0.04})
    values = calm(12) + 0.08 * (np.arange(12) >= 6)[:, None]
    assert series(run({"nll_change": values})).status == "healthy"
    found = series(run({"nll_change": values}, policy=strict), policy=strict)
    assert found.status == "destabilised"
    assert found.signals["nll_change"].least_effect == pytest.approx(0.04 / 3)
    warns = policy({**NLL, "severity": "warn", "limit": 0.04, "watch": None})
    assert series(run({"nll_change": values}, policy=warns), policy=warns).signals[
        "nll_change"
    ].least_effect == pytest.approx(0.04 / 3)


def test_the_digest_covers_members_verdicts_policy_and_settings_and_no_names() -> None:
    members = run({"nll_change": calm(6)})
    found = series(members)
    renamed = [Member(each.step, "other", each.state, each.content, each.verdict, audit="x") for each in members]
    assert assess("elsewhere", renamed, labels={"a": "b"}).digest == found.digest
    assert series(members[:-1]).digest != found.digest
    assert series(members, settings=SeriesSettings(plateau_from_step=1)).digest != found.digest
    assert series(run({"nll_change": calm(6)}, policy=policy()), policy=policy()).digest != found.digest


def test_a_document_is_read_back_as_it_was_written() -> None:
    found = series(run({"nll_change": fallen(10, 6), "gap": gaps(10)}), labels={"run": "7"})
    assert parse(found.model_dump_json(), "x") == found


def test_a_verdict_that_is_not_given_is_decided() -> None:
    members = run({"nll_change": calm(5)})
    bare = [Member(each.step, each.model, each.state, each.content) for each in members]
    assert series(bare) == series(members)


def test_two_members_of_one_step_and_two_references_are_refused() -> None:
    members = run({"nll_change": calm(5)})
    with pytest.raises(ValueError, match="same step"):
        series([*members, members[0]])
    content = members[0].content
    assert content is not None
    other = content.reference.model_copy(update={"weights_digest": "0" * 64})
    stranger = content.model_copy(update={"reference": other})
    with pytest.raises(ValueError, match="different references"):
        series([*members, Member(999, "x", "measured", stranger, decide(stranger, today=TODAY))])


def test_a_member_that_is_the_reference_is_measured_and_the_best_so_far() -> None:
    values = fallen(8, 5)
    values[0] = 0.0
    found = series(run({"nll_change": values}))
    assert found.status == "destabilised"
    assert found.signals["nll_change"].points[0].fall == 0.0


def test_a_panel_that_is_damaged_counts_though_no_rule_asks_for_the_signal() -> None:
    alone = DamageSignal(
        value=5.0, watch=1.0, damaged=2.0, level="damaged", unit="nats", ci=(4.0, 6.0), n=9, fails_alone=True
    )
    made = compared(300, {"nll_change": calm(1)[0]})
    panel = made.damage.model_copy(update={"level": "damaged", "signals": made.damage.signals | {"new": alone}})
    members = [*run({"nll_change": calm(2)}), measured(300, made.model_copy(update={"damage": panel}))]
    found = series(members)
    assert found.status == "destabilised"
    assert [(one.kind, one.signal, one.onset_step) for one in found.alarms] == [("limit", "panel", 200)]


def test_every_tracked_signal_of_damage_is_needed_where_the_default_asks() -> None:
    found = series(run({"nll_change": calm(5)}), policy=default_policy())
    damage = {name for name, signal in found.signals.items() if signal.role == "damage"}
    assert {name for name, signal in found.signals.items() if signal.needed} == damage


def test_members_that_share_too_few_prompts_are_not_paired_and_the_document_stays_whole() -> None:
    """Each member has prompts of its own: nothing falls, and no number that is not finite gets into a document."""
    values = fallen(6, 3)
    members = [
        measured(
            step,
            compared(
                step,
                {"nll_change": values[step, step * 10 : step * 10 + 10]},
                prompts=range(step * 10 + 1, step * 10 + 11),
            ),
        )
        for step in range(6)
    ]
    found = series(members)
    assert (found.status, found.alarms) == ("inconclusive", ())
    assert "steps 1, 2, 3, 4 and 5 cannot be compared" in found.reasons[0]
    assert parse(found.model_dump_json(), "x") == found
    signal = found.signals["nll_change"]
    assert signal.sigma is None
    assert [point.fall for point in signal.points] == [0.0, *[None] * 5]


def test_a_category_that_one_member_lacks_is_stepped_over() -> None:
    categories = ["en"] * 40 + ["ru"] * (PROMPTS - 40)
    values = calm(8)
    values[5:, 40:] += 0.9
    members = run({"nll_change": values}, categories=categories)
    members[6] = measured(700, compared(700, {"nll_change": values[6, :40]}, categories=categories))
    found = series(members)
    alarm = next(one for one in found.alarms if one.signal == "nll_change_worst_category")
    assert (alarm.of, alarm.worse_from_step, alarm.step) == ("ru", 600, 800)


def test_the_limit_that_a_signal_shows_is_the_mildest_that_fails_a_member() -> None:
    milder = {**NLL, "name": "milder", "limit": 0.8, "watch": 0.2}
    only_warns = {"name": "warns", "value": "damage.nll_change", "bad": "above", "limit": 0.1, "severity": "warn"}
    asked = policy(NLL, milder, only_warns)
    found = series(run({"nll_change": calm(6), "gap": gaps(6)}, policy=asked), policy=asked)
    assert found.signals["nll_change"].limit == 0.8
    assert found.signals["end_log_p_change"].limit is None
    assert found.signals["gap"].limit is None


def unknown_nll(step: int) -> ComparisonContent:
    """A member whose NLL was not measured."""
    content = compared(step, {})
    lost = content.damage.signals["nll_change"].model_copy(
        update={"value": None, "ci": None, "level": None, "reason": "not_measured"}
    )
    panel = content.damage.model_copy(update={"signals": content.damage.signals | {"nll_change": lost}})
    return content.model_copy(update={"damage": panel})


def test_a_limit_was_passed_after_the_last_step_that_is_known_to_be_within_it() -> None:
    """A member without an answer says nothing about when."""
    members = run({"nll_change": fallen(5, 3, size=2.0)})
    members[2] = measured(300, unknown_nll(300))
    found = series(members)
    assert (found.onset_step, found.worse_from_step) == (200, 400)
    assert "between steps 200 and 400" in found.reasons[0]
    members[:2] = [measured(100, unknown_nll(100)), measured(200, unknown_nll(200))]
    found = series(members)
    assert (found.onset_step, found.worse_from_step) == (400, 400)
    assert "at step 400 or before" in found.reasons[0]


def test_a_limit_that_was_waived_when_it_was_first_passed_was_not_passed_later() -> None:
    waived = policy(NLL | {"waiver": {"reason": "a known change", "expires": "2026-07-01"}})
    values, late = fallen(5, 2, size=2.0), date(2026, 8, 1)
    members = [
        Member(each.step, each.model, each.state, each.content, decide(each.content, waived, today=late))
        if each.step >= 400 and each.content is not None
        else each
        for each in run({"nll_change": values}, policy=waived)
    ]
    found = series(members, policy=waived)
    limit = next(alarm for alarm in found.alarms if alarm.kind == "limit")
    assert (limit.onset_step, limit.worse_from_step) == (200, 400)


@pytest.mark.parametrize(("at", "where"), [(9, "step 1000, the last,"), (4, "step 500 and not at the next,")])
def test_one_checkpoint_that_is_worse_alone_is_told_and_is_no_fall(at: int, where: str) -> None:
    values = calm(10, spread=0.01)
    values[at] += 0.7
    found = series(run({"nll_change": values}))
    assert (found.status, found.alarmed) == ("healthy", ())
    assert "no lasting fall" in found.reasons[0]
    assert any(f"text is predicted worse at {where}" in reason for reason in found.reasons)
    assert not any("two consecutive" in reason for reason in series(run({"nll_change": calm(10)})).reasons)


def test_a_run_that_is_damaged_from_its_first_checkpoint_on_says_what_each_is_judged_by_itself() -> None:
    """There is no best to fall from, and no limit that fails one."""
    found = series(run({"nll_change": calm(6, level=0.8)}))
    assert found.status == "healthy"
    assert "judged each by itself, spinal-default/2 says 'warn' at steps 100, 200, 300, 400, 500 and 600" in (
        found.reasons
    )


def test_a_policy_without_limits_of_damage_is_not_said_to_have_found_none_beyond_them() -> None:
    total = {"name": "drift", "value": "scores.delta_align", "bad": "above", "limit": 99.0, "severity": "fail"}
    asked = policy(total)
    found = series(run({"nll_change": calm(6, level=3.0)}, policy=asked), policy=asked)
    assert "acme/1 has no limit of damage" in found.reasons[0]
    assert "no checkpoint beyond" not in found.reasons[0]
    short = series(run({"nll_change": calm(2, level=3.0)}, policy=asked), policy=asked)
    assert "acme/1 has no limit of damage" in short.reasons[0]


@pytest.mark.parametrize("members", [3, 8])
def test_waived_checkpoints_are_not_among_those_said_to_be_within_the_limit(members: int) -> None:
    waived = policy(NLL | {"waiver": {"reason": "known", "expires": "2026-12-31"}})
    found = series(run({"nll_change": calm(members, level=2.0)}, policy=waived), policy=waived)
    assert "beyond a damage limit but what is waived" in found.reasons[0]


def test_a_signal_with_values_in_which_no_fall_was_looked_for_is_said_not_to_be_looked_at() -> None:
    other = policy({**NLL, "name": "gap", "value": "damage.gap", "limit": 3.0, "watch": 2.0})
    bare = [
        measured(each.step, each.content.model_copy(update={"by_prompt": {}}), other)
        for each in run({"nll_change": fallen(8, 4)})
        if each.content is not None
    ]
    found = series(bare, policy=other)
    assert "no damage signal could be looked at for a fall" in found.reasons[0]
    assert any("change of NLL (not kept prompt by prompt" in reason for reason in found.reasons)


def test_a_needed_signal_on_too_few_prompts_is_inconclusive() -> None:
    asked = policy(NLL | {"decides": "value"})
    found = series(run({"nll_change": fallen(8, 4, size=0.6)[:, :3]}, policy=asked), policy=asked)
    assert found.status == "inconclusive"
    assert found.reasons[0] == "nll_change could not be looked at for a fall: fewer than 5 prompts"


def test_categories_that_are_too_small_to_be_looked_at_are_named() -> None:
    values = calm(8)
    values[4:, 60:] += 3.0
    found = series(run({"nll_change": values}, categories=["en"] * 60 + ["ru"] * 4))
    assert any("categories not looked at by themselves" in one and one.endswith(": ru") for one in found.remarks)


def test_a_limit_that_is_waived_is_not_drawn_as_one() -> None:
    waived = policy(NLL | {"waiver": {"reason": "known", "expires": "2026-12-31"}})
    found = series(run({"nll_change": calm(6, level=2.0)}, policy=waived), policy=waived)
    assert found.signals["nll_change"].limit is None


def test_members_name_the_rules_of_damage_that_fail_them() -> None:
    values = calm(8)
    values[[2, 5]] += 3.0
    found = series(run({"nll_change": values}, policy=policy()), policy=policy())
    assert [member.step for member in found.members if member.beyond == ("nll",)] == [300, 600]


def test_a_gap_that_jumps_and_stays_is_not_said_to_grow_faster() -> None:
    level = 0.05 + 0.01 * np.arange(16)
    level[8:] = 0.7
    noise = 0.002 * np.random.default_rng(0).standard_normal(16)
    values = {"nll_change": calm(16), "gap": np.repeat((level + noise)[:, None], PROMPTS, axis=1)}
    (alarm,) = series(run(values)).alarms
    assert "leaves its line after step 800" in alarm.text
    faster = series(run({"nll_change": calm(16), "gap": gaps(16, faster_from=8)})).alarms[0]
    assert "grows faster after step 800" in faster.text


def test_a_member_has_a_comparison_exactly_where_it_is_measured() -> None:
    members = run({"nll_change": calm(6)})
    with pytest.raises(ValueError, match="exactly where it is measured"):
        series([*members, Member(700, "local:checkpoint-700", "measured")])
    with pytest.raises(ValueError, match="exactly where it is measured"):
        series([*members, Member(700, "local:checkpoint-700", "failed", compared(700, {}))])


def test_a_verdict_of_a_release_that_kept_no_rules_hides_no_limit() -> None:
    members = [
        Member(each.step, each.model, each.state, each.content, each.verdict.model_copy(update={"rules": ()}))
        for each in run({"nll_change": fallen(3, 1, size=2.0)})
        if each.verdict is not None
    ]
    assert series(members).status == "destabilised"


def test_a_plateau_from_a_step_that_no_digest_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="plateau_from_step"):
        SeriesSettings(plateau_from_step=2**53)
    late = SeriesSettings(plateau_from_step=2**53 - 1)
    assert series(run({"nll_change": calm(6)}), settings=late).status == "healthy"


def test_the_digest_tells_a_comparison_that_kept_its_prompts_from_one_that_did_not() -> None:
    """Both have the digest of what was measured, and the answers differ."""
    members = run({"nll_change": fallen(8, 4)})
    bare = [
        Member(each.step, each.model, each.state, each.content.model_copy(update={"by_prompt": {}}), each.verdict)
        for each in members
        if each.content is not None
    ]
    whole, less = series(members), series(bare)
    assert whole.status != less.status
    assert whole.digest != less.digest


def test_a_panel_that_is_damaged_is_told_where_the_policy_does_not_ask_for_it() -> None:
    asked = policy({**NLL, "name": "gap", "value": "damage.gap", "limit": 3.0, "watch": 2.0})
    members = [
        measured(step, content.model_copy(update={"damage": panel}), asked)
        for step, content in enumerate(compared(1, {"nll_change": row}) for row in calm(6))
        if (panel := content.damage.model_copy(update={"level": "damaged"}))
    ]
    found = series(members, policy=asked)
    assert "the damage panel says 'damaged' at steps 0, 1, 2, 3, 4 and 5 all the same" in found.reasons


def test_members_of_a_signal_nobody_needs_that_share_no_prompts_are_named() -> None:
    asked = policy({**NLL, "name": "gap", "value": "damage.gap", "limit": 3.0, "watch": 2.0})
    members = [
        measured(step, compared(step, {"nll_change": row[half]}, prompts=range(half.start + 1, half.stop + 1)), asked)
        for step, row in enumerate(calm(10))
        if (half := slice(32, 64) if step % 2 else slice(0, 32))
    ]
    found = series(members, policy=asked)
    assert any("nll_change at steps 1, 3, 5, 7 and 9 cannot be compared" in remark for remark in found.remarks)


def test_the_last_checkpoint_that_has_a_signal_is_not_called_the_last() -> None:
    margin, nll = 1.0 + 0.05 * calm(10), calm(10)
    margin[5:7] -= 0.8
    members = run({"nll_change": nll, "margin_change": margin})
    members[9] = measured(1000, compared(1000, {"nll_change": nll[9]}))
    assert "at step 900, the last that has it, no longer" in series(members).reasons[0]
