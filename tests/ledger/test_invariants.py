"""Every invariant finds the offender it is there for: a ledger is broken by hand, one way at a time."""

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from service.database.unit_of_work import Ledger
from service.operations.invariants import (
    ATTESTATIONS,
    COMPARISONS,
    DIGESTS,
    FILES,
    INVARIANTS,
    POLICIES,
    RECOMPUTED,
    violations,
)
from service.runs import demand
from service.settings import Settings

RUN = "00000000-0000-7000-8000-000000000001"
OTHER = "00000000-0000-7000-8000-000000000002"
AUDIT = "00000000-0000-7000-8000-000000000003"
THIRD = "00000000-0000-7000-8000-000000000004"
DIGEST, OTHER_DIGEST = "ab" * 32, "cd" * 32


def trace(blocks: int) -> str:
    return f"""INSERT INTO traces (digest, weights_digest, prompt_set_digest, fingerprint, engine_version, source,
        n_layers, document, content_digest) VALUES ('{DIGEST}', 'w', 'p', 'f', '2', 's', {blocks}, '{{}}', 'c')"""


def attempt(number: int, outcome: str) -> str:
    return f"""INSERT INTO run_attempts (run_id, attempt, worker, outcome, ended_at)
        VALUES ('{RUN}', {number}, 'w', '{outcome}', now())"""


POLICY = (
    f"INSERT INTO policies (tenant, digest, name, document) VALUES ('t', '{DIGEST}', 'a/1', '{{\"name\": \"a/1\"}}')"
)


def series(members: str = "", values: str = "") -> str:
    return f"""INSERT INTO series (id, tenant, reference, policy, spec{members})
        VALUES ('{OTHER}', 't', 'r', '{DIGEST}', '{{}}'{values})"""


def event(of: str = "webhook", subject: str = OTHER, ago: str = "1 hour", **more: str) -> str:
    names, values = "".join(f", {name}" for name in more), "".join(f", {value}" for value in more.values())
    return f"""INSERT INTO events (id, tenant, type, subject_kind, subject, created_at{names}) VALUES ('{THIRD}', 't',
        '{of}.test', '{of}', '{subject}', now() - interval '{ago}'{values})"""


DELIVERY = [
    event(sent_out_at="now()"),
    f"INSERT INTO webhooks (id, tenant, url, events) VALUES ('{OTHER}', 't', 'https://x.example', '[]')",
    f"""INSERT INTO deliveries (id, tenant, digest, event_id, target, webhook_id, run_id)
          VALUES ('{AUDIT}', 't', '{DIGEST}', '{THIRD}', 'webhook', '{OTHER}', '{RUN}')""",
]


def attested(statement: str, *, envelope: str = "{}") -> str:
    return f"""INSERT INTO attestations (audit_id, predicate_type, key_id, tenant, statement, envelope)
        VALUES ('{AUDIT}', 'https://in-toto.io/attestation/svr/v0.1', 'k', 't', '{statement}', '{envelope}')"""


PASSED_BY_A_WAIVER = f"""INSERT INTO audits (id, tenant, candidate, request, spec, state, finished_at, verdict,
      verdict_document) VALUES ('{AUDIT}', 't', 'c', '{{}}', '{{}}', 'SUCCEEDED', now(), 'pass',
      '{{"outcome": "pass", "rules": [{{"rule": "a", "waived": {{"would_be": "fail"}}}}]}}')"""
