"""What must hold at every moment, as queries that return offenders (``docs/operations.md``)."""

import json
from collections.abc import Callable
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from service.runs.kinds import KINDS
from service.traces.store import content_digest, load_trace_document
from spinal.attestations.envelope import read_envelope
from spinal.attestations.statement import PASSED, SVR
from spinal.documents.canonical import digest_of
from spinal.documents.editions import FORMER
from spinal.documents.files import FileDigests
from spinal.documents.later import put_back
from spinal.documents.trace import Reading, trace_digest
from spinal.errors import SpinalError

DIGESTS = "a trace's content recomputes to its digest"
COMPARISONS = "a comparison's content recomputes to its digest"
CAPTURES = "a capture holds what was stored"
POLICIES = "a policy's content recomputes to its digest"
ATTESTATIONS = "an attestation is what was signed"
FILES = "the files of a checkpoint add up to its weights digest"
RECOMPUTED = (DIGESTS, COMPARISONS, POLICIES, ATTESTATIONS, FILES)
"""Those that no query alone can tell."""
KNOWN_TO_THE_FORMER = "spinal-default/2"
"""The one policy of the release before policies were stored, whose verdicts name no digest (migration 0013)."""

GUARDS = (
    "attestations_immutable", "audits_ended", "audits_policy", "audits_terminal", "comparisons_immutable",
    "delivery_tries_immutable", "model_versions_immutable", "models_first_version", "policies_immutable",
    "run_attempts_ended", "run_dependencies_waits", "runs_legal", "runs_tenants", "runs_terminal", "runs_turn",
    "runs_waits_no_more", "series_assessed", "series_members_immutable", "trace_layers_immutable",
    "traces_immutable", "weights_files_immutable",
)  # fmt: skip
"""Triggers that refuse to change what has ended, or keep what code from before does not know of: while they stand, no
query has to look for changes."""


def _runs_without_result() -> str:
    """Of the kinds that are known when it is asked; where those of later code lie, later code knows."""
    missing = " OR ".join(
        f"(r.kind = '{kind.name}' AND NOT EXISTS (SELECT 1 FROM {kind.result} WHERE digest = r.result_digest))"  # noqa: S608  names that Kind has checked
        for kind in KINDS.values()
    )
    return f"SELECT r.id FROM runs r WHERE r.state = 'SUCCEEDED' AND ({missing})"  # noqa: S608  as above


