"""What callers do to runs: need one, share one, give one up. For the order of locks see ``transitions.py``."""

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.database.ids import new_id
from service.runs.kinds import LOCK_ORDER, Kind, kind_named
from service.runs.specs import all_needs, depth, edition_of, needs, spec_digest
from service.runs.wake import wake_dispatchers

COMPARE = "compare"
"""Role of the comparison of an audit."""


def need_runs(
    session: Session,
    specs: dict[str, dict[str, Any]],
    *,
    queue_of: Callable[[Kind], str],
    priority: int,
    traceparent: str | None,
    tenant: str | None = None,
) -> dict[str, UUID]:
    """The runs that do ``specs`` (by role) for ``tenant``, shared with whoever needs the same; each waits for those of
    the specifications that its own needs. Raises UnknownKind, and ValueError where one of these is not among
    ``specs``."""
    kinds = {role: kind_named(spec["kind"]) for role, spec in specs.items()}
    found: dict[str, UUID] = {}
    by_digest: dict[str, UUID] = {}
    # In the order of locks that transitions.py names.
    for role in sorted(specs, key=lambda role: (depth(specs[role]), spec_digest(specs[role]))):
        missing = sorted(name for name, spec in needs(specs[role]).items() if spec_digest(spec) not in by_digest)
        if missing:
            raise ValueError(f"{role} needs {', '.join(missing)}, for which there is no specification")
        found[role] = by_digest[spec_digest(specs[role])] = find_or_create_run(
            session,
            specs[role],
            queue=queue_of(kinds[role]),
            priority=priority,
            # Needs of needs, too: when one fails, whatever waits for it in any way fails with it.
            depends_on=tuple(by_digest[digest] for digest in all_needs(specs[role])),
            traceparent=traceparent,
            tenant=tenant,
        )
    return found


def known_runs(session: Session, expected: dict[str, str], owner: str | None) -> dict[str, UUID] | None:
    """The succeeded runs whose results are ``expected`` (by role), whichever files they were made of; None where one is
    missing. With ``owner`` (a tenant) those alone that worked for it. A comparison brings the very runs that it waited
    for."""
    if not expected:
        return None
    found: dict[str, UUID] = {}
    compared = expected.get(COMPARE)
    needed_by = None if compared is None else _made(session, compared, owner, None)
    if compared is not None:
        if needed_by is None:
            return None
        found[COMPARE] = needed_by
    for role, digest in expected.items():
        if role == COMPARE:
            continue
        run = _made(session, digest, owner, needed_by)
        if run is None:
            return None
        found[role] = run
    return found if _kept(session, set(found.values())) else None


def _kept(session: Session, runs: set[UUID]) -> bool:
    """Hold them, so that none is deleted with its last owner, in the order in which whoever deletes holds them; False
    where one is gone."""
    held = session.execute(
        text(f"SELECT 1 FROM runs WHERE id = ANY(:runs) ORDER BY {LOCK_ORDER} FOR KEY SHARE"),  # noqa: S608  a constant of kinds.py
        {"runs": list(runs)},
    )
    return len(held.all()) == len(runs)


def _made(session: Session, digest: str, owner: str | None, needed_by: UUID | None) -> UUID | None:
    """A run that has made ``digest``; of those that ``needed_by`` waited for, where that is a run."""
    made = session.execute(
        text("""SELECT id FROM runs WHERE result_digest = :digest AND state = 'SUCCEEDED' AND NOT cancel_requested
                  AND spec->>'tenant' IS NOT DISTINCT FROM :owner
                  AND (CAST(:needed_by AS uuid) IS NULL
                    OR id IN (SELECT depends_on FROM run_dependencies WHERE run_id = CAST(:needed_by AS uuid)))
                ORDER BY finished_at, id LIMIT 1"""),
        {"digest": digest, "owner": owner, "needed_by": needed_by},
    ).scalar()
    return None if made is None else UUID(str(made))


def are_done(session: Session, specs: dict[str, dict[str, Any]]) -> bool:
    """Whether there is a result of every one of ``specs`` (by role): nothing would be left to do."""
    digests = {spec_digest(spec) for spec in specs.values()}
    done: int = session.execute(
        text("""SELECT count(DISTINCT spec_digest) FROM runs
                WHERE spec_digest = ANY(:digests) AND state = 'SUCCEEDED' AND NOT cancel_requested"""),
        {"digests": sorted(digests)},
    ).scalar_one()
    return done == len(digests)