BREAK: dict[str, list[str]] = {
    "the end of an audit is told once": [
        event(sent_out_at="now()"),
        f"""INSERT INTO audits (id, tenant, candidate, request, spec, state, finished_at)
              VALUES ('{AUDIT}', 't', 'c', '{{}}', '{{}}', 'CANCELLED', now())""",
    ],
    "what has happened is sent out": [event(ago="11 minutes")],
    "a delivery has its run, and all of it is one tenant's": DELIVERY,
    "what was delivered was taken once, by the last attempt": [
        *DELIVERY,
        f"INSERT INTO delivery_tries (delivery_id, attempt, took_ms, ok) VALUES ('{AUDIT}', 1, 5, TRUE)",
    ],
    "at most one succeeded attempt per run": [
        "DROP INDEX uq_run_attempts_succeeded",
        attempt(1, "succeeded"),
        attempt(2, "succeeded"),
    ],
    "a succeeded run has its result": [
        f"UPDATE runs SET state = 'SUCCEEDED', result_digest = '{DIGEST}', finished_at = now() WHERE id = '{RUN}'"
    ],
    "a trace has every layer under both policies": [trace(3)],
    "the numbers of a trace are finite": [
        trace(0),
        f"""INSERT INTO trace_layers (trace_digest, layer, policy, depth, contraction, entropy, detail)
              VALUES ('{DIGEST}', 0, 'last', 0, 'NaN', 1, '{{}}')""",
    ],
    "one audit has one idempotency key, of its own tenant": [
        f"""INSERT INTO audits (id, tenant, candidate, request, spec, state, finished_at)
              VALUES ('{AUDIT}', 't', 'c', '{{}}', '{{}}', 'CANCELLED', now())""",
        f"""INSERT INTO idempotency_keys (tenant, key, body_digest, audit_id, status)
              VALUES ('another', 'k', 'b', '{AUDIT}', 202)""",
    ],
    "no two wanted runs share a specification": [
        "DROP INDEX uq_runs_spec_wanted",
        f"""INSERT INTO runs (id, kind, spec, spec_digest, queue)
              SELECT '{OTHER}', kind, spec, spec_digest, queue FROM runs""",
    ],
    "no lease is expired for more than a minute": [
        f"""UPDATE runs SET state = 'RUNNING', lease_until = now() - interval '2 minutes', worker = 'w', attempt = 1,
              deadline_at = now() WHERE id = '{RUN}'"""
    ],
    "attempts are numbered without a gap": [attempt(2, "lost")],
    "a run counts the attempts it had": [f"UPDATE runs SET attempt = 5 WHERE id = '{RUN}'"],
    "the attempt that succeeded is the last": [attempt(1, "succeeded")],
    "only a running run has an open attempt": [
        f"INSERT INTO run_attempts (run_id, attempt, worker) VALUES ('{RUN}', 1, 'w')"
    ],
    "an open audit has work left": [
        f"INSERT INTO audits (id, tenant, candidate, request, spec) VALUES ('{AUDIT}', 't', 'c', '{{}}', '{{}}')"
    ],
    "a succeeded audit has all its results": [
        f"""INSERT INTO audits (id, tenant, candidate, request, spec, state, finished_at)
              VALUES ('{AUDIT}', 't', 'c', '{{}}', '{{}}', 'SUCCEEDED', now())"""
    ],
    "a verdict and its document agree": [
        f"""INSERT INTO audits (id, tenant, candidate, request, spec, state, finished_at, verdict, verdict_document)
              VALUES ('{AUDIT}', 't', 'c', '{{}}', '{{}}', 'CANCELLED', now(), 'pass', '{{"outcome": "fail"}}')"""
    ],
    "a queued run is wanted": [
        f"UPDATE runs SET cancel_requested = TRUE WHERE id = '{RUN}'",
    ],
    "a queued run waits for nothing that will not come": [
        f"""INSERT INTO runs (id, kind, spec, spec_digest, queue, state, finished_at)
              VALUES ('{OTHER}', 'trace', '{{}}', 'other', 'cpu', 'CANCELLED', now())""",
        f"INSERT INTO run_dependencies (run_id, depends_on) VALUES ('{RUN}', '{OTHER}')",
    ],
    "a queued run says whether it waits": [f"UPDATE runs SET waits = TRUE WHERE id = '{RUN}'"],
    "an audit needs what its comparison waits for": [
        f"""INSERT INTO runs (id, kind, spec, spec_digest, queue)
              VALUES ('{OTHER}', 'compare', '{{}}', 'other', 'cpu')""",
        f"INSERT INTO run_dependencies (run_id, depends_on) VALUES ('{OTHER}', '{RUN}')",
        f"INSERT INTO audits (id, tenant, candidate, request, spec) VALUES ('{AUDIT}', 't', 'c', '{{}}', '{{}}')",
        f"INSERT INTO audit_runs (audit_id, role, run_id) VALUES ('{AUDIT}', 'compare', '{OTHER}')",
    ],
    "a comparison is one of its audit's traces": [
        trace(0),
        f"""INSERT INTO comparisons (digest, reference_digest, candidate_digest, comparison_fingerprint, document)
              VALUES ('{DIGEST}', '{DIGEST}', '{DIGEST}', 'f', '{{}}')""",
        f"""INSERT INTO audits (id, tenant, candidate, request, spec, state, finished_at, comparison, reference_trace)
              VALUES ('{AUDIT}', 't', 'c', '{{}}', '{{}}', 'CANCELLED', now(), '{DIGEST}', '{DIGEST}')""",
    ],
    "a verdict is one of its audit's weights": [
        trace(0),
        f"""INSERT INTO audits (id, tenant, candidate, request, spec, state, finished_at, verdict, candidate_trace,
              verdict_document) VALUES ('{AUDIT}', 't', 'c', '{{}}', '{{}}', 'CANCELLED', now(), 'pass', '{DIGEST}',
              '{{"outcome": "pass", "weights": {{"candidate": "another"}}}}')""",
    ],
    "files that nobody touched hold one content": [
        trace(0),
        trace(0).replace(DIGEST, OTHER_DIGEST).replace("'w'", "'v'"),
        *(
            f"""INSERT INTO runs (id, kind, spec, spec_digest, queue, state, finished_at, result_digest)
                  VALUES ('{run}', 'trace', '{{"files": "f"}}', '{digest}', 'cpu', 'SUCCEEDED', now(), '{digest}')"""
            for run, digest in ((OTHER, DIGEST), (THIRD, OTHER_DIGEST))
        ),
    ],
    "one content is one model": [
        trace(0).replace("'{}'", """'{"model": {"readout_digest": "one"}}'"""),
        trace(0).replace("'{}'", """'{"model": {"readout_digest": "another"}}'""").replace(DIGEST, OTHER_DIGEST),
    ],
    "ended rows are guarded": ["ALTER TABLE audits DISABLE TRIGGER audits_terminal"],
    "a verdict is made by the policy of its audit": [
        POLICY,
        f"""INSERT INTO audits (id, tenant, candidate, request, spec, state, finished_at, verdict, verdict_document,
              policy) VALUES ('{AUDIT}', 't', 'c', '{{}}', '{{}}', 'CANCELLED', now(), 'pass',
              '{{"outcome": "pass"}}', '{DIGEST}')""",
    ],
    "what an audit is judged against came before it": [
        f"""INSERT INTO audits (id, tenant, candidate, request, spec) VALUES ('{AUDIT}', 't', 'c', '{{}}', '{{}}')""",
        f"""INSERT INTO audits (id, tenant, candidate, request, spec, former)
              VALUES ('{OTHER}', 't', 'c', '{{}}', '{{}}', '{AUDIT}')""",
    ],
    "what tenants hold is counted": [
        "INSERT INTO tenant_count_changes (tenant, what, change) VALUES ('t', 'open_audits', 1)",
    ],
    "a member of a series is an audit of its tenant": [
        POLICY,
        series(),
        f"""INSERT INTO audits (id, tenant, candidate, request, spec, series)
              VALUES ('{AUDIT}', 't', 'c', '{{}}', '{{}}', '{OTHER}')""",
    ],
    "the status of a series is that of its document": [
        POLICY,
        series(", status, document", """, 'watch', '{"status": "healthy"}'"""),
    ],
    "a document of a series knows what has happened and no more": [
        POLICY,
        series(", created_at", ", now() - interval '6 minutes'"),
    ],
    "a registered model is what its newest version is": [
        f"INSERT INTO models (id, tenant, name, reference) VALUES ('{OTHER}', 't', 'n', 'local:x')",
        f"""INSERT INTO model_versions (model_id, version, number, reference)
              VALUES ('{OTHER}', '2', 2, 'local:y')""",
    ],
    "only an audit that passed is attested as passed": [PASSED_BY_A_WAIVER, attested("{}")],
    "an attestation is one of its tenant's audits and of its files": [PASSED_BY_A_WAIVER, attested("{}")],
    ATTESTATIONS: [attested("{}", envelope='{"payload": "e30="}')],
    FILES: [f"INSERT INTO weights_files (weights_digest, files) VALUES ('{DIGEST}', '{{}}')"],
    "an audit that a registry's version asked for is its own, and of its tenant": [
        f"INSERT INTO audits (id, tenant, candidate, request, spec) VALUES ('{AUDIT}', 't', 'c', '{{}}', '{{}}')",
        f"""INSERT INTO registry_versions (registry, model, version, rule, tenant, audit_id)
              VALUES ('r', 'm', '1', 'rule', 'another', '{AUDIT}')""",
    ],
    POLICIES: [POLICY],
    DIGESTS: [trace(0)],
    COMPARISONS: [
        trace(0),
        f"""INSERT INTO comparisons (digest, reference_digest, candidate_digest, comparison_fingerprint, document,
              content_digest_rfc8785) VALUES ('{DIGEST}', '{DIGEST}', '{DIGEST}', 'f', '{{}}', 'x')""",
    ],
}
"""What each takes to break, beside the triggers of ``runs``, which are out of the way in every case but one."""


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    """Without the check at the end that other tests' ledgers get: this one is broken on purpose."""
    opened = Ledger(settings)
    with opened.begin() as session:
        run = demand.find_or_create_run(session, {"kind": "trace", "n": "broken"}, queue="cpu")
    with opened.begin() as session:
        assert violations(session) == {}
        session.execute(text("SET CONSTRAINTS ALL DEFERRED"))
        session.execute(text("UPDATE runs SET id = :new WHERE id = :old"), {"new": RUN, "old": run})
    yield opened
    opened.close()


def test_every_invariant_is_broken_below() -> None:
    assert set(BREAK) == {*INVARIANTS, *RECOMPUTED}


@pytest.mark.parametrize("name", sorted(BREAK))
def test_an_invariant_finds_its_offender(ledger: Ledger, name: str) -> None:
    with ledger.begin() as session:
        if name != "ended rows are guarded":
            session.execute(text("ALTER TABLE runs DISABLE TRIGGER USER"))
        for statement in BREAK[name]:
            session.execute(text(statement))
    with ledger.read() as session:
        assert name in violations(session)
