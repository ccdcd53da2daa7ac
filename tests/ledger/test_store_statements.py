"""Every condition of the statements that read and write what callers own: rows that differ in one member.

One transaction a test, as in ``test_run_statements.py``.
"""

import hmac
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg.types.json import Jsonb
from sqlalchemy import text
from sqlalchemy.orm import Session

from service.audits import idempotency, store
from service.audits.store import AuditFilter, NewAudit
from service.database.ids import new_id
from service.database.unit_of_work import Ledger
from service.keys import store as keys
from service.models import store as models
from service.operations import retained
from service.prompt_sets import store as prompt_sets
from service.runs import demand
from service.runs.held import held_by_audit, held_by_tenant, prompt_set_of, without_hosts
from service.runs.kinds import KINDS, SCHEDULE_S, Attempts, Kind, attempts_of
from service.runs.specs import spec_digest
from service.runs.wake import CHANNEL
from service.settings import Settings
from service.traces import snapshots
from service.traces import store as traces
from spinal.documents.canonical import digest_of
from spinal.documents.editions import FORMER, PRESENT, Edition
from spinal.documents.names import unnamed_comparison, unnamed_trace
from spinal.documents.trace import stamp_profile, trace_digest
from spinal.errors import PromptSetNotFound, TraceNotFound
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import builtin_prompts
from spinal.prompts.sets import PromptSet
from tests.ledger.rows import (
    MINUTE,
    OF_STATE,
    put,
    put_audit,
    put_comparison,
    put_dependency,
    put_run,
    put_trace,
    row,
    state_of,
)
from tests.ledger.stored import made_trace, stored_trace
from tests.support.fabricated import changed_pair

NOW, TICK = timedelta(0), timedelta(microseconds=1)
OPEN = ("QUEUED", "RUNNING")
EVERY = AuditFilter()
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")


# audits


def test_an_audit_is_its_tenants_own(session: Session) -> None:
    mine, _also_mine, theirs = put_audit(session), put_audit(session), put_audit(session, tenant="other")
    found = store.find_audit(session, "t", mine)
    assert found is not None
    assert found.id == mine
    assert store.find_audit(session, "t", theirs) is None


def runs_of(session: Session, audit: UUID) -> dict[str, store.NeededRun]:
    """As the audit alone says it, and as the list does."""
    found = store.find_audit(session, "t", audit)
    assert found is not None
    [listed] = [one for one in store.list_audits(session, "t", EVERY, after=None, limit=99) if one.id == audit]
    assert listed == found
    return found.runs


def test_runs_of_an_audit_are_its_own(session: Session) -> None:
    shared = put_run(session, "RUNNING", attempt=3, progress={"fraction": 0.5})
    mine, unneeded = put_run(session, kind="compare"), put_run(session, "SUCCEEDED", result_digest="9" * 64)
    audit = put_audit(session, runs={"candidate": shared, "reference": mine})
    other = put_audit(session, runs={"candidate": unneeded, "control": shared})
    assert runs_of(session, audit) == {
        "candidate": store.NeededRun("RUNNING", 3, {"fraction": 0.5}, None),
        "reference": store.NeededRun("QUEUED", 0, None, None),
    }
    assert runs_of(session, other) == {
        "candidate": store.NeededRun("SUCCEEDED", 0, None, "9" * 64),
        "control": store.NeededRun("RUNNING", 3, {"fraction": 0.5}, None),
    }
    assert runs_of(session, put_audit(session)) == {}


AFTER_THE_END: dict[str, tuple[str, timedelta, bool]] = {
    "still open": ("RUNNING", NOW, True),
    "failed before": ("FAILED", -MINUTE, False),
    "failed after it": ("FAILED", NOW, True),
    "cancelled in the same moment": ("CANCELLED", NOW, True),
    "cancelled after it": ("CANCELLED", TICK, True),
    "cancelled before it": ("CANCELLED", -TICK, False),
}


@pytest.mark.parametrize("when", AFTER_THE_END)
def test_an_audit_holds_what_was_made_before_its_end(session: Session, when: str) -> None:
    state, ended, holds = AFTER_THE_END[when]
    digest = put_trace(session, "1")
    put_comparison(session, "2", "1", "1")
    runs = {"witness": put_run(session, "SUCCEEDED", result_digest=digest, finished_at=NOW),
            "pair": put_run(session, "SUCCEEDED", result_digest="2", finished_at=NOW)}  # fmt: skip
    audit = put_audit(session, state, runs, **({} if state == "RUNNING" else {"finished_at": ended}))
    found = runs_of(session, audit)
    assert [found[role].result for role in runs] == ([digest, "2"] if holds else [None, None])
    assert traces.tenant_has_result(session, "t", digest) is holds
    assert bool(listed_traces(session)) is holds
    assert (traces.stored_comparison(session, "t", "1", "1") is not None) is holds


@pytest.mark.parametrize("column", ["candidate_trace", "reference_trace", "control_trace"])
def test_an_audit_holds_what_it_names(session: Session, column: str) -> None:
    """Whose end came first is not to be told from two transactions' times."""
    digest = put_trace(session, "1")
    run = put_run(session, "SUCCEEDED", result_digest=digest, finished_at=NOW)
    members: dict[str, Any] = {"finished_at": -MINUTE, column: digest}
    audit = put_audit(session, "CANCELLED", {"witness": run}, **members)
    assert runs_of(session, audit)["witness"].result == digest
    assert traces.tenant_has_result(session, "t", digest)


def test_what_inserting_an_audit_writes(session: Session) -> None:
    one, other = put_run(session), put_run(session)
    audit = NewAudit(id=new_id(), tenant="t", candidate="c")
    store.insert_audit(session, audit, {"candidate": one, "control": other})
    assert row(session, "audits", audit.id)["state"] == "QUEUED"
    needed = session.execute(text("SELECT role, run_id FROM audit_runs WHERE audit_id = :id"), {"id": audit.id})
    assert {row.role: row.run_id for row in needed} == {"candidate": one, "control": other}


def listed(session: Session, narrowed: AuditFilter = EVERY, **how: Any) -> list[UUID]:
    return [audit.id for audit in store.list_audits(session, "t", narrowed, **({"after": None, "limit": 99} | how))]


