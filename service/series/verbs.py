"""What callers do with series: make one, append, read, close, cancel. Each opens the transactions it needs."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog

from service.audits import store as audits
from service.audits.idempotency import lock_idempotency_key
from service.audits.resolve import read_prompts
from service.database.ids import new_id
from service.database.unit_of_work import Ledger, Reads
from service.models.meanings import Meant, pin, read_meaning
from service.policies.store import StoredPolicy, hold_policy
from service.policies.verbs import not_found as policy_not_found
from service.policies.verbs import read_policy
from service.runs.lifecycle import IN_FLIGHT
from service.runs.standing import Standing, find_standing
from service.series import store
from service.series.assessed import read_assessed
from service.series.members import (
    MOST_MEMBERS,
    Added,
    Asker,
    MemberRequest,
    append,
    full,
    read_asked,
    require_room_for,
    resolve_members,
    write_member,
)
from service.series.store import NewSeries, Series, SeriesFilter
from service.settings import Settings
from spinal.checkpoints.bounded import Inspectors
from spinal.documents.canonical import digest_of
from spinal.documents.series import Series as SeriesDocument
from spinal.errors import (
    IdempotencyInFlight,
    IdempotencyKeyReused,
    SeriesNotFound,
)
from spinal.policy.shipped import DEFAULT_POLICY
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import BUILTIN_SETS

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class SeriesRequest:
    """What a caller asks, as accepted."""

    reference: str
    prompt_set: str
    profile: MeasurementProfile
    control: str | None = None
    policy: str | None = None
    """Name and version, or digest; None for the one that ships."""
    description: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    priority: int = 0
    members: tuple[MemberRequest, ...] = ()
    folder: str | None = None
    body: dict[str, Any] = field(default_factory=dict)
    """What the caller sent, without defaults."""


@dataclass(frozen=True, eq=False)
class SeriesView:
    """A series, and what is told of its document."""

    series: Series
    summary: dict[str, Any] | None
    current: bool
    """Whether the summary knows everything that happened; a list tells what is kept."""
    standing: Standing | None = None
    """Where the member stands that is next, where that was asked for."""


@dataclass(frozen=True)
class SeriesPage:
    """Some of a tenant's series, newest first, and where the next ones begin."""

    views: list[SeriesView]
    following: tuple[datetime, UUID] | None


def create_series(
    ledger: Ledger,
    settings: Settings,
    inspectors: Inspectors,
    asker: Asker,
    request: SeriesRequest,
    *,
    idempotency_key: str | None,
) -> UUID:
    """Make a series with its first members, or find the one once made under the same Idempotency-Key.

    Every member is looked at before anything is written; then each is written by itself, since a transaction over all
    would hold the reference's run against its worker. A request that was cut off in between is completed by sending it
    again under its key.

    Raises IdempotencyKeyReused, IdempotencyInFlight, PolicyNotFound, SeriesFolderInvalid, SeriesStepTaken,
    OpenAuditLimitReached and what :func:`service.audits.resolve.resolve_request` raises.
    """
    tenant, body = asker.tenant, digest_of(request.body)
    known = None if idempotency_key is None else _replayed(ledger, tenant, idempotency_key, body)
    if known is not None:
        append(ledger, settings, inspectors, asker, read_series(ledger, tenant, known), read_asked(
            settings, inspectors, tenant, request.members, request.folder))  # fmt: skip
        return known
    policy = read_policy(ledger, tenant, DEFAULT_POLICY if request.policy is None else request.policy)
    prompts = read_prompts(ledger, tenant, request.prompt_set)
    sides = {"reference": request.reference} | ({} if request.control is None else {"control": request.control})
    meant = {role: read_meaning(ledger, tenant, named) for role, named in sides.items()}
    found = inspectors.survey({role: each.reference for role, each in meant.items()}, settings.reach_of(tenant))
    made = NewSeries(
        id=new_id(),
        tenant=tenant,
        reference=request.reference,
        policy=policy.digest,
        spec={
            # What it means today, for members that come later.
            "prompt_set": request.prompt_set if request.prompt_set in BUILTIN_SETS else prompts.digest,
            "profile": {"name": request.profile.name} | request.profile.model_dump(mode="json", exclude_unset=True),
            "control": request.control,
            # An alias may point elsewhere by then, and a name be gone.
            "meant": {
                role: Meant(pin(each.reference, found[role].source), each.registered).to_json()
                for role, each in meant.items()
            },
            "priority": request.priority,
            "policy": policy.name,
            "reference_snapshot": found["reference"].content_snapshot,
        },
        description=request.description,
        settings=request.settings,
        labels=request.labels,
        idempotency_key=idempotency_key,
        body_digest=None if idempotency_key is None else body,
        request_id=asker.request_id,
    )
    asked = read_asked(settings, inspectors, tenant, request.members, request.folder)
    if len(asked) > MOST_MEMBERS:
        raise full(len(asked))
    ready = resolve_members(ledger, settings, inspectors, made, asked)
    require_room_for(ledger, settings, tenant, ready)
    series_id = _insert(ledger, made, policy)
    if series_id == made.id:
        log.info("series accepted", series_id=str(series_id), tenant=tenant)
    for member in ready:
        write_member(ledger, settings, asker, series_id, *member)
    return series_id


