"""A kind of run is one entry of one table: what is not in it is left alone, what is in it is found everywhere."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import structlog
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.orm import Session
from structlog.testing import LogCapture

from service.app import bare_app
from service.database.tables import AuditRunRecord
from service.database.unit_of_work import Ledger
from service.operations.invariants import violations
from service.prompt_sets.store import store_prompt_set
from service.runs import rings, transitions
from service.runs.demand import need_runs
from service.runs.kinds import KINDS, Attempts, Kind, UnknownKind, attempts_of
from service.runs.settle import settle_audit
from service.runs.specs import depth, needs
from service.settings import Settings, get_settings
from spinal.errors import RunStalled
from spinal.progress import Progress
from spinal.prompts.sets import PromptSet
from tests.support.waiting import until
from tests.worker.test_metrics import gauges
from worker import tasks
from worker.dispatcher import Dispatcher
from worker.job import Job

Drain = Callable[[], int]
RESULT = PromptSet(("a prompt",), (None,))
QUEUE = "elsewhere"
DEADLINE_S = 77.0


def progress_of(session: Session, run: UUID) -> Any:
    return session.execute(text("SELECT progress FROM runs WHERE id = :id"), {"id": run}).scalar()


def carry_out(job: Job) -> None:
    """The worker's part of the fake kind: its result is a prompt set."""
    job.report(Progress("faking", 1, 2, 0.5))
    until(lambda: job.read(lambda session: progress_of(session, job.claim.run_id)), "the progress to be told")
    job.finish(RESULT.digest, lambda session: store_prompt_set(session, RESULT))


def carry_out_too_late(job: Job) -> None:
    """As a worker that was taken for dead before it was done."""

    def take_back(session: Session) -> None:
        session.execute(text("UPDATE runs SET lease_until = now() WHERE id = :id"), {"id": job.claim.run_id})
        transitions.reap_expired(session, attempts_of=lambda _kind: Attempts(3, 0.0))

    job.write(take_back)
    job.finish(RESULT.digest, lambda session: store_prompt_set(session, RESULT))


def carry_out_in_vain(_: Job) -> None:
    raise RunStalled("full")


def carry_out_with_models(job: Job) -> None:
    assert job.model_roots


def carry_out_with_engine(job: Job) -> None:
    assert job.engine


def carry_out_with_artifacts(job: Job) -> None:
    assert job.artifacts


FAKE = Kind(
    "fake",
    version=4,
    carry_out=f"{__name__}:{carry_out.__name__}",
    result="prompt_sets",
    queue=lambda _settings: QUEUE,
    attempts=lambda _settings: Attempts(2, 0.0),
    deadline_s=lambda _settings: DEADLINE_S,
)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Kind:
    """The one place in which a kind is added."""
    monkeypatch.setitem(KINDS, FAKE.name, FAKE)
    return FAKE


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the worker's task says."""
    captured = LogCapture()
    monkeypatch.setattr(tasks, "log", structlog.wrap_logger(None, [captured], structlog.BoundLogger))
    return captured.entries


def need(
    ledger: Ledger, settings: Settings, kinds: dict[str, str], *, name: str = "n", priority: int = 0
) -> dict[str, UUID]:
    """Runs by role, of the kinds by role."""
    specs = {role: {"kind": kind, "n": f"{name} {role}"} for role, kind in kinds.items()}
    with ledger.begin() as session:
        return need_runs(
            session, specs, queue_of=lambda kind: kind.queue(settings), priority=priority, traceparent=None
        )


def row(ledger: Ledger, run: UUID) -> Any:
    with ledger.read() as session:
        return session.execute(
            text("SELECT *, EXTRACT(epoch FROM not_before - now()) AS wait_s FROM runs WHERE id = :id"), {"id": run}
        ).one()