def find_or_create_run(
    session: Session,
    spec: dict[str, Any],
    *,
    queue: str,
    priority: int = 0,
    depends_on: tuple[UUID, ...] = (),
    traceparent: str | None = None,
    tenant: str | None = None,
) -> UUID:
    """The run that does ``spec``: the succeeded one, the one in flight, or a new one. There is never more than one of
    them that is wanted. From now on it is served at the turn of ``tenant``, too: of all who asked for it, at that which
    comes first. (Without a tenant: of the one that the specification names.) Safe under any number of parallel calls; a
    row in flight stays locked until the caller's transaction ends, so that it cannot finish or be given up unseen, and
    one that has succeeded is not deleted meanwhile. Raises UnknownKind."""
    digest = spec_digest(spec)
    done = _succeeded(session, digest)
    if done is not None:
        return done
    fresh = new_id()
    run_id = session.execute(
        text("""INSERT INTO runs (id, kind, spec, spec_version, spec_digest, scheme, depth, queue, priority,
                  traceparent, tenants)
                VALUES (:id, :kind, CAST(:spec AS jsonb), :version, :digest, :scheme, :depth, :queue, :priority,
                  :traceparent, CAST(:tenants AS text[]))
                ON CONFLICT (spec_digest) WHERE state IN ('QUEUED','RUNNING','SUCCEEDED') AND NOT cancel_requested
                DO UPDATE SET priority = GREATEST(runs.priority, EXCLUDED.priority),
                  tenants = ARRAY(SELECT DISTINCT unnest(runs.tenants || EXCLUDED.tenants) ORDER BY 1)
                WHERE runs.state <> 'SUCCEEDED'
                RETURNING id"""),
        {
            "id": fresh,
            "kind": spec["kind"],
            "spec": json.dumps(spec),
            "version": kind_named(spec["kind"]).version_of(spec),
            "digest": digest,
            "scheme": edition_of(spec).scheme,
            "depth": depth(spec),
            "queue": queue,
            "priority": priority,
            "traceparent": traceparent,
            "tenants": [] if tenant is None else [tenant],
        },
    ).scalar()
    if run_id is None:
        # It succeeded between the two statements, and stays so.
        run_id = _succeeded(session, digest)
    if run_id == fresh:
        for needed in dict.fromkeys(depends_on):
            session.execute(
                text("INSERT INTO run_dependencies (run_id, depends_on) VALUES (:run, :needed)"),
                {"run": fresh, "needed": needed},
            )
        wake_dispatchers(session, fresh)
    return UUID(str(run_id))


def lock_runs_of(session: Session, audit_id: UUID) -> None:
    """Lock the runs in flight that an audit needs, ahead of the audit itself."""
    session.execute(
        text(f"""SELECT 1 FROM runs WHERE state IN ('QUEUED','RUNNING')
                   AND id IN (SELECT run_id FROM audit_runs WHERE audit_id = :audit)
                 ORDER BY {LOCK_ORDER} FOR NO KEY UPDATE"""),  # noqa: S608  a constant of kinds.py
        {"audit": audit_id},
    )


def cancel_runs_of(session: Session, audit_id: UUID) -> None:
    """Stop the runs that only this (already cancelled) audit needs, itself or through a comparison: queued ones at
    once, running ones by flag. Those that others need, too, are its tenant's no longer. The caller holds their locks:
    no other audit can come to need them meanwhile."""
    session.execute(
        text("""UPDATE runs SET cancel_requested = TRUE,
                  state = CASE state WHEN 'QUEUED' THEN 'CANCELLED' ELSE state END,
                  finished_at = CASE state WHEN 'QUEUED' THEN now() ELSE finished_at END
                WHERE state IN ('QUEUED','RUNNING')
                  AND id IN (SELECT run_id FROM audit_runs WHERE audit_id = :audit)
                  AND NOT EXISTS (SELECT 1 FROM audit_runs o JOIN audits a ON a.id = o.audit_id
                                  WHERE a.state IN ('QUEUED','RUNNING') AND (o.run_id = runs.id OR o.run_id IN
                                    (SELECT d.run_id FROM run_dependencies d WHERE d.depends_on = runs.id)))"""),
        {"audit": audit_id},
    )
    # What others go on needing takes no turn of a tenant that needs it no more.
    session.execute(
        text("""UPDATE runs SET tenants = array_remove(runs.tenants, gone.tenant) FROM audits gone
                WHERE gone.id = :audit AND runs.state IN ('QUEUED','RUNNING')
                  AND runs.id IN (SELECT run_id FROM audit_runs WHERE audit_id = :audit)
                  AND cardinality(runs.tenants) > 1 AND gone.tenant = ANY(runs.tenants)
                  AND NOT EXISTS (SELECT 1 FROM audit_runs o JOIN audits a ON a.id = o.audit_id
                                  WHERE o.run_id = runs.id AND a.tenant = gone.tenant
                                    AND a.state IN ('QUEUED','RUNNING'))"""),
        {"audit": audit_id},
    )


def _succeeded(session: Session, digest: str) -> UUID | None:
    # Held here and not only when an audit names it: by then the caller holds runs that are locked behind this one.
    found = session.execute(
        text("""SELECT id FROM runs
                WHERE spec_digest = :digest AND state = 'SUCCEEDED' AND NOT cancel_requested
                FOR KEY SHARE"""),
        {"digest": digest},
    ).scalar()
    return None if found is None else UUID(str(found))