def _insert(ledger: Ledger, made: NewSeries, policy: StoredPolicy) -> UUID:
    """The series that is made, or that which another request has made under the same key meanwhile."""
    with ledger.begin() as session:
        if made.idempotency_key is not None:
            if not lock_idempotency_key(session, made.tenant, f"series\n{made.idempotency_key}"):
                raise IdempotencyInFlight(
                    "a request with this Idempotency-Key is being carried out", hint="send it again in a second"
                )
            stored = store.find_idempotent(session, made.tenant, made.idempotency_key)
            if stored is not None:
                return _same(stored.id, stored.body_digest, made.body_digest)
        if not hold_policy(session, made.tenant, policy):
            raise policy_not_found(policy.name)
        store.insert_series(session, made)
        return made.id


def _replayed(ledger: Ledger, tenant: str, key: str, body: str) -> UUID | None:
    with ledger.read() as session:
        stored = store.find_idempotent(session, tenant, key)
    return None if stored is None else _same(stored.id, stored.body_digest, body)


def _same(series_id: UUID, stored: str, body: str | None) -> UUID:
    if stored != body:
        raise IdempotencyKeyReused(
            "this Idempotency-Key was used with another body", hint="use a fresh key for every new request"
        )
    return series_id


def add_members(
    ledger: Ledger,
    settings: Settings,
    inspectors: Inspectors,
    asker: Asker,
    series_id: UUID,
    members: Sequence[MemberRequest],
    folder: str | None,
) -> list[Added]:
    """Append checkpoints, or all that match ``folder``, by step. What the series has already, with the same model, is
    what it was, also once it is closed. Raises SeriesNotFound, SeriesStepTaken, SeriesClosed, SeriesFull,
    SeriesFolderInvalid and what :func:`service.audits.resolve.resolve_request` raises; what is refused before the first
    member is written leaves the series as it was."""
    series = read_series(ledger, asker.tenant, series_id)
    return append(
        ledger, settings, inspectors, asker, series, read_asked(settings, inspectors, asker.tenant, members, folder)
    )


def read_series(ledger: Reads, tenant: str, series_id: UUID) -> Series:
    """The tenant's series without its document; raises SeriesNotFound."""
    with ledger.read() as session:
        found = store.find_series(session, tenant, series_id)
    if found is None:
        raise SeriesNotFound(f"no series {series_id}", hint="list them with GET /v1/series")
    return found


def is_going(series: Series) -> bool:
    """Whether a member has not ended."""
    return any(state in IN_FLIGHT for state in series.states)


def view_series(ledger: Reads, tenant: str, series_id: UUID) -> SeriesView:
    """The tenant's series with what its document says of all that has happened; raises SeriesNotFound."""
    series = read_series(ledger, tenant, series_id)
    if series.current:
        return SeriesView(series, series.summary, current=True)
    document = read_assessed(ledger, series).model_dump(mode="json", include=set(store.SUMMARY))
    return SeriesView(series, document, current=True)


def with_standing(ledger: Reads, view: SeriesView) -> SeriesView:
    """The same with where the member stands that is next, while one is going."""
    if not is_going(view.series):
        return view
    with ledger.read() as session:
        following = store.next_in_line(session, view.series.id)
        return view if following is None else replace(view, standing=find_standing(session, following))


def read_document(ledger: Reads, tenant: str, series_id: UUID) -> SeriesDocument:
    """What is known of the run by now; raises SeriesNotFound."""
    return read_assessed(ledger, read_series(ledger, tenant, series_id))


def list_series(
    ledger: Reads, tenant: str, narrowed: SeriesFilter, *, after: tuple[datetime, UUID] | None, limit: int
) -> SeriesPage:
    """The tenant's series that match, newest first, behind the one with the sort key ``after``."""
    with ledger.read() as session:
        found = store.list_series(session, tenant, narrowed, after=after, limit=limit + 1)
    page = found[:limit]
    following = (page[-1].created_at, page[-1].id) if len(found) > limit else None
    return SeriesPage([SeriesView(series, series.summary, series.current) for series in page], following)


def close_series(ledger: Ledger, tenant: str, series_id: UUID) -> SeriesView:
    """No member comes from here on; one that is closed stays as it is. Raises SeriesNotFound."""
    read_series(ledger, tenant, series_id)
    with ledger.begin() as session:
        store.close_series(session, tenant, series_id)
    return view_series(ledger, tenant, series_id)


def cancel_series(ledger: Ledger, tenant: str, series_id: UUID) -> SeriesView:
    """Close a series and give up its members that are queued or running; those that have ended stay. Raises
    SeriesNotFound.

    Closed first: a member that is being appended is seen, and none comes after. Then each audit by itself, in the order
    of locks of every other: one transaction over all would take the runs of the second after the audit of the first."""
    read_series(ledger, tenant, series_id)
    with ledger.begin() as session:
        store.close_series(session, tenant, series_id, cancel=True)
    with ledger.read() as session:
        members = store.list_members(session, series_id)
    for member in members:
        if member.state in IN_FLIGHT:
            with ledger.begin() as session:
                audits.cancel_audit(session, tenant, member.audit_id)
    return view_series(ledger, tenant, series_id)
