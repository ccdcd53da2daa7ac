"""One tenant asks for a thousand audits, another for one: by what the API does with a request, up to the claim."""

from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy import text

from service.audits.resolve import AuditRequest, resolve_request
from service.audits.verbs import create_audit, read_audit, record_of, with_standing, write_audit
from service.database.unit_of_work import Ledger
from service.runs import rings, transitions
from service.settings import Settings
from spinal.checkpoints.bounded import Bounds, Inspectors
from spinal.profile import MeasurementProfile

MANY, WRITTEN = 1000, 50
COPIES = """
    WITH copies AS MATERIALIZED (
      SELECT x.run_id, x.audit_id, x.role, gen_random_uuid() AS id
      FROM audit_runs x CROSS JOIN generate_series(2, :each)),
    runs_made AS (
      INSERT INTO runs (id, kind, spec, spec_version, spec_digest, scheme, depth, queue, priority, tenants)
      SELECT c.id, kind, spec, spec_version, md5(c.id::text), scheme, depth, queue, priority, tenants
      FROM copies c JOIN runs r ON r.id = c.run_id),
    audits_made AS (
      INSERT INTO audits (id, tenant, candidate, request, spec, labels, priority)
      SELECT c.id, tenant, candidate, request, spec, labels, priority FROM copies c JOIN audits a ON a.id = c.audit_id)
    INSERT INTO audit_runs (audit_id, role, run_id) SELECT id, role, id FROM copies RETURNING audit_id"""
"""More of what was written, each under an identity of its own: asking a thousand times would take long."""
REQUEST = AuditRequest(
    models={"candidate": "local:dpo-short"}, prompt_set="hh-harmless-64", profile=MeasurementProfile(), priority=0
)


def start_next(ledger: Ledger, worker: str) -> UUID:
    """What a turn of the dispatcher and a worker that is rung for any of its runs do; returns whose audit it is."""
    with ledger.begin() as session:
        bell = rings.due_runs(session, ring_again_s=60.0, again=(), limit=10)[-1]
    with ledger.begin() as session:
        best = rings.next_run(session, bell.run_id)
        assert best is not None
        claim = transitions.claim(session, best.run_id, worker=worker, lease_s=60.0, deadline_s=60.0)
    assert claim is not None
    [audit] = claim.audits
    return audit


def test_a_thousand_audits_of_one_tenant_and_then_one_of_another_it_starts_next(
    ledger: Ledger, api_settings: Settings
) -> None:
    given: dict[str, Any] = {"idempotency_key": None, "request_id": None, "traceparent": None}
    with Inspectors(Bounds(children=1)) as inspectors:
        resolved = resolve_request(ledger, api_settings, inspectors, "many", REQUEST)
        with ledger.begin() as session:
            asked = set()
            for number in range(WRITTEN):
                # Each of other files.
                specs = {role: spec | {"files": str(number)} for role, spec in resolved.specs.items()}
                audit = record_of("many", REQUEST, resolved, None)
                accepted = write_audit(session, api_settings, audit, replace(resolved, specs=specs), 0, None)
                asked.add(accepted.audit_id)
            asked.update(session.execute(text(COPIES), {"each": MANY // WRITTEN}).scalars())
        assert len(asked) == MANY
        # They are being served already.
        assert {start_next(ledger, f"before/{n}") for n in range(2)} < asked
        one = create_audit(ledger, api_settings, inspectors, tenant="one", request=REQUEST, **given)
    told = with_standing(ledger, read_audit(ledger, "one", one.audit_id)).standing
    assert told is not None
    assert (told.own, told.others) == (0, 1)
    assert start_next(ledger, "after/0") == one.audit_id
    assert {start_next(ledger, f"after/{n}") for n in (1, 2)} < asked
