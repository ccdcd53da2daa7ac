"""Traces and comparisons in the ledger: stored whole, checked, never changed."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from service.runs.settle import HELD, HOLDERS
from spinal.documents.canonical import digest_of
from spinal.documents.comparison import Comparison
from spinal.documents.editions import FORMER, PRESENT
from spinal.documents.later import OF_COMPARISONS, OF_TRACES, put_back, take_out
from spinal.documents.names import unnamed_comparison, unnamed_trace
from spinal.documents.trace import Trace
from spinal.errors import TraceNotFound

COLUMNS = ("contraction", "contraction_se", "transport", "transport_se", "entropy", "effective_rank")
"""Members of a position object that are columns of ``trace_layers``; the others travel in ``detail``."""
VERDICT_OF_BEFORE = {"outcome", "policy", "reasons"}
"""Members of a verdict that the release before reads. The whole one belongs to an audit."""
MEASURED_AGAIN = "SELECT COALESCE(sum(measured_again), 0) FROM traces"
"""SQL: how often captures were measured again because they were not in the artifact store."""
LARGEST_INTEGER = 2**53 - 1
"""RFC 8785 holds no larger one."""


def content_digest(document: dict[str, Any], scheme: str = PRESENT.scheme) -> str:
    """sha256 of a whole document, as the database gives it back."""
    return digest_of(_as_stored(document), scheme)


def _as_stored(value: Any) -> Any:
    """JSON in the database knows no -0.0, and gives back numbers beyond 2**53 without a fraction."""
    if isinstance(value, float):
        return value + 0.0
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        return float(value)
    if isinstance(value, dict):
        return {key: _as_stored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_stored(item) for item in value]
    return value


def store_trace(
    session: Session,
    trace: Trace,
    *,
    capture_uri: str,
    capture_bytes: int,
    capture_sha256: str | None = None,
    lost: bool = False,
) -> None:
    """Insert a trace with its layers, once, without anybody's names; a second store of the same digest changes nothing
    but its capture's place, and with ``lost`` the count of captures that were lost."""
    trace = unnamed_trace(trace)
    document = trace.model_dump(mode="json", by_alias=True)
    whole = content_digest(document)
    layers = document.pop("layers")
    later = take_out(document, OF_TRACES)
    # One that is there stays until the transaction ends: the last tenant that holds it may be deleted at this moment.
    session.execute(text("SELECT 1 FROM traces WHERE digest = :d FOR KEY SHARE"), {"d": trace.digest})
    inserted = session.execute(
        text("""INSERT INTO traces (digest, weights_digest, prompt_set_digest, fingerprint, engine_version, source,
                  n_layers, document, content_digest, content_digest_rfc8785, scheme, capture_uri, capture_bytes,
                  capture_sha256, later)
                VALUES (:digest, :weights, :prompts, :fingerprint, :engine, :source, :layers,
                  CAST(:document AS jsonb), :former, :content, :scheme, :uri, :bytes,
                  :sha256, CAST(:later AS jsonb))
                ON CONFLICT (digest) DO NOTHING RETURNING digest"""),
        {
            "digest": trace.digest,
            "weights": trace.model.weights_digest,
            "prompts": trace.prompt_set.digest,
            "fingerprint": trace.fingerprint,
            "engine": trace.engine.version,
            "source": trace.model.source,
            "layers": trace.model.n_layers,
            "document": json.dumps(document),
            "former": content_digest({**document, "layers": layers}, FORMER.scheme),
            "content": whole,
            "later": json.dumps(later),
            "scheme": trace.scheme or PRESENT.scheme,
            "uri": capture_uri,
            "bytes": capture_bytes,
            "sha256": capture_sha256,
        },
    ).scalar()
    if inserted is None:
        capture = StoredCapture(trace.digest, capture_uri, capture_bytes, capture_sha256)
        replace_capture(session, capture, lost=lost)
        return
    session.execute(
        text("""INSERT INTO trace_layers (trace_digest, layer, policy, depth, contraction, contraction_se, transport,
                  transport_se, entropy, effective_rank, detail)
                VALUES (:digest, :layer, :policy, :depth, :contraction, :contraction_se, :transport, :transport_se,
                  :entropy, :effective_rank, CAST(:detail AS jsonb))"""),
        [
            {
                "digest": trace.digest,
                "layer": layer["layer"],
                "policy": policy,
                "depth": layer["depth"],
                **{name: position[name] for name in COLUMNS},
                "detail": json.dumps({name: v for name, v in position.items() if name not in COLUMNS}),
            }
            for layer in layers
            for policy, position in layer["positions"].items()
        ],
    )


