"""Events of registries, the versions that rules have chosen, and what became of them."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

KEPT_DAYS = 30
"""So long an event is known when it comes again. One that comes later still makes no second audit."""
WAITS = "audit_id IS NULL AND refused IS NULL AND NOT past"
"""SQL: an audit is still to be made. As the index ``ix_registry_versions_to_do`` has it."""


@dataclass(frozen=True)
class Event:
    """What was received, but for what became of it."""

    registry: str
    delivery: str
    tenant: str
    body_digest: str
    type: str


@dataclass(frozen=True)
class Key:
    """One version, chosen by one rule."""

    registry: str
    model: str
    version: str
    rule: str


def place_of(key: Key) -> dict[str, str]:
    """Where a delivery goes: to one version, whichever rule asked."""
    return {"registry": key.registry, "model": key.model, "version": key.version}


@dataclass(frozen=True)
class Due:
    """A version whose audit is to be made."""

    id: UUID
    key: Key
    tenant: str
    reference: str | None
    """What the rule's reference was pinned to when it was first asked for."""
    tries: int
    missing_s: float | None
    """How long ago it was first not there; None where that was not so when it was last looked at."""


def add_event(session: Session, event: Event) -> bool:
    """False where it is there already; whoever adds it at this moment is waited for."""
    return (
        session.execute(
            text("""INSERT INTO received_events (registry, delivery, tenant, body_digest, type, outcome)
                    VALUES (:registry, :delivery, :tenant, :digest, :type, 'pending')
                    ON CONFLICT DO NOTHING RETURNING registry"""),
            {
                "registry": event.registry,
                "delivery": event.delivery,
                "tenant": event.tenant,
                "digest": event.body_digest,
                "type": event.type,
            },
        ).scalar()
        is not None
    )


def find_event(session: Session, registry: str, delivery: str) -> Row[Any]:
    """What became of an event: ``type``, ``outcome``, ``detail``, and the ``body_digest`` of what came."""
    return session.execute(
        text("""SELECT type, outcome, detail, body_digest FROM received_events
                WHERE registry = :registry AND delivery = :delivery"""),
        {"registry": registry, "delivery": delivery},
    ).one()


def set_outcome(session: Session, registry: str, delivery: str, outcome: str, detail: dict[str, Any]) -> None:
    session.execute(
        text("""UPDATE received_events SET outcome = :outcome, detail = CAST(:detail AS jsonb)
                WHERE registry = :registry AND delivery = :delivery"""),
        {"registry": registry, "delivery": delivery, "outcome": outcome, "detail": json.dumps(detail)},
    )


def add_version(session: Session, key: Key, tenant: str, detail: dict[str, Any], *, past: bool = False) -> bool:
    """See to it that a version is audited by a rule, once and for all; whether that is news. One that was refused, or
    was there before anybody looked, is due when its registry tells of it. ``past``: only note that it was there, unless
    it is known."""
    return (
        session.execute(
            text("""INSERT INTO registry_versions AS v (registry, model, version, rule, tenant, detail, past)
                    VALUES (:registry, :model, :version, :rule, :tenant, CAST(:detail AS jsonb), :past)
                    ON CONFLICT (registry, model, version, rule) DO UPDATE
                      SET past = FALSE, refused = NULL, due_at = now(), tries = 0, created_at = now(),
                        detail = EXCLUDED.detail
                      WHERE (v.past OR v.refused IS NOT NULL) AND NOT CAST(:past AS boolean) RETURNING id"""),
            {**vars(key), "tenant": tenant, "detail": json.dumps(detail), "past": past},
        ).scalar()
        is not None
    )


def known_versions(session: Session, registry: str) -> set[tuple[str, str, str]]:
    """(model, version, rule) of all that a registry has."""
    rows = session.execute(
        text("SELECT model, version, rule FROM registry_versions WHERE registry = :registry"), {"registry": registry}
    )
    return {(row.model, row.version, row.rule) for row in rows}


def take_due(
    session: Session, rules: Collection[tuple[str, str, str]], *, lease_s: float, after: str = ""
) -> Due | None:
    """Of the tenant that comes behind ``after`` by name, and behind the last one the first again: the version that has
    waited longest among those that were tried least, of rules (registry, tenant, rule) that there are; left alone by
    everybody else for ``lease_s``. Those of a registry that does not answer, each of which takes its time, keep no new
    one waiting, and those of one tenant none of another."""
    row = session.execute(
        text(f"""UPDATE registry_versions SET due_at = now() + make_interval(secs => :lease), tries = tries + 1
                 WHERE id = (SELECT id FROM registry_versions WHERE {WAITS} AND due_at <= now()
                     AND (registry, tenant, rule) IN (SELECT * FROM unnest(
                       CAST(:registries AS text[]), CAST(:tenants AS text[]), CAST(:rules AS text[])))
                   ORDER BY (tenant <= :after), tenant, tries, due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
                 RETURNING id, registry, model, version, rule, tenant, detail->>'reference' AS reference, tries,
                   EXTRACT(EPOCH FROM now() - CAST(detail->>'missing_since' AS timestamptz))::float8
                     AS missing_s"""),  # noqa: S608  a constant of this module
        {
            "lease": lease_s,
            "after": after,
            "registries": [registry for registry, _, _ in rules],
            "tenants": [tenant for _, tenant, _ in rules],
            "rules": [rule for _, _, rule in rules],
        },
    ).one_or_none()
    if row is None:
        return None
    key = Key(row.registry, row.model, row.version, row.rule)
    return Due(row.id, key, row.tenant, row.reference, row.tries, row.missing_s)


