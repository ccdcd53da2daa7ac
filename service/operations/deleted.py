"""The statements that delete a tenant's data. Locks: runs in their order, audits by id, then results, then prompts."""

import json
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from service.database.tables import Record
from service.runs.kinds import LOCK_ORDER
from service.runs.specs import needs
from service.tenants.counts import COUNTED, hold_counts

Counts = dict[str, int]
NEEDED = "SELECT run_id FROM audit_runs WHERE audit_id = ANY(:audits)"
LEFT = """SELECT id FROM runs WHERE (CAST(:after AS uuid) IS NULL OR id > :after) AND id <= CAST(:last AS uuid)
  AND (spec->>'tenant' = :tenant OR :tenant = ANY(tenants) OR turn_of = :tenant)"""
"""SQL: runs that audits need; some runs that were made for a tenant, or still name it among those who asked."""
IN_ORDER = (
    "audits", "series", "models", "tenant_prompt_sets", "deliveries", "webhooks", "tenant_counts",
    "tenant_count_changes", "api_keys",
)  # fmt: skip
"""Tables with a tenant that are not simply emptied of it: what belongs to their rows goes with them; counts are true as
long as there are any; and keys go last, by which an operator sees that somebody has begun."""
BATCH = 50
"""Audits, or rows of another kind, in one transaction."""
RUNS_LOOKED_THROUGH = 5000
"""In one statement."""


def named_tables() -> list[str]:
    """Every table that names a tenant in its rows."""
    return sorted(name for name, table in Record.metadata.tables.items() if "tenant" in table.columns)


def plain_tables() -> list[str]:
    """Those whose rows of a tenant are deleted and no more, each behind those that refer to it."""
    order = [table.name for table in reversed(Record.metadata.sorted_tables)]
    return [name for name in order if name in named_tables() and name not in IN_ORDER]


def count_rows(session: Session, tenant: str) -> Counts:
    """Rows of each table that name the tenant."""
    found = {}
    for table in named_tables():
        number = session.execute(
            text(f"SELECT count(*) FROM {table} WHERE tenant = :tenant"),  # noqa: S608  a name of our metadata
            {"tenant": tenant},
        ).scalar_one()
        if number:
            found[table] = number
    return found


def shut_out(session: Session, tenant: str) -> None:
    """End the tenant's keys, and have triggers refuse rows of requests that were admitted before (migration 0020)."""
    session.execute(text("DELETE FROM deleted_tenants WHERE deleted_at < now() - interval '1 day'"))
    session.execute(
        text("""INSERT INTO deleted_tenants (digest) VALUES (encode(sha256(convert_to(:tenant, 'UTF8')), 'hex'))
                ON CONFLICT (digest) DO UPDATE SET deleted_at = now()"""),
        {"tenant": tenant},
    )
    session.execute(
        text("UPDATE api_keys SET revoked_at = now() WHERE tenant = :tenant AND revoked_at IS NULL"),
        {"tenant": tenant},
    )


def newest_transaction(session: Session) -> int:
    """A number behind those of all transactions that have written anything yet."""
    found: int = session.execute(text("SELECT CAST(CAST(pg_current_xact_id() AS text) AS bigint)")).scalar_one()
    return found


def have_ended(session: Session, newest: int) -> bool:
    """Whether all transactions up to that number have ended."""
    ended: bool = session.execute(
        text("SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint) > :newest"),
        {"newest": newest},
    ).scalar_one()
    return ended


def allow_deleting(session: Session, tenant: str) -> None:
    """Triggers let this transaction delete what has ended (migration 0020)."""
    session.execute(text("SELECT set_config('spinal.deletes_tenant', :tenant, TRUE)"), {"tenant": tenant})


def open_series(session: Session, tenant: str) -> list[UUID]:
    """Series that were not closed."""
    found = session.execute(
        text("SELECT id FROM series WHERE tenant = :tenant AND closed_at IS NULL ORDER BY id"), {"tenant": tenant}
    )
    return [UUID(str(row.id)) for row in found]


