"""Audits share runs with each other, and none is left waiting for what another gave up."""

from typing import Any
from uuid import UUID

from sqlalchemy import text

from service.audits import store
from service.audits.store import NewAudit
from service.database.ids import new_id
from service.database.unit_of_work import Ledger
from service.runs import rings, transitions
from service.runs.demand import find_or_create_run, need_runs
from service.runs.kinds import Attempts
from service.runs.settle import settle_audit

M: dict[str, Any] = {"kind": "trace", "of": "m"}
PAIR: dict[str, dict[str, Any]] = {
    "reference": {"kind": "trace", "of": "b"},
    "candidate": M,
    "compare": {"kind": "compare", "needs": {"reference": {"kind": "trace", "of": "b"}, "candidate": M}},
}
DIGEST = "ab" * 32


def submit(ledger: Ledger, specs: dict[str, dict[str, Any]]) -> tuple[UUID, dict[str, UUID]]:
    audit = NewAudit(id=new_id(), tenant="t", candidate="m", reference=None)
    with ledger.begin() as session:
        found = need_runs(session, specs, queue_of=lambda _kind: "cpu", priority=0, traceparent=None)
        store.insert_audit(session, audit, found)
        settle_audit(session, audit.id)
    return audit.id, found


def cancel(ledger: Ledger, audit: UUID) -> None:
    with ledger.begin() as session:
        assert store.cancel_audit(session, "t", audit)


def claim(ledger: Ledger, run: UUID) -> transitions.Claim:
    with ledger.begin() as session:
        held = transitions.claim(session, run, worker=f"w/{run}", lease_s=60.0, deadline_s=60.0)
    assert held is not None
    return held


def state(ledger: Ledger, table: str, key: UUID) -> str:
    with ledger.read() as session:
        return str(session.execute(text(f"SELECT state FROM {table} WHERE id = :id"), {"id": key}).scalar_one())


def test_nobody_waits_for_a_trace_that_another_audit_gave_up(ledger: Ledger) -> None:
    """The trace of M is given up while it is being measured, asked for again, and finished by the first worker after
    all: whoever then shares the comparison shares the trace that the comparison waits for."""
    first, old = submit(ledger, PAIR)
    held = claim(ledger, old["candidate"])
    cancel(ledger, first)
    second, new = submit(ledger, PAIR)
    assert new["candidate"] != old["candidate"]
    with ledger.begin() as session:
        assert transitions.succeed(session, held.run_id, held.attempt, DIGEST) == "CANCELLED"
    third, shared = submit(ledger, PAIR)
    assert shared == new
    cancel(ledger, second)
    assert state(ledger, "runs", new["candidate"]) == "QUEUED"
    assert state(ledger, "audits", third) == "QUEUED"
    with ledger.begin() as session:
        due = {due.run_id for due in rings.due_runs(session, ring_again_s=0.0, again=("cpu",))}
    assert due == {new["candidate"], new["reference"]}
    cancel(ledger, third)


def test_what_another_audit_needs_through_its_comparison_is_not_given_up(ledger: Ledger) -> None:
    """As the release before could leave it: the third audit has the comparison, and another run of its trace."""
    first, found = submit(ledger, PAIR)
    with ledger.begin() as session:
        session.execute(
            text("""INSERT INTO runs (id, kind, spec, spec_digest, queue, cancel_requested, state, finished_at)
                    SELECT gen_random_uuid(), kind, spec, spec_digest, queue, TRUE, 'CANCELLED', now() FROM runs
                    WHERE id = :trace"""),
            {"trace": found["candidate"]},
        )
        other = session.execute(text("SELECT id FROM runs WHERE cancel_requested")).scalar_one()
    second, _ = submit(ledger, PAIR)
    with ledger.begin() as session:
        session.execute(
            text("UPDATE audit_runs SET run_id = :other WHERE audit_id = :audit AND role = 'candidate'"),
            {"other": other, "audit": second},
        )
    cancel(ledger, first)
    assert state(ledger, "runs", found["candidate"]) == "QUEUED"
    cancel(ledger, second)
    assert state(ledger, "runs", found["compare"]) == "CANCELLED"
    with ledger.begin() as session:
        session.execute(text("TRUNCATE runs CASCADE"))