def keep_reference(session: Session, version: UUID, reference: str) -> None:
    """What its rule's reference is pinned to from now on."""
    session.execute(
        text("""UPDATE registry_versions SET detail = detail || jsonb_build_object('reference', CAST(:to AS text))
                WHERE id = :id AND NOT detail ? 'reference'"""),
        {"id": version, "to": reference},
    )


def hold_waiting(session: Session, version: UUID) -> bool:
    """Hold the row, ahead of every other lock; False where its audit was made, or refused, meanwhile."""
    found = session.execute(
        text(f"SELECT id FROM registry_versions WHERE id = :id AND {WAITS} FOR UPDATE"),  # noqa: S608  as above
        {"id": version},
    )
    return found.scalar() is not None


def set_audit(session: Session, version: UUID, audit: UUID) -> None:
    session.execute(
        text("UPDATE registry_versions SET audit_id = :audit, detail = detail - 'problem' WHERE id = :id"),
        {"id": version, "audit": audit},
    )


def refuse(session: Session, version: UUID, problem: dict[str, Any]) -> None:
    session.execute(
        text(f"""UPDATE registry_versions SET refused = CAST(:problem AS jsonb), detail = detail - 'problem'
                 WHERE id = :id AND {WAITS}"""),  # noqa: S608  as above
        {"id": version, "problem": json.dumps(problem)},
    )


def put_off(
    session: Session, version: UUID, problem: dict[str, Any], *, pause_s: float, tries: int, missing: bool
) -> None:
    """Look at a version later. ``missing``: it was not there; since when is kept until something else is the matter."""
    session.execute(
        text(f"""UPDATE registry_versions SET due_at = now() + make_interval(secs => :pause), tries = :tries,
                   detail = (CASE WHEN :missing THEN jsonb_build_object('missing_since', now()) || detail
                     ELSE detail - 'missing_since' END) || jsonb_build_object('problem', CAST(:problem AS jsonb))
                 WHERE id = :id AND {WAITS}"""),  # noqa: S608  as above
        {"id": version, "pause": pause_s, "problem": json.dumps(problem), "tries": tries, "missing": missing},
    )


@dataclass(frozen=True)
class Look:
    """What came of looking through a registry for one rule."""

    rule: str
    failure: dict[str, Any] | None
    selection: str | None
    """Digest of what the rule selects; None where the look did not come to its end."""
    unseen: frozenset[str] = frozenset()
    """Models that neither this look nor one before has come to."""


def last_looks(session: Session, registry: str) -> dict[tuple[str, str], frozenset[str]]:
    """(rule, digest of what it selected) of rules that a poll has looked through, with the models that it has not come
    to yet."""
    rows = session.execute(
        text("SELECT rule, selection, unseen FROM registry_rules WHERE registry = :registry AND selection IS NOT NULL"),
        {"registry": registry},
    )
    return {(row.rule, row.selection): frozenset(row.unseen or ()) for row in rows}


def note_poll(session: Session, registry: str, tenant: str, looks: Sequence[Look]) -> None:
    session.execute(
        text("""INSERT INTO registry_rules (registry, rule, tenant, polled_at, failure, selection, unseen)
                SELECT :registry, rule, :tenant, CASE WHEN failure IS NULL THEN now() END, CAST(failure AS jsonb),
                  selection, CAST(unseen AS jsonb)
                FROM unnest(CAST(:rules AS text[]), CAST(:failures AS text[]), CAST(:selections AS text[]),
                  CAST(:unseen AS text[])) AS r(rule, failure, selection, unseen) ORDER BY rule
                ON CONFLICT (registry, rule) DO UPDATE SET failure = EXCLUDED.failure,
                  polled_at = COALESCE(EXCLUDED.polled_at, registry_rules.polled_at),
                  selection = COALESCE(EXCLUDED.selection, registry_rules.selection),
                  unseen = CASE WHEN EXCLUDED.selection IS NULL THEN registry_rules.unseen ELSE EXCLUDED.unseen END"""),
        {
            "registry": registry,
            "tenant": tenant,
            "rules": [look.rule for look in looks],
            "failures": [None if look.failure is None else json.dumps(look.failure) for look in looks],
            "selections": [look.selection for look in looks],
            "unseen": [json.dumps(sorted(look.unseen)) for look in looks],
        },
    )


def forget_events(session: Session) -> int:
    """Delete what was received long ago, from whichever registry."""
    gone = session.execute(
        text("DELETE FROM received_events WHERE received_at < now() - make_interval(days => :days) RETURNING 1"),
        {"days": KEPT_DAYS},
    )
    return len(gone.all())


