"""Transactions that share runs and audits wait for each other, and never in a circle."""

import threading
import time
from collections import Counter
from random import Random
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from service.audits import store
from service.audits.store import NewAudit
from service.database.ids import new_id
from service.database.unit_of_work import Ledger
from service.runs import rings, transitions
from service.runs.demand import need_runs
from service.runs.kinds import LOCK_ORDER, Attempts
from service.runs.settle import settle_audit
from service.series import store as series_store
from service.series.assessed import keep_assessed
from service.series.verbs import cancel_series
from service.settings import Settings
from spinal.errors import LeaseLost
from spinal.policy.shipped import default_policy
from tests.ledger.rows import put_series

SECONDS, MOST_S, THREADS = 6.0, 90.0, 10
ENOUGH = 20
"""Of everything, however busy the machine is."""
ACTIONS = (
    "submit", "submit", "cancel", "work", "work", "work", "reap", "ring", "append", "append", "append",
    "cancel a series", "keep a document",
)  # fmt: skip
PROBLEM = {"code": "c", "detail": "d"}


def submit(ledger: Ledger, chance: Random) -> UUID:
    with ledger.begin() as session:
        return write(session, chance)


def write(session: Session, chance: Random, series: UUID | None = None) -> UUID:
    """Few traces and comparisons, so that everything is shared with somebody."""
    one, other = chance.sample("abcd", 2)
    specs: dict[str, dict[str, Any]] = {
        "reference": {"kind": "trace", "of": one},
        "candidate": {"kind": "trace", "of": other},
    }
    specs["compare"] = {"kind": "compare", "needs": dict(specs)}
    policy = None if series is None else default_policy().digest
    audit = NewAudit(id=new_id(), tenant="t", candidate=other, reference=one, policy=policy, series=series)
    runs = need_runs(session, specs, queue_of=lambda _kind: "cpu", priority=0, traceparent=None)
    store.insert_audit(session, audit, runs)
    settle_audit(session, audit.id)
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
    how = chance.choice(["release", "fail", "try again", "lose"])
    with ledger.begin() as session:
        if how == "lose":
            session.execute(text("UPDATE runs SET lease_until = now() WHERE id = :id"), {"id": held.run_id})
        elif how == "release":
            transitions.release(session, held.run_id, held.attempt)
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


def test_no_two_transactions_wait_for_each_other(ledger: Ledger) -> None:
    seed = 7
    print(f"seed {seed}")
    known, series = [submit(ledger, Random(seed))], [begin_series(ledger)]
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
                    known.append(submit(ledger, chance))
                elif what == "cancel":
                    with ledger.begin() as session:
                        store.cancel_audit(session, "t", chance.choice(known[-20:]))
                elif what == "append":
                    append(ledger, chance, series[-1])
                elif what == "cancel a series":
                    cancel_series(ledger, "t", series[-1])
                    series.append(begin_series(ledger))
                elif what == "keep a document":
                    keep_assessed(ledger, "t", chance.choice(series[-3:]))
                elif what == "reap":
                    reap(ledger)
                elif what == "ring":
                    ring(ledger)
                else:
                    with ledger.read() as session:
                        [rung] = session.execute(text("SELECT id FROM runs ORDER BY random() LIMIT 1")).scalars()
                    work(ledger, chance, rung)
            except LeaseLost:
                # Reaped by another thread between claim and end.
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