def test_what_can_never_start_is_ended_and_its_audits_with_it(ledger: Ledger) -> None:
    audit, found = submit(ledger, PAIR)
    with ledger.begin() as session:
        # As workers and callers of the release before could leave them.
        session.execute(
            text("UPDATE runs SET state = 'CANCELLED', finished_at = now() WHERE id = :id"),
            {"id": found["candidate"]},
        )
        session.execute(text("UPDATE runs SET cancel_requested = TRUE WHERE id = :id"), {"id": found["reference"]})
    with ledger.begin() as session:
        assert set(transitions.fail_orphans(session)) == {
            (found["reference"], "CANCELLED"),
            (found["compare"], "FAILED"),
        }
    assert state(ledger, "audits", audit) == "FAILED"
    with ledger.begin() as session:
        assert transitions.fail_orphans(session) == []
    _, again = submit(ledger, PAIR)
    assert not set(again.values()) & set(found.values())


def test_one_delivery_claims_one_run_however_often_it_is_delivered(ledger: Ledger) -> None:
    _, found = submit(ledger, PAIR)
    with ledger.begin() as session:
        assert transitions.claim(session, found["candidate"], worker="w", lease_s=60.0, deadline_s=60.0)
        assert transitions.claim(session, found["reference"], worker="w", lease_s=60.0, deadline_s=60.0) is None
        assert transitions.claim(session, found["reference"], worker="v", lease_s=60.0, deadline_s=60.0)


def test_a_specification_that_has_succeeded_is_never_done_again(ledger: Ledger) -> None:
    alone, found = submit(ledger, {"candidate": M})
    held = claim(ledger, found["candidate"])
    with ledger.begin() as late, ledger.begin() as session:
        # The look for a succeeded run comes too early, the insert too late.
        assert late.execute(text("SELECT count(*) FROM runs WHERE state = 'SUCCEEDED'")).scalar_one() == 0
        session.execute(text("ALTER TABLE audits DISABLE TRIGGER ALL"))
        session.execute(text("UPDATE audits SET state = 'CANCELLED', finished_at = now()"))
        session.execute(text("ALTER TABLE audits ENABLE TRIGGER ALL"))
        transitions.succeed(session, held.run_id, held.attempt, DIGEST)
        session.commit()
        assert find_or_create_run(late, M, queue="cpu") == found["candidate"]
    assert state(ledger, "audits", alone) == "CANCELLED"
    with ledger.begin() as session:
        # This run has no trace behind it, which the ledger's own check afterwards would find, and its audit ended
        # uncounted.
        session.execute(text("TRUNCATE runs, tenant_counts, tenant_count_changes CASCADE"))


def test_a_run_of_a_cancelled_audit_is_over_however_its_worker_leaves_it(ledger: Ledger) -> None:
    for end in ("release", "retry", "lost"):
        audit, found = submit(ledger, {"candidate": {"kind": "trace", "of": end}})
        held = claim(ledger, found["candidate"])
        cancel(ledger, audit)
        with ledger.begin() as session:
            if end == "release":
                transitions.release(session, held.run_id, held.attempt)
            elif end == "retry":
                transitions.fail(
                    session, held.run_id, held.attempt, {"code": "c"}, retryable=True, max_attempts=3, backoff_s=0.0
                )
            else:
                transitions.expire_lease(session, f"w/{held.run_id}")
        with ledger.begin() as session:
            transitions.reap_expired(session, attempts_of=lambda _kind: Attempts(3, 0.0))
        assert state(ledger, "runs", held.run_id) == "CANCELLED", end


def test_a_raised_priority_overtakes_what_was_rung_before(ledger: Ledger) -> None:
    _, slow = submit(ledger, {"candidate": {"kind": "trace", "of": "slow"}})
    _, urgent = submit(ledger, {"candidate": {"kind": "trace", "of": "urgent"}})
    with ledger.begin() as session:
        need_runs(
            session,
            {"candidate": {"kind": "trace", "of": "urgent"}},
            queue_of=lambda _kind: "cpu",
            priority=5,
            traceparent=None,
        )
    with ledger.begin() as session:
        assert rings.next_run(session, slow["candidate"]) is None
        assert len(rings.due_runs(session, ring_again_s=60.0, again=())) == 2
        # The doorbell that came first was the other run's.
        assert rings.next_run(session, slow["candidate"]) == rings.Queued(urgent["candidate"], "trace")
        assert rings.next_run(session, UUID(int=0)) is None