INVARIANTS: dict[str, str | Callable[[], str]] = {
    "at most one succeeded attempt per run": """
        SELECT run_id FROM run_attempts WHERE outcome = 'succeeded' GROUP BY run_id HAVING count(*) > 1""",
    "a succeeded run has its result": _runs_without_result,
    "a trace has every layer under both policies": """
        SELECT t.digest FROM traces t LEFT JOIN trace_layers l ON l.trace_digest = t.digest
        GROUP BY t.digest, t.n_layers HAVING count(l.layer) <> 2 * (t.n_layers + 1)""",
    "the numbers of a trace are finite": """
        SELECT DISTINCT trace_digest FROM trace_layers WHERE GREATEST(
          abs(depth), abs(contraction), abs(contraction_se), abs(transport), abs(transport_se), abs(entropy),
          abs(effective_rank)) >= 'Infinity'::float8""",
    "one audit has one idempotency key, of its own tenant": """
        SELECT k.audit_id FROM idempotency_keys k JOIN audits a ON a.id = k.audit_id
        GROUP BY k.audit_id HAVING count(*) > 1 OR bool_or(k.tenant <> a.tenant)""",
    "no two wanted runs share a specification": """
        SELECT spec_digest FROM runs WHERE state IN ('QUEUED','RUNNING','SUCCEEDED') AND NOT cancel_requested
        GROUP BY spec_digest HAVING count(*) > 1""",
    "a queued run is wanted": """
        SELECT id FROM runs WHERE state = 'QUEUED' AND cancel_requested""",
    "no lease is expired for more than a minute": """
        SELECT id FROM runs WHERE state = 'RUNNING' AND lease_until < now() - interval '60 seconds'""",
    "attempts are numbered without a gap": """
        SELECT run_id FROM run_attempts GROUP BY run_id HAVING max(attempt) <> count(*) OR min(attempt) <> 1""",
    "a run counts the attempts it had": """
        SELECT r.id FROM runs r WHERE r.attempt <> (SELECT count(*) FROM run_attempts a WHERE a.run_id = r.id)""",
    "the attempt that succeeded is the last": """
        SELECT r.id FROM runs r LEFT JOIN run_attempts a ON a.run_id = r.id AND a.outcome = 'succeeded'
        WHERE (r.state = 'SUCCEEDED') <> (a.attempt IS NOT NULL)
          OR (r.state = 'SUCCEEDED' AND a.attempt <> r.attempt)""",
    "only a running run has an open attempt": """
        SELECT a.run_id FROM run_attempts a JOIN runs r ON r.id = a.run_id
        WHERE a.outcome IS NULL AND (r.state <> 'RUNNING' OR a.attempt <> r.attempt)""",
    "an open audit has work left": """
        SELECT a.id FROM audits a WHERE a.state IN ('QUEUED','RUNNING') AND NOT EXISTS (
          SELECT 1 FROM audit_runs x JOIN runs r ON r.id = x.run_id
          WHERE x.audit_id = a.id AND r.state IN ('QUEUED','RUNNING'))""",
    "a succeeded audit has all its results": """
        SELECT a.id FROM audits a WHERE a.state = 'SUCCEEDED' AND (a.candidate_trace IS NULL
          OR (a.reference IS NOT NULL AND (a.reference_trace IS NULL OR a.comparison IS NULL OR a.verdict IS NULL))
          OR (a.control IS NOT NULL AND a.control_trace IS NULL))""",
    "a verdict and its document agree": """
        SELECT id FROM audits WHERE verdict_document IS NOT NULL
          AND verdict IS DISTINCT FROM verdict_document->>'outcome'""",
    "a verdict is made by the policy of its audit": f"""
        SELECT a.id FROM audits a LEFT JOIN policies p ON p.tenant = a.tenant AND p.digest = a.policy
        WHERE a.policy IS NOT NULL AND (p.digest IS NULL OR (a.verdict IS NOT NULL
          AND a.verdict_document->>'policy_digest' IS DISTINCT FROM a.policy
          -- As the release before judges, and names it.
          AND (p.name <> '{KNOWN_TO_THE_FORMER}' OR a.verdict_document->>'policy_digest' IS NOT NULL)))""",  # noqa: S608  a constant
    "what an audit is judged against came before it": """
        SELECT a.id FROM audits a JOIN audits f ON f.id = a.former
        WHERE f.tenant <> a.tenant OR f.state <> 'SUCCEEDED' OR f.comparison IS NULL OR f.id = a.id
          OR f.labels->>'name' IS DISTINCT FROM a.labels->>'name' OR f.finished_at > a.created_at""",
    "a queued run waits for nothing that will not come": """
        SELECT r.id FROM runs r JOIN run_dependencies d ON d.run_id = r.id JOIN runs n ON n.id = d.depends_on
        WHERE r.state = 'QUEUED' AND n.state <> 'SUCCEEDED'
          AND (n.state IN ('FAILED','CANCELLED') OR n.cancel_requested)""",
    "a queued run says whether it waits": """
        SELECT id FROM runs WHERE state = 'QUEUED' AND waits <> EXISTS (
          SELECT 1 FROM run_dependencies d JOIN runs n ON n.id = d.depends_on
          WHERE d.run_id = runs.id AND n.state <> 'SUCCEEDED')""",
    "an audit needs what its comparison waits for": """
        SELECT x.audit_id FROM audit_runs x JOIN audits a ON a.id = x.audit_id
        JOIN run_dependencies d ON d.run_id = x.run_id
        WHERE a.state IN ('QUEUED','RUNNING') AND NOT EXISTS (
          SELECT 1 FROM audit_runs o WHERE o.audit_id = x.audit_id AND o.run_id = d.depends_on)""",
    "a comparison is one of its audit's traces": """
        SELECT a.id FROM audits a JOIN comparisons c ON c.digest = a.comparison
        WHERE (c.reference_digest, c.candidate_digest) IS DISTINCT FROM (a.reference_trace, a.candidate_trace)""",
    "a verdict is one of its audit's weights": """
        SELECT DISTINCT a.id FROM audits a CROSS JOIN jsonb_each_text(a.verdict_document->'weights') AS w(role, digest)
        LEFT JOIN traces t ON t.digest = CASE w.role WHEN 'reference' THEN a.reference_trace
          WHEN 'candidate' THEN a.candidate_trace WHEN 'control' THEN a.control_trace END
        WHERE t.weights_digest IS DISTINCT FROM w.digest""",
    "files that nobody touched hold one content": """
        SELECT r.spec->>'files' FROM runs r JOIN traces t ON t.digest = r.result_digest
        WHERE r.kind = 'trace' AND r.state = 'SUCCEEDED' AND r.spec ? 'files'
        GROUP BY r.spec->>'files' HAVING count(DISTINCT t.weights_digest) > 1""",
    "one content is one model": """
        SELECT weights_digest FROM traces GROUP BY weights_digest, fingerprint, engine_version, later->'reading'
        HAVING count(DISTINCT (document->'model') - 'source' - 'revision') > 1""",
    "what tenants hold is counted": """
        SELECT COALESCE(c.tenant, h.tenant) || ' ' || COALESCE(c.what, h.what) FROM (
          SELECT tenant, what, sum(held) AS held FROM (SELECT tenant, what, held FROM tenant_counts
            UNION ALL SELECT tenant, what, change FROM tenant_count_changes) AS n GROUP BY tenant, what) AS c
        FULL JOIN (
          SELECT tenant, 'open_audits' AS what, count(*) AS held FROM audits
            WHERE state IN ('QUEUED','RUNNING') GROUP BY 1
          UNION ALL SELECT tenant, 'idempotency_keys', count(*) FROM idempotency_keys GROUP BY 1
          UNION ALL SELECT tenant, 'prompt_sets', count(*) FROM tenant_prompt_sets GROUP BY 1) AS h
        ON h.tenant = c.tenant AND h.what = c.what
        WHERE COALESCE(c.held, 0) <> COALESCE(h.held, 0) AND COALESCE(c.what, h.what) <> 'prompt_bytes'""",
    "a member of a series is an audit of its tenant": """
        SELECT m.audit_id FROM series_members m JOIN series s ON s.id = m.series_id JOIN audits a ON a.id = m.audit_id
        WHERE a.tenant <> s.tenant OR a.series IS DISTINCT FROM s.id OR a.policy IS DISTINCT FROM s.policy
        UNION ALL SELECT a.id FROM audits a WHERE a.series IS NOT NULL
          AND NOT EXISTS (SELECT 1 FROM series_members m WHERE m.audit_id = a.id AND m.series_id = a.series)""",
    "the status of a series is that of its document": """
        SELECT id FROM series WHERE status IS DISTINCT FROM document->>'status'""",
    "a document of a series knows what has happened and no more": """
        SELECT s.id FROM series s LEFT JOIN LATERAL (
          SELECT count(*) AS members, count(*) FILTER (WHERE a.finished_at IS NOT NULL) AS settled,
            max(GREATEST(m.created_at, a.finished_at)) AS last
          FROM series_members m JOIN audits a ON a.id = m.audit_id WHERE m.series_id = s.id) AS n ON TRUE
        WHERE s.covers_members > n.members OR s.covers_settled > n.settled
          OR (s.covers_closed AND s.closed_at IS NULL)
          -- What has just happened is not known yet: a dispatcher looks every second.
          OR (GREATEST(n.last, s.created_at, s.closed_at) < now() - interval '5 minutes'
            AND (s.document IS NULL OR (s.covers_members, s.covers_settled, s.covers_closed)
              IS DISTINCT FROM (n.members, n.settled, s.closed_at IS NOT NULL)))""",
    # From the first event on: those that ended before there were events have none.
    "the end of an audit is told once": """
        SELECT a.id FROM audits a WHERE a.state IN ('SUCCEEDED','FAILED','CANCELLED')
          AND a.finished_at > (SELECT min(created_at) FROM events) AND 1 <> (
            SELECT count(*) FROM events e WHERE e.subject = a.id AND e.type = 'audit.' || lower(a.state))
        UNION ALL SELECT e.subject FROM events e JOIN audits a ON a.id = e.subject
          WHERE e.subject_kind = 'audit' AND (e.type <> 'audit.' || lower(a.state) OR e.tenant <> a.tenant)""",
    # A dispatcher looks every second. Of tenants that are being deleted nobody is told.
    "what has happened is sent out": """
        SELECT e.id FROM events e WHERE e.sent_out_at IS NULL AND e.created_at < now() - interval '10 minutes'
          AND NOT EXISTS (SELECT 1 FROM deleted_tenants d
            WHERE d.digest = encode(sha256(convert_to(e.tenant, 'UTF8')), 'hex'))""",
    "a delivery has its run, and all of it is one tenant's": """
        SELECT d.id FROM deliveries d LEFT JOIN runs r ON r.id = d.run_id LEFT JOIN events e ON e.id = d.event_id
        LEFT JOIN webhooks w ON w.id = d.webhook_id
        WHERE r.id IS NULL OR r.kind <> 'deliver' OR r.spec->>'delivery' IS DISTINCT FROM CAST(d.id AS text)
          OR r.tenants <> ARRAY[d.tenant] OR e.tenant IS DISTINCT FROM d.tenant OR w.tenant <> d.tenant
        UNION ALL SELECT r.id FROM runs r WHERE r.kind = 'deliver' AND NOT EXISTS (
          SELECT 1 FROM deliveries d WHERE d.run_id = r.id)""",
    "what was delivered was taken once, by the last attempt": """
        SELECT d.id FROM deliveries d JOIN runs r ON r.id = d.run_id
        LEFT JOIN delivery_tries t ON t.delivery_id = d.id
        GROUP BY d.id, r.state, r.attempt
        HAVING count(*) FILTER (WHERE t.ok) <> CAST(r.state = 'SUCCEEDED' AS int)
          OR (r.state = 'SUCCEEDED' AND max(t.attempt) FILTER (WHERE t.ok) <> max(t.attempt))
          OR COALESCE(max(t.attempt), 0) > r.attempt""",
    # That there is one row for each version and rule is the key of the table.
    "an audit that a registry's version asked for is its own, and of its tenant": """
        SELECT v.id FROM registry_versions v LEFT JOIN audits a ON a.id = v.audit_id
        WHERE v.audit_id IS NOT NULL AND (a.tenant <> v.tenant OR v.refused IS NOT NULL OR v.past)
        UNION SELECT v.id FROM registry_versions v JOIN registry_versions o
          ON o.audit_id = v.audit_id AND o.id <> v.id""",
    "a registered model is what its newest version is": """
        SELECT m.id FROM models m LEFT JOIN LATERAL (SELECT v.reference FROM model_versions v WHERE v.model_id = m.id
          ORDER BY v.number DESC LIMIT 1) AS newest ON TRUE WHERE m.reference IS DISTINCT FROM newest.reference""",
    "only an audit that passed is attested as passed": f"""
        SELECT DISTINCT t.audit_id FROM attestations t LEFT JOIN audits a ON a.id = t.audit_id
        WHERE (t.predicate_type = '{SVR}' OR t.statement#>>'{{predicate,result}}' = 'PASSED'
            OR jsonb_exists(t.statement#>'{{predicate,properties}}', '{PASSED}'))
          AND (a.state = 'SUCCEEDED' AND a.verdict = 'pass' AND a.verdict_document->>'outcome' = 'pass'
            AND NOT jsonb_path_exists(a.verdict_document, '$.rules[*].waived ? (@ != null)')) IS NOT TRUE""",  # noqa: S608  constants
    "an attestation is one of its tenant's audits and of its files": """
        SELECT t.audit_id FROM attestations t LEFT JOIN audits a ON a.id = t.audit_id
        LEFT JOIN audit_runs x ON x.audit_id = a.id AND x.role = 'candidate' LEFT JOIN runs r ON r.id = x.run_id
        LEFT JOIN traces c ON c.digest = COALESCE(a.candidate_trace, r.result_digest)
        WHERE (a.tenant = t.tenant AND t.statement->>'predicateType' = t.predicate_type
          AND t.statement#>>'{predicate,spinal,audit}' = a.id::text
          AND t.statement#>>'{predicate,spinal,weightsDigest}' = c.weights_digest) IS NOT TRUE""",
    "ended rows are guarded": f"""
        SELECT guard FROM unnest(ARRAY{list(GUARDS)}) AS g(guard) WHERE NOT EXISTS (
          SELECT 1 FROM pg_trigger t WHERE t.tgname = g.guard AND t.tgenabled IN ('O','A'))""",  # noqa: S608  constants
}