def open_audits(session: Session, tenant: str) -> list[UUID]:
    """Some of the audits that are queued or running."""
    found = session.execute(
        text("""SELECT id FROM audits WHERE tenant = :tenant AND state IN ('QUEUED','RUNNING')
                ORDER BY id LIMIT :most"""),
        {"tenant": tenant, "most": BATCH},
    )
    return [UUID(str(row.id)) for row in found]


@dataclass
class Gone:
    """What one transaction has deleted."""

    rows: Counts = field(default_factory=dict)
    captures: list[str] = field(default_factory=list)
    """Files that no row names any more."""


def delete_audits(session: Session, tenant: str) -> Gone | None:
    """Delete the newest audits that have ended, what belongs to them, and the runs and results that nobody else needs;
    None where there are none. Newest first: an audit may name an older one."""
    ids = [
        row.id
        for row in session.execute(
            text("""SELECT id FROM audits WHERE tenant = :tenant AND state NOT IN ('QUEUED','RUNNING')
                    ORDER BY created_at DESC, id DESC LIMIT :most"""),
            {"tenant": tenant, "most": BATCH},
        )
    ]
    if not ids:
        return None
    runs = _lock_runs(session, NEEDED, {"audits": ids})
    held = session.execute(
        text("""SELECT candidate_trace, reference_trace, control_trace, comparison FROM audits
                WHERE id = ANY(:audits) ORDER BY id FOR UPDATE"""),
        {"audits": ids},
    ).all()
    gone = Gone()
    for table, column in (
        ("attestations", "audit_id"),
        ("idempotency_keys", "audit_id"),
        ("audit_runs", "audit_id"),
        ("audits", "id"),
    ):
        gone.rows[table] = _delete(session, table, column, ids)
    traces = {digest for row in held for digest in row[:3] if digest is not None}
    comparisons = {row.comparison for row in held if row.comparison is not None}
    _delete_runs(session, tenant, runs, traces, comparisons, gone)
    return gone


def delete_runs_left(session: Session, tenant: str, after: UUID | None) -> tuple[UUID | None, Gone]:
    """Delete runs that were made for the tenant and that no audit needs, and have those that others need forget it, as
    far as they are among the next ones behind ``after``; returns where to go on, None at the end."""
    last = session.execute(
        text("""SELECT max(id::text) FROM (SELECT id FROM runs WHERE CAST(:after AS uuid) IS NULL OR id > :after
                ORDER BY id LIMIT :most) AS next"""),
        {"after": after, "most": RUNS_LOOKED_THROUGH},
    ).scalar()
    gone = Gone()
    if last is None:
        return None, gone
    runs = _lock_runs(session, LEFT, {"after": after, "last": last, "tenant": tenant})
    _delete_runs(session, tenant, runs, set(), set(), gone)
    return UUID(last), gone


def _lock_runs(session: Session, which: str, values: dict[str, Any]) -> list[UUID]:
    """Hold the runs. Whoever was writing to one of them has ended by then, and what became of it is seen by the
    statements that follow."""
    rows = session.execute(
        text(f"SELECT id FROM runs WHERE id IN ({which}) ORDER BY {LOCK_ORDER} FOR UPDATE"),  # noqa: S608  constants of this code
        values,
    )
    return [row.id for row in rows]


