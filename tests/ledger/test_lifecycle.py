"""The state machine, as a matrix, and the same matrix enforced by the database."""

import itertools
import re
from uuid import uuid4

import pytest
from sqlalchemy import exc, text
from sqlalchemy.orm import Session

from service.database.unit_of_work import Ledger
from service.runs.demand import find_or_create_run
from service.runs.lifecycle import IN_FLIGHT, TERMINAL, TRANSITIONS, State, audit_state
from service.runs.transitions import claim, release
from tests.conftest import ROOT

ALL_PAIRS = list(itertools.product(State, State))


def test_the_states_without_a_way_out_are_the_terminal_ones() -> None:
    assert {State.SUCCEEDED, State.FAILED, State.CANCELLED} == TERMINAL
    assert {State.QUEUED, State.RUNNING} == IN_FLIGHT


def test_the_diagram_of_the_documentation_shows_every_move_and_no_other() -> None:
    arrows = re.findall(r"^ +([A-Z]+) --> ([A-Z]+):", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    assert {(State(old), State(new)) for old, new in arrows} == TRANSITIONS


@pytest.mark.parametrize(
    ("runs", "audit"),
    [
        ([], State.QUEUED),
        (["QUEUED", "QUEUED"], State.QUEUED),
        (["QUEUED", "RUNNING"], State.RUNNING),
        (["SUCCEEDED", "QUEUED"], State.RUNNING),
        (["SUCCEEDED", "SUCCEEDED"], State.SUCCEEDED),
        (["SUCCEEDED", "FAILED"], State.FAILED),
        (["RUNNING", "FAILED"], State.FAILED),
        (["CANCELLED", "FAILED"], State.FAILED),
        (["CANCELLED", "SUCCEEDED"], State.CANCELLED),
    ],
)
def test_an_audit_follows_its_runs(runs: list[str], audit: State) -> None:
    assert audit_state([State(run) for run in runs]) is audit


def _put(session: Session, run_id: object, state: State) -> None:
    """Move a run to ``state`` with the members that the CHECK constraints of that state ask for."""
    session.execute(
        text("""UPDATE runs SET state = :state,
                  result_digest = CASE WHEN :state = 'SUCCEEDED' THEN repeat('0', 64) END,
                  error = CASE WHEN :state = 'FAILED' THEN '{}'::jsonb END,
                  lease_until = CASE WHEN :state = 'RUNNING' THEN now() END,
                  worker = CASE WHEN :state = 'RUNNING' THEN 'w' END,
                  deadline_at = CASE WHEN :state = 'RUNNING' THEN now() END,
                  attempt = CASE WHEN :state = 'RUNNING' THEN attempt + 1 ELSE attempt END,
                  started_at = CASE WHEN :state <> 'QUEUED' THEN now() END,
                  finished_at = CASE WHEN :state IN ('SUCCEEDED','FAILED','CANCELLED') THEN now() END
                WHERE id = :id"""),
        {"id": run_id, "state": state.value},
    )


WAY_TO = {
    State.QUEUED: [],
    State.RUNNING: [State.RUNNING],
    State.SUCCEEDED: [State.RUNNING, State.SUCCEEDED],
    State.FAILED: [State.FAILED],
    State.CANCELLED: [State.CANCELLED],
}
MOVES = [(old, new) for old, new in ALL_PAIRS if old is not new or old in TERMINAL]
"""An open run may be updated without a move (a heartbeat); a terminal one not at all."""


@pytest.mark.parametrize(("old", "new"), MOVES)
def test_the_database_allows_the_same_moves(ledger: Ledger, old: State, new: State) -> None:
    with ledger.begin() as session:
        run = find_or_create_run(session, {"kind": "trace", "n": str(uuid4())}, queue="cpu")
    session = Session(ledger.engine)
    try:
        for step in WAY_TO[old]:
            _put(session, run, step)
        if (old, new) in TRANSITIONS:
            _put(session, run, new)
        else:
            with pytest.raises(exc.DBAPIError, match="refused"):
                _put(session, run, new)
    finally:
        session.rollback()
        session.close()


def test_attempts_neither_shrink_nor_change_after_their_end(ledger: Ledger) -> None:
    with ledger.begin() as session:
        run = find_or_create_run(session, {"kind": "trace", "n": str(uuid4())}, queue="cpu")
        held = claim(session, run, worker="w", lease_s=60.0, deadline_s=60.0)
        assert held is not None
        release(session, run, held.attempt)
    changes = (
        "UPDATE runs SET attempt = attempt - 1",
        "UPDATE run_attempts SET outcome = 'succeeded'",
        "UPDATE run_attempts SET outcome = NULL, ended_at = NULL",
        "UPDATE run_attempts SET worker = 'another'",
    )
    for change in changes:
        with pytest.raises(exc.DBAPIError, match="refused"), ledger.engine.begin() as connection:
            connection.execute(text(change))
    with ledger.engine.begin() as connection:
        connection.execute(text("UPDATE run_attempts SET refused_writes = refused_writes + 1"))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE runs SET attempt = 1 WHERE state = 'QUEUED'; UPDATE runs SET charged_attempts = 2",
        "UPDATE runs SET charged_attempts = -1",
        "UPDATE runs SET state = 'RUNNING', lease_until = now(), deadline_at = now(), attempt = 1",
        "UPDATE runs SET state = 'RUNNING', lease_until = now(), worker = 'w', attempt = 1",
    ],
)
def test_the_database_refuses_rows_that_no_transition_makes(ledger: Ledger, change: str) -> None:
    with ledger.begin() as session:
        find_or_create_run(session, {"kind": "trace", "n": str(uuid4())}, queue="cpu")
    *before, last = change.split(";")
    with ledger.engine.connect() as connection:
        for statement in before:
            connection.execute(text(statement))
        with pytest.raises(exc.IntegrityError, match="violates check"):
            connection.execute(text(last))


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE traces SET document = '{}'",
        "UPDATE traces SET content_digest = 'x'",
        "UPDATE trace_layers SET entropy = 1",
        "UPDATE comparisons SET document = '{}'",
    ],
)
def test_a_stored_measurement_cannot_be_changed(ledger: Ledger, change: str) -> None:
    with ledger.engine.connect() as connection:
        connection.execute(
            text("""INSERT INTO traces (digest, weights_digest, prompt_set_digest, fingerprint,
            engine_version, source, n_layers, document, content_digest)
            VALUES ('d', 'w', 'p', 'f', '2', 's', 0, '{"a": 1}', 'c')""")
        )
        connection.execute(
            text("""INSERT INTO trace_layers (trace_digest, layer, policy, depth, entropy, detail)
            VALUES ('d', 0, 'last', 0, 2, '{}')""")
        )
        connection.execute(
            text("""INSERT INTO comparisons (digest, reference_digest, candidate_digest,
            comparison_fingerprint, document) VALUES ('c', 'd', 'd', 'f', '{"a": 1}')""")
        )
        connection.execute(text("UPDATE traces SET capture_uri = 'elsewhere'"))
        with pytest.raises(exc.DBAPIError, match="refused: the row is final"):
            connection.execute(text(change))
