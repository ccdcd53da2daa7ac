"""How checkpoints become members: looked at together, then written one after another, each with its audit."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog

from service.audits import store as audits
from service.audits.resolve import AuditRequest, Resolved, resolve_request
from service.audits.verbs import record_of, write_audit
from service.database.unit_of_work import Ledger, whole_or_again
from service.models.meanings import Meant
from service.runs import demand
from service.series import store
from service.series.store import NewSeries, Series, StoredMember
from service.settings import Settings
from service.tenants.counts import require_room
from spinal.checkpoints.bounded import Inspectors
from spinal.errors import (
    Forbidden,
    InspectionExceeded,
    SeriesClosed,
    SeriesFull,
    SeriesReferenceChanged,
    SeriesStepTaken,
)
from spinal.profile import MeasurementProfile

log = structlog.get_logger(__name__)

MOST_MEMBERS = 512
"""Of one series: its document is made of all their comparisons, a megabyte or less each."""
LOOK_S = 300.0
"""So long one request may look at its members. Each has a bound of its own; a hundred that just keep theirs would hold
a thread, and one of few inspectors, for more than an hour."""
OF_ONE_MODEL = audits.NAME_LABEL
"""The label that a member's audit does not take over: by it, an audit would be judged by values of whichever other
member ended before it."""


@dataclass(frozen=True)
class MemberRequest:
    step: int
    model: str


@dataclass(frozen=True)
class Asker:
    """Who asks, and by which request."""

    tenant: str
    request_id: str | None = None
    traceparent: str | None = None
    may_go_first: bool = True
    """Whether their key allows a priority above 0."""


@dataclass(frozen=True)
class Added:
    """A member that was asked for."""

    member: StoredMember
    fresh: bool
    """False where the series had it already."""


def read_asked(
    settings: Settings, inspectors: Inspectors, tenant: str, members: Sequence[MemberRequest], folder: str | None
) -> dict[int, str]:
    """Step -> model of what was listed, or is in the folder; raises SeriesStepTaken, SeriesFolderInvalid."""
    if folder is not None:
        return {each.step: each.reference for each in inspectors.expand(folder, settings.roots_of(tenant))}
    asked: dict[int, str] = {}
    for member in members:
        if asked.setdefault(member.step, member.model) != member.model:
            raise _taken(member.step, asked[member.step], member.model)
    return asked


def append(
    ledger: Ledger,
    settings: Settings,
    inspectors: Inspectors,
    asker: Asker,
    series: Series,
    asked: dict[int, str],
) -> list[Added]:
    """See to it that a series has these members; raises as :func:`service.series.verbs.add_members` does."""
    with ledger.read() as session:
        known = {member.step: member for member in store.list_members(session, series.id)}
    missing: dict[int, str] = {}
    for step, model in asked.items():
        if step not in known:
            missing[step] = model
        elif known[step].model != model:
            raise _taken(step, known[step].model, model)
    if missing and series.closed_at is not None:
        raise _closed(series.id)
    if len(known) + len(missing) > MOST_MEMBERS:
        raise full(len(known) + len(missing))
    if missing and series.spec["priority"] > 0 and not asker.may_go_first:
        raise Forbidden(
            f"members of this series have priority {series.spec['priority']}, for which this key lacks the scope "
            "'priority'",
            hint="ask an operator for a key with the scope 'priority', or begin a series of priority 0",
        )
    written = [
        write_member(ledger, settings, asker, series.id, *ready)
        for ready in resolve_members(ledger, settings, inspectors, series, missing)
    ]
    there = [Added(known[step], fresh=False) for step in asked if step in known]
    return sorted([*there, *written], key=lambda added: added.member.step)


Ready = tuple[MemberRequest, AuditRequest, Resolved]


def resolve_members(
    ledger: Ledger, settings: Settings, inspectors: Inspectors, series: Series | NewSeries, asked: dict[int, str]
) -> list[Ready]:
    """Everything that looking at files can tell of the members, one after the other. Raises InspectionExceeded where
    all of them together take too long."""
    ready: list[Ready] = []
    deadline = time.monotonic() + LOOK_S
    for step, model in sorted(asked.items()):
        if ready and time.monotonic() > deadline:
            raise InspectionExceeded(
                f"after {LOOK_S:.0f} s {len(ready)} of {len(asked)} members were looked at",
                hint=f"append fewer at once, {max(1, len(ready) // 2)} for example",
            )
        request = _audit_request(series, model)
        resolved = resolve_request(ledger, settings, inspectors, series.tenant, request)
        if resolved.summary["reference"]["snapshot"] != series.spec["reference_snapshot"]:
            raise SeriesReferenceChanged(
                f"{series.reference} holds other files than when the series began",
                hint="begin another series: its members would be compared with another model",
            )
        ready.append((MemberRequest(step, model), request, resolved))
    return ready


def _audit_request(series: Series | NewSeries, model: str) -> AuditRequest:
    spec = series.spec
    models = {"candidate": model, "reference": series.reference}
    if spec["control"] is not None:
        models["control"] = spec["control"]
    labels = {name: value for name, value in series.labels.items() if name != OF_ONE_MODEL}
    body = models | {
        "prompt_set": spec["prompt_set"],
        "profile": spec["profile"],
        "policy": spec["policy"],
        "labels": labels,
        "priority": spec["priority"],
    }
    return AuditRequest(
        models=models,
        # Series of the release before say no more than names.
        meant={role: Meant(**told) for role, told in spec.get("meant", {}).items()},
        prompt_set=spec["prompt_set"],
        profile=MeasurementProfile.model_validate(spec["profile"]),
        policy=series.policy,
        labels=labels,
        priority=spec["priority"],
        body=body,
        spelled_out=body,
    )


def write_member(
    ledger: Ledger,
    settings: Settings,
    asker: Asker,
    series_id: UUID,
    asked: MemberRequest,
    request: AuditRequest,
    resolved: Resolved,
) -> Added:
    """One member with its audit, unless another request has appended it meanwhile. Raises OpenAuditLimitReached, where
    members before it may have been written: the same request sent again goes on from there."""
    with ledger.begin() as session, whole_or_again():
        # Members of one series come one after another: nobody finds a step free that somebody else is taking.
        is_open = store.lock_series(session, asker.tenant, series_id)
        known = store.find_member(session, series_id, asked.step)
        if known is not None:
            if known.model != asked.model:
                raise _taken(asked.step, known.model, asked.model)
            return Added(known, fresh=False)
        if not is_open:
            raise _closed(series_id)
        if store.count_members(session, series_id) >= MOST_MEMBERS:
            raise full(MOST_MEMBERS + 1)
        audit = record_of(asker.tenant, request, resolved, asker.request_id, series=series_id)
        write_audit(session, settings, audit, resolved, request.priority, asker.traceparent)
        store.insert_member(session, series_id, asked.step, asked.model, audit.id)
        made = store.find_member(session, series_id, asked.step)
    assert made is not None
    log.info("member accepted", series_id=str(series_id), step=asked.step, audit_id=str(audit.id))
    return Added(made, fresh=True)


def require_room_for(ledger: Ledger, settings: Settings, tenant: str, ready: Sequence[Ready]) -> None:
    """Raises OpenAuditLimitReached where a series that is to begin would not get all of its first members: nobody knows
    its id yet, and could append the others."""
    with ledger.read() as session:
        opened = sum(1 for _, _, resolved in ready if not demand.are_done(session, resolved.specs))
        if opened:
            require_room(session, tenant, settings.limits_of(tenant).open_audits, more=opened)


def _taken(step: int, known: str, asked: str) -> SeriesStepTaken:
    return SeriesStepTaken(
        f"step {step} is {known}, and was asked for as {asked}",
        hint="a member never changes: append under another step, or begin another series",
        step=step,
    )


def _closed(series_id: UUID) -> SeriesClosed:
    return SeriesClosed(f"series {series_id} is closed: no member comes any more", hint="begin another series")


def full(members: int) -> SeriesFull:
    """The refusal of more members than a series may have."""
    return SeriesFull(
        f"a series has at most {MOST_MEMBERS} members, and would have {members}",
        hint="audit every second checkpoint, or begin another series",
    )
