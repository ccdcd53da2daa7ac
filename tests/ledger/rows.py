"""Rows put into a ledger by hand, so that a test can have one that differs from the rest in one member."""

import json
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.policies.store import insert_policy, stored_form
from spinal.policy.shipped import default_policy

Members = dict[str, Any]
JSON = ("spec", "error", "progress", "request", "labels", "document", "verdict_document", "settings")
MINUTE = timedelta(minutes=1)
OF_STATE: dict[str, Members] = {
    "QUEUED": {},
    "RUNNING": {"attempt": 1, "charged_attempts": 1, "lease_until": MINUTE, "deadline_at": 2 * MINUTE},
    "SUCCEEDED": {"result_digest": "0" * 64, "finished_at": timedelta(0)},
    "FAILED": {"error": {"code": "c", "detail": "d"}, "finished_at": timedelta(0)},
    "CANCELLED": {"finished_at": timedelta(0)},
}


def put(session: Session, table: str, **members: Any) -> None:
    """Insert a row; a timedelta is a time so far from now, and JSON is written out."""
    values = {name: "now() + :" + name if isinstance(v, timedelta) else ":" + name for name, v in members.items()}
    given = {name: json.dumps(v) if name in JSON and v is not None else v for name, v in members.items()}
    session.execute(text(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join(values.values())})"), given)


def put_run(session: Session, state: str = "QUEUED", **members: Any) -> UUID:
    """A run in a state, with what that state asks for; returns its id."""
    run = uuid4()
    defaults: Members = {"kind": "trace", "spec": {}, "spec_digest": run.hex, "queue": "cpu"}
    if state == "RUNNING":
        defaults["worker"] = f"w/{run}"
    put(session, "runs", **({"id": run, "state": state} | defaults | OF_STATE[state] | members))
    return members.get("id", run)


def put_attempt(session: Session, run: UUID, attempt: int, outcome: str | None = None, **members: Any) -> None:
    ended = None if outcome is None else timedelta(0)
    defaults: Members = {"worker": f"w/{run}", "outcome": outcome, "ended_at": ended}
    put(session, "run_attempts", **({"run_id": run, "attempt": attempt} | defaults | members))


def put_dependency(session: Session, run: UUID, needed: UUID) -> None:
    put(session, "run_dependencies", run_id=run, depends_on=needed)


def put_audit(session: Session, state: str = "QUEUED", runs: dict[str, UUID] | None = None, **members: Any) -> UUID:
    """An audit of tenant ``t`` that needs ``runs`` by role; returns its id."""
    audit: UUID = members.get("id", uuid4())
    defaults: Members = {"tenant": "t", "candidate": "c", "request": {}, "spec": {}}
    if state in ("SUCCEEDED", "FAILED", "CANCELLED"):
        defaults |= {"finished_at": timedelta(0)}
    if state == "FAILED":
        defaults |= {"error": {"code": "c"}}
    put(session, "audits", **({"id": audit, "state": state} | defaults | members))
    for role, run in (runs or {}).items():
        put(session, "audit_runs", audit_id=audit, role=role, run_id=run)
    return audit


def put_series(session: Session, **members: Any) -> UUID:
    """A series of tenant ``t`` under the default policy; returns its id."""
    series: UUID = members.get("id", uuid4())
    policy = stored_form(default_policy(), builtin=True)
    tenant = members.get("tenant", "t")
    insert_policy(session, tenant, policy)
    spec = {"prompt_set": "p", "profile": {"name": "n"}, "control": None, "priority": 0, "policy": policy.name}
    defaults: Members = {"tenant": tenant, "reference": "r", "policy": policy.digest, "spec": spec}
    put(session, "series", **({"id": series} | defaults | members))
    return series


def put_member(session: Session, series: UUID, step: int, state: str = "QUEUED", /, **members: Any) -> UUID:
    """A member of a series of tenant ``t`` under the default policy; returns its audit."""
    audit = put_audit(session, state, None, **({"series": series, "policy": default_policy().digest} | members))
    put(session, "series_members", series_id=series, step=step, model=f"local:{step}", audit_id=audit)
    return audit


def put_trace(session: Session, digest: str, **members: Any) -> str:
    defaults: Members = {
        "weights_digest": "w", "prompt_set_digest": "p", "fingerprint": "f", "engine_version": "1", "source": "s",
        "n_layers": 0, "document": {}, "content_digest": "c", "capture_uri": f"file:{digest}", "capture_bytes": 5,
    }  # fmt: skip
    put(session, "traces", **({"digest": digest} | defaults | members))
    return digest


def put_comparison(session: Session, digest: str, reference: str, candidate: str, **members: Any) -> str:
    defaults: Members = {"comparison_fingerprint": "f", "document": {"name": digest, "verdict": {"outcome": "warn"}}}
    put(session, "comparisons", **({"digest": digest, "reference_digest": reference, "candidate_digest": candidate}
                                   | defaults | members))  # fmt: skip
    return digest


def row(session: Session, table: str, key: UUID | str, name: str = "id", **also: Any) -> Members:
    """Everything in a row; times as their distance from now, which is exact inside one transaction."""
    conditions = " AND ".join(f"{column} = :{column}" for column in (name, *also))
    found = session.execute(
        text(f"SELECT *, now() AS present FROM {table} WHERE {conditions}"), {name: key, **also}
    ).mappings()
    members = dict(found.one())
    present = members.pop("present")
    return {name: v - present if hasattr(v, "tzinfo") else v for name, v in members.items()}


def state_of(session: Session, run: UUID) -> str:
    return str(row(session, "runs", run)["state"])