def test_a_kind_added_in_one_place_is_queued_carried_out_stored_and_shown(
    api: TestClient, drain: Drain, ledger: Ledger, api_settings: Settings, fake: Kind
) -> None:
    place = api.post("/v1/audits", json={"candidate": "local:sft", "prompt_set": "hh-harmless-64"}).headers["Location"]
    audit = UUID(place.rsplit("/", 1)[1])
    run = need(ledger, api_settings, {"fake": fake.name})["fake"]
    with ledger.begin() as session:
        session.add(AuditRunRecord(audit_id=audit, role="fake", run_id=run))
        session.flush()
        settle_audit(session, audit)
    assert api.get(place).json()["progress"]["runs"]["fake"]["state"] == "QUEUED"
    assert (row(ledger, run).queue, row(ledger, run).spec_version) == (QUEUE, fake.version)

    assert drain() == 2

    shown = api.get(place).json()
    assert shown["state"] == "SUCCEEDED"
    assert shown["progress"]["runs"]["fake"] == {
        "state": "SUCCEEDED", "attempt": 1, "phase": "finished", "done": 2, "total": 2, "fraction": 1.0,
    }  # fmt: skip
    assert row(ledger, run).result_digest == RESULT.digest
    assert (row(ledger, run).deadline_at - row(ledger, run).started_at).total_seconds() == DEADLINE_S
    assert gauges(ledger)["spinal_attempts_total,fake,succeeded"] == 1
    with ledger.begin() as session:
        assert violations(session) == {}
        session.execute(text("DELETE FROM prompt_sets WHERE digest = :digest"), {"digest": RESULT.digest})
        assert violations(session) == {"a succeeded run has its result": [run]}
        session.rollback()


def test_the_contract_names_every_kind_there_is(fake: Kind) -> None:
    runs = bare_app().openapi()["components"]["schemas"]["Progress"]["properties"]["runs"]
    assert all(f"``{name}``" in runs["description"] for name in KINDS)