def test_audits_are_listed_newest_first_from_where_the_last_page_ended(session: Session) -> None:
    a, b, c, d, e = sorted(uuid4() for _ in range(5))
    # Inserted in no order, and ids that grow the other way round than times do.
    for audit, minutes in ((c, 2), (e, 3), (a, 1), (d, 2), (b, 2)):
        put_audit(session, id=audit, created_at=-minutes * MINUTE)
    put_audit(session, tenant="other")
    newest_first = [a, d, c, b, e]
    # Without an index rows come as they lie, and only what is ordered is in order.
    session.execute(text("SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off"))
    assert listed(session) == newest_first
    assert listed(session, limit=2) == newest_first[:2]
    for at, audit in enumerate(newest_first):
        seen = store.find_audit(session, "t", audit)
        assert seen is not None
        assert listed(session, after=(seen.created_at, seen.id)) == newest_first[at + 1 :]


MATCHING: dict[str, tuple[AuditFilter, dict[str, Any], dict[str, Any]]] = {
    "state": (AuditFilter(state="RUNNING"), {"state": "RUNNING"}, {"state": "QUEUED"}),
    "verdict": (AuditFilter(verdict="warn"), {"verdict": "warn"}, {"verdict": "pass"}),
    "no verdict": (AuditFilter(verdict="warn"), {"verdict": "warn"}, {}),
    "candidate": (AuditFilter(model="m"), {"candidate": "m"}, {"candidate": "n", "reference": "n"}),
    "reference": (AuditFilter(model="m"), {"reference": "m"}, {"control": "m"}),
    "both sides": (AuditFilter(model="m"), {"candidate": "m", "reference": "m"}, {"reference": "n"}),
    "a model and a state": (
        AuditFilter("RUNNING", model="m"),
        {"reference": "m", "state": "RUNNING"},
        {"candidate": "m"},
    ),
    "labels": (
        AuditFilter(labels=(("a", "1"), ("b", "2"))),
        {"labels": {"a": "1", "b": "2", "c": "3"}},
        {"labels": {"a": "1", "b": "3"}},
    ),
}


@pytest.mark.parametrize("by", MATCHING)
def test_a_listing_holds_what_matches_and_nothing_else(session: Session, by: str) -> None:
    narrowed, matching, other = MATCHING[by]
    put_audit(session, **other)
    found = put_audit(session, **matching)
    assert listed(session, narrowed) == [found]
    assert len(listed(session)) == 2


def test_the_sides_of_a_model_make_one_list_in_pages(session: Session) -> None:
    sides: list[dict[str, Any]] = [{"candidate": "m"}, {"reference": "m"}] * 3
    ids = [put_audit(session, **side, created_at=-n * MINUTE) for n, side in enumerate(sides)]
    narrowed = AuditFilter(model="m")
    assert listed(session, narrowed) == ids
    for at in range(0, len(ids), 2):
        last = store.find_audit(session, "t", ids[at])
        assert last is not None
        assert listed(session, narrowed, after=(last.created_at, last.id), limit=2) == ids[at + 1 : at + 3]


INDEXES = {
    (): ["ix_audits_tenant_created"],
    ("state",): ["ix_audits_tenant_state"],
    ("verdict", "after"): ["ix_audits_tenant_verdict"],
    ("model", "after"): ["ix_audits_tenant_candidate", "ix_audits_tenant_reference"],
}


@pytest.mark.parametrize("by", INDEXES)
def test_a_listing_reads_an_index_in_its_order_and_sorts_nothing(session: Session, by: tuple[str, ...]) -> None:
    """Without the ways that the planner takes for a small table, and among rows of which few are asked for: of an empty
    one all indexes cost the same, and whatever tests before left in its statistics decides."""
    for number in range(100):
        put_audit(session, created_at=-number * MINUTE)
    session.execute(text("ANALYZE audits"))
    for way in ("seqscan", "bitmapscan", "sort"):
        session.execute(text(f"SET LOCAL enable_{way} = off"))
    given = {"tenant": "t", "limit": 20, "state": "FAILED", "verdict": "warn", "model": "m", "after": datetime.now(UTC)}
    plan = "\n".join(session.execute(text(f"EXPLAIN {store.listing(by)}"), given | {"after_id": uuid4()}).scalars())
    assert re.findall(r"Index Scan using (ix_audits\w+)", plan) == INDEXES[by]
    assert "Sort  (" not in plan
    assert plan.count("< ROW(") == ("after" in by) * len(INDEXES[by])
    assert "Filter: (ROW(" not in plan


def test_a_listing_ends_before_and_begins_after_a_moment(session: Session) -> None:
    old, middle, new = (put_audit(session, created_at=-n * MINUTE) for n in (3, 2, 1))
    seen = store.find_audit(session, "t", middle)
    assert seen is not None
    assert listed(session, AuditFilter(created_after=seen.created_at)) == [new]
    assert listed(session, AuditFilter(created_before=seen.created_at)) == [old]


@pytest.mark.parametrize("state", OF_STATE)
def test_what_is_open_can_be_cancelled(session: Session, state: str) -> None:
    audit, other = put_audit(session, state), put_audit(session)
    assert store.cancel_audit(session, "t", audit) is (state in OPEN)
    found = row(session, "audits", audit)
    assert (found["state"], found["version"]) == (("CANCELLED", 2) if state in OPEN else (state, 1))
    if state in OPEN:
        assert found["finished_at"] == NOW
    assert row(session, "audits", other)["state"] == "QUEUED"


def test_nobody_cancels_what_is_another_tenants(session: Session) -> None:
    run = put_run(session)
    audit = put_audit(session, tenant="other", runs={"candidate": run})
    assert not store.cancel_audit(session, "t", audit)
    assert (row(session, "audits", audit)["state"], state_of(session, run)) == ("QUEUED", "QUEUED")


@pytest.mark.parametrize("state", OF_STATE)
def test_runs_that_nobody_else_needs_are_given_up_with_their_audit(session: Session, state: str) -> None:
    run, unrelated, left, compare = put_run(session, state), put_run(session), put_run(session), put_run(session)
    audit = put_audit(session, runs={"candidate": run})
    put_audit(session, "CANCELLED", {"candidate": left})
    # Another audit, with a comparison that waits for something else.
    put_dependency(session, compare, put_run(session))
    put_audit(session, runs={"compare": compare})
    before = row(session, "runs", run)["finished_at"]
    assert store.cancel_audit(session, "t", audit)
    found = row(session, "runs", run)
    assert found["state"] == ("CANCELLED" if state == "QUEUED" else state)
    assert found["cancel_requested"] is (state in OPEN)
    assert found["finished_at"] == (NOW if state == "QUEUED" else before)
    for other in (unrelated, left, compare):
        assert (state_of(session, other), row(session, "runs", other)["cancel_requested"]) == ("QUEUED", False)


