"""Transactions that share runs and audits wait for each other, and never in a circle."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from service.audits import store
from service.audits.idempotency import BodyDigests, remember_idempotent
from service.audits.store import NewAudit
from service.database.ids import new_id
from service.database.unit_of_work import Ledger, whole_or_again
from service.operations import deletion
from service.operations.deleted import delete_plain
from service.operations.deletion import delete_tenant
from service.operations.retained import delete_idempotency_keys
from service.platform.artifacts import ArtifactStore
from service.runs import rings, transitions
from service.runs.demand import known_runs, need_runs
from service.runs.kinds import LOCK_ORDER, Attempts
from service.runs.settle import settle_audit
from service.series import store as series_store
from service.series.assessed import keep_assessed
from service.series.verbs import cancel_series
from service.settings import Settings
from service.tenants.counts import hold_counts, keep_within, open_within
from service.traces.store import store_trace
from spinal.errors import DatabaseUnavailable, LeaseLost, Unauthorized
from spinal.policy.shipped import default_policy
from tests.ledger.rows import put_attempt, put_audit, put_run, put_series
from tests.ledger.stored import made_trace

SECONDS, MOST_S, THREADS = 6.0, 90.0, 10
ENOUGH = 20
"""Of everything, however busy the machine is."""
ACTIONS = (
    "submit", "submit", "cancel", "work", "work", "work", "reap", "ring", "append", "append", "append",
    "cancel a series", "keep a document", "forget keys", "delete a tenant",
)  # fmt: skip
TENANTS = ("t", "another", "leaving")
"""All ask for the same. The last one's data are deleted again and again."""
TRACE = made_trace()
PROBLEM = {"code": "c", "detail": "d"}


def submit(ledger: Ledger, settings: Settings, chance: Random, tenant: str = "t") -> tuple[str, UUID]:
    with ledger.begin() as session, whole_or_again():
        audit = write(session, chance, tenant=tenant)
        key = BodyDigests("b", "b", "b")
        remember_idempotent(session, tenant, str(audit), key, audit, 202)
        keep_within(session, settings, tenant)
    return tenant, audit


def write(session: Session, chance: Random, series: UUID | None = None, tenant: str = "t") -> UUID:
    """Few traces and comparisons, so that everything is shared with somebody; others every other second, since what has
    succeeded is not done again."""
    one, other = chance.sample("abcd", 2)
    second = int(time.monotonic()) // 2
    specs: dict[str, dict[str, Any]] = {
        "reference": {"kind": "trace", "of": one, "second": second},
        "candidate": {"kind": "trace", "of": other, "second": second},
    }
    specs["compare"] = {"kind": "compare", "needs": dict(specs)}
    policy = None if series is None else default_policy().digest
    audit = NewAudit(id=new_id(), tenant=tenant, candidate=other, reference=one, policy=policy, series=series)
    runs = need_runs(session, specs, queue_of=lambda _kind: "cpu", priority=0, traceparent=None, tenant=tenant)
    store.insert_audit(session, audit, runs)
    settle_audit(session, audit.id)
    open_within(session, tenant, 10**6)
    return audit.id


def append(ledger: Ledger, chance: Random, series: UUID) -> None:
    step = chance.randrange(1000)
    with ledger.begin() as session:
        if series_store.lock_series(session, "t", series) and series_store.find_member(session, series, step) is None:
            series_store.insert_member(session, series, step, "m", write(session, chance, series))


def begin_series(ledger: Ledger) -> UUID:
    with ledger.begin() as session:
        return put_series(session)


def work(ledger: Ledger, chance: Random, rung: UUID) -> None:
    with ledger.begin() as session:
        best = rings.next_run(session, rung)
        run = best.run_id if best else rung
        held = transitions.claim(session, run, worker=f"w{chance.random()}", lease_s=60.0, deadline_s=60.0)
    if held is None:
        return
    how = chance.choice(["release", "fail", "try again", "lose", *(["succeed"] if held.kind == "trace" else [])])
    with ledger.begin() as session:
        if how == "lose":
            session.execute(text("UPDATE runs SET lease_until = now() WHERE id = :id"), {"id": held.run_id})
        elif how == "release":
            transitions.release(session, held.run_id, held.attempt)
        elif how == "succeed":
            transitions.succeed(
                session, held.run_id, held.attempt, TRACE.digest,
                lambda session: store_trace(session, TRACE, capture_uri="captures/x", capture_bytes=1),
            )  # fmt: skip
        else:
            transitions.fail(
                session, held.run_id, held.attempt, PROBLEM, retryable=how != "fail", max_attempts=3, backoff_s=0.0
            )


def reap(ledger: Ledger) -> None:
    with ledger.begin() as session:
        transitions.reap_expired(session, attempts_of=lambda _kind: Attempts(3, 0.0))
    with ledger.begin() as session:
        transitions.fail_orphans(session)