@dataclass(frozen=True)
class Standing:
    """What has come of a registry so far."""

    last_event_at: datetime | None
    last_event: str | None
    last_outcome: str | None
    polled_at: datetime | None
    poll_failure: dict[str, Any] | None
    states: dict[str, int]
    """How many versions are in which state."""


STATE = """CASE WHEN v.past THEN 'past' WHEN v.refused IS NOT NULL THEN 'refused'
  WHEN v.audit_id IS NULL THEN 'waiting' ELSE lower(COALESCE(a.state, 'deleted')) END"""
"""SQL: where a version stands."""


def standing_of(session: Session, tenant: str, registry: str) -> Standing:
    of = {"tenant": tenant, "registry": registry}
    last = session.execute(
        text("""SELECT received_at, type, outcome FROM received_events WHERE registry = :registry AND tenant = :tenant
                ORDER BY received_at DESC LIMIT 1"""),
        of,
    ).one_or_none()
    polled = session.execute(
        text("""SELECT min(polled_at) AS at, (array_agg(failure) FILTER (WHERE failure IS NOT NULL))[1] AS failure
                FROM registry_rules WHERE registry = :registry AND tenant = :tenant"""),
        of,
    ).one()
    states = session.execute(
        text(f"""SELECT {STATE} AS state, count(*) AS n FROM registry_versions v LEFT JOIN audits a ON a.id = v.audit_id
                 WHERE v.registry = :registry AND v.tenant = :tenant GROUP BY 1"""),  # noqa: S608  a constant of this module
        of,
    )
    counted = {row.state: row.n for row in states}
    at, kind, outcome = (None, None, None) if last is None else (last.received_at, last.type, last.outcome)
    return Standing(at, kind, outcome, polled.at, polled.failure, counted)


@dataclass(frozen=True)
class StoredVersion:
    """A version as callers see it."""

    id: UUID
    model: str
    version: str
    rule: str
    state: str
    verdict: str | None
    audit_id: UUID | None
    problem: dict[str, Any] | None
    """Why there is no audit, or none yet."""
    created_at: datetime


def list_versions(
    session: Session,
    tenant: str,
    registry: str,
    *,
    state: str | None,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> list[StoredVersion]:
    """Newest first, behind the one with the sort key ``after``."""
    rows = session.execute(
        text(f"""SELECT v.id, v.model, v.version, v.rule, {STATE} AS state, a.verdict, v.audit_id,
                   COALESCE(v.refused, v.detail->'problem') AS problem, v.created_at
                 FROM registry_versions v LEFT JOIN audits a ON a.id = v.audit_id
                 WHERE v.tenant = :tenant AND v.registry = :registry
                   AND (CAST(:state AS text) IS NULL OR {STATE} = :state)
                   AND (CAST(:after AS timestamptz) IS NULL OR (v.created_at, v.id) < (:after, CAST(:after_id AS uuid)))
                 ORDER BY v.created_at DESC, v.id DESC LIMIT :limit"""),  # noqa: S608  a constant of this module
        {
            "tenant": tenant,
            "registry": registry,
            "state": state,
            "after": None if after is None else after[0],
            "after_id": None if after is None else after[1],
            "limit": limit,
        },
    )
    return [StoredVersion(**row._asdict()) for row in rows]


@dataclass(frozen=True)
class Place:
    """A version that an audit was made of."""

    id: UUID
    key: Key
    tenant: str


def places_of_audit(session: Session, audit: UUID) -> list[Place]:
    rows = session.execute(
        text("""SELECT id, registry, model, version, rule, tenant FROM registry_versions WHERE audit_id = :audit
                ORDER BY registry, model, version, rule"""),
        {"audit": audit},
    )
    return [Place(row.id, Key(row.registry, row.model, row.version, row.rule), row.tenant) for row in rows]


@dataclass(frozen=True)
class Newest:
    """What a version was last said to be: by the audit that was asked for last among those that have ended, or by the
    refusal of one."""

    rule: str
    audit_id: UUID | None
    refused: dict[str, Any] | None


NEWEST = """SELECT v.id, v.rule, v.audit_id, v.refused FROM registry_versions v LEFT JOIN audits a ON a.id = v.audit_id
  WHERE (v.registry, v.model, v.version, v.tenant) = ({place}) AND (v.refused IS NOT NULL OR a.finished_at IS NOT NULL)
  ORDER BY COALESCE(a.created_at, v.created_at) DESC, v.id DESC LIMIT 1"""
"""SQL: what the version at ``place`` (registry, model, version, tenant) was last said to be."""


def newest_of(session: Session, tenant: str, registry: str, model: str, version: str) -> Newest | None:
    row = session.execute(
        text(NEWEST.format(place=":registry, :model, :version, :tenant")),
        {"registry": registry, "model": model, "version": version, "tenant": tenant},
    ).one_or_none()
    return None if row is None else Newest(row.rule, row.audit_id, row.refused)