@pytest.mark.parametrize("how", ["itself", "through its comparison"])
@pytest.mark.parametrize("state", OF_STATE)
def test_a_run_stays_while_an_open_audit_needs_it(session: Session, state: str, how: str) -> None:
    run, compare = put_run(session), put_run(session, kind="compare")
    put_dependency(session, compare, run)
    put_dependency(session, put_run(session, kind="compare"), put_run(session))
    put_audit(session, state, {"candidate": run} if how == "itself" else {"compare": compare})
    assert store.cancel_audit(session, "t", put_audit(session, runs={"candidate": run}))
    assert state_of(session, run) == ("QUEUED" if state in OPEN else "CANCELLED")


# Idempotency-Keys


B, C = (idempotency.BodyDigests(f"{name} now", f"{name} then", f"{name} at first") for name in "bc")


def test_an_answer_is_found_by_tenant_and_key(session: Session) -> None:
    audit = put_audit(session)
    assert idempotency.remember_idempotent(session, "t", "k", B, audit, 202)
    assert idempotency.find_idempotent(session, "t", "k") == idempotency.Answer("b then", "b now", audit, 202)
    assert idempotency.find_idempotent(session, "t", "other") is None
    assert idempotency.find_idempotent(session, "other", "k") is None


def test_an_answer_is_given_once_and_kept(session: Session) -> None:
    first, second = put_audit(session), put_audit(session)
    assert idempotency.remember_idempotent(session, "t", "k", B, first, 202)
    assert not idempotency.remember_idempotent(session, "t", "k", C, second, 201)
    assert idempotency.find_idempotent(session, "t", "k") == idempotency.Answer("b then", "b now", first, 202)
    assert idempotency.remember_idempotent(session, "t", "other", C, second, 201)


def test_a_request_is_told_apart_by_what_was_sent_under_both_schemes() -> None:
    body, spelled = {"a": 1.0}, {"a": 1.0, "b": None}
    assert idempotency.body_digests(body, spelled) == idempotency.BodyDigests(
        present=digest_of({"a": 1}, "rfc8785/1"),
        former=digest_of(body, "python-json/1"),
        spelled_out=digest_of(spelled, "python-json/1"),
    )


@pytest.mark.parametrize(
    ("stored", "same"),
    [
        (("b then", "b now"), True),
        (("c then", "b now"), True),
        (("b then", "c now"), False),
        (("b then", None), True),
        (("b at first", None), True),
        (("b now", None), False),
        (("c then", None), False),
    ],
)
def test_an_answer_is_to_the_same_request_under_the_newest_scheme_that_it_has(
    stored: tuple[str, str | None], same: bool
) -> None:
    assert idempotency.Answer(*stored, UUID(int=0), 202).is_to(B) is same


def test_a_key_is_locked_under_the_number_that_every_release_locks(shared_ledger: Ledger, session: Session) -> None:
    assert idempotency.lock_idempotency_key(session, "a", "b")
    with Session(shared_ledger.engine) as other:
        number = "hashtextextended('a' || chr(10) || 'b', 0)"
        assert not other.execute(text(f"SELECT pg_try_advisory_xact_lock({number})")).scalar_one()


def test_a_key_is_locked_for_its_tenant_alone(shared_ledger: Ledger, session: Session) -> None:
    assert idempotency.lock_idempotency_key(session, "a", "b")
    with Session(shared_ledger.engine) as other:
        assert not idempotency.lock_idempotency_key(other, "a", "b")
        for tenant, key in (("a", "c"), ("c", "b"), ("b", "a"), ("ab", ""), ("", "ab"), ("a\n", "b"), ("a", "\nb")):
            assert idempotency.lock_idempotency_key(other, tenant, key), (tenant, key)


# models


def named(session: Session, name: str, tenant: str = "t") -> UUID:
    made = models.insert_model(
        session, tenant, name, reference=f"local:{name}", description=f"about {name}", labels={"of": name}
    )
    assert made is not None
    return made


def test_a_model_is_found_by_name_or_id_by_its_tenant(session: Session) -> None:
    model, _ = named(session, "m"), named(session, "n")
    theirs = named(session, "m", "other")
    for name in ("m", str(model)):
        found = models.find_model(session, "t", name)
        assert found is not None
        assert (found.id, found.name, found.reference, found.description, found.labels) == (
            model, "m", "local:m", "about m", {"of": "m"},
        )  # fmt: skip
    assert models.find_model(session, "t", str(theirs)) is None
    assert models.find_model(session, "t", "o") is None
    assert models.find_model(session, "t", str(uuid4())) is None


def test_a_name_that_looks_like_an_id_is_a_name_first(session: Session) -> None:
    other = named(session, "m")
    model = named(session, str(other))
    found = models.find_model(session, "t", str(other))
    assert found is not None
    assert found.id == model


def test_a_name_is_taken_once_for_each_tenant(session: Session) -> None:
    kept = named(session, "m")
    again = models.insert_model(session, "t", "m", reference="local:x", description=None, labels={})
    assert again is None
    found = models.find_model(session, "t", "m")
    assert found is not None
    assert (found.id, found.reference) == (kept, "local:m")


def test_models_are_listed_by_name_from_where_the_last_page_ended(session: Session) -> None:
    for name in ("b", "a", "c"):
        named(session, name)
    named(session, "d", "other")

    def names(after: str | None = None, limit: int = 99) -> list[str]:
        return [model.name for model in models.list_models(session, "t", after=after, limit=limit)]

    assert (names(), names("a"), names("a", 1), names("c")) == (["a", "b", "c"], ["b", "c"], ["b"], [])


# prompt sets

SET = PromptSet(("p", "q"), ("x", "y"), "name")


def test_a_prompt_set_is_stored_once_and_found_by_its_digest(session: Session) -> None:
    prompts, other, built_in = SET, PromptSet(("r",), ("z",), None), builtin_prompts("hh-harmless-64")
    for each in (prompts, other, replace(SET, name="another name"), built_in, built_in):
        prompt_sets.store_prompt_set(session, each)
    found = prompt_sets.load_prompt_set(session, prompts.digest)
    # The content is everybody's, and what somebody calls it is not.
    assert (found.prompts, found.continuations, found.name) == (("p", "q"), ("x", "y"), None)
    assert prompt_sets.load_prompt_set(session, other.digest).prompts == ("r",)
    assert prompt_sets.load_prompt_set(session, built_in.digest) == built_in
    with pytest.raises(PromptSetNotFound):
        prompt_sets.load_prompt_set(session, "0" * 64)


def put_prompt_set(session: Session, digest: str, minutes: int = 0, owners: tuple[str, ...] = ("t",)) -> None:
    """Content whose only prompt is its digest; its owners call it by their own names."""
    put(session, "prompt_sets", digest=digest, prompts=f'["{digest}"]', continuations="[null]", count=minutes)
    for owner in owners:
        put(
            session, "tenant_prompt_sets", tenant=owner, digest=digest, name=f"{digest} of {owner}",
            created_at=-minutes * MINUTE,
        )  # fmt: skip


