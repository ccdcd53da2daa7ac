"""What statements say of every verdict that there can be."""

from datetime import date
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinal.attestations.statement import PASSED, RESULTS, SVR, TEST_RESULT, Audited, svr
from spinal.attestations.statement import test_result as found_by
from spinal.documents.comparison import WORST_FIRST, Outcome, RuleOutcome, Verdict, Waived
from spinal.documents.files import FileDigests
from spinal.errors import NotAttestable, PassRestsOnWaiver, SpinalError, VerdictNotPass

FILES = FileDigests(files={"config.json": "1" * 64, "a.safetensors": "2" * 64, "b.safetensors": "3" * 64})
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


def audited(verdict: Verdict | None, **changes: Any) -> Audited:
    members: dict[str, Any] = {
        "audit": "a", "finished_at": "2026-11-29T00:00:00.000Z", "verifier": "urn:uuid:1", "candidate": "local:c",
        "files": FILES, "verdict": verdict, "digests": {"policy": "4" * 64},
    }  # fmt: skip
    return Audited(**members | changes)


def verdict(*rules: RuleOutcome, **changes: Any) -> Verdict:
    found = min((rule.outcome for rule in rules), key=WORST_FIRST.index, default="pass")
    members: dict[str, Any] = {
        "outcome": found, "policy": "p/1", "policy_digest": "4" * 64, "reasons": (), "rules": rules,
        "weights": {"candidate": FILES.weights_digest},
    }  # fmt: skip
    return Verdict(**members | changes)


def rule(name: str, outcome: Outcome, would_be: Outcome | None = None) -> RuleOutcome:
    waived = None if would_be is None else Waived(reason="known", expires=date(2027, 1, 1), would_be=would_be)
    return RuleOutcome(
        rule=name, outcome=outcome, reasons=(), waived=waived, value=1.0, ci=(0.5, 1.5), path="damage.gap"
    )


rules = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(OUTCOMES), st.none()),
        st.tuples(st.just("pass"), st.sampled_from(("warn", "fail", "inconclusive"))),
    ),
    min_size=1,
    max_size=6,
).map(lambda found: tuple(rule(f"r{n}", outcome, would_be) for n, (outcome, would_be) in enumerate(found)))  # type: ignore[arg-type]  # members of the literal


@given(rules, st.one_of(st.none(), st.sampled_from(OUTCOMES)))
def test_nothing_passes_but_a_verdict_of_pass_in_which_every_rule_passed(
    found: tuple[RuleOutcome, ...], other: Outcome | None
) -> None:
    """``other``: a verdict that says something else than its rules, as no code of ours makes one."""
    made = verdict(*found) if other is None else verdict(*found, outcome=other)
    waived = [one.rule for one in found if one.waived is not None]
    try:
        passed: dict[str, Any] | SpinalError = svr(audited(made))
    except SpinalError as error:
        passed = error
    if made.outcome != "pass":
        assert isinstance(passed, VerdictNotPass)
        assert passed.extra["verdict"] == made.outcome
    elif waived:
        assert isinstance(passed, PassRestsOnWaiver)
        assert [one["test"] for one in passed.extra["waivers"]] == waived
    else:
        assert isinstance(passed, dict)
        assert passed["predicateType"] == SVR
        assert PASSED in passed["predicate"]["properties"]
    told = found_by(audited(made))
    predicate = told["predicate"]
    assert told["predicateType"] == TEST_RESULT
    assert (predicate["result"] == "PASSED") == (not isinstance(passed, SpinalError))
    assert predicate["result"] == ("WARNED" if waived and made.outcome == "pass" else RESULTS[made.outcome])
    listed = [*predicate["passedTests"], *predicate["warnedTests"], *predicate["failedTests"]]
    spared = [one["test"] for one in predicate["spinal"]["waivedTests"]]
    # Every rule stands in one list, and a waived one in its own.
    assert sorted([*listed, *spared]) == sorted(one.rule for one in found)
    assert spared == waived
    assert set(predicate["spinal"]["inconclusiveTests"]) <= set(predicate["failedTests"])
    assert {one["name"] for one in told["subject"]} == {"a.safetensors", "b.safetensors"}


def test_an_audit_that_failed_has_failed_and_never_passed() -> None:
    broken = audited(None, error="non_finite_activations")
    predicate = found_by(broken)["predicate"]
    assert (predicate["result"], predicate["spinal"]["error"]) == ("FAILED", "non_finite_activations")
    assert (predicate["passedTests"], predicate["spinal"]["verdict"]) == ([], None)
    with pytest.raises(VerdictNotPass):
        svr(broken)


@pytest.mark.parametrize(
    "changes",
    [
        {"rules": ()},
        {"weights": {"candidate": "9" * 64}},
        {"weights": {}},
    ],
    ids=["rules of before", "other weights", "weights not said"],
)
def test_a_verdict_that_cannot_be_followed_back_is_not_attested(changes: dict[str, Any]) -> None:
    made = verdict(rule("r", "pass")).model_copy(update=changes)
    for statement in (svr, found_by):
        with pytest.raises(NotAttestable):
            statement(audited(made))


def test_a_pass_whose_policy_is_not_named_is_no_pass_to_whoever_enforces() -> None:
    with pytest.raises(NotAttestable):
        svr(audited(verdict(rule("r", "pass"), policy_digest=None)))


def test_a_checkpoint_without_weights_has_no_subject() -> None:
    empty = FileDigests(files={"config.json": "1" * 64})
    made = verdict(rule("r", "pass"), weights={"candidate": empty.weights_digest})
    with pytest.raises(NotAttestable, match="no file of weights"):
        svr(audited(made, files=empty))


def test_a_value_is_told_with_its_interval() -> None:
    [value] = found_by(audited(verdict(rule("r", "warn"))))["predicate"]["spinal"]["values"]
    assert value == {
        "test": "r", "path": "damage.gap", "value": 1.0, "outcome": "warn",
        "confidenceInterval": {"low": 0.5, "high": 1.5, "level": 0.95},
    }  # fmt: skip