@dataclass(frozen=True)
class StoredCapture:
    """The capture behind a trace, by the trace's row."""

    digest: str
    """Of the trace."""
    uri: str
    bytes: int
    sha256: str | None = None
    """None where code from before stored it."""


def replace_capture(session: Session, capture: StoredCapture, *, lost: bool) -> None:
    """Point a trace at a capture that was measured again. ``lost`` says that the former was looked for and not found,
    which is counted: captures that were deleted on purpose, or measured for another tenant, are not. May be carried out
    twice."""
    session.execute(
        text("""UPDATE traces SET capture_uri = :uri, capture_bytes = :bytes, capture_sha256 = :sha256,
                  measured_again = measured_again
                    + CASE WHEN :lost AND capture_uri IS DISTINCT FROM :uri THEN 1 ELSE 0 END
                WHERE digest = :digest"""),
        asdict(capture) | {"lost": lost},
    )


def measured_again(session: Session) -> int:
    """How often captures were measured again because they were not in the artifact store."""
    found: int = session.execute(text(MEASURED_AGAIN)).scalar_one()
    return found


def stored_capture(session: Session, digest: str) -> StoredCapture | None:
    """None when there is no such trace, or its capture was deleted."""
    row = session.execute(
        text("""SELECT capture_uri, capture_bytes, capture_sha256 FROM traces
                WHERE digest = :d AND capture_uri IS NOT NULL"""),
        {"d": digest},
    ).one_or_none()
    return None if row is None else StoredCapture(digest, row.capture_uri, row.capture_bytes, row.capture_sha256)


def load_trace_document(session: Session, digest: str, *, later: bool = True) -> dict[str, Any]:
    """The whole ``spinal.trace/1`` document, or what the release before knows of it; raises TraceNotFound."""
    stored = session.execute(text("SELECT document, later FROM traces WHERE digest = :d"), {"d": digest}).one_or_none()
    if stored is None:
        raise TraceNotFound(f"no trace {digest}", hint="list traces with GET /v1/traces")
    rows = session.execute(
        text("SELECT * FROM trace_layers WHERE trace_digest = :d ORDER BY layer, policy DESC"), {"d": digest}
    )
    layers: dict[int, dict[str, Any]] = {}
    for row in rows:
        layer = layers.setdefault(row.layer, {"layer": row.layer, "depth": row.depth, "positions": {}})
        layer["positions"][row.policy] = {**{name: getattr(row, name) for name in COLUMNS}, **row.detail}
    head = put_back(stored.document, stored.later) if later else stored.document
    return {**head, "layers": list(layers.values())}


def load_trace(session: Session, digest: str) -> Trace:
    """The trace as a value; raises TraceNotFound."""
    return Trace.model_validate(load_trace_document(session, digest))


def store_comparison(session: Session, comparison: Comparison) -> None:
    """Insert a comparison, once, without anybody's names. Its verdict goes with it as the release before
    reads it: without rules and digests."""
    document = stored_document(comparison)
    whole = content_digest(document)
    later = take_out(document, OF_COMPARISONS)
    if comparison.scorer_version == FORMER.scorer:
        # What was asked of the release before: no more than that would have made.
        whole, later = content_digest(document), {}
    session.execute(text("SELECT 1 FROM comparisons WHERE digest = :d FOR KEY SHARE"), {"d": comparison.digest})
    session.execute(
        text("""INSERT INTO comparisons (digest, reference_digest, candidate_digest, comparison_fingerprint, document,
                  later, content_digest_rfc8785, scheme)
                VALUES (:digest, :reference, :candidate, :fingerprint, CAST(:document AS jsonb),
                  CAST(:later AS jsonb), :content, :scheme)
                ON CONFLICT (digest) DO NOTHING"""),
        {
            "digest": comparison.digest,
            "reference": comparison.reference.digest,
            "candidate": comparison.candidate.digest,
            "fingerprint": comparison.profile["comparison_fingerprint"],
            "document": json.dumps(document),
            "later": json.dumps(later),
            "content": whole,
            "scheme": FORMER.scheme if comparison.scorer_version == FORMER.scorer else PRESENT.scheme,
        },
    )