def test_prompt_sets_are_listed_newest_first_for_their_tenant(session: Session) -> None:
    for digest, minutes in (("a", 2), ("c", 1), ("b", 1)):
        put_prompt_set(session, digest, minutes, ("t", "other"))
    put_prompt_set(session, "d", owners=("other",))
    put_prompt_set(session, "e", owners=())
    found = [tuple(each) for each in prompt_sets.list_prompt_sets(session, "t", 99)]
    assert found == [("b", "b of t", 1), ("c", "c of t", 1), ("a", "a of t", 2)]
    assert [each.digest for each in prompt_sets.list_prompt_sets(session, "t", 1)] == ["b"]


FOUND: dict[str, tuple[str, str | None]] = {
    "by its digest": ("mine", "mine"),
    "by its name": ("mine of t", "mine"),
    "by the digest of what others have, too": ("both", "both"),
    "not by the digest of what only others have": ("theirs", None),
    "not by what others call it": ("both of other", None),
    "by the digest of what nobody has": ("nobody's", "nobody's"),
    "not at all": ("never", None),
    "by its digest before what is called so": ("digest", "digest"),
    "the newest that is called so": ("twice", "new"),
}


@pytest.mark.parametrize("how", FOUND)
def test_a_prompt_set_is_found(session: Session, how: str) -> None:
    for digest, owners in (("mine", ("t",)), ("both", ("t", "other")), ("theirs", ("other",)), ("nobody's", ())):
        put_prompt_set(session, digest, owners=owners)
    names = (("called", 0, "digest"), ("digest", 9, "d"), ("old", 2, "twice"), ("new", 1, "twice"))
    for digest, minutes, name in names:
        put_prompt_set(session, digest, minutes, owners=())
        put(session, "tenant_prompt_sets", tenant="t", digest=digest, name=name, created_at=-minutes * MINUTE)
    named, expected = FOUND[how]
    if expected is None:
        with pytest.raises(PromptSetNotFound):
            prompt_sets.find_prompt_set(session, "t", named)
    else:
        assert prompt_sets.find_prompt_set(session, "t", named).prompts == (expected,)


def test_a_tenants_set_has_the_name_that_the_tenant_gave_it_last(session: Session) -> None:
    def name_of(tenant: str = "t") -> str | None:
        return prompt_sets.find_prompt_set(session, tenant, SET.digest).name

    prompt_sets.keep_prompt_set(session, "t", SET)
    prompt_sets.keep_prompt_set(session, "other", replace(SET, name="theirs"))
    assert (name_of(), name_of("other")) == ("name", "theirs")
    for given, name in (("another", "another"), (None, "another"), ("another", "another")):
        prompt_sets.keep_prompt_set(session, "t", replace(SET, name=given))
        assert (name_of(), name_of("other")) == (name, "theirs")
    prompt_sets.keep_prompt_set(session, "t", builtin_prompts("hh-harmless-64"))
    assert [each.digest for each in prompt_sets.list_prompt_sets(session, "t", 9)] == [SET.digest]


HELD: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "its own": ({}, {}, True),
    "another tenant's": ({}, {"tenant": "other"}, False),
    "of another specification": ({"spec_digest": "r"}, {}, False),
    "not there yet": ({"state": "RUNNING"}, {}, False),
    "given up": ({"cancel_requested": True}, {}, False),
    "made after it was cancelled": ({"finished_at": NOW}, {"state": "CANCELLED", "finished_at": -TICK}, False),
}


@pytest.mark.parametrize("which", HELD)
def test_a_tenant_has_a_result_that_one_of_its_audits_holds(session: Session, which: str) -> None:
    of_run, of_audit, has = HELD[which]
    run = put_run(session, **({"state": "SUCCEEDED", "spec_digest": "s"} | of_run))
    members: dict[str, Any] = {"state": "QUEUED", "runs": {"candidate": run}}
    put_audit(session, **(members | of_audit))
    put_audit(session)
    assert store.has_result(session, "t", "s") is has


# traces and comparisons


def test_a_trace_comes_back_as_it_was_stored(session: Session) -> None:
    stored = {weights: stored_trace(session, weights, blocks=3) for weights in "ab"}
    # As they may lie on the disk after an update: not in the order of their insertion.
    session.execute(
        text("""ALTER TABLE trace_layers DISABLE TRIGGER ALL;
                CREATE TEMPORARY TABLE kept ON COMMIT DROP AS SELECT * FROM trace_layers ORDER BY policy, layer DESC;
                DELETE FROM trace_layers; INSERT INTO trace_layers SELECT * FROM kept""")
    )
    for weights, digest in stored.items():
        made = unnamed_trace(made_trace(weights, blocks=3))
        written = made.model_dump(mode="json", by_alias=True)
        found = traces.load_trace_document(session, digest)
        assert found == written
        assert [list(layer["positions"]) for layer in found["layers"]] == [["last", "all"]] * 4
        assert traces.load_trace(session, digest) == made
        head = session.execute(
            text("SELECT * FROM traces WHERE digest = :digest"), {"digest": digest}
        ).mappings().one()  # fmt: skip
        assert {name: head[name] for name in ("weights_digest", "prompt_set_digest", "fingerprint", "engine_version",
                                              "source", "n_layers", "capture_uri", "capture_bytes", "scheme")} == {
            "weights_digest": made.model.weights_digest, "prompt_set_digest": made.prompt_set.digest,
            "fingerprint": made.fingerprint, "engine_version": made.engine.version,
            "source": "weights:" + 12 * weights, "scheme": "rfc8785/1",
            "n_layers": 3, "capture_uri": f"file:{weights}", "capture_bytes": 7,
        }  # fmt: skip
        # The release before knows of no such members: its document lacks them, and so does its digest.
        known = traces.load_trace_document(session, digest, later=False)
        assert {*written} - {*known} == {"reading", "vocabulary"}
        assert {*written["prompt_set"]} - {*known["prompt_set"]} == {"continuation_ids_digest"}
        assert head["content_digest"] == traces.content_digest(known, "python-json/1")
        assert head["content_digest_rfc8785"] == traces.content_digest(written)
        assert "layers" not in head["document"]
    with pytest.raises(TraceNotFound):
        traces.load_trace_document(session, "0" * 64)