def violations(
    session: Session, *, traces_of_last_s: float | None = None, sha256_of: Callable[[str], str | None] | None = None
) -> dict[str, list[Any]]:
    """Offending keys by invariant; empty when all hold. Reading every trace again to recompute its digest takes long
    on a large ledger: ``traces_of_last_s`` narrows that to those stored in the last so many seconds. With
    ``sha256_of`` (of a stored file's bytes by its uri, None where it is gone) every capture is read, too."""
    found: dict[str, list[Any]] = {}
    for name, query in INVARIANTS.items():
        offenders = list(session.execute(text(query if isinstance(query, str) else query())).scalars())
        if offenders:
            found[name] = offenders
    stored = session.execute(
        text("""SELECT digest, content_digest, content_digest_rfc8785, weights_digest, prompt_set_digest, fingerprint,
                  engine_version
                FROM traces WHERE CAST(:last AS float8) IS NULL
                  OR created_at > now() - make_interval(secs => :last)"""),
        {"last": traces_of_last_s},
    )
    torn = [row.digest for row in stored.all() if not _recomputes(session, row)]
    if torn:
        found[DIGESTS] = torn
    if altered := _unlike_their_digest(session, traces_of_last_s):
        found[COMPARISONS] = altered
    policies = session.execute(text("SELECT digest, document FROM policies ORDER BY tenant, digest"))
    if other := [row.digest for row in policies if digest_of(row.document) != row.digest]:
        found[POLICIES] = other
    if unlike := _unlike_what_was_signed(session):
        found[ATTESTATIONS] = unlike
    files = session.execute(text("SELECT weights_digest, files, base FROM weights_files ORDER BY weights_digest"))
    if others := [row.weights_digest for row in files if not _adds_up(row)]:
        found[FILES] = others
    if sha256_of is not None and (captures := _altered_captures(session, traces_of_last_s, sha256_of)):
        found[CAPTURES] = captures
    return found


