"""What a tenant's audits hold, and what its reader calls it: shared rows carry nobody's names, times or hosts."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.runs.settle import HELD, HOLDERS
from spinal.documents.comparison import Comparison
from spinal.documents.names import Occasion, named_comparison, named_trace, nameless
from spinal.documents.trace import Trace
from spinal.prompts.builtin import BUILTIN_SETS
from spinal.text import readable, rfc3339

OWN_NAMES = "own_names"
"""Member of ``audits.spec``: what has a name there is called so by the audit's own tenant. The release before wrote the
name that the first tenant had given a prompt set."""
OCCASION = """x.role, audits.spec, GREATEST(runs.finished_at, audits.created_at) AS had_at, GREATEST(0.0, EXTRACT(
  epoch FROM runs.finished_at - GREATEST(runs.started_at, audits.created_at)))::float8 AS waited_s"""
"""SQL: what an audit calls a result, when it came to have it, and how long it waited while that was made."""


@dataclass(frozen=True)
class Held:
    """A result as one audit holds it."""

    role: str
    sources: dict[str, str]
    """What the audit calls its checkpoints, by role."""
    prompt_set: str | None
    remarks: dict[str, list[str]]
    """What is to be said of the files that the audit named, by role."""
    occasion: Occasion

    def name_trace(self, trace: Trace) -> Trace:
        """The trace for the reader of this audit."""
        source = self.sources.get(self.role, nameless(trace.model.weights_digest))
        return named_trace(
            trace,
            source=source,
            prompt_set=self.prompt_set,
            occasion=self.occasion,
            remarks=self.remarks.get(self.role, []),
        )

    def name_comparison(self, comparison: Comparison) -> Comparison:
        """The comparison for the reader of this audit."""
        return named_comparison(comparison, sources=self.sources, occasion=self.occasion, remarks=self.remarks)


def held_by_tenant(session: Session, tenant: str, digest: str) -> Held | None:
    """A result by the first of the tenant's audits that holds it, so that it is always called the same; None where none
    does."""
    row = session.execute(
        text(f"""SELECT {OCCASION} FROM {HOLDERS} WHERE runs.result_digest = :digest AND {HELD}
                 ORDER BY x.audit_id, x.role LIMIT 1"""),  # noqa: S608  constants of this code
        {"tenant": tenant, "digest": digest},
    ).one_or_none()
    return None if row is None else _held(row)


def held_by_audit(session: Session, audit_id: UUID, role: str) -> Held | None:
    """The result of one role of an audit; None where there is none."""
    row = session.execute(
        text(f"""SELECT {OCCASION} FROM {HOLDERS}
                 WHERE x.audit_id = :audit AND x.role = :role AND runs.result_digest IS NOT NULL"""),  # noqa: S608  constants of this code
        {"audit": audit_id, "role": role},
    ).one_or_none()
    return None if row is None else _held(row)


def prompt_set_of(spec: dict[str, Any]) -> dict[str, Any]:
    """Digest, name and count of an audit's prompts, by what its own tenant calls them."""
    found: dict[str, Any] = spec["prompt_set"]
    ours = spec.get(OWN_NAMES, False) or found.get("name") in BUILTIN_SETS
    return found if ours else found | {"name": None}


def without_hosts(value: Any) -> Any:
    """A stored error as tenants read it: releases before wrote into it on which host an attempt ran, where files lay,
    and characters that a terminal obeys."""
    if isinstance(value, dict):
        return {readable(name): without_hosts(member) for name, member in value.items() if name != "worker"}
    if isinstance(value, list):
        return [without_hosts(item) for item in value]
    return readable(value)


def _held(row: Any) -> Held:
    described = {role: member for role, member in row.spec.items() if isinstance(member, dict) and "source" in member}
    return Held(
        role=row.role,
        sources={role: member["source"] for role, member in described.items()},
        prompt_set=prompt_set_of(row.spec).get("name") if "prompt_set" in row.spec else None,
        remarks={role: member.get("remarks", []) for role, member in described.items()},
        occasion=Occasion(rfc3339(row.had_at), row.waited_s),
    )