def test_content_is_digested_with_the_zero_that_the_database_keeps() -> None:
    assert traces.content_digest({"a": [-0.0, {"b": -0.0}]}) == traces.content_digest({"a": [0.0, {"b": 0.0}]})
    for scheme in ("rfc8785/1", "python-json/1"):
        others = {"a": [1.0, -1.0, 2, True, "-0.0", None, {"b": [0.5], "c": 2**53 - 1, "d": 1 - 2**53}]}
        assert traces.content_digest(others, scheme) == digest_of(others, scheme)
        minus, zero = ({"a": [value, {"b": value}], "c": value} for value in (-0.0, 0.0))
        assert traces.content_digest(minus, scheme) == digest_of(zero, scheme)
        # What the database gives back of 1e22, and of what is a whole number only to it.
        large = {"a": [10**22, {"b": -(10**22)}, 2**53, -(2**53)]}
        written = {"a": [1e22, {"b": -1e22}, 2.0**53, -(2.0**53)]}
        assert traces.content_digest(large, scheme) == digest_of(written, scheme)


@pytest.mark.parametrize(("edition", "scheme"), [(PRESENT, "rfc8785/1"), (FORMER, "python-json/1")])
def test_a_trace_names_the_scheme_of_its_digests(session: Session, edition: Edition, scheme: str) -> None:
    made = made_trace("a")
    stamped = stamp_profile(MeasurementProfile(), edition)
    digest = trace_digest("a" * 64, "b" * 64, str(stamped["fingerprint"]), made.engine.version)
    named = made.model_copy(update={"profile": stamped, "digest": digest})
    traces.store_trace(session, named, capture_uri="file:a", capture_bytes=7)
    assert session.execute(text("SELECT scheme FROM traces")).scalars().all() == [scheme]


def test_a_trace_stored_again_changes_nothing_but_the_place_of_its_capture(session: Session) -> None:
    digest, other = stored_trace(session, "a"), stored_trace(session, "b")
    before = traces.load_trace_document(session, digest)
    assert stored_trace(session, "a", uri="file:new") == digest
    assert traces.load_trace_document(session, digest) == before
    assert traces.stored_capture(session, digest) == traces.StoredCapture(digest, "file:new", 7)
    assert traces.stored_capture(session, other) == traces.StoredCapture(other, "file:b", 7)
    newest = traces.StoredCapture(digest, "file:newest", 9, "c" * 64)
    traces.replace_capture(session, newest, lost=False)
    assert traces.stored_capture(session, digest) == newest
    assert traces.stored_capture(session, other) == traces.StoredCapture(other, "file:b", 7)


def test_a_deleted_capture_is_no_capture(session: Session) -> None:
    put_trace(session, "here")
    put_trace(session, "gone", capture_uri=None, capture_bytes=None)
    assert traces.stored_capture(session, "gone") is None
    assert traces.stored_capture(session, "never") is None


ROLES = ("candidate", "reference", "control", "witness")


def put_holder(session: Session, digest: str, role: str = "candidate", state: str = "QUEUED", **members: Any) -> UUID:
    """An audit that holds a result in a role."""
    run = put_run(session, "SUCCEEDED", result_digest=digest)
    return put_audit(session, state, {role: run}, **members)


@pytest.mark.parametrize("role", ROLES)
def test_a_trace_is_readable_for_tenants_whose_audits_refer_to_it(session: Session, role: str) -> None:
    put_trace(session, "1")
    put_trace(session, "2")
    put_holder(session, "1", role)
    put_holder(session, "1", role)
    put_holder(session, "2", role, tenant="other")
    put_run(session, "SUCCEEDED", result_digest="2")
    assert [traces.tenant_has_result(session, "t", digest) for digest in "12"] == [True, False]
    assert [each.digest for each in listed_traces(session)] == ["1"]


def listed_traces(session: Session, **how: Any) -> list[Any]:
    return traces.list_traces(session, "t", **({"weights": None, "after": None, "limit": 99} | how))


def test_traces_are_listed_newest_first_from_where_the_last_page_ended(session: Session) -> None:
    for digest, minutes, weights in (("2", 2, "w"), ("4", 1, "v"), ("1", 2, "v"), ("3", 2, "w"), ("0", 3, "w")):
        put_trace(session, digest, created_at=-minutes * MINUTE, weights_digest=weights)
        put_holder(session, digest)
    found = listed_traces(session)
    assert [each.digest for each in found] == ["4", "3", "2", "1", "0"]
    assert [each.digest for each in listed_traces(session, limit=2)] == ["4", "3"]
    assert [each.digest for each in listed_traces(session, weights="w")] == ["3", "2", "0"]
    for at, each in enumerate(found):
        assert listed_traces(session, after=each.digest) == found[at + 1 :]


@pytest.mark.parametrize("owners", [("t",), (None,), ("other", "t"), ("other", None)])
def test_a_trace_made_for_the_tenant_or_for_all_is_listed(session: Session, owners: tuple[str | None, ...]) -> None:
    put_trace(session, "1")
    for owner in owners:
        spec = {} if owner is None else {"tenant": owner}
        run = put_run(session, "SUCCEEDED", result_digest="1", spec=spec)
        put_audit(session, runs={"candidate": run}, tenant=owner or "t")
    assert [each.digest for each in listed_traces(session)] == ["1"]


def test_what_no_audit_of_the_tenant_holds_begins_no_page(session: Session) -> None:
    """Else a digest that somebody can compute would tell whether another tenant has measured it."""
    for digest, tenant in (("1", "t"), ("2", "other")):
        put_trace(session, digest, created_at=-int(digest) * MINUTE)
        put_holder(session, digest, tenant=tenant)
    put_trace(session, "3", created_at=-3 * MINUTE)
    put_holder(session, "3")
    assert [each.digest for each in listed_traces(session, after="1")] == ["3"]
    assert listed_traces(session, after="2") == listed_traces(session, after="never") == []


