"""What nobody foresaw ends no loop, stands in the log with where it happened, and leaves the run as what it is."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import structlog
from psycopg.errors import InvalidTextRepresentation, UndefinedTable
from sqlalchemy import text
from sqlalchemy.exc import DataError, ProgrammingError
from sqlalchemy.orm import Session
from structlog.testing import LogCapture

from service.database.unit_of_work import Ledger
from service.runs import transitions
from service.runs.demand import find_or_create_run
from service.runs.kinds import KINDS
from service.settings import Settings
from spinal.errors import DatabaseUnavailable
from tests.support.waiting import until
from tests.worker.test_kinds import FAKE, need, row
from tests.worker.test_metrics import gauges
from worker import dispatcher, lease, metrics, tasks
from worker.job import Job

DOCUMENT = "what a caller asked in private"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What workers and dispatchers say; ``exception`` is the traceback of what a line is about."""
    captured = LogCapture()
    kind = structlog.make_filtering_bound_logger(0)
    log = structlog.wrap_logger(None, [structlog.processors.format_exc_info, captured], kind)
    for module in (dispatcher, lease, metrics, tasks):
        monkeypatch.setattr(module, "log", log)
    return captured.entries


def runs_out_of_memory(_: Job) -> None:
    raise MemoryError


def has_a_defect(_: Job) -> None:
    raise KeyError("a defect of ours")


def asks_in_vain(job: Job) -> None:
    def ask(session: Session) -> None:
        session.execute(text("SELECT 1 FROM nowhere WHERE x = :x"), {"x": DOCUMENT})

    job.write(ask)


@pytest.mark.parametrize(
    ("carry_out", "code", "outcome", "state"),
    [
        (runs_out_of_memory, "out_of_memory", "failed", "FAILED"),
        (has_a_defect, "internal_error", "retry", "QUEUED"),
        (asks_in_vain, "internal_error", "retry", "QUEUED"),
    ],
)
def test_an_attempt_ends_as_what_it_is_and_the_log_says_where(
    ledger: Ledger, api_settings: Settings, drain: Callable[[], int], told: list[Any], monkeypatch: pytest.MonkeyPatch,
    carry_out: Callable[[Job], None], code: str, outcome: str, state: str,
) -> None:  # fmt: skip
    monkeypatch.setitem(KINDS, FAKE.name, replace(FAKE, carry_out=f"{__name__}:{carry_out.__name__}"))
    run = need(ledger, api_settings, {"fake": FAKE.name})["fake"]
    problem = tasks.perform(run, "w")
    assert problem is not None
    assert problem.code == code
    assert row(ledger, run).state == state
    with ledger.read() as session:
        [ended] = session.execute(text("SELECT outcome, error FROM run_attempts")).all()
    assert (ended.outcome, ended.error["code"]) == (outcome, code)
    [line] = [line for line in told if "exception" in line]
    assert line["log_level"] == "error"
    assert f"in {carry_out.__name__}" in line["exception"]
    assert DOCUMENT not in repr((told, ended, problem))


def refused(by: Exception, kind: type[ProgrammingError | DataError]) -> Exception:
    return kind("SELECT :x", {"x": DOCUMENT}, by, hide_parameters=True)


@pytest.mark.parametrize(
    ("error", "line", "traced"),
    [
        (DatabaseUnavailable("away"), "database unavailable", False),
        (refused(UndefinedTable("no runs"), ProgrammingError), "database is not migrated", False),
        (refused(InvalidTextRepresentation("no number"), DataError), "unexpected error", True),
        (KeyError("a defect of ours"), "unexpected error", True),
    ],
)
def test_a_loop_of_the_dispatcher_goes_on_and_says_where_it_met_what_it_did_not_expect(
    told: list[Any], error: Exception, line: str, traced: bool
) -> None:
    with dispatcher._one_turn():
        raise error
    [said] = told
    assert said["event"] == line
    assert ("exception" in said) is traced
    assert not traced or "in test_a_loop" in said["exception"]
    assert DOCUMENT not in repr(said)


def test_an_attempt_whose_heartbeats_fail_is_given_up_when_its_patience_ends(
    ledger: Ledger, api_settings: Settings, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyError("a defect of ours")

    with ledger.begin() as session:
        run = find_or_create_run(session, {"kind": "trace", "n": "x"}, queue="cpu")
        claim = transitions.claim(session, run, worker="w", lease_s=60.0, deadline_s=60.0)
    assert claim is not None
    monkeypatch.setattr(transitions, "heartbeat", fail)
    settings = api_settings.model_copy(update={"heartbeat_s": 0.05, "outage_patience_s": 0.5})
    began = time.monotonic()
    with lease.Lease(ledger, settings, claim) as held:
        until(held.should_stop, "the lease to give up")
        assert held.stop is lease.Stop.LOST
    assert time.monotonic() - began >= 0.5
    beats = [line for line in told if line["event"] == "heartbeat failed unexpectedly"]
    assert len(beats) > 1
    assert all("in fail" in line["exception"] for line in beats)


def test_a_ledger_that_answers_with_an_error_is_told_apart_from_one_that_is_away(
    ledger: Ledger, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "RUNNING", "SELECT count(*) FROM nowhere")
    assert gauges(ledger) == {"spinal_database_up": 0}
    [line] = told
    assert "nowhere" in line["exception"]