def _delete_runs(
    session: Session, tenant: str, runs: list[UUID], traces: set[str], comparisons: set[str], gone: Gone
) -> None:
    """Of runs that the caller holds those that no audit needs, with their results and ``traces`` and ``comparisons``
    where nobody else has them. One that is running goes, too: its worker finds that it has lost its lease."""
    unneeded = session.execute(
        text("""SELECT id, kind, result_digest FROM runs WHERE id = ANY(:runs)
                  AND NOT EXISTS (SELECT 1 FROM audit_runs x WHERE x.run_id = runs.id)
                  AND NOT EXISTS (SELECT 1 FROM run_dependencies d JOIN audit_runs x ON x.run_id = d.run_id
                    WHERE d.depends_on = runs.id)"""),
        {"runs": runs},
    ).all()
    ids = [row.id for row in unneeded]
    kept = [run for run in runs if run not in set(ids)]
    _call_as_others_do(session, kept)
    _take_turns_of_others(session, tenant, kept)
    _delete_with_attempts(session, ids, gone)
    for row in unneeded:
        if row.result_digest is not None:
            (comparisons if row.kind == "compare" else traces).add(row.result_digest)
    _delete_results(session, sorted(traces), sorted(comparisons), gone)


def _delete_with_attempts(session: Session, runs: list[UUID], gone: Gone) -> None:
    for table, column in (
        ("run_attempts", "run_id"),
        ("run_dependencies", "run_id"),
        ("run_dependencies", "depends_on"),
        ("runs", "id"),
    ):
        gone.rows[table] = gone.rows.get(table, 0) + _delete(session, table, column, runs)


def _call_as_others_do(session: Session, runs: list[UUID]) -> None:
    """Runs that audits of others need may say what the tenant called its models: from now on they say what one of those
    audits calls them. What they did is the same, and they have done it: the digest of a specification is not looked at
    any more but by who asks for the same again, who may have it."""
    rows = session.execute(
        text("""SELECT DISTINCT ON (runs.id) runs.id, runs.spec, x.role, audits.spec AS called FROM runs
                JOIN audit_runs x ON x.run_id = runs.id JOIN audits ON audits.id = x.audit_id
                WHERE runs.id = ANY(:runs) AND runs.state = 'SUCCEEDED' ORDER BY runs.id, x.audit_id, x.role"""),
        {"runs": runs},
    )
    for row in rows.all():
        spec = _renamed(row)
        if spec != row.spec:
            session.execute(
                text("UPDATE runs SET spec = CAST(:spec AS jsonb) WHERE id = :id"),
                {"id": row.id, "spec": json.dumps(spec)},
            )


def _take_turns_of_others(session: Session, tenant: str, runs: list[UUID]) -> None:
    """Runs that others need take no turn of the tenant any more, and do not say that they ever did. One of which nobody
    but the tenant was said to have asked for it (code of the release before adds nobody) is from now on theirs whose
    open audits need it: a run of nobody would never start."""
    session.execute(
        text("""UPDATE runs SET turn_of = NULLIF(turn_of, :tenant), tenants = COALESCE(
                  NULLIF(array_remove(tenants, :tenant), '{}'),
                  ARRAY(SELECT DISTINCT a.tenant FROM audit_runs x JOIN audits a ON a.id = x.audit_id
                    WHERE x.run_id = runs.id AND a.tenant <> :tenant
                      AND (a.state IN ('QUEUED','RUNNING') OR runs.state NOT IN ('QUEUED','RUNNING')) ORDER BY 1))
                WHERE id = ANY(:runs) AND (:tenant = ANY(tenants) OR turn_of = :tenant)"""),
        {"tenant": tenant, "runs": runs},
    )


def _renamed(row: Row[Any]) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(json.dumps(row.spec))
    sides = needs(spec) or {row.role: spec}
    for role, side in sides.items():
        called = (row.called.get(role) or {}).get("source")
        if called is not None and "model" in side:
            side["model"] = called
    return spec


