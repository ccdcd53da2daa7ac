"""What a webhook is told of an event. It follows from rows that have ended and from the event, so that every attempt
tells the same."""

import json
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from service.deliveries.events import Event
from service.platform.links import report_link
from service.runs.held import without_hosts
from service.settings import Settings
from service.webhooks.filters import Facts
from spinal.text import rfc3339

OF_AUDIT = """SELECT id, tenant, state, candidate, reference, control, labels, verdict, verdict_document, policy,
    series, comparison, candidate_trace, reference_trace, control_trace, error, created_at, started_at, finished_at,
    (SELECT name FROM policies p WHERE p.tenant = audits.tenant AND p.digest = audits.policy) AS policy_name
  FROM audits WHERE id = :id AND tenant = :tenant"""
OF_SERIES = """SELECT id, tenant, reference, labels, description, policy, created_at,
    (SELECT name FROM policies p WHERE p.tenant = series.tenant AND p.digest = series.policy) AS policy_name
  FROM series WHERE id = :id AND tenant = :tenant"""


def facts_of(session: Session, event: Event) -> Facts:
    """What filters look at."""
    row = _row(session, event)
    if row is None:
        return Facts()
    if event.subject_kind == "series":
        return Facts(row.labels, (row.reference,))
    return Facts(row.labels, tuple(filter(None, (row.candidate, row.reference))), row.verdict)


def body_of(session: Session, settings: Settings, event: Event) -> bytes | None:
    """The message, as the bytes that are sent; None where what it tells of is gone."""
    data = _data(session, settings, event)
    if data is None:
        return None
    message = {"type": event.type, "timestamp": _time(event.created_at), "data": data}
    return json.dumps(message, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _data(session: Session, settings: Settings, event: Event) -> dict[str, Any] | None:
    if event.subject_kind == "webhook":
        return {"webhook": str(event.subject), "note": "Somebody asked for this test."}
    row = _row(session, event)
    if row is None:
        return None
    return _of_series(settings, event, row) if event.subject_kind == "series" else _of_audit(settings, row)


def _row(session: Session, event: Event) -> Row[Any] | None:
    statement = {"audit": OF_AUDIT, "series": OF_SERIES}.get(event.subject_kind)
    if statement is None:
        return None
    return session.execute(text(statement), {"id": event.subject, "tenant": event.tenant}).one_or_none()


def _of_audit(settings: Settings, row: Row[Any]) -> dict[str, Any]:
    verdict = row.verdict_document or {}
    # Attempts of the release before say where they ran.
    error = without_hosts(row.error) or {}
    return {
        "audit": str(row.id),
        "state": row.state,
        "verdict": row.verdict,
        "policy": None if row.policy is None else {"name": row.policy_name, "digest": row.policy},
        "models": {"candidate": row.candidate, "reference": row.reference, "control": row.control},
        "labels": row.labels,
        "series": None if row.series is None else str(row.series),
        "digests": {
            "comparison": row.comparison,
            "traces": {
                "candidate": row.candidate_trace,
                "reference": row.reference_trace,
                "control": row.control_trace,
            },
            "weights": verdict.get("weights") or {},
        },
        "error": {name: error.get(name) for name in ("code", "title", "detail")} if error else None,
        "created_at": _time(row.created_at),
        "started_at": _time(row.started_at),
        "finished_at": _time(row.finished_at),
        "links": {
            "audit": _link(settings, f"/v1/audits/{row.id}"),
            # From its end on, so that every attempt tells the same link.
            "report": report_link(settings, row.tenant, row.id, now=row.finished_at)
            if row.state == "SUCCEEDED"
            else None,
        },
    }


def _of_series(settings: Settings, event: Event, row: Row[Any]) -> dict[str, Any]:
    # What was so when it happened: status and members stand in the event, the series goes on.
    then = event.detail
    return {
        "series": str(row.id),
        "status": then.get("status"),
        "former_status": then.get("former"),
        "members": then.get("members"),
        "settled": then.get("settled"),
        "policy": {"name": row.policy_name, "digest": row.policy},
        "models": {"reference": row.reference},
        "labels": row.labels,
        "created_at": _time(row.created_at),
        "links": {"series": _link(settings, f"/v1/series/{row.id}")},
    }


def _link(settings: Settings, path: str) -> str | None:
    return None if settings.public_url is None else f"{settings.public_url}{path}"


def _time(at: datetime | None) -> str | None:
    return None if at is None else rfc3339(at, "auto")