def test_a_worker_leaves_a_kind_that_it_does_not_know_to_one_that_does(
    drain: Drain, ledger: Ledger, api_settings: Settings, fake: Kind, monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    run = need(ledger, api_settings, {"fake": fake.name})["fake"]
    with monkeypatch.context() as older:
        older.delitem(KINDS, fake.name)
        assert drain() == 1
        assert (row(ledger, run).state, row(ledger, run).attempt) == ("QUEUED", 0)
        with ledger.begin() as session:
            assert transitions.claim(session, run, worker="w", lease_s=60.0, deadline_s=60.0) is None
            # The doorbell was spent on the older worker.
            rings.mark_not_rung(session, [run])
    left = [(entry["log_level"], entry["kind"]) for entry in logged if "left to workers" in entry["event"]]
    assert left == [("warning", fake.name)]
    assert drain() == 1
    assert row(ledger, run).state == "SUCCEEDED"


def test_a_run_of_an_unknown_kind_stands_in_the_way_of_no_other(
    drain: Drain, ledger: Ledger, api_settings: Settings, fake: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, fake.name, replace(fake, queue=KINDS["trace"].queue))
    urgent = need(ledger, api_settings, {"fake": fake.name}, priority=9)["fake"]
    other = need(ledger, api_settings, {"candidate": "trace"})["candidate"]
    with ledger.begin() as session:
        assert len(rings.due_runs(session, ring_again_s=60.0, again=())) == 2
    monkeypatch.delitem(KINDS, fake.name)
    claims = [tasks._claim(rung, f"w/{rung}", get_settings()) for rung in (urgent, other)]
    assert [claim and claim.run_id for claim in claims] == [other, None]


@pytest.mark.parametrize("lacking", ["worker.kinds.absent:carry_out", f"{__name__}:absent", "entry"])
def test_what_cannot_be_carried_out_here_goes_back_uncharged_and_loudly(
    drain: Drain,
    ledger: Ledger,
    api_settings: Settings,
    fake: Kind,
    monkeypatch: pytest.MonkeyPatch,
    logged: list[Any],
    lacking: str,
) -> None:
    run = need(ledger, api_settings, {"fake": fake.name})["fake"]
    if lacking == "entry":
        claim = tasks._claim(run, "w", get_settings())
        assert claim is not None
        monkeypatch.delitem(KINDS, fake.name)
        assert tasks._carry_out(claim, get_settings()) is None
    else:
        monkeypatch.setitem(KINDS, fake.name, replace(fake, carry_out=lacking))
        assert tasks.perform(run, "w") is None
    found = row(ledger, run)
    assert (found.state, found.attempt, found.charged_attempts) == ("QUEUED", 1, 0)
    # Taken at once again it would go round and round.
    assert 0 < found.wait_s <= api_settings.ring_again_s
    assert [entry["kind"] for entry in logged if entry["log_level"] == "error"] == [fake.name]
    with ledger.begin() as session:
        assert session.execute(text("SELECT outcome FROM run_attempts")).scalars().all() == ["released"]


def test_a_result_that_comes_too_late_is_not_stored(
    drain: Drain, ledger: Ledger, api_settings: Settings, fake: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, fake.name, replace(fake, carry_out=f"{__name__}:{carry_out_too_late.__name__}"))
    run = need(ledger, api_settings, {"fake": fake.name})["fake"]
    with ledger.begin() as session:
        rings.due_runs(session, ring_again_s=60.0, again=())
    problem = tasks.perform(run, "w")
    assert problem is not None
    assert problem.code == "lease_lost"
    assert row(ledger, run).state == "QUEUED"
    with ledger.read() as session:
        assert session.execute(text("SELECT count(*) FROM prompt_sets")).scalar_one() == 0
        assert session.execute(text("SELECT refused_writes FROM run_attempts")).scalar_one() == 1


def test_a_kind_has_attempts_of_its_own_whether_they_fail_or_are_lost(
    drain: Drain, ledger: Ledger, api_settings: Settings, fake: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fake.attempts(api_settings).most != api_settings.max_attempts
    monkeypatch.setitem(KINDS, fake.name, replace(fake, carry_out=f"{__name__}:{carry_out_in_vain.__name__}"))
    failing = need(ledger, api_settings, {"fake": fake.name}, name="failing")["fake"]
    assert drain() == 2
    assert (row(ledger, failing).state, row(ledger, failing).attempt) == ("FAILED", 2)
    lost = need(ledger, api_settings, {"fake": fake.name}, name="lost")["fake"]
    dispatcher = Dispatcher(get_settings())
    for state in ("QUEUED", "FAILED"):
        with ledger.begin() as session:
            session.execute(text("UPDATE runs SET not_before = now() WHERE id = :id"), {"id": lost})
            assert transitions.claim(session, lost, worker="w", lease_s=0.0, deadline_s=60.0)
        dispatcher.reap()
        assert row(ledger, lost).state == state
    dispatcher.close()
    assert attempts_of("of later code", api_settings).most == api_settings.max_attempts


@pytest.mark.parametrize("function", [carry_out_with_models, carry_out_with_engine, carry_out_with_artifacts])
def test_a_job_reaches_what_its_kind_lists_and_nothing_else(
    drain: Drain,
    ledger: Ledger,
    api_settings: Settings,
    fake: Kind,
    monkeypatch: pytest.MonkeyPatch,
    function: Callable[[Job], None],
) -> None:
    asked = function.__name__.removeprefix("carry_out_with_")
    monkeypatch.setitem(KINDS, fake.name, replace(fake, carry_out=f"{__name__}:{function.__name__}"))
    run = need(ledger, api_settings, {"fake": fake.name})["fake"]
    drain()
    assert f"do not reach {asked}" in row(ledger, run).error["detail"]


def test_runs_wait_for_those_that_their_specifications_need(ledger: Ledger, fake: Kind) -> None:
    traces: dict[str, dict[str, Any]] = {
        role: {"kind": "trace", "n": role} for role in ("candidate", "reference", "witness")
    }
    compare: dict[str, Any] = {"kind": "compare", "needs": {role: traces[role] for role in ("candidate", "reference")}}
    last: dict[str, Any] = {"kind": fake.name, "needs": {"pair": compare, "beside": traces["witness"]}}
    specs = {"last": last, "compare": compare, "also": {"kind": fake.name, "n": "alone"}, **traces}
    with ledger.begin() as session:
        found = need_runs(session, specs, queue_of=lambda _kind: "q", priority=0, traceparent=None)
    with ledger.read() as session:
        rows = session.execute(text("SELECT run_id, depends_on FROM run_dependencies")).all()
        depths = {row.id: row.depth for row in session.execute(text("SELECT id, depth FROM runs"))}
    waits = {role: {other for other, run in found.items() if (found[role], run) in map(tuple, rows)} for role in found}
    assert waits == {role: set() for role in (*traces, "also")} | {
        "compare": {"candidate", "reference"}, "last": {"compare", *traces},
    }  # fmt: skip
    assert {role: depths[run] for role, run in found.items()} == dict.fromkeys((*traces, "also"), 0) | {
        "compare": 1, "last": 2,
    }  # fmt: skip


def test_what_waits_for_a_failure_in_any_way_fails_with_it_and_is_not_shared(ledger: Ledger, fake: Kind) -> None:
    trace: dict[str, Any] = {"kind": "trace", "n": "t"}
    compare: dict[str, Any] = {"kind": "compare", "needs": {"candidate": trace}}
    specs = {"candidate": trace, "compare": compare, "last": {"kind": fake.name, "needs": {"pair": compare}}}

    def submitted() -> dict[str, UUID]:
        with ledger.begin() as session:
            return need_runs(session, specs, queue_of=lambda _kind: "q", priority=0, traceparent=None)

    first = submitted()
    with ledger.begin() as session:
        assert transitions.claim(session, first["candidate"], worker="w", lease_s=9.0, deadline_s=9.0)
        transitions.fail(
            session, first["candidate"], 1, {"code": "c"}, retryable=False, max_attempts=1, backoff_s=0.0
        )  # fmt: skip
    assert {role: row(ledger, run).state for role, run in first.items()} == dict.fromkeys(specs, "FAILED")
    assert not set(submitted().values()) & set(first.values())


def test_what_is_needed_has_to_be_asked_for(ledger: Ledger) -> None:
    compare = {"kind": "compare", "needs": {"candidate": {"kind": "trace", "n": 1}}}
    with ledger.begin() as session, pytest.raises(ValueError, match="compare needs candidate"):
        need_runs(session, {"compare": compare}, queue_of=lambda _kind: "q", priority=0, traceparent=None)


@pytest.mark.parametrize("control", [None, {"kind": "trace", "n": "x"}])
def test_a_comparison_of_the_release_before_needs_its_sides(control: dict[str, Any] | None) -> None:
    """Its specifications go on meaning what they meant, and so do their digests."""
    sides = {"reference": {"kind": "trace", "n": "r"}, "candidate": {"kind": "trace", "n": "c"}}
    spec = {"kind": "compare", **sides, "control": control, "profile": {}}
    assert needs(spec) == sides | ({} if control is None else {"control": control})
    assert (depth(spec), depth(sides["candidate"])) == (1, 0)


def test_a_kind_that_does_not_exist_cannot_be_asked_for(ledger: Ledger, api_settings: Settings) -> None:
    with pytest.raises(UnknownKind, match="no kind of run is called 'absent'; known are trace, compare"):
        need(ledger, api_settings, {"candidate": "absent"})
    with ledger.read() as session:
        assert session.execute(text("SELECT count(*) FROM runs")).scalar_one() == 0


@pytest.mark.parametrize(
    ("name", "result"), [("Fake", "traces"), ("f" * 33, "traces"), ("fake", "traces; DROP TABLE runs")]
)
def test_an_entry_with_a_name_that_the_database_would_refuse_is_refused_at_once(name: str, result: str) -> None:
    with pytest.raises(ValueError, match="expected names like"):
        replace(FAKE, name=name, result=result)


def test_what_the_two_kinds_are_given_is_what_the_settings_say() -> None:
    settings = Settings(trace_queue="gpu", max_attempts=7, backoff_s=1.5, run_deadline_s=99.0)
    for kind in (KINDS["trace"], KINDS["compare"]):
        ask: list[Callable[[Settings], object]] = [kind.queue, kind.attempts, kind.deadline_s]
        assert [each(settings) for each in ask] == ["gpu", Attempts(7, 1.5), 99.0]
        assert partial(attempts_of, settings=settings)(kind.name) == Attempts(7, 1.5)