def _altered_captures(session: Session, last_s: float | None, sha256_of: Callable[[str], str | None]) -> list[str]:
    """Traces whose capture is there and is not what was stored. One that is gone is measured again when needed."""
    stored = session.execute(
        text("""SELECT digest, capture_uri, capture_sha256 FROM traces
                WHERE capture_uri IS NOT NULL AND capture_sha256 IS NOT NULL AND (CAST(:last AS float8) IS NULL
                  OR created_at > now() - make_interval(secs => :last)) ORDER BY digest"""),
        {"last": last_s},
    )
    return [row.digest for row in stored.all() if sha256_of(row.capture_uri) not in (None, row.capture_sha256)]


def _unlike_what_was_signed(session: Session) -> list[str]:
    """Audits with an attestation whose envelope holds another statement than the row, or is of another key."""
    rows = session.execute(text("SELECT audit_id, key_id, statement, envelope FROM attestations ORDER BY audit_id"))
    return sorted({str(row.audit_id) for row in rows if not _is_sealed(row)})


def _is_sealed(row: Row[Any]) -> bool:
    try:
        signed = json.loads(read_envelope(json.dumps(row.envelope)).payload)
        return bool(signed == row.statement and row.envelope["signatures"][0]["keyid"] == row.key_id)
    except (SpinalError, ValueError, KeyError):
        return False