def test_a_trace_is_called_and_dated_by_the_first_audit_of_the_tenant_that_holds_it(session: Session) -> None:
    put_trace(session, "1", created_at=-9 * MINUTE, source="local:theirs")
    run = put_run(session, "SUCCEEDED", result_digest="1", started_at=-7 * MINUTE, finished_at=-5 * MINUTE)
    ids = sorted(uuid4() for _ in range(3))
    names = {"prompt_set": {"name": "mine"}, "own_names": True}
    for id_, source, tenant, created in (
        (ids[2], "local:second", "t", -MINUTE),
        (ids[1], "local:first", "t", -6 * MINUTE),
        (ids[0], "local:others", "other", -8 * MINUTE),
    ):
        spec = {"reference": {"source": source}, "candidate": None} | names
        put_audit(session, "SUCCEEDED", {"reference": run}, id=id_, tenant=tenant, created_at=created, spec=spec)
    # Another result of the tenant's, held before.
    put_holder(session, "2", id=UUID(int=1), spec={"candidate": {"source": "local:another"}})
    [head] = listed_traces(session)
    now = session.execute(text("SELECT now()")).scalar_one()
    assert (head.source, head.created_at) == ("local:first", now - 5 * MINUTE)
    first, by_id = held_by_tenant(session, "t", "1"), held_by_audit(session, ids[1], "reference")
    assert first is not None
    assert first == by_id
    assert (first.role, first.sources, first.prompt_set) == ("reference", {"reference": "local:first"}, "mine")
    assert first.occasion.duration_s == 60.0
    # Who came when it was there waited for nothing, and has it since then.
    later = held_by_audit(session, ids[2], "reference")
    assert later is not None
    assert (later.occasion.duration_s, later.occasion.at) == (0.0, written(now - MINUTE))
    assert first.occasion.at == written(now - 5 * MINUTE)
    assert first.name_trace(made_trace()).model.source == "local:first"
    nameless = replace(first, role="witness").name_trace(made_trace())
    assert nameless.model.source == "weights:aaaaaaaaaaaa"
    assert held_by_tenant(session, "nobody", "1") is None
    assert held_by_audit(session, ids[1], "candidate") is None


def written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ({"own_names": True, "prompt_set": {"name": "mine"}}, "mine"),
        ({"own_names": False, "prompt_set": {"name": "theirs"}}, None),
        ({"prompt_set": {"name": "theirs"}}, None),
        ({"prompt_set": {"name": "hh-harmless-64"}}, "hh-harmless-64"),
    ],
)
def test_a_prompt_set_is_called_what_the_tenant_calls_it(spec: dict[str, Any], name: str | None) -> None:
    spec["prompt_set"] |= {"digest": "d", "count": 3}
    assert prompt_set_of(spec) == {"digest": "d", "count": 3, "name": name}


def test_errors_of_the_release_before_are_read_without_the_hosts_in_them() -> None:
    worker = "gpu-7.internal/0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"
    error = {
        "detail": f"all 2 attempts failed; the last: worker {worker} fell silent during attempt 2",
        "attempts": [{"attempt": 1, "worker": worker, "detail": f"attempt 1 on {worker} was ended at its deadline"}],
        "status": 500,
    }
    assert without_hosts(error) == {
        "detail": "all 2 attempts failed; the last: a worker fell silent during attempt 2",
        "attempts": [{"attempt": 1, "detail": "attempt 1 on a worker was ended at its deadline"}],
        "status": 500,
    }
    assert without_hosts(None) is None


def test_an_audit_does_not_hold_what_is_not_made(session: Session) -> None:
    audit = put_audit(session, runs={"candidate": put_run(session, "RUNNING")})
    assert held_by_audit(session, audit, "candidate") is None


def test_a_comparison_is_found_by_both_its_traces_newest_first(session: Session) -> None:
    for digest in ("1", "2", "3"):
        put_trace(session, digest)
    pairs = {
        "old": ("1", "2"),
        "new": ("1", "2"),
        "oldest": ("1", "2"),
        "turned": ("2", "1"),
        "third": ("1", "3"),
        "other": ("3", "2"),
    }
    minutes = {"old": 2, "new": 1, "oldest": 3}
    for name, (reference, candidate) in pairs.items():
        put_comparison(session, name, reference, candidate, created_at=-minutes.get(name, 0) * MINUTE)
        put_holder(session, name, "compare")
    put_comparison(session, "theirs", "1", "2")
    put_holder(session, "theirs", "compare", tenant="other")
    put_comparison(session, "nobody's", "1", "2")
    for name, (reference, candidate) in pairs.items():
        found = traces.stored_comparison(session, "t", reference, candidate)
        assert found is not None
        assert found["name"] == ("new" if (reference, candidate) == ("1", "2") else name)
    assert traces.stored_comparison(session, "t", "2", "3") is None
    assert traces.load_comparison_document(session, "old") == {"name": "old", "verdict": {"outcome": "warn"}}
    assert traces.load_comparison_document(session, "never") is None


VERDICT_OF_TODAY = {"rules", "weights", "policy_digest", "decided_by", "former"}


def test_a_comparison_is_stored_once_with_both_its_sides(session: Session) -> None:
    made = changed_pair().compare()
    for side in (made.reference, made.candidate):
        put_trace(session, side.digest)
    traces.store_comparison(session, made)
    traces.store_comparison(session, made.model_copy(update={"warnings": ("another",)}))
    # Without the rules and digests of its verdict, which the release before could not read.
    unnamed = unnamed_comparison(made)
    written = unnamed.model_dump(mode="json", by_alias=True, exclude={"verdict": VERDICT_OF_TODAY})
    assert traces.load_comparison_document(session, made.digest) == written
    assert written["layers"]
    assert traces.load_comparison_document(session, made.digest, layers=False) == written | {"layers": []}
    assert "schema" in written
    found = session.execute(text("SELECT * FROM comparisons")).mappings().one()
    assert (found["reference_digest"], found["candidate_digest"], found["comparison_fingerprint"]) == (
        made.reference.digest, made.candidate.digest, made.profile["comparison_fingerprint"],
    )  # fmt: skip
    assert (found["content_digest_rfc8785"], found["scheme"]) == (traces.content_digest(written), "rfc8785/1")


def test_what_files_hold_is_known_as_it_was_last_read_until_that_is_too_long_ago(session: Session) -> None:
    snapshots.remember_weights_digest(session, "s", "w")
    snapshots.remember_weights_digest(session, "s", "v")
    snapshots.remember_weights_digest(session, "r", "u")
    # Code that kept no digests of single files had read them: they are read again.
    assert [snapshots.known_weights_digest(session, n, not_older_than_s=60) for n in "srq"] == [None, None, None]
    for weights in "vu":
        put(session, "weights_files", weights_digest=weights, files=Jsonb({}))
    assert [snapshots.known_weights_digest(session, n, not_older_than_s=60) for n in "srq"] == ["v", "u", None]
    session.execute(text("UPDATE snapshots SET created_at = now() - interval '61 s' WHERE snapshot_digest = 's'"))
    assert [snapshots.known_weights_digest(session, n, not_older_than_s=60) for n in "sr"] == [None, "u"]
    snapshots.remember_weights_digest(session, "s", "v")
    assert snapshots.known_weights_digest(session, "s", not_older_than_s=60) == "v"