def _delete_results(session: Session, traces: list[str], comparisons: list[str], gone: Gone) -> None:
    """Held first, and looked at by statements of their own: whoever comes to have one of them at this moment holds it,
    too, until it can be seen that they do."""
    found = session.execute(
        text("""SELECT digest, reference_digest, candidate_digest FROM comparisons WHERE digest = ANY(:digests)
                ORDER BY digest FOR UPDATE"""),
        {"digests": comparisons},
    ).all()
    free = session.execute(
        text("""DELETE FROM comparisons c WHERE digest = ANY(:digests)
                  AND NOT EXISTS (SELECT 1 FROM audits WHERE comparison = c.digest)
                  AND NOT EXISTS (SELECT 1 FROM runs WHERE result_digest = c.digest) RETURNING digest"""),
        {"digests": [row.digest for row in found]},
    ).all()
    gone.rows["comparisons"] = gone.rows.get("comparisons", 0) + len(free)
    sides = {digest for row in found for digest in (row.reference_digest, row.candidate_digest)}
    named = [
        row.digest
        for row in session.execute(
            text("SELECT digest FROM traces WHERE digest = ANY(:digests) ORDER BY digest FOR UPDATE"),
            {"digests": sorted(sides | set(traces))},
        )
    ]
    unheld = [
        row.digest
        for row in session.execute(
            text("""SELECT digest FROM traces t WHERE digest = ANY(:digests)
                      AND NOT EXISTS (SELECT 1 FROM runs WHERE result_digest = t.digest)
                      AND NOT EXISTS (SELECT 1 FROM audits WHERE candidate_trace = t.digest)
                      AND NOT EXISTS (SELECT 1 FROM audits WHERE reference_trace = t.digest)
                      AND NOT EXISTS (SELECT 1 FROM audits WHERE control_trace = t.digest)
                      AND NOT EXISTS (SELECT 1 FROM comparisons WHERE reference_digest = t.digest)
                      AND NOT EXISTS (SELECT 1 FROM comparisons WHERE candidate_digest = t.digest)"""),
            {"digests": named},
        )
    ]
    _delete(session, "trace_layers", "trace_digest", unheld)
    rows = session.execute(
        text("DELETE FROM traces WHERE digest = ANY(:digests) RETURNING capture_uri, weights_digest"),
        {"digests": unheld},
    ).all()
    gone.rows["traces"] = gone.rows.get("traces", 0) + len(rows)
    delete_files(session, sorted({row.weights_digest for row in rows}), gone)
    uris = [row.capture_uri for row in rows if row.capture_uri is not None]
    kept = session.execute(
        text("SELECT DISTINCT capture_uri FROM traces WHERE capture_uri = ANY(:uris)"), {"uris": uris}
    ).scalars()
    gone.captures = sorted(set(uris) - set(kept))


def delete_deliveries_of(session: Session, tenant: str) -> Counts:
    """Some deliveries of the tenant, whatever they are at."""
    some = session.execute(
        text("SELECT id FROM deliveries WHERE tenant = :tenant ORDER BY id LIMIT :most"),
        {"tenant": tenant, "most": BATCH},
    )
    return delete_deliveries(session, list(some.scalars()))


def delete_deliveries(session: Session, ids: list[UUID]) -> Counts:
    """Deliveries, with what came of them and the runs that make them, in one transaction: neither is there without the
    other. A worker that is at one finds that it has lost its lease."""
    made_by = "SELECT run_id FROM deliveries WHERE id = ANY(:deliveries)"
    runs = _lock_runs(session, made_by, {"deliveries": ids})
    gone = Gone()
    gone.rows["delivery_tries"] = _delete(session, "delivery_tries", "delivery_id", ids)
    gone.rows["deliveries"] = _delete(session, "deliveries", "id", ids)
    _delete_with_attempts(session, runs, gone)
    return gone.rows


def delete_files(session: Session, weights: list[str], gone: Gone) -> None:
    """What files were called whose content no trace is of any more; first those of adapters, then those of bases."""
    deleted, digests = 0, weights
    while digests:
        rows = session.execute(
            text("""DELETE FROM weights_files w WHERE weights_digest = ANY(:digests)
                      AND NOT EXISTS (SELECT 1 FROM traces t WHERE t.weights_digest = w.weights_digest)
                      AND NOT EXISTS (SELECT 1 FROM weights_files a WHERE a.base = w.weights_digest) RETURNING base"""),
            {"digests": digests},
        ).all()
        deleted += len(rows)
        digests = sorted({row.base for row in rows if row.base is not None})
    if deleted:
        gone.rows["weights_files"] = gone.rows.get("weights_files", 0) + deleted