def stored_document(comparison: Comparison) -> dict[str, Any]:
    """What is stored of a comparison, as JSON: everything but names and the newer members of its verdict."""
    document = unnamed_comparison(comparison).model_dump(mode="json", by_alias=True)
    verdict = {name: value for name, value in document["verdict"].items() if name in VERDICT_OF_BEFORE}
    return document | {"verdict": verdict}


def has_comparison(session: Session, digest: str) -> bool:
    """Whether the comparison was made, for whomever."""
    return session.execute(text("SELECT 1 FROM comparisons WHERE digest = :d"), {"d": digest}).scalar() is not None


def load_comparison_document(session: Session, digest: str, *, layers: bool = True) -> dict[str, Any] | None:
    """The ``spinal.comparison/1`` document, or None. Its layers are most of it, and can be left out."""
    found = session.execute(
        text("""SELECT CASE WHEN :layers THEN document ELSE jsonb_set(document, '{layers}', '[]') END AS document, later
                FROM comparisons WHERE digest = :d"""),
        {"d": digest, "layers": layers},
    ).one_or_none()
    return None if found is None else put_back(found.document, found.later)


def tenant_has_result(session: Session, tenant: str, digest: str) -> bool:
    """Whether one of the tenant's audits holds the trace or comparison, in whatever role: that is what makes it
    readable."""
    return (
        session.execute(
            text(f"SELECT 1 FROM {HOLDERS} WHERE runs.result_digest = :digest AND {HELD} LIMIT 1"),  # noqa: S608  constants
            {"tenant": tenant, "digest": digest},
        ).scalar()
        is not None
    )


NOT_FOR_OTHERS = """(SELECT TRUE FROM runs own WHERE own.result_digest = t.digest
  AND COALESCE(own.spec->>'tenant', :tenant) = :tenant LIMIT 1)"""
"""SQL: a run made the trace ``t`` for this tenant, or for all. Asked first, trace by trace: that none of the tenant's
audits holds a trace of others is known only when all of them have been gone through."""


def list_traces(session: Session, tenant: str, *, weights: str | None, after: str | None, limit: int) -> list[Row[Any]]:
    """Heads of the traces that the tenant's audits hold, newest first, behind the one with the digest ``after``. What
    the checkpoint is called, and since when there is the trace, is said by the first audit that holds it."""
    return list(
        session.execute(
            text(f"""SELECT t.digest, t.weights_digest, t.prompt_set_digest, t.fingerprint, t.engine_version,
                      t.n_layers, held.source, held.created_at
                    FROM traces t CROSS JOIN LATERAL (
                      SELECT audits.spec->x.role->>'source' AS source,
                        GREATEST(runs.finished_at, audits.created_at) AS created_at
                      FROM {HOLDERS} WHERE runs.result_digest = t.digest AND {HELD}
                      ORDER BY x.audit_id, x.role LIMIT 1) AS held
                    WHERE {NOT_FOR_OTHERS} AND (CAST(:weights AS text) IS NULL OR t.weights_digest = :weights)
                      AND (CAST(:after AS text) IS NULL OR (t.created_at, t.digest) <
                        (SELECT last.created_at, last.digest FROM traces last WHERE last.digest = :after
                         AND EXISTS (SELECT 1 FROM {HOLDERS} WHERE runs.result_digest = :after AND {HELD})))
                    ORDER BY t.created_at DESC, t.digest DESC LIMIT :limit"""),  # noqa: S608  constants of this code
            {"tenant": tenant, "weights": weights, "after": after, "limit": limit},
        ).all()
    )


def stored_comparison(session: Session, tenant: str, reference: str, candidate: str) -> dict[str, Any] | None:
    """The newest comparison document of two traces that one of the tenant's audits made."""
    found = session.execute(
        text(f"""SELECT c.document, c.later FROM comparisons c
                WHERE c.reference_digest = :reference AND c.candidate_digest = :candidate
                  AND EXISTS (SELECT 1 FROM {HOLDERS} WHERE runs.result_digest = c.digest AND {HELD})
                ORDER BY c.created_at DESC LIMIT 1"""),  # noqa: S608  constants of this module
        {"tenant": tenant, "reference": reference, "candidate": candidate},
    ).one_or_none()
    return None if found is None else put_back(found.document, found.later)