def test_a_set_that_gets_another_name_is_the_newest_of_that_name(session: Session) -> None:
    first, second = (PromptSet((text_,), (None,), "mine") for text_ in ("p", "q"))
    for prompts in (first, second):
        prompt_sets.keep_prompt_set(session, "t", prompts)
    session.execute(text("UPDATE tenant_prompt_sets SET created_at = now() - make_interval(secs => 60)"))

    def kept(digest: str) -> tuple[str, timedelta]:
        found = row(session, "tenant_prompt_sets", digest, "digest")
        return found["name"], found["created_at"]

    # Stored again under its own name it is no newer than before.
    prompt_sets.keep_prompt_set(session, "t", first)
    assert kept(first.digest) == ("mine", -MINUTE)
    prompt_sets.keep_prompt_set(session, "t", replace(second, name="other"))
    assert kept(second.digest) == ("other", timedelta(0))
    prompt_sets.keep_prompt_set(session, "t", replace(second, name="mine"))
    assert prompt_sets.find_prompt_set(session, "t", "mine").digest == second.digest


# what may be deleted


def test_a_capture_may_go_although_others_are_needed_by_audits_that_have_made_little(session: Session) -> None:
    for digest in ("kept", "free"):
        put_trace(session, digest, created_at=-MINUTE - TICK)
    put_holder(session, "free", state="SUCCEEDED")
    done = put_run(session, "SUCCEEDED", result_digest="kept")
    put_audit(session, "RUNNING", {"reference": done, "candidate": put_run(session)})
    assert [each.digest for each in retained.old_captures(session, older_than_s=60.0)] == ["free"]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("state", OF_STATE)
def test_captures_of_open_audits_stay_and_those_of_ended_ones_may_go(session: Session, state: str, role: str) -> None:
    put_trace(session, "1", created_at=-MINUTE - TICK)
    put_holder(session, "1", role, state)
    capture = traces.StoredCapture("1", "file:1", 5)
    may_go = state in ENDED
    assert retained.old_captures(session, older_than_s=60.0) == ([capture] if may_go else [])
    assert retained.forget_capture(session, capture) is may_go
    assert traces.stored_capture(session, "1") == (None if may_go else capture)


def test_captures_are_old_after_their_time_oldest_first(session: Session) -> None:
    for digest, age in (("young", MINUTE), ("old", MINUTE + TICK), ("older", 3 * MINUTE), ("gone", 3 * MINUTE)):
        uri = None if digest == "gone" else f"file:{digest}"
        put_trace(session, digest, created_at=-age, capture_uri=uri, capture_bytes=None if digest == "older" else 5)
    put_trace(session, "needed", created_at=-9 * MINUTE)
    put_holder(session, "needed")
    assert retained.old_captures(session, older_than_s=60.0) == [
        traces.StoredCapture("older", "file:older", 0), traces.StoredCapture("old", "file:old", 5),
    ]  # fmt: skip


def test_a_capture_is_forgotten_where_it_was_found_and_nowhere_else(session: Session) -> None:
    for digest in ("1", "2"):
        put_trace(session, digest, capture_uri="file:same")
    assert not retained.forget_capture(session, traces.StoredCapture("1", "file:former", 5))
    assert retained.forget_capture(session, traces.StoredCapture("1", "file:same", 5))
    left = session.execute(text("SELECT digest, capture_uri, capture_bytes FROM traces ORDER BY digest")).all()
    assert [tuple(each) for each in left] == [("1", None, None), ("2", "file:same", 5)]


def test_files_that_no_trace_names(session: Session) -> None:
    put_trace(session, "1", capture_uri="file:named")
    put_trace(session, "2", capture_uri=None)
    assert retained.unnamed_captures(session, ["file:z", "file:named", "file:a"]) == ["file:a", "file:z"]
    assert retained.unnamed_captures(session, []) == []


def test_answers_are_old_after_their_time(session: Session) -> None:
    audit = put_audit(session)
    for key, age in (("young", MINUTE), ("old", MINUTE + TICK), ("older", 3 * MINUTE)):
        put(
            session, "idempotency_keys", tenant="t", key=key, body_digest="b", audit_id=audit, status=202,
            created_at=-age,
        )  # fmt: skip
    assert retained.count_idempotency_keys(session, older_than_s=60.0) == 2
    assert retained.delete_idempotency_keys(session, older_than_s=60.0) == 2
    assert [idempotency.find_idempotent(session, "t", key) is None for key in ("young", "old", "older")] == [
        False, True, True,
    ]  # fmt: skip


# runs that callers need


def need(session: Session, specs: dict[str, Any], **members: Any) -> dict[str, UUID]:
    given: dict[str, Any] = {"queue_of": lambda kind: f"of {kind.name}", "priority": 0, "traceparent": None}
    return demand.need_runs(session, specs, **(given | members))


SPECS = {
    "candidate": {"kind": "trace", "of": 2, "scheme": "rfc8785/1"},
    "reference": {"kind": "trace", "of": 3},
}
SPECS = {"compare": {"kind": "compare", "of": 1, "needs": SPECS, "scheme": "rfc8785/1"}, **SPECS}


def test_what_a_needed_run_is_made_of(session: Session) -> None:
    found = need(session, SPECS, priority=4, traceparent="00-x")
    for role, spec in SPECS.items():
        made = row(session, "runs", found[role])
        assert (made["kind"], made["spec"], made["spec_version"], made["spec_digest"], made["scheme"]) == (
            spec["kind"], spec, (PRESENT if "scheme" in spec else FORMER).since, spec_digest(spec),
            spec.get("scheme", "python-json/1"),
        )  # fmt: skip
        assert (made["queue"], made["priority"], made["traceparent"]) == (f"of {spec['kind']}", 4, "00-x")
        assert (made["state"], made["attempt"], made["depth"]) == ("QUEUED", 0, int(role == "compare"))
    waits = session.execute(text("SELECT run_id, depends_on FROM run_dependencies")).all()
    assert {tuple(each) for each in waits} == {
        (found["compare"], found["candidate"]), (found["compare"], found["reference"]),
    }  # fmt: skip


def test_a_run_is_of_no_priority_unless_it_is_said(session: Session) -> None:
    assert row(session, "runs", demand.find_or_create_run(session, SPECS["candidate"], queue="q"))["priority"] == 0