def _adds_up(row: Row[Any]) -> bool:
    try:
        return FileDigests(files=row.files, base=row.base).weights_digest == row.weights_digest
    except ValueError:
        return False


def _recomputes(session: Session, row: Row[Any]) -> bool:
    """Whether a trace's name is that of what it says it measured, and its content that which was stored: under both
    schemes of digests, where the row has both."""
    try:
        document = load_trace_document(session, row.digest)
        reading = Reading.model_validate(document.get("reading", {}))
        named = (row.weights_digest, row.prompt_set_digest, row.fingerprint, row.engine_version)
        if row.digest != trace_digest(*named, reading):
            return False
        present = row.content_digest_rfc8785 or content_digest(document)
        # What the release before knows of it, by which its own doctor holds it.
        former = content_digest(load_trace_document(session, row.digest, later=False), FORMER.scheme)
        return (former, content_digest(document)) == (row.content_digest, present)
    except ValueError:
        # Not even JSON: a number that is not finite.
        return False


def _unlike_their_digest(session: Session, last_s: float | None) -> list[str]:
    """Comparisons whose content is not that which was stored. Rows of code from before have no digest to hold it to."""
    stored = session.execute(
        text("""SELECT digest, document, later, content_digest_rfc8785 FROM comparisons
                WHERE content_digest_rfc8785 IS NOT NULL AND (CAST(:last AS float8) IS NULL
                  OR created_at > now() - make_interval(secs => :last))"""),
        {"last": last_s},
    )
    return [row.digest for row in stored if not _is_whole(row)]


def _is_whole(row: Row[Any]) -> bool:
    """Whether a comparison's document, with what stands apart from it, is that which was stored."""
    try:
        return content_digest(put_back(row.document, row.later)) == row.content_digest_rfc8785
    except (ValueError, TypeError, AttributeError):
        # Not even a document any more: its parts do not fit together.
        return False