def delete_series(session: Session, tenant: str) -> Counts:
    """A series, without its members' audits: these go as all others. (While a dispatcher keeps its document, it is to
    have all members that the document knows, or none.)"""
    ids = _some(session, "series", "id", tenant, 1)
    members = _delete(session, "series_members", "series_id", ids)
    session.execute(text("UPDATE audits SET series = NULL WHERE series = ANY(:ids)"), {"ids": ids})
    return {"series_members": members, "series": _delete(session, "series", "id", ids)}


def delete_models(session: Session, tenant: str) -> Counts:
    """Registered models with their aliases and versions."""
    ids = _some(session, "models", "id", tenant, BATCH)
    tables = ("model_aliases", "model_versions")
    return {table: _delete(session, table, "model_id", ids) for table in tables} | {
        "models": _delete(session, "models", "id", ids)
    }


def delete_prompt_sets(session: Session, tenant: str) -> Counts:
    """The tenant's prompt sets, with their contents where nobody else has them and no run that is left waits for
    them."""
    digests = _some(session, "tenant_prompt_sets", "digest", tenant, BATCH)
    own = session.execute(
        text("DELETE FROM tenant_prompt_sets WHERE tenant = :tenant AND digest = ANY(:digests) RETURNING digest"),
        {"tenant": tenant, "digests": digests},
    ).all()
    session.execute(
        text("SELECT 1 FROM prompt_sets WHERE digest = ANY(:digests) ORDER BY digest FOR UPDATE"), {"digests": digests}
    )
    free = session.execute(
        text("""DELETE FROM prompt_sets p WHERE digest = ANY(:digests) AND name IS NULL
                  AND NOT EXISTS (SELECT 1 FROM tenant_prompt_sets own WHERE own.digest = p.digest)
                  AND NOT EXISTS (SELECT 1 FROM runs WHERE state IN ('QUEUED','RUNNING')
                    AND p.digest IN (spec->>'prompt_set', spec->'needs'->'candidate'->>'prompt_set'))
                RETURNING digest"""),
        {"digests": digests},
    ).all()
    return {"tenant_prompt_sets": len(own), "prompt_sets": len(free)}


def delete_counts(session: Session, tenant: str) -> None:
    """The counts of a tenant that has nothing any more; together, so that they are never other than what it has."""
    hold_counts(session, tenant, *COUNTED)
    session.execute(text("DELETE FROM tenant_counts WHERE tenant = :tenant"), {"tenant": tenant})


def delete_plain(session: Session, tenant: str, table: str) -> Counts:
    """Rows of a table that names the tenant."""
    rows = session.execute(
        text(f"""DELETE FROM {table} WHERE ctid = ANY(ARRAY(
                   SELECT ctid FROM {table} WHERE tenant = :tenant LIMIT :most)) RETURNING tenant"""),  # noqa: S608  a name of our metadata
        {"tenant": tenant, "most": 10 * BATCH},
    ).all()
    return {table: len(rows)}


def _some(session: Session, table: str, column: str, tenant: str, most: int) -> list[Any]:
    return list(
        session.execute(
            text(f"SELECT {column} FROM {table} WHERE tenant = :tenant ORDER BY {column} LIMIT :most FOR UPDATE"),  # noqa: S608  names of this module
            {"tenant": tenant, "most": most},
        ).scalars()
    )


def _delete(session: Session, table: str, column: str, values: list[Any]) -> int:
    if not values:
        return 0
    gone = session.execute(
        text(f"DELETE FROM {table} WHERE {column} = ANY(:values) RETURNING 1"),  # noqa: S608  names of this module
        {"values": values},
    ).all()
    return len(gone)