def test_a_run_that_succeeds_between_look_and_insert_is_shared_and_left_as_it_is(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SPECS["candidate"]
    done = put_run(session, "SUCCEEDED", spec_digest=spec_digest(spec), priority=1)
    look = demand._succeeded
    seen: list[str] = []

    def too_early_at_first(session: Session, digest: str) -> UUID | None:
        seen.append(digest)
        return look(session, digest) if len(seen) > 1 else None

    monkeypatch.setattr(demand, "_succeeded", too_early_at_first)
    assert demand.find_or_create_run(session, spec, queue="q", priority=5) == done
    assert seen == [spec_digest(spec)] * 2
    assert row(session, "runs", done)["priority"] == 1


@pytest.mark.parametrize(("name", "result"), [("Trace", "traces"), ("trace", "tra;ces"), ("", "traces")])
def test_a_kind_has_names_that_a_statement_can_hold(name: str, result: str) -> None:
    with pytest.raises(ValueError, match="expected names like"):
        Kind(name, version=4, carry_out="a:b", result=result)


def test_attempts_of_a_kind_are_what_the_settings_say() -> None:
    settings = Settings(max_attempts=7, backoff_s=0.5)
    for kind in ("trace", "compare", "of later code"):
        assert attempts_of(kind, settings) == Attempts(7, 0.5)
    # The first attempt, and one behind each pause of its schedule.
    assert attempts_of("deliver", settings) == Attempts(len(SCHEDULE_S) + 1, 0.5)
    assert set(KINDS) == {"trace", "compare", "deliver"}


def test_traces_are_one_run_when_they_are_the_same(session: Session) -> None:
    same = {"candidate": SPECS["candidate"], "reference": SPECS["candidate"]}
    same = {"compare": {"kind": "compare", "needs": same}, **same}
    found = need(session, same)
    assert found["candidate"] == found["reference"]
    assert len(session.execute(text("SELECT 1 FROM run_dependencies")).all()) == 1


def test_a_needed_run_wakes_the_dispatchers_once(shared_ledger: Ledger, session: Session) -> None:
    with shared_ledger.engine.connect() as listening:
        raw: Any = listening.connection.driver_connection
        raw.autocommit = True
        raw.execute(f"LISTEN {CHANNEL}")
        # Committed, as only then anybody is told; and put away at once.
        with shared_ledger.begin() as committed:
            run = need(committed, {"candidate": SPECS["candidate"]})["candidate"]
            assert need(committed, {"candidate": SPECS["candidate"]}) == {"candidate": run}
        with shared_ledger.begin() as committed:
            committed.execute(text("TRUNCATE runs CASCADE"))
        told = list(raw.notifies(timeout=10.0, stop_after=1)) + list(raw.notifies(timeout=0.0))
        raw.autocommit = False
    assert [notice.payload for notice in told] == [str(run)]


@pytest.mark.parametrize("unwanted", [False, True])
@pytest.mark.parametrize("state", OF_STATE)
def test_a_run_is_shared_while_it_is_wanted_and_can_still_succeed(session: Session, state: str, unwanted: bool) -> None:
    spec = SPECS["candidate"]
    old = put_run(session, state, spec_digest=spec_digest(spec), cancel_requested=unwanted, priority=2)
    put_run(session, "SUCCEEDED")
    found = need(session, {"candidate": spec}, priority=3)["candidate"]
    shared = state in (*OPEN, "SUCCEEDED") and not unwanted
    assert (found == old) is shared
    assert need(session, {"candidate": spec}, priority=1)["candidate"] == found
    assert row(session, "runs", old)["priority"] == (3 if shared and state != "SUCCEEDED" else 2)
    assert row(session, "runs", found)["priority"] == (2 if found == old and state == "SUCCEEDED" else 3)


# keys


def test_a_key_opens_for_its_tenant_what_it_was_made_for(session: Session) -> None:
    key = keys.create_key(session, tenant="t", scopes=("read", "write"), pepper="p")
    keys.create_key(session, tenant="other", scopes=("admin",), pepper="p")
    prefix, key_id, secret = key.split("_", 2)
    assert keys.authenticate(session, key, pepper="p") == keys.Caller("t", frozenset({"read", "write"}), key_id)
    for wrong in (
        f"{prefix}_{key_id}_{secret}x", f"{prefix}_{'0' * 16}_{secret}", f"key_{key_id}_{secret}",
        f"{prefix}_{key_id}_", f"{prefix}__{secret}", f"{prefix}_{key_id}", prefix, "", f"{prefix}_\x00_{secret}",
        f"{prefix}_{key_id}_\ud800",
    ):  # fmt: skip
        assert keys.authenticate(session, wrong, pepper="p") is None, wrong
    assert keys.authenticate(session, key, pepper="another") is None
    assert keys.authenticate(session, f"{prefix}_unknown_", pepper="p") is None


def test_what_is_kept_of_a_key(session: Session) -> None:
    _, key_id, secret = keys.create_key(session, tenant="t", scopes=("read",), pepper="pepper").split("_", 2)
    assert (len(key_id), len(secret), secret[:2]) == (16, 45, keys.BOUND)
    kept = session.execute(text("SELECT secret_hmac, bound_hmac FROM api_keys WHERE id = :id"), {"id": key_id}).one()
    # What the former release asks for, and what covers the rest of the row under a key of its own.
    assert kept.secret_hmac == hmac.new(b"pepper", secret.encode(), "sha256").hexdigest()
    derived = hmac.new(b"pepper", b"spinal/api-key/1", "sha256").digest()
    said = f'["t", "{key_id}", ["read"]]'.encode()
    framed = b"".join(len(part).to_bytes(8, "big") + part for part in (said, secret.encode()))
    assert kept.bound_hmac == hmac.new(derived, framed, "sha256").hexdigest()


def test_an_unknown_key_is_no_key_whatever_its_secret(session: Session) -> None:
    """The comparison that is made for an unknown key, too, has no secret that opens it."""
    assert keys.authenticate(session, "spk_0_p", pepper="p") is None
    assert keys.authenticate(session, "spk_0_p", pepper="") is None


def test_a_revoked_key_opens_nothing(session: Session) -> None:
    key, other = (keys.create_key(session, tenant="t", scopes=("read",), pepper="p") for _ in range(2))
    key_id = key.split("_")[1]
    assert keys.revoke_key(session, key_id)
    assert keys.authenticate(session, key, pepper="p") is None
    assert keys.authenticate(session, other, pepper="p") is not None
    assert not keys.revoke_key(session, key_id)
    assert not keys.revoke_key(session, "unknown")


@pytest.mark.parametrize(("left", "open_"), [(None, True), (timedelta(microseconds=1), True), (NOW, False)])
def test_a_key_ends_at_its_time(session: Session, left: timedelta | None, open_: bool) -> None:
    key = keys.create_key(session, tenant="t", scopes=("read",), pepper="p")
    session.execute(
        text("UPDATE api_keys SET expires_at = now() + :left WHERE id = :id"), {"id": key.split("_")[1], "left": left}
    )
    assert (keys.authenticate(session, key, pepper="p") is not None) is open_
