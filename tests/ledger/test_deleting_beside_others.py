"""A tenant's data are deleted while others come to share its runs, and end them: they have what they were told."""

import threading
from random import Random
from typing import Any

from sqlalchemy import text

from service.audits import store
from service.audits.store import NewAudit
from service.database.ids import new_id
from service.database.unit_of_work import Ledger, whole_or_again
from service.operations.deletion import delete_tenant
from service.operations.invariants import violations
from service.platform.artifacts import ArtifactStore
from service.runs import transitions
from service.runs.demand import need_runs
from service.runs.settle import settle_audit
from service.settings import Settings
from service.tenants.counts import open_within
from service.traces.store import store_trace
from spinal.errors import DatabaseUnavailable, LeaseLost, Unauthorized
from tests.ledger.stored import made_trace

ANY_RUN = "SELECT id FROM runs ORDER BY state <> 'QUEUED', random() LIMIT 1"
ROUNDS, TENANTS = 3, ("theirs", "ours", "others")


def submit(ledger: Ledger, tenant: str, specs: dict[str, dict[str, Any]]) -> None:
    audit = NewAudit(id=new_id(), tenant=tenant, candidate=f"local:{tenant}", spec={})
    with ledger.begin() as session, whole_or_again():
        runs = need_runs(session, specs, queue_of=lambda _kind: "cpu", priority=0, traceparent=None)
        store.insert_audit(session, audit, runs)
        settle_audit(session, audit.id)
        open_within(session, tenant, 10**6)


def test_what_others_came_to_share_at_that_moment_is_theirs(ledger: Ledger, settings: Settings) -> None:
    trace = made_trace()
    wrong: list[Exception] = []
    done: set[str] = set()
    over = threading.Event()

    def share(number: int) -> None:
        chance, tenant = Random(number), TENANTS[1 + number % 2]
        while not over.is_set():
            try:
                submit(ledger, tenant, {"candidate": {"kind": "trace", "n": chance.randrange(4)}})
                done.add("shared")
            except DatabaseUnavailable:
                # Sent again by whoever asked.
                done.add("again")
            except Exception as error:  # noqa: BLE001  whatever it is, the test shows it
                wrong.append(error)

    def work() -> None:
        while not over.is_set():
            try:
                with ledger.read() as session:
                    found = session.execute(
                        text("SELECT id FROM runs ORDER BY state <> 'QUEUED', random() LIMIT 1")
                    ).scalar()
                run = found or new_id()
                with ledger.begin() as session:
                    claim = transitions.claim(session, run, worker=str(new_id()), lease_s=60.0, deadline_s=60.0)
                if claim is not None:
                    with ledger.begin() as session:
                        transitions.succeed(
                            session, run, claim.attempt, trace.digest,
                            lambda session: store_trace(session, trace, capture_uri="captures/x", capture_bytes=1),
                        )  # fmt: skip
                    done.add("ended")
            except (LeaseLost, ValueError):
                done.add("lost")
            except Exception as error:  # noqa: BLE001  as above
                wrong.append(error)

    threads = [threading.Thread(target=share, args=(number,)) for number in range(3)]
    threads += [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(ROUNDS):
            for n in range(4):
                submit(ledger, "theirs", {"candidate": {"kind": "trace", "n": n}})
            delete_tenant(ledger, ArtifactStore(settings), "theirs", apply=True)
            with ledger.begin() as session:
                session.execute(text("DELETE FROM deleted_tenants"))
            # What all share went on, and is begun anew.
            delete_tenant(ledger, ArtifactStore(settings), "ours", apply=True)
            with ledger.begin() as session:
                session.execute(text("DELETE FROM deleted_tenants"))
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
    wrong = [error for error in wrong if not isinstance(error, Unauthorized)]
    assert wrong == []
    assert {"shared", "ended"} <= done
    with ledger.read() as session:
        assert violations(session) == {}
