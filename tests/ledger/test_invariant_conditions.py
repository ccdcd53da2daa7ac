"""Every condition of the invariants' queries: which rows offend, and which come close and do not.

One transaction a test, as in ``test_run_statements.py``; ``test_invariants.py`` breaks a whole ledger.
"""

import json
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from service.operations.invariants import COMPARISONS, DIGESTS, GUARDS, INVARIANTS, violations
from service.tenants import counts
from service.traces.store import store_comparison
from tests.ledger.rows import (
    MINUTE,
    OF_STATE,
    put,
    put_attempt,
    put_audit,
    put_comparison,
    put_dependency,
    put_member,
    put_run,
    put_series,
    put_trace,
)
from tests.ledger.stored import stored_trace
from tests.support.fabricated import changed_pair

TICK = timedelta(microseconds=1)


def offenders(session: Session, name: str) -> list[Any]:
    query = INVARIANTS[name]
    return sorted(session.execute(text(query if isinstance(query, str) else query())).scalars(), key=str)


def test_a_run_that_succeeded_twice(session: Session) -> None:
    session.execute(text("DROP INDEX uq_run_attempts_succeeded"))
    twice, once = put_run(session), put_run(session)
    for run, outcomes in ((twice, ("succeeded", "lost", "succeeded")), (once, ("lost", "lost", "succeeded"))):
        for attempt, outcome in enumerate(outcomes, 1):
            put_attempt(session, run, attempt, outcome)
    put_attempt(session, put_run(session), 1, "succeeded")
    assert offenders(session, "at most one succeeded attempt per run") == [twice]


def test_a_run_without_its_result(session: Session) -> None:
    put_trace(session, "trace")
    put_comparison(session, "comparison", "trace", "trace")
    for kind, digest in (("trace", "trace"), ("compare", "comparison"), ("later", "anything")):
        put_run(session, "SUCCEEDED", kind=kind, result_digest=digest)
    wrong = [
        put_run(session, "SUCCEEDED", kind=kind, result_digest=digest)
        for kind, digest in (("trace", "comparison"), ("trace", "none"), ("compare", "trace"), ("compare", "none"))
    ]
    for state in OF_STATE:
        if state != "SUCCEEDED":
            put_run(session, state)
    assert offenders(session, "a succeeded run has its result") == sorted(wrong, key=str)


def put_layer(session: Session, trace: str, layer: int, policy: str, **members: Any) -> None:
    values = {"depth": 0.0, "entropy": 1.0, "detail": "{}"} | members
    put(session, "trace_layers", trace_digest=trace, layer=layer, policy=policy, **values)


