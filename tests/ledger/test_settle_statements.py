"""Every member that settling an audit writes, and which audits it comes to. One transaction a test, as in
``test_run_statements.py``."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from service.audits.store import read_verdict
from service.runs import settle as settle_module
from service.runs.settle import settle, settle_audit
from service.traces.store import load_comparison_document, store_comparison
from spinal.documents.comparison import Comparison, Verdict
from spinal.documents.policy import LimitRule
from spinal.policy import shipped
from tests.ledger.rows import MINUTE, OF_STATE, put_audit, put_comparison, put_run, put_trace, row
from tests.support.fabricated import changed_pair

NOW = timedelta(0)
ROLES = {"candidate": "candidate_trace", "reference": "reference_trace", "control": "control_trace"}


def settled(session: Session, audit: UUID) -> dict[str, Any]:
    settle_audit(session, audit)
    return row(session, "audits", audit)


@pytest.mark.parametrize("state", OF_STATE)
def test_only_open_audits_that_need_the_run_are_settled(session: Session, state: str) -> None:
    run, other = put_run(session, "RUNNING"), put_run(session, "RUNNING")
    audit = put_audit(session, state, {"candidate": run})
    apart = put_audit(session, "QUEUED", {"candidate": other})
    settle(session, [run])
    found = row(session, "audits", audit)
    expected = {"QUEUED": ("RUNNING", 2), "RUNNING": ("RUNNING", 1)}.get(state, (state, 1))
    assert (found["state"], found["version"]) == expected
    assert (row(session, "audits", apart)["state"], row(session, "audits", apart)["version"]) == ("QUEUED", 1)


@pytest.mark.parametrize("role", ROLES)
def test_a_result_is_kept_under_its_role_while_others_are_made(session: Session, role: str) -> None:
    put_trace(session, "1" * 64)
    runs = {name: put_run(session) for name in (*ROLES, "compare")}
    runs[role] = put_run(session, "SUCCEEDED", result_digest="1" * 64)
    found = settled(session, put_audit(session, "QUEUED", runs))
    assert (found["state"], found["version"], found["finished_at"]) == ("RUNNING", 2, None)
    assert {column: found[column] for column in (*ROLES.values(), "comparison")} == {
        column: "1" * 64 if name == role else None for name, column in (ROLES | {"compare": "comparison"}).items()
    }
    assert (found["verdict"], found["error"]) == (None, None)
    # Nothing new: nothing changes.
    assert settled(session, found["id"])["version"] == 2


@pytest.mark.parametrize("begun", [None, -MINUTE])
def test_an_audit_keeps_the_time_at_which_it_was_first_worked_on(session: Session, begun: timedelta | None) -> None:
    known = {} if begun is None else {"started_at": begun}
    waiting = put_audit(session, "RUNNING", {"candidate": put_run(session)}, **known)
    assert settled(session, waiting)["started_at"] == begun
    running = put_audit(session, "QUEUED", {"candidate": put_run(session, "RUNNING")}, **known)
    assert settled(session, running)["started_at"] == (begun or NOW)


def put_comparisons(session: Session) -> tuple[str, str, str, str]:
    """Two traces, and two comparisons of them with different verdicts: pass and fail."""
    quiet = changed_pair().compare()
    for side in (quiet.reference, quiet.candidate):
        put_trace(session, side.digest)
    loud = quiet.model_copy(
        update={
            "digest": "e" * 64,
            "damage": quiet.damage.model_copy(update={"level": "damaged"}),
            # What it carries is another policy's: today's decides.
            "verdict": quiet.verdict.model_copy(update={"outcome": "warn"}),
        }
    )
    store_comparison(session, quiet)
    store_comparison(session, loud)
    return quiet.reference.digest, quiet.candidate.digest, quiet.digest, loud.digest


@pytest.mark.parametrize(("which", "outcome"), [(2, "pass"), (3, "fail")])
def test_what_a_finished_audit_holds(session: Session, which: int, outcome: str) -> None:
    made = put_comparisons(session)
    results = {"reference": made[0], "candidate": made[1], "compare": made[which]}
    runs = {role: put_run(session, "SUCCEEDED", result_digest=digest) for role, digest in results.items()}
    found = settled(session, put_audit(session, "RUNNING", runs, reference="r", started_at=-MINUTE))
    assert (found["state"], found["version"], found["verdict"]) == ("SUCCEEDED", 2, outcome)
    assert (found["reference_trace"], found["candidate_trace"], found["control_trace"], found["comparison"]) == (
        made[0], made[1], None, made[which],
    )  # fmt: skip
    assert (found["started_at"], found["finished_at"], found["error"]) == (-MINUTE, NOW, None)


def test_a_verdict_is_decided_when_its_audit_settles_and_stays(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, candidate, compared, _ = put_comparisons(session)
    results = {"reference": reference, "candidate": candidate, "compare": compared}
    runs = {role: put_run(session, "SUCCEEDED", result_digest=digest) for role, digest in results.items()}
    early, late = (put_audit(session, "RUNNING", runs, reference="r") for _ in range(2))
    decided = settled(session, early)["verdict_document"]
    assert Verdict.model_validate(decided) == changed_pair().compare().verdict
    assert [(rule["rule"], rule["outcome"]) for rule in decided["rules"]] == [
        (rule.name, "pass") for rule in shipped.default_policy().rules
    ]  # fmt: skip
    stored = load_comparison_document(session, compared)
    strict = LimitRule(name="strict", value="damage.gap", bad="above", limit=0.0, severity="fail", decides="value")
    default = shipped.default_policy()
    stricter = default.model_copy(update={"rules": (*default.rules, strict)})
    monkeypatch.setattr(shipped, "shipped_policy", lambda _name: stricter)
    found = settled(session, late)
    last = found["verdict_document"]["rules"][-1]
    assert (found["verdict"], last["rule"], last["outcome"], last["limit"]) == ("fail", "strict", "fail", 0.0)
    # The comparison is what it was, and so is the verdict that was decided before.
    assert load_comparison_document(session, compared) == stored
    assert settled(session, early)["verdict_document"] == decided


def test_a_comparison_that_many_audits_wait_for_is_judged_once(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, candidate, compared, _ = put_comparisons(session)
    results = {"reference": reference, "candidate": candidate, "compare": compared}
    runs = {role: put_run(session, "SUCCEEDED", result_digest=digest) for role, digest in results.items()}
    audits = [put_audit(session, "RUNNING", runs, reference="r") for _ in range(5)]
    judged: list[Comparison] = []
    decide = settle_module.judged

    def counted(content: Comparison, *asked: Any, **members: Any) -> Comparison:
        judged.append(content)
        return decide(content, *asked, **members)

    monkeypatch.setattr(settle_module, "judged", counted)
    settle(session, [runs["compare"]])
    assert [row(session, "audits", audit)["verdict"] for audit in audits] == ["pass"] * 5
    assert len(judged) == 1


def test_a_comparison_without_what_a_rule_looks_at_is_judged_all_the_same() -> None:
    made = changed_pair().compare()
    found = settle_module.judged(made.model_copy(update={"localization": {}, "statements": ()})).verdict
    assert any("compute something else" in reason and "was not measured" in reason for reason in found.reasons)


def test_a_comparison_that_cannot_be_read_and_carries_no_verdict_is_inconclusive(session: Session) -> None:
    put_trace(session, "1")
    put_comparison(session, "2" * 64, "1", "1", document={"schema": "spinal.comparison/9"})
    run = put_run(session, "SUCCEEDED", result_digest="2" * 64)
    found = settled(session, put_audit(session, "RUNNING", {"compare": run}))
    assert (found["verdict"], found["verdict_document"]["reasons"]) == ("inconclusive", [settle_module.UNREADABLE])


def test_a_comparison_of_later_code_keeps_the_verdict_that_it_carries(session: Session) -> None:
    rule = {"rule": "damage", "outcome": "warn", "reasons": [], "limit": 1.0}
    carried = {"outcome": "warn", "policy": "of-tomorrow/1", "reasons": ["r"], "rules": [rule], "waived": []}
    put_trace(session, "1")
    put_comparison(session, "2" * 64, "1", "1", document={"schema": "spinal.comparison/9", "verdict": carried})
    run = put_run(session, "SUCCEEDED", result_digest="2" * 64)
    found = settled(session, put_audit(session, "RUNNING", {"compare": run}))
    assert (found["verdict"], found["verdict_document"]) == ("warn", carried)
    # What this code does not know of a verdict it does not show, and shows the rest.
    shown = read_verdict(found["verdict_document"])
    assert (shown.outcome, shown.reasons, shown.rules[0].rule) == ("warn", ("r",), "damage")


@pytest.mark.parametrize("state", ["QUEUED", "RUNNING", "FAILED", "CANCELLED"])
def test_there_is_no_verdict_before_everything_has_succeeded(session: Session, state: str) -> None:
    *_, compared, _ = put_comparisons(session)
    runs = {
        "compare": put_run(session, "SUCCEEDED", result_digest=compared),
        "candidate": put_run(session, state, **({"error": {"code": "c"}} if state == "FAILED" else {})),
    }
    found = settled(session, put_audit(session, "QUEUED", runs))
    assert (found["verdict"], found["verdict_document"]) == (None, None)
    assert found["comparison"] == compared
    over = state in ("FAILED", "CANCELLED")
    assert (found["state"], found["finished_at"]) == (state if over else "RUNNING", NOW if over else None)


def test_the_error_is_the_first_cause_by_role(session: Session) -> None:
    def failed(code: str) -> UUID:
        return put_run(session, "FAILED", error={"code": code})

    consequence, later, first = failed("dependency_failed"), failed("later"), failed("first")
    audit = put_audit(session, "RUNNING", {"compare": consequence, "reference": later, "control": first})
    assert settled(session, audit)["error"] == {"code": "first", "role": "control"}
    # A consequence is said where there is nothing else to say.
    alone = put_audit(session, "RUNNING", {"compare": consequence})
    assert settled(session, alone)["error"] == {"code": "dependency_failed", "role": "compare"}
    # Whatever order the rows lie in.
    turned = put_audit(session, "RUNNING", {"candidate": later, "reference": first})
    assert settled(session, turned)["error"] == {"code": "later", "role": "candidate"}
