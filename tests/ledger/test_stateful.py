"""The SQL transitions and a model of a few lines, driven side by side by random sequences of calls.

The model knows a run's state, its attempt and how many attempts were charged. Every call may come from the current
attempt or from a zombie with an older number; what the database does must be what the model says, and what it refuses
must leave every row as it was.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import text
from sqlalchemy.orm import Session

from service.ledger import runs
from service.ledger.unit_of_work import Ledger
from spinal.errors import LeaseLost

MOST = 3
RESULT = "0" * 64


@dataclass(frozen=True)
class Run:
    """What the model knows of one run."""

    state: str = "QUEUED"
    attempt: int = 0
    charged: int = 0


class Transitions(RuleBasedStateMachine):
    """Rules call the ledger and the model; the invariant compares them."""

    ledger: Ledger

    def __init__(self) -> None:
        super().__init__()
        self.example = uuid4().hex
        self.model: dict[UUID, Run] = {}
        self.by_spec: dict[int, UUID] = {}

    made = Bundle("made")

    @rule(target=made, number=st.integers(0, 2))
    def ask(self, number: int) -> UUID:
        """A caller needs a specification done: a run in flight or succeeded is shared, else there is a new one."""
        with self.ledger.begin() as session:
            run = runs.find_or_create_run(session, {"kind": "trace", "n": f"{self.example}{number}"}, queue="cpu")
        known = self.by_spec.get(number)
        if known is not None and self.model[known].state in ("QUEUED", "RUNNING", "SUCCEEDED"):
            assert run == known
        else:
            assert run not in self.model
            self.by_spec[number], self.model[run] = run, Run()
        return run

    @rule(run=made)
    def claim(self, run: UUID) -> None:
        with self.ledger.begin() as session:
            claimed = runs.claim(session, run, worker="w", lease_s=600.0, deadline_s=600.0)
        before = self.model[run]
        assert (claimed is not None) == (before.state == "QUEUED")
        if claimed is not None:
            self.model[run] = Run("RUNNING", before.attempt + 1, before.charged + 1)
            assert claimed.attempt == before.attempt + 1

    def write(self, run: UUID, age: int, call: Callable[[Session, int], Any], after: Callable[[Run], Run]) -> None:
        """One fenced write by attempt ``current - age``: it moves the model, or is refused."""
        before = self.model[run]
        allowed = age == 0 and before.state == "RUNNING"
        try:
            with self.ledger.begin() as session:
                call(session, before.attempt - age)
        except LeaseLost:
            assert not allowed
        else:
            assert allowed
            self.model[run] = after(before)

    ages = st.sampled_from([0, 0, 0, 1, 2])

    @rule(run=made, age=ages)
    def succeed(self, run: UUID, age: int) -> None:
        self.write(
            run, age, lambda s, attempt: runs.succeed(s, run, attempt, RESULT), lambda r: replace(r, state="SUCCEEDED")
        )

    @rule(run=made, age=ages)
    def release(self, run: UUID, age: int) -> None:
        self.write(
            run, age, lambda s, attempt: runs.release(s, run, attempt),
            lambda r: replace(r, state="QUEUED", charged=r.charged - 1),
        )  # fmt: skip

    @rule(run=made, age=ages)
    def stop_cancelled(self, run: UUID, age: int) -> None:
        self.write(
            run, age, lambda s, attempt: runs.cancelled(s, run, attempt), lambda r: replace(r, state="CANCELLED")
        )

    @rule(run=made, age=ages, retryable=st.booleans())
    def fail(self, run: UUID, age: int, retryable: bool) -> None:
        self.write(
            run,
            age,
            lambda s, attempt: runs.fail(
                s, run, attempt, {"code": "c", "detail": "d"}, retryable=retryable, max_attempts=MOST, backoff_s=0.0
            ),
            lambda r: replace(r, state="QUEUED" if retryable and r.charged < MOST else "FAILED"),
        )

    @rule(run=made, age=ages)
    def beat(self, run: UUID, age: int) -> None:
        before = self.model[run]
        with self.ledger.begin() as session:
            beat = runs.heartbeat(session, run, before.attempt - age, lease_s=600.0, progress={"phase": "p"})
        assert beat.alive == (age == 0 and before.state == "RUNNING")

    @rule(run=made)
    def lose_the_worker(self, run: UUID) -> None:
        before = self.model[run]
        with self.ledger.begin() as session:
            expired = runs.expire_lease(session, run, "w")
        assert expired == (before.state == "RUNNING")
        with self.ledger.begin() as session:
            taken = dict(runs.reap(session, max_attempts=MOST, backoff_s=0.0))
        assert set(taken) == ({run} if expired else set())
        if expired:
            self.model[run] = replace(before, state="QUEUED" if before.charged < MOST else "FAILED")
            assert taken[run] == self.model[run].state

    @invariant()
    def rows_are_what_the_model_says(self) -> None:
        with self.ledger.read() as session:
            rows = session.execute(
                text("SELECT id, state, attempt, charged_attempts FROM runs WHERE id = ANY(:ids)"),
                {"ids": list(self.model)},
            ).all()
        assert {row.id: Run(row.state, row.attempt, row.charged_attempts) for row in rows} == self.model


def test_transitions_do_what_the_model_says(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transitions, "ledger", ledger, raising=False)
    run_state_machine_as_test(
        Transitions,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    with ledger.begin() as session:
        # These runs succeeded without a trace behind them; the ledger fixture checks the other invariants.
        assert session.execute(text("SELECT count(*) FROM runs WHERE state = 'SUCCEEDED'")).scalar_one() > 0
        session.execute(text("TRUNCATE runs CASCADE"))