def ring(ledger: Ledger) -> None:
    with ledger.begin() as session:
        due = rings.due_runs(session, ring_again_s=0.0, again=("cpu",), limit=5)
    with ledger.begin() as session:
        rings.mark_not_rung(session, [run.run_id for run in due[:2]])


def forget_keys(ledger: Ledger) -> None:
    with ledger.begin() as session:
        delete_idempotency_keys(session, older_than_s=0.1)


def delete(ledger: Ledger, settings: Settings) -> None:
    delete_tenant(ledger, ArtifactStore(settings), "leaving", apply=True)
    with ledger.begin() as session:
        # It comes back.
        session.execute(text("DELETE FROM deleted_tenants"))


def test_no_two_transactions_wait_for_each_other(
    ledger: Ledger, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever deletes would try again: here nobody is to be in need of it.
    monkeypatch.setattr(deletion, "PASSING", ())
    seed = 7
    print(f"seed {seed}")
    known, series = [submit(ledger, settings, Random(seed))], [begin_series(ledger)]
    deleting = threading.Lock()
    began = time.monotonic()
    wrong: list[Exception] = []
    done: Counter[str] = Counter()

    def goes_on() -> bool:
        spent = time.monotonic() - began
        return not wrong and spent < MOST_S and (spent < SECONDS or min(done[what] for what in ACTIONS) <= ENOUGH)

    def act(number: int) -> None:
        chance = Random(f"{seed} {number}")
        while goes_on():
            what = chance.choice(ACTIONS)
            try:
                if what == "submit":
                    known.append(submit(ledger, settings, chance, chance.choice(TENANTS)))
                elif what == "cancel":
                    with ledger.begin() as session:
                        store.cancel_audit(session, *chance.choice(known[-20:]))
                elif what == "append":
                    append(ledger, chance, series[-1])
                elif what == "cancel a series":
                    cancel_series(ledger, "t", series[-1])
                    series.append(begin_series(ledger))
                elif what == "keep a document":
                    keep_assessed(ledger, "t", chance.choice(series[-3:]))
                elif what == "reap":
                    reap(ledger)
                elif what == "forget keys":
                    forget_keys(ledger)
                elif what == "delete a tenant":
                    # One operator at a time.
                    with deleting:
                        delete(ledger, settings)
                elif what == "ring":
                    ring(ledger)
                else:
                    with ledger.read() as session:
                        [rung] = session.execute(text("SELECT id FROM runs ORDER BY random() LIMIT 1")).scalars()
                    work(ledger, chance, rung)
            except (LeaseLost, Unauthorized):
                # Reaped by another thread between claim and end; of the tenant that is being deleted.
                pass
            except Exception as error:  # noqa: BLE001  whatever it is, the test shows it
                wrong.append(error)
            done[what] += 1

    threads = [threading.Thread(target=act, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(MOST_S + 30.0)
    # A circle is ended by Postgres with an error for one of its transactions.
    assert wrong == []
    assert min(done[what] for what in ACTIONS) > ENOUGH, done


class Impatient:
    """Transactions that would rather fail than wait."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    @contextmanager
    def begin(self) -> Iterator[Session]:
        with self.ledger.begin() as session:
            session.execute(text("SET LOCAL lock_timeout = '100ms'"))
            yield session


def test_who_ends_audits_of_some_tenants_waits_for_nobody_who_opens_or_ends_others_of_them(ledger: Ledger) -> None:
    """In whatever order: of one run the first audit is the one's and the second the other's, of the other run the
    other way round. And while somebody who opens an audit holds the count of each."""
    tenants = ("one", "other")
    with ledger.begin() as session:
        runs = [put_run(session, "RUNNING") for _ in range(2)]
        for number, run in enumerate(runs):
            put_attempt(session, run, 1)
            for place, tenant in enumerate(tenants if number == 0 else tenants[::-1]):
                put_audit(session, id=UUID(int=2 * number + place + 1), tenant=tenant, runs={"candidate": run})
    impatient = Impatient(ledger)
    with ExitStack() as stack:
        opens = [stack.enter_context(impatient.begin()) for _ in tenants]
        for session, tenant in zip(opens, tenants, strict=True):
            put_audit(session, tenant=tenant)
            open_within(session, tenant, 10**6)
        ends = [stack.enter_context(impatient.begin()) for _ in runs]
        for session, run in zip(ends, runs, strict=True):
            transitions.fail(session, run, 1, PROBLEM, retryable=False, max_attempts=1, backoff_s=0.0)
        with pytest.raises(DatabaseUnavailable), impatient.begin() as session:
            # Whoever adds to it does wait.
            open_within(session, "one", 10**6)
    with ledger.begin() as session:
        assert [hold_counts(session, tenant, "open_audits") for tenant in tenants] == [{"open_audits": 1}] * 2
        session.execute(text("TRUNCATE runs, audits, tenant_counts, tenant_count_changes CASCADE"))


def test_who_takes_a_turn_waits_for_no_other_and_keeps_the_tenants_deletion_waiting(ledger: Ledger) -> None:
    impatient = Impatient(ledger)
    with ledger.begin() as session:
        mine, ours, theirs = (
            put_run(session, tenants=tenants, queue=queue)
            for tenants, queue in ((["t"], "cpu"), (["t", "u"], "cpu"), (["t"], "gpu"))
        )
        session.execute(text("INSERT INTO turns VALUES ('cpu', 't', now()), ('gpu', 't', now())"))
    given: dict[str, Any] = {"lease_s": 60.0, "deadline_s": 60.0}
    with impatient.begin() as one, impatient.begin() as other, impatient.begin() as third:
        for session, run in ((one, mine), (other, ours), (third, theirs)):
            held = transitions.claim(session, run, worker=f"w/{run}", **given)
            assert held is not None
        # What has just been taken is handed back, beside the others.
        transitions.release(one, mine, 1)
        with pytest.raises(DatabaseUnavailable), impatient.begin() as session:
            delete_plain(session, "t", "turns")
    with ledger.begin() as session:
        assert delete_plain(session, "t", "turns") == {"turns": 2}
        session.execute(text("TRUNCATE runs, audits, tenant_counts, tenant_count_changes CASCADE"))


def test_runs_that_are_named_again_are_held_in_the_order_in_which_they_are_deleted(ledger: Ledger) -> None:
    """Who deletes holds the first of two and waits for the second: who names both waits for the first, and holds
    nothing that the other wants."""
    traces = {role: {"kind": "trace", "of": role} for role in ("candidate", "reference")}
    specs = traces | {"compare": {"kind": "compare", "needs": traces}}
    with ledger.begin() as session:
        made = need_runs(session, specs, queue_of=lambda _kind: "cpu", priority=0, traceparent=None)
        for role in ("candidate", "reference", "compare"):
            assert transitions.claim(session, made[role], worker=role, lease_s=60.0, deadline_s=60.0) is not None
            transitions.succeed(session, made[role], 1, role)
        first = session.execute(text(f"SELECT id FROM runs ORDER BY {LOCK_ORDER} LIMIT 1")).scalar_one()
    impatient = Impatient(ledger)

    def need(session: Session) -> Any:
        return need_runs(session, specs, queue_of=lambda _kind: "cpu", priority=0, traceparent=None)

    for name in (need, lambda session: known_runs(session, {role: role for role in specs}, None)):
        with ledger.begin() as deletes:
            deletes.execute(text("SELECT 1 FROM runs WHERE id = :id FOR UPDATE"), {"id": first})
            with ledger.begin() as session:
                session.execute(text("SAVEPOINT before"))
                session.execute(text("SET LOCAL lock_timeout = '100ms'"))
                with pytest.raises(OperationalError):
                    name(session)
                assert_free(impatient, made, first)
                session.rollback()
    with ledger.begin() as session:
        assert name(session) == made
        session.execute(text("TRUNCATE runs, audits, tenant_counts, tenant_count_changes CASCADE"))


def assert_free(impatient: Impatient, made: dict[str, UUID], first: UUID) -> None:
    """Nobody holds the others."""
    others = [run for run in made.values() if run != first]
    with impatient.begin() as session:
        rows = session.execute(text("SELECT id FROM runs WHERE id = ANY(:ids) FOR UPDATE"), {"ids": others})
        assert len(rows.all()) == len(others)


def test_rows_are_locked_in_the_order_in_which_they_are_made(ledger: Ledger) -> None:
    traces = {f"trace {n}": {"kind": "trace", "n": n} for n in range(10)}
    compares = {f"compare {n}": {"kind": "compare", "needs": {"t": traces[f"trace {n}"]}} for n in range(10)}
    last = {f"last {n}": {"kind": "compare", "needs": {"c": compares[f"compare {n}"]}} for n in range(10)}
    specs = last | compares | traces
    with ledger.begin() as session:
        made = list(need_runs(session, specs, queue_of=lambda _kind: "cpu", priority=0, traceparent=None).values())
        order = text(f"SELECT id FROM runs ORDER BY {LOCK_ORDER}")
        assert session.execute(order).scalars().all() == made
        # As the release before made them, which knew two kinds, one of which needed the other.
        session.execute(text("UPDATE runs SET depth = NULL WHERE depth < 2"))
        assert session.execute(order).scalars().all() == made


@pytest.fixture(autouse=True)
def _enough_connections(settings: Settings) -> None:
    assert settings.db_pool_size >= THREADS
