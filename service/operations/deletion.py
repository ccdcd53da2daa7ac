"""Delete the data of a tenant (``spinal tenants delete``).

First its keys end, and rows of requests that were admitted before are refused from then on. Then its audits and series
are cancelled, so that workers stop; then its deliveries and webhooks go, so that nobody is told of it. Then everything
is deleted, some rows in a transaction: whoever is killed in between leaves a ledger that is whole, and what is left is
found by the next call.

What other tenants hold stays: runs that their audits need (called what they call their models), traces and comparisons
that their audits or runs have, prompts that they have stored.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar
from uuid import UUID

import psycopg
from sqlalchemy.orm import Session

from service.audits.store import cancel_audit
from service.database.unit_of_work import Ledger, allow
from service.operations import deleted
from service.platform.artifacts import ArtifactStore
from service.series.store import close_series
from spinal.errors import DatabaseUnavailable, NotReady

WRITERS_END_IN_S = 60.0
"""So long those may take who are writing when the keys end; statements and transactions are ended sooner."""
LOOK_AGAIN_S = 0.2
READING_LIMIT_S = 3600.0
PASSING = (psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable)
Counts = dict[str, int]
Found = TypeVar("Found")


def delete_tenant(ledger: Ledger, artifacts: ArtifactStore, tenant: str, *, apply: bool) -> Counts:
    """How many rows of each table, and how many captures, were deleted; with ``apply`` False how many rows name the
    tenant. Raises NotReady where somebody who was writing before does not come to an end."""
    if not apply:
        with ledger.read() as session:
            allow(session, READING_LIMIT_S)
            return deleted.count_rows(session, tenant)
    with ledger.begin() as session:
        deleted.shut_out(session, tenant)
    _wait_for_writers(ledger)
    _cancel_all(ledger, tenant)
    counts: Counts = {}
    # Nobody is told of the rest.
    _in_batches(ledger, tenant, counts, deleted.delete_deliveries_of)
    _in_batches(ledger, tenant, counts, partial(deleted.delete_plain, table="webhooks"))
    _in_batches(ledger, tenant, counts, deleted.delete_series)
    _delete_audits(ledger, artifacts, tenant, counts)
    _in_batches(ledger, tenant, counts, deleted.delete_models)
    _in_batches(ledger, tenant, counts, deleted.delete_prompt_sets)
    for table in deleted.plain_tables():
        _in_batches(ledger, tenant, counts, partial(deleted.delete_plain, table=table))
    with ledger.begin() as session:
        deleted.delete_counts(session, tenant)
    _in_batches(ledger, tenant, counts, partial(deleted.delete_plain, table="api_keys"))
    return dict(sorted(counts.items()))


def _wait_for_writers(ledger: Ledger) -> None:
    """Until every transaction that was writing has ended: those that write from now on see that they must not."""
    with ledger.begin() as session:
        newest = deleted.newest_transaction(session)
    until = time.monotonic() + WRITERS_END_IN_S
    while True:
        with ledger.read() as session:
            if deleted.have_ended(session, newest):
                return
        if time.monotonic() > until:
            raise NotReady(
                f"a transaction that began before has been writing for more than {WRITERS_END_IN_S:.0f} s",
                hint="call it again; the tenant's keys have ended already",
            )
        time.sleep(LOOK_AGAIN_S)


def _cancel_all(ledger: Ledger, tenant: str) -> None:
    """In the order of locks of everybody who cancels: one series or audit in a transaction."""
    with ledger.read() as session:
        series = deleted.open_series(session, tenant)
    for each in series:
        with ledger.begin() as session:
            close_series(session, tenant, each, cancel=True)
    while True:
        with ledger.read() as session:
            audits = deleted.open_audits(session, tenant)
        if not audits:
            return
        for audit in audits:
            with ledger.begin() as session:
                cancel_audit(session, tenant, audit)


def _delete_audits(ledger: Ledger, artifacts: ArtifactStore, tenant: str, counts: Counts) -> None:
    while True:
        gone = _carried_out(ledger, tenant, lambda session: deleted.delete_audits(session, tenant))
        if gone is None:
            break
        _add(counts, gone.rows)
        _remove(artifacts, gone.captures, counts)
    after: UUID | None = None
    while True:
        after, left = _carried_out(ledger, tenant, partial(deleted.delete_runs_left, tenant=tenant, after=after))
        _add(counts, left.rows)
        _remove(artifacts, left.captures, counts)
        if after is None:
            return


def _remove(artifacts: ArtifactStore, uris: list[str], counts: Counts) -> None:
    """Behind the rows that named them: one that is left over here belongs to no trace, and goes with retention."""
    for uri in uris:
        artifacts.remove(uri)
    if uris:
        _add(counts, {"captures": len(uris)})


def _in_batches(ledger: Ledger, tenant: str, counts: Counts, delete: Callable[..., Counts]) -> None:
    while True:
        gone = _carried_out(ledger, tenant, partial(delete, tenant=tenant))
        if not any(gone.values()):
            return
        _add(counts, gone)


def _carried_out(ledger: Ledger, tenant: str, delete: Callable[[Session], Found]) -> Found:
    """In a transaction in which what has ended may be deleted, where it is the tenant's. Whoever shares runs of the
    tenant at this moment may be waited for too long, or in a circle: then once more."""
    for last in (False, False, False, True):
        try:
            with ledger.begin() as session:
                deleted.allow_deleting(session, tenant)
                return delete(session)
        except DatabaseUnavailable as error:
            if last or not isinstance(getattr(error.__cause__, "orig", None), PASSING):
                raise
        time.sleep(LOOK_AGAIN_S)
    raise AssertionError


def _add(counts: Counts, more: Counts) -> None:
    for name, number in more.items():
        if number:
            counts[name] = counts.get(name, 0) + number
