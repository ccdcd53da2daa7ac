"""The document of a series, from what its members' audits found.

It is worked out by whoever reads a series whose kept document is out of date, and kept by the dispatcher, which looks
for such series. No transaction that ends an audit knows of it: what a document covers is three numbers that only ever
grow (members, ended members, closed), so being out of date is seen by counting, also where the release before ended
the audit, and of two documents the one that covers more is the later one.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from service.audits.store import read_verdict
from service.database.unit_of_work import Ledger, Reads
from service.runs.held import without_hosts
from service.runs.settle import UNREADABLE, read_comparison, read_policy
from service.series import store
from service.series.store import Covered, Series
from spinal.documents.policy import Policy
from spinal.documents.series import MemberState, SeriesSettings
from spinal.documents.series import Series as SeriesDocument
from spinal.errors import NotReady
from spinal.policy.series import Member, assess

STATES: dict[str, MemberState] = {
    "QUEUED": "waiting",
    "RUNNING": "waiting",
    "SUCCEEDED": "measured",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
}
"""State of an audit -> what a series says of its member."""
GIVEN_UP = "its audit was cancelled"


@dataclass(frozen=True)
class Assessed:
    """A document, and what it knows of its series."""

    document: SeriesDocument
    covered: Covered


@dataclass(frozen=True)
class Found:
    """What a document is made of, read and not yet judged."""

    series: Series
    policy: dict[str, Any]
    rows: list[Row[Any]]

    def assess(self) -> Assessed:
        """The document; raises NotReady where newer code stored the policy."""
        policy = read_policy(self.policy)
        if policy is None:
            raise NotReady(
                f"the policy of series {self.series.id} was stored by newer code than this", hint="ask a newer process"
            )
        closed = self.series.closed_at is not None
        document = assess(
            self.series.reference,
            [_member(row) for row in self.rows],
            policy,
            SeriesSettings.model_validate(self.series.settings),
            labels=self.series.labels,
            closed=closed,
        )
        document = _as_stored(document, policy, self.series.policy)
        settled = sum(row.state not in ("QUEUED", "RUNNING") for row in self.rows)
        return Assessed(document, Covered(len(self.rows), settled, closed))


def _as_stored(document: SeriesDocument, policy: Policy, digest: str) -> SeriesDocument:
    """Under the digest by which the policy is stored: spelled out by later code, which may know more members, it would
    be another number."""
    return document if policy.digest == digest else document.model_copy(update={"policy_digest": digest})


def find_assessed(session: Session, series: Series) -> Found:
    """What the document of a series is made of. The series was read before its members: what it says of being closed is
    not newer than they are."""
    policy = session.execute(
        text("SELECT document FROM policies WHERE tenant = :tenant AND digest = :digest"),
        {"tenant": series.tenant, "digest": series.policy},
    ).scalar_one()
    return Found(series, policy, store.members_with_results(session, series.id))


def _member(row: Row[Any]) -> Member:
    """A member as its audit has it; one whose comparison newer code wrote counts as not measured."""
    known = {"step": row.step, "model": row.model, "audit": str(row.audit_id)}
    state = STATES[row.state]
    if state != "measured":
        return Member(**known, state=state, reason=_reason(row))
    try:
        content = read_comparison(row)
    except ValidationError:
        return Member(**known, state="failed", reason=UNREADABLE)
    # Settled by the release before, an audit has its verdict in the comparison.
    verdict = content.verdict if row.verdict_document is None else read_verdict(row.verdict_document)
    return Member(**known, state=state, content=content, verdict=verdict)


def _reason(row: Row[Any]) -> str | None:
    if row.state == "CANCELLED":
        return GIVEN_UP
    error = without_hosts(row.error) or {}
    return str(error.get("detail") or error.get("title") or error["code"]) if row.state == "FAILED" else None


def read_assessed(ledger: Reads, series: Series) -> SeriesDocument:
    """The document of a series that was read in the same transaction: the kept one while it knows everything that
    happened, and else one that is worked out."""
    with ledger.read() as session:
        if series.current:
            try:
                return SeriesDocument.model_validate(store.kept_document(session, series.id))
            except ValidationError:
                pass  # newer code kept it
        found = find_assessed(session, series)
    return found.assess().document


def keep_assessed(ledger: Ledger, tenant: str, series_id: UUID) -> bool:
    """Work out the document of a series and keep it; False where one is kept by now that knows as much. Nothing is
    locked while it is worked out."""
    with ledger.read() as session:
        series = store.find_series(session, tenant, series_id)
        if series is None or series.current:
            return False
        found = find_assessed(session, series)
    made = found.assess()
    document = made.document.model_dump(mode="json", by_alias=True)
    with ledger.begin() as session:
        return store.keep_document(session, series_id, document, made.covered)