@pytest.mark.parametrize("blocks", [0, 1, 4])
@pytest.mark.parametrize("rows_too_many", [-1, 0, 1])
def test_a_trace_with_too_few_or_too_many_layers(session: Session, blocks: int, rows_too_many: int) -> None:
    trace, other = put_trace(session, "1", n_layers=blocks), put_trace(session, "2", n_layers=2)
    rows = 2 * (blocks + 1) + rows_too_many
    for of, count in ((trace, rows), (other, 6)):
        for row in range(count):
            put_layer(session, of, row // 2, ("last", "all")[row % 2])
    assert offenders(session, "a trace has every layer under both policies") == ([trace] if rows_too_many else [])


def test_a_trace_without_any_layer(session: Session) -> None:
    assert offenders(session, "a trace has every layer under both policies") == []
    put_trace(session, "1")
    assert offenders(session, "a trace has every layer under both policies") == ["1"]


NUMBERS = (
    "depth", "contraction", "contraction_se", "transport", "transport_se", "entropy", "effective_rank",
)  # fmt: skip


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan"), -1.7e308, 1.7e308])
@pytest.mark.parametrize("column", NUMBERS)
def test_a_number_that_is_not_finite(session: Session, column: str, number: float) -> None:
    put_trace(session, "1", n_layers=1)
    put_trace(session, "2", n_layers=1)
    put_layer(session, "1", 0, "all", **dict.fromkeys(NUMBERS, -3.0))
    put_layer(session, "1", 1, "last", **(dict.fromkeys(NUMBERS, 2.0) | {column: number}))
    # Columns that are null hide none that is not.
    put_layer(session, "1", 1, "all", **{column: number})
    put_layer(session, "2", 0, "all")
    expected = [] if abs(number) < float("inf") else ["1"]
    assert offenders(session, "the numbers of a trace are finite") == expected


def test_an_audit_with_two_keys_or_a_key_of_another_tenant(session: Session) -> None:
    fine, twice, foreign, _ = (put_audit(session) for _ in range(4))
    for audit, key, tenant in ((fine, "a", "t"), (twice, "b", "t"), (twice, "c", "t"), (foreign, "d", "other")):
        put(session, "idempotency_keys", tenant=tenant, key=key, body_digest="b", audit_id=audit, status=202)
    name = "one audit has one idempotency key, of its own tenant"
    assert offenders(session, name) == sorted([twice, foreign], key=str)


WANTED = ("QUEUED", "RUNNING", "SUCCEEDED")


@pytest.mark.parametrize("one", OF_STATE)
@pytest.mark.parametrize("other", OF_STATE)
def test_two_wanted_runs_of_one_specification(session: Session, one: str, other: str) -> None:
    session.execute(text("DROP INDEX uq_runs_spec_wanted"))
    put_run(session, one, spec_digest="s")
    put_run(session, other, spec_digest="s")
    put_run(session, one, spec_digest="r")
    put_run(session, other, spec_digest="q", cancel_requested=True)
    put_run(session, other, spec_digest="q")
    expected = ["s"] if one in WANTED and other in WANTED else []
    assert offenders(session, "no two wanted runs share a specification") == expected


@pytest.mark.parametrize("state", OF_STATE)
def test_a_queued_run_that_nobody_wants(session: Session, state: str) -> None:
    put_run(session, state)
    run = put_run(session, state, cancel_requested=True)
    assert offenders(session, "a queued run is wanted") == ([run] if state == "QUEUED" else [])


def test_a_lease_that_ended_more_than_a_minute_ago(session: Session) -> None:
    put_run(session)
    put_run(session, "RUNNING", lease_until=-MINUTE)
    run = put_run(session, "RUNNING", lease_until=-MINUTE - TICK)
    assert offenders(session, "no lease is expired for more than a minute") == [run]


def test_attempts_with_a_gap(session: Session) -> None:
    numbers = {put_run(session): given for given in ((), (1,), (1, 2), (2,), (1, 3), (0, 2), (1, 2, 4))}
    for run, given in numbers.items():
        for attempt in given:
            put_attempt(session, run, attempt, "lost")
    wrong = [run for run, given in numbers.items() if given != tuple(range(1, len(given) + 1))]
    assert offenders(session, "attempts are numbered without a gap") == sorted(wrong, key=str)


def test_a_run_that_counts_other_attempts_than_it_had(session: Session) -> None:
    wrong = []
    for counted in range(3):
        for had in range(3):
            run = put_run(session, attempt=counted)
            for attempt in range(1, had + 1):
                put_attempt(session, run, attempt, "lost")
            wrong += [run] if counted != had else []
    assert offenders(session, "a run counts the attempts it had") == sorted(wrong, key=str)


@pytest.mark.parametrize("state", OF_STATE)
def test_an_attempt_that_succeeded_and_is_not_the_last(session: Session, state: str) -> None:
    succeeded = {put_run(session, state, attempt=2): attempt for attempt in (None, 1, 2)}
    for run, of in succeeded.items():
        for attempt in (1, 2):
            put_attempt(session, run, attempt, "succeeded" if attempt == of else "lost")
    right = 2 if state == "SUCCEEDED" else None
    wrong = [run for run, of in succeeded.items() if of != right]
    assert offenders(session, "the attempt that succeeded is the last") == sorted(wrong, key=str)


@pytest.mark.parametrize("state", OF_STATE)
def test_an_open_attempt_of_what_is_not_running(session: Session, state: str) -> None:
    last, first, ended = (put_run(session, state, attempt=2) for _ in range(3))
    for run, outcomes in ((last, ("lost", None)), (first, (None, "lost")), (ended, ("lost", "lost"))):
        for attempt, outcome in enumerate(outcomes, 1):
            put_attempt(session, run, attempt, outcome)
    wrong = [first] if state == "RUNNING" else [last, first]
    assert offenders(session, "only a running run has an open attempt") == sorted(wrong, key=str)


@pytest.mark.parametrize("state", OF_STATE)
def test_an_open_audit_without_work(session: Session, state: str) -> None:
    works = {of: put_audit(session, state, {"candidate": put_run(session, of)}) for of in OF_STATE}
    without = put_audit(session, state)
    with_both = {"candidate": put_run(session, "SUCCEEDED"), "reference": put_run(session)}
    put_audit(session, state, with_both)
    idle = [without, *(audit for of, audit in works.items() if of not in ("QUEUED", "RUNNING"))]
    expected = sorted(idle, key=str) if state in ("QUEUED", "RUNNING") else []
    assert offenders(session, "an open audit has work left") == expected


COMPLETE = {
    "candidate": "c", "reference": "r", "control": "x", "candidate_trace": "1", "reference_trace": "1",
    "control_trace": "1", "comparison": "2", "verdict": "pass",
}  # fmt: skip
MISSING: dict[str, tuple[tuple[str, ...], bool]] = {
    "nothing": ((), False),
    "the candidate's trace": (("candidate_trace",), True),
    "the reference's trace": (("reference_trace",), True),
    "the control's trace": (("control_trace",), True),
    "the comparison": (("comparison",), True),
    "the verdict": (("verdict",), True),
    "a control that was not asked for": (("control", "control_trace"), False),
    "all but a trace that alone was asked for": (
        ("control", "control_trace", "reference", "reference_trace", "comparison", "verdict"),
        False,
    ),
}


@pytest.mark.parametrize("state", OF_STATE)
@pytest.mark.parametrize("what", MISSING)
def test_a_succeeded_audit_that_lacks_something(session: Session, what: str, state: str) -> None:
    put_trace(session, "1")
    put_comparison(session, "2", "1", "1")
    missing, offends = MISSING[what]
    given = {name: value for name, value in COMPLETE.items() if name not in missing}
    audit = put_audit(session, state, None, **given)
    expected = [audit] if offends and state == "SUCCEEDED" else []
    assert offenders(session, "a succeeded audit has all its results") == expected


VERDICTS: dict[str, tuple[str | None, dict[str, str] | None, bool]] = {
    "none yet": (None, None, False),
    "of the release before": ("pass", None, False),
    "both the same": ("fail", {"outcome": "fail"}, False),
    "another": ("pass", {"outcome": "fail"}, True),
    "only in the document": (None, {"outcome": "fail"}, True),
    "only outside of it": ("pass", {"policy": "p"}, True),
}


@pytest.mark.parametrize("what", VERDICTS)
def test_a_verdict_that_is_not_that_of_its_document(session: Session, what: str) -> None:
    verdict, document, offends = VERDICTS[what]
    audit = put_audit(session, verdict=verdict, verdict_document=document)
    put_audit(session)
    assert offenders(session, "a verdict and its document agree") == ([audit] if offends else [])


@pytest.mark.parametrize("unwanted", [False, True])
@pytest.mark.parametrize("needed", OF_STATE)
@pytest.mark.parametrize("state", OF_STATE)
def test_a_run_that_waits_in_vain(session: Session, state: str, needed: str, unwanted: bool) -> None:
    run = put_run(session, state)
    put_dependency(session, run, put_run(session, needed, cancel_requested=unwanted))
    put_run(session, "FAILED")
    in_vain = needed in ("FAILED", "CANCELLED") or (unwanted and needed != "SUCCEEDED")
    expected = [run] if in_vain and state == "QUEUED" else []
    assert offenders(session, "a queued run waits for nothing that will not come") == expected


@pytest.mark.parametrize("state", OF_STATE)
def test_an_audit_that_lacks_what_its_comparison_waits_for(session: Session, state: str) -> None:
    trace, other, compare = put_run(session), put_run(session), put_run(session, kind="compare")
    put_dependency(session, compare, trace)
    put_audit(session, state, {"compare": compare, "candidate": trace})
    audit = put_audit(session, state, {"compare": compare, "candidate": other})
    expected = [audit] if state in ("QUEUED", "RUNNING") else []
    assert offenders(session, "an audit needs what its comparison waits for") == expected


@pytest.mark.parametrize("state", OF_STATE)
@pytest.mark.parametrize("says", [False, True])
def test_a_run_that_does_not_know_whether_it_waits(session: Session, state: str, says: bool) -> None:
    session.execute(text("ALTER TABLE runs DISABLE TRIGGER USER"))
    session.execute(text("ALTER TABLE run_dependencies DISABLE TRIGGER USER"))
    alone, after_one, after_both = (put_run(session, state, waits=says) for _ in range(3))
    done, other = put_run(session, "SUCCEEDED"), put_run(session, "RUNNING")
    put_dependency(session, after_one, done)
    for needed in (done, other):
        put_dependency(session, after_both, needed)
    wrong = [alone, after_one] if says else [after_both]
    expected = sorted(wrong, key=str) if state == "QUEUED" else []
    assert offenders(session, "a queued run says whether it waits") == expected


@pytest.mark.parametrize("how", ["DISABLE", "ENABLE", "ENABLE ALWAYS", "ENABLE REPLICA"])
@pytest.mark.parametrize("guard", GUARDS)
def test_a_guard_that_is_off(session: Session, guard: str, how: str) -> None:
    table = session.execute(
        text("SELECT CAST(CAST(tgrelid AS regclass) AS text) FROM pg_trigger WHERE tgname = :name"), {"name": guard}
    ).scalar_one()
    session.execute(text(f"ALTER TABLE {table} {how} TRIGGER {guard}"))
    on = how in ("ENABLE", "ENABLE ALWAYS")
    assert offenders(session, "ended rows are guarded") == ([] if on else [guard])


def test_a_guard_that_is_gone(session: Session) -> None:
    session.execute(text("DROP TRIGGER runs_legal ON runs"))
    assert offenders(session, "ended rows are guarded") == ["runs_legal"]


# traces whose digest is not that of their content


def torn(session: Session, last_s: float | None = None) -> list[Any]:
    return violations(session, traces_of_last_s=last_s).get(DIGESTS, [])


RENAMED = ("weights_digest", "prompt_set_digest", "fingerprint", "engine_version", "content_digest",
           "content_digest_rfc8785")  # fmt: skip


@pytest.mark.parametrize("member", RENAMED)
def test_a_trace_that_is_not_what_its_row_says(session: Session, member: str) -> None:
    stored_trace(session, "a")
    digest = stored_trace(session, "b")
    assert torn(session) == []
    session.execute(text("ALTER TABLE traces DISABLE TRIGGER ALL"))
    session.execute(text(f"UPDATE traces SET {member} = 'x' WHERE digest = :digest"), {"digest": digest})
    assert torn(session) == [digest]


@pytest.mark.parametrize("value", [0.123, float("nan")])
def test_a_trace_whose_numbers_were_changed(session: Session, value: float) -> None:
    stored_trace(session, "a")
    digest = stored_trace(session, "b")
    session.execute(text("ALTER TABLE trace_layers DISABLE TRIGGER ALL"))
    session.execute(
        text("UPDATE trace_layers SET entropy = :value WHERE trace_digest = :digest AND layer = 1"),
        {"digest": digest, "value": value},
    )
    assert torn(session) == [digest]


def test_a_trace_that_code_from_before_stored_is_held_to_its_one_digest(session: Session) -> None:
    digest = stored_trace(session, "a")
    session.execute(text("ALTER TABLE traces DISABLE TRIGGER ALL"))
    session.execute(text("UPDATE traces SET content_digest_rfc8785 = NULL"))
    assert torn(session) == []
    session.execute(text("UPDATE traces SET content_digest = 'x'"))
    assert torn(session) == [digest]


def altered(session: Session, last_s: float | None = None) -> list[Any]:
    return violations(session, traces_of_last_s=last_s).get(COMPARISONS, [])


def test_a_comparison_whose_content_was_changed(session: Session) -> None:
    made = changed_pair().compare()
    for side in (made.reference, made.candidate):
        put_trace(session, side.digest)
    store_comparison(session, made)
    # Of code from before there is no digest to hold it to.
    put_comparison(session, "before", made.reference.digest, made.candidate.digest)
    assert altered(session) == []
    session.execute(text("ALTER TABLE comparisons DISABLE TRIGGER ALL"))
    session.execute(text("UPDATE comparisons SET document = jsonb_set(document, '{scores,delta_align}', '0.25')"))
    assert altered(session) == [made.digest]
    session.execute(text("UPDATE comparisons SET created_at = now() - make_interval(secs => 60)"))
    assert (altered(session, 60.0), altered(session, 61.0)) == ([], [made.digest])


def test_only_traces_of_the_last_while_are_read_again(session: Session) -> None:
    put_trace(session, "old", created_at=-MINUTE)
    put_trace(session, "new", created_at=-MINUTE + TICK)
    assert torn(session, 60.0) == ["new"]
    assert sorted(torn(session)) == ["new", "old"]


def test_a_ledger_without_offenders(session: Session) -> None:
    stored_trace(session)
    run: UUID = put_run(session)
    put_audit(session, runs={"candidate": run})
    assert violations(session) == {}


MEMBERS = "a member of a series is an audit of its tenant"


def test_a_member_whose_audit_is_of_another_tenant_policy_or_series(session: Session) -> None:
    series, other = put_series(session), put_series(session)
    put_member(session, series, 1)
    put_policy_of(session, "u")
    wrong = [
        put_member(session, series, 2, tenant="u"),
        put_member(session, series, 3, policy=None),
        put_member(session, series, 4, series=None),
        put_member(session, series, 5, series=other),
        # Says that it is a member, and is none.
        put_audit(session, series=series),
    ]
    # The audit of the fourth says that it belongs to another series, where it is no member.
    assert offenders(session, MEMBERS) == sorted([*wrong, wrong[3]], key=str)


def put_policy_of(session: Session, tenant: str) -> None:
    put_series(session, tenant=tenant)


def test_a_status_that_is_not_that_of_its_document(session: Session) -> None:
    put_series(session)
    put_series(session, status="watch", document={"status": "watch"})
    wrong = [
        put_series(session, status="watch", document={"status": "healthy"}),
        put_series(session, status="watch", document={}),
    ]
    name = "the status of a series is that of its document"
    assert offenders(session, name) == sorted(wrong, key=str)


KNOWS = "a document of a series knows what has happened and no more"
LATE, RECENT = -5 * MINUTE - TICK, -5 * MINUTE


@pytest.mark.parametrize(
    ("covers", "offends"),
    [
        ((2, 1, True), False),
        ((3, 1, True), True),
        ((2, 2, True), True),
        ((1, 1, True), "late"),
        ((2, 0, True), "late"),
        ((2, 1, False), "late"),
    ],
)
@pytest.mark.parametrize("last", [LATE, RECENT])
def test_a_document_that_knows_more_than_happened_or_too_little_for_too_long(
    session: Session, covers: tuple[int, int, bool], offends: bool | str, last: timedelta
) -> None:
    members = dict(zip(("covers_members", "covers_settled", "covers_closed"), covers, strict=True))
    series = put_series(
        session, status="watch", document={"status": "watch"}, closed_at=last, created_at=LATE, **members
    )
    for step, state, ended in ((1, "CANCELLED", {"finished_at": LATE}), (2, "RUNNING", {})):
        audit = put_audit(session, state, None, series=series, **ended)
        put(session, "series_members", series_id=series, step=step, model="m", audit_id=audit, created_at=LATE)
    expected = last == LATE if offends == "late" else bool(offends)
    assert offenders(session, KNOWS) == ([series] if expected else [])


@pytest.mark.parametrize(
    ("created", "appended", "ended", "closed"),
    [
        (LATE, LATE, LATE, LATE),
        (RECENT, LATE, LATE, LATE),
        (LATE, RECENT, LATE, LATE),
        (LATE, LATE, RECENT, LATE),
        (LATE, LATE, LATE, RECENT),
    ],
)
def test_a_series_without_a_document_long_after_anything_happened(
    session: Session, created: timedelta, appended: timedelta, ended: timedelta, closed: timedelta
) -> None:
    series = put_series(session, created_at=created, closed_at=closed)
    audit = put_audit(session, "CANCELLED", series=series, finished_at=ended)
    put(session, "series_members", series_id=series, step=1, model="m", audit_id=audit, created_at=appended)
    all_late = RECENT not in (created, appended, ended, closed)
    assert offenders(session, KNOWS) == ([series] if all_late else [])


def test_a_series_that_claims_to_know_that_it_is_closed(session: Session) -> None:
    series = put_series(session, covers_closed=True, status="watch", document={"status": "watch"})
    put_series(session, covers_closed=True, status="watch", document={"status": "watch"}, closed_at=timedelta(0))
    assert offenders(session, KNOWS) == [series]


def test_what_tenants_hold_is_counted(session: Session) -> None:
    """By triggers, as it comes, ends and goes; a count that is off by one, either way, is an offender."""
    name = "what tenants hold is counted"
    audits = [put_audit(session, runs={"candidate": put_run(session)}, tenant="ours") for _ in range(3)]
    for number, audit in enumerate(audits):
        put(session, "idempotency_keys", tenant="ours", key=str(number), body_digest="b", audit_id=audit, status=202)
        put(session, "prompt_sets", digest=str(number), prompts="[]", continuations="[]", count=0)
        put(session, "tenant_prompt_sets", tenant="theirs", digest=str(number))
    session.execute(text("UPDATE audits SET state = 'RUNNING' WHERE id = :id"), {"id": audits[0]})
    session.execute(
        text("UPDATE audits SET state = 'CANCELLED', finished_at = now() WHERE id = :id"), {"id": audits[1]}
    )
    session.execute(text("DELETE FROM idempotency_keys WHERE key = '0'"))
    session.execute(text("DELETE FROM tenant_prompt_sets WHERE digest = '0'"))
    assert offenders(session, name) == []
    held: dict[counts.What, str] = {"open_audits": "ours", "idempotency_keys": "ours", "prompt_sets": "theirs"}
    for what, tenant in held.items():
        assert counts.count(session, tenant, what) == 2
        for step in (1, -2):
            put(session, "tenant_count_changes", tenant=tenant, what=what, change=step)
            assert offenders(session, name) == [f"{tenant} {what}"]
        put(session, "tenant_counts", tenant=tenant, what=what, held=1)
        assert offenders(session, name) == []
    # Two sets of "[]", "[]" and "{}".
    assert counts.count(session, "theirs", "prompt_bytes") == 12


def put_version(session: Session, rule: str, audit: UUID | None, **members: Any) -> UUID:
    """A version of a registry of tenant ``t`` that a rule chose; returns its id."""
    version = uuid4()
    told = {"registry": "r", "model": "m", "version": "1", "rule": rule, "tenant": "t", "id": version}
    put(session, "registry_versions", **(told | {"audit_id": audit} | members))
    return version


def test_an_audit_of_a_registry_s_version(session: Session) -> None:
    own, shared, others = put_audit(session), put_audit(session), put_audit(session, tenant="others")
    put_version(session, "own", own)
    put_version(session, "waiting", None)
    put_version(session, "past", None, past=True)
    put_version(session, "refused", None, refused=json.dumps({"code": "c"}))
    # Its audit was deleted.
    put_version(session, "deleted", uuid4())
    wrong = [
        put_version(session, "of others", others),
        put_version(session, "shared", shared),
        put_version(session, "shared, too", shared),
        put_version(session, "past, and audited", put_audit(session), past=True),
        put_version(session, "refused, and audited", put_audit(session), refused=json.dumps({"code": "c"})),
    ]
    name = "an audit that a registry's version asked for is its own, and of its tenant"
    assert offenders(session, name) == sorted(wrong, key=str)
