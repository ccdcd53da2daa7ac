"""The SQL transitions and a pure model of them, driven side by side by random sequences of calls.

Callers submit and cancel audits that share traces and comparisons; workers claim, beat, succeed, fail, are released,
fall silent; each of their calls may come from the current attempt or from a zombie with an older number. What the
database does must be what the model says, and what it refuses must leave every row as it was. In the end of every
sequence no worker misbehaves any more, and then every audit has to end.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text
from sqlalchemy.orm import Session

from service.audits import store
from service.audits.store import NewAudit
from service.database.ids import new_id
from service.database.unit_of_work import Ledger
from service.operations.invariants import violations
from service.runs import rings, transitions
from service.runs.demand import need_runs
from service.runs.kinds import Attempts
from service.runs.lifecycle import IN_FLIGHT, State, audit_state
from service.runs.settle import settle_audit
from service.traces.store import store_trace
from spinal.documents.editions import PRESENT
from spinal.documents.trace import trace_digest
from spinal.errors import LeaseLost
from tests.support import fabricated

MOST = 3
DRAWN = st.integers(0, 2**32)
ACTIONS = {
    "ask": 3,
    "cancel": 1,
    "cancel_all_that_wait_for_a_run": 1,
    "claim": 4,
    "end": 4,
    "end_what_was_given_up": 4,
    "lose_the_worker": 1,
    "change_nothing": 2,
}
"""Method -> how often it is called, beside the others.

Not rules among which Hypothesis chooses: it leaves some out of most sequences, so that in many nothing is claimed. And
its sequences are others whenever other modules are imported, since it mixes constants from their source into its
draws: what they meet must not hang on a lucky one."""
HOW_UNWANTED_RUNS_END = ("stop", "try again", "succeed", "release", "lose")
AGES = (0, 0, 0, 1, 2)
"""How many attempts behind the current one a worker is: most are not."""
COMPARISON = "c" * 64
TENANT = "t"


@dataclass(frozen=True)
class Run:
    """What the model knows of one run."""

    spec: str
    needs: tuple[UUID, ...] = ()
    priority: int = 0
    born: int = 0
    state: State = State.QUEUED
    attempt: int = 0
    charged: int = 0
    unwanted: bool = False


@dataclass
class Model:
    """The lifecycle in a few lines, from the documentation and not from the SQL."""

    runs: dict[UUID, Run] = field(default_factory=dict)
    audits: dict[UUID, tuple[State, tuple[UUID, ...]]] = field(default_factory=dict)

    def wanted(self, spec: str) -> UUID | None:
        found = [
            key
            for key, run in self.runs.items()
            if run.spec == spec and not run.unwanted and run.state in {*IN_FLIGHT, State.SUCCEEDED}
        ]
        assert len(found) <= 1
        return found[0] if found else None

    def put(self, key: UUID, run: Run) -> None:
        self.runs[key] = run
        if run.state is State.FAILED:
            for other, waiting in list(self.runs.items()):
                if key in waiting.needs and waiting.state is State.QUEUED:
                    self.put(other, replace(waiting, state=State.FAILED))
        for audit, (state, needed) in self.audits.items():
            if key in needed and state in IN_FLIGHT:
                self.audits[audit] = (audit_state([self.runs[each].state for each in needed]), needed)

    def due(self) -> list[UUID]:
        return [
            key
            for key, run in self.runs.items()
            if run.state is State.QUEUED and all(self.runs[n].state is State.SUCCEEDED for n in run.needs)
        ]

    def cancel(self, audit: UUID) -> None:
        state, needed = self.audits[audit]
        if state not in IN_FLIGHT:
            return
        self.audits[audit] = (State.CANCELLED, needed)
        for key in needed:
            shared = any(key in others and state in IN_FLIGHT for state, others in self.audits.values())
            if self.runs[key].state in IN_FLIGHT and not shared:
                run = replace(self.runs[key], unwanted=True)
                self.put(key, replace(run, state=State.CANCELLED) if run.state is State.QUEUED else run)

    @staticmethod
    def requeued(run: Run, *, charged: bool = True) -> Run:
        if run.unwanted:
            return replace(run, state=State.CANCELLED)
        if not charged:
            return replace(run, state=State.QUEUED, charged=run.charged - 1)
        return replace(run, state=State.QUEUED if run.charged < MOST else State.FAILED)


class Transitions(RuleBasedStateMachine):
    """Actions call the ledger and the model; the invariant compares them."""

    ledger: Ledger
    result: str
    ended_unwanted: Counter[str]
    """How attempts ended whose run nobody wanted any more, and how many did so."""

    def __init__(self) -> None:
        super().__init__()
        self.example = uuid4().hex
        self.drawn: list[int] = []
        self.habits: dict[str, int] = {}
        self.model = Model()

    def chance(self, drawn: int) -> Random:
        """Picks within a step. Hypothesis by itself keeps to the first of everything for too long."""
        self.drawn.append(drawn)
        return Random(str(self.drawn))

    def spec(self, role: str, name: str) -> dict[str, Any]:
        made: dict[str, Any] = {
            "kind": "compare" if role == "compare" else "trace",
            "of": name,
            "example": self.example,
        }
        if role == "compare":
            made["needs"] = {side: self.spec(side, side) for side in name.split("...")}
        return made

    @initialize(drawn=DRAWN)
    def begin(self, drawn: int) -> None:
        """Two callers ask for the same, and a worker begins. From here on some actions are more common than others."""
        chance = self.chance(drawn)
        self.habits = {action: often * chance.choice((1, 1, 4)) for action, often in ACTIONS.items()}
        self.submit("x", "y", 0)
        self.submit("x", "y", 0)
        self.claim_for(next(iter(self.model.runs)))

    @rule(drawn=DRAWN)
    def act(self, drawn: int) -> None:
        chance = self.chance(drawn)
        possible = {action: often for action, often in self.habits.items() if self.is_possible(action)}
        [action] = chance.choices(list(possible), list(possible.values()))
        note(action)
        getattr(self, action)(chance)

    def is_possible(self, action: str) -> bool:
        needed: dict[str, Callable[[], object]] = {
            "cancel_all_that_wait_for_a_run": self.working,
            "claim": self.model.due,
            "end": self.working,
            "end_what_was_given_up": self.given_up,
            "lose_the_worker": self.working,
        }
        return action not in needed or bool(needed[action]())

    def ask(self, chance: Random) -> None:
        # What nobody has asked for before comes in between: of the rest everything is done before long.
        candidate = chance.choice(["y", "z", f"new {len(self.drawn)}"])
        self.submit(chance.choice(["x", "x", None]), candidate, chance.randint(-1, 1))

    def submit(self, reference: str | None, candidate: str, priority: int) -> None:
        """A caller needs traces, and a comparison of them: what is in flight or has succeeded is shared."""
        names = {"candidate": candidate}
        if reference is not None:
            names |= {"reference": reference, "compare": f"{reference}...{candidate}"}
        specs = {role: self.spec(role, name) for role, name in names.items()}
        audit = NewAudit(id=new_id(), tenant=TENANT, candidate=candidate, reference=reference)
        with self.ledger.begin() as session:
            found = need_runs(session, specs, queue_of=lambda _kind: self.example, priority=priority, traceparent=None)
            store.insert_audit(session, audit, found)
            settle_audit(session, audit.id)
            self.age_differently(session, [found[role] for role in names if found[role] not in self.model.runs])
        for role, name in names.items():
            known = self.model.wanted(name)
            assert known in (None, found[role])
            if known is None:
                assert found[role] not in self.model.runs
                needs = tuple(found[other] for other in names if other != "compare") if role == "compare" else ()
                self.model.runs[found[role]] = Run(name, needs, priority, born=len(self.model.runs))
            elif self.model.runs[known].state in IN_FLIGHT:
                run = self.model.runs[known]
                self.model.runs[known] = replace(run, priority=max(run.priority, priority))
        needed = tuple(found.values())
        self.model.audits[audit.id] = (audit_state([self.model.runs[key].state for key in needed]), needed)

    @staticmethod
    def age_differently(session: Session, made: list[UUID]) -> None:
        """Runs of one transaction are of one age, and any of them may go first: the model wants to know which."""
        for place, run in enumerate(made):
            session.execute(
                text("UPDATE runs SET created_at = created_at + make_interval(secs => :later) WHERE id = :id"),
                {"id": run, "later": place * 1e-6},
            )

    def cancel(self, chance: Random) -> None:
        """Of an audit, and more often than not of one whose runs are being worked on."""
        at_work = [
            audit
            for audit, (state, needed) in self.model.audits.items()
            if state in IN_FLIGHT and any(self.model.runs[run].state is State.RUNNING for run in needed)
        ]
        known = [*at_work, *at_work, *at_work, *self.model.audits]
        self.cancel_one(chance.choice(known))

    def cancel_all_that_wait_for_a_run(self, chance: Random) -> None:
        """Cancelling single audits alone too seldom meets a run that nobody else waits for."""
        run = chance.choice(self.working())
        for audit, (state, needed) in list(self.model.audits.items()):
            if state in IN_FLIGHT and run in needed:
                self.cancel_one(audit)

    def cancel_one(self, audit: UUID) -> None:
        with self.ledger.begin() as session:
            assert store.cancel_audit(session, TENANT, audit) == (self.model.audits[audit][0] in IN_FLIGHT)
        self.model.cancel(audit)

    def working(self) -> list[UUID]:
        return [key for key, run in self.model.runs.items() if run.state is State.RUNNING]

    def any_run(self, chance: Random) -> UUID:
        """A run that is being worked on, more often than another."""
        working = self.working()
        known = [*working, *working, *working, *self.model.runs]
        return chance.choice(known)

    def claim(self, chance: Random) -> None:
        self.claim_for(chance.choice(list(self.model.runs)))

    def claim_for(self, rung: UUID) -> None:
        """A doorbell for any run starts the one that should go first, of those that were rung."""
        with self.ledger.begin() as session:
            rings.due_runs(session, ring_again_s=0.0, again=(), limit=999)
            best = rings.next_run(session, rung)
            claimed = None
            if best is not None:
                worker = f"w/{best.run_id}"
                claimed = transitions.claim(session, best.run_id, worker=worker, lease_s=600.0, deadline_s=600.0)
        due = self.model.due()
        assert (claimed is None) == (not due)
        if claimed is not None:
            self.claimed(claimed, due)

    def claimed(self, claimed: transitions.Claim, due: list[UUID]) -> None:
        first = min((-self.model.runs[key].priority, self.model.runs[key].born) for key in due)
        before = self.model.runs[claimed.run_id]
        assert (-before.priority, before.born) == first
        assert claimed.attempt == before.attempt + 1
        self.model.put(
            claimed.run_id,
            replace(before, state=State.RUNNING, attempt=before.attempt + 1, charged=before.charged + 1),
        )

    def result_of(self, run: UUID) -> str:
        return COMPARISON if self.model.runs[run].needs else self.result

    @staticmethod
    def succeeded(run: Run) -> Run:
        return replace(run, state=State.CANCELLED if run.unwanted else State.SUCCEEDED)

    def ends(self) -> dict[str, tuple[Callable[[Session, UUID, int], Any], Callable[[Run], Run]]]:
        """How a worker may end its attempt: what it calls, and what becomes of the run."""
        fail = partial(transitions.fail, problem={"code": "c", "detail": "d"}, max_attempts=MOST, backoff_s=0.0)
        return {
            "succeed": (
                lambda session, run, attempt: transitions.succeed(session, run, attempt, self.result_of(run)),
                self.succeeded,
            ),
            "try again": (partial(fail, retryable=True), Model.requeued),
            "fail": (partial(fail, retryable=False), lambda run: replace(run, state=State.FAILED)),
            "release": (transitions.release, lambda run: Model.requeued(run, charged=False)),
        }

    def end(self, chance: Random) -> None:
        """One fenced write by the current or an older attempt of any run: it moves the model, or is refused."""
        run, age = self.any_run(chance), chance.choice(AGES)
        before = self.model.runs[run]
        allowed = age == 0 and before.state is State.RUNNING
        call, after = chance.choice(list(self.ends().values()))
        try:
            with self.ledger.begin() as session:
                call(session, run, before.attempt - age)
        except LeaseLost:
            assert not allowed
        else:
            assert allowed
            self.model.put(run, after(before))

    def given_up(self) -> list[UUID]:
        return [run for run in self.working() if self.model.runs[run].unwanted]

    def end_what_was_given_up(self, chance: Random) -> None:
        """However its worker ends it, a run that nobody wants any more is over."""
        how = chance.choice(HOW_UNWANTED_RUNS_END)
        run = chance.choice(self.given_up())
        before = self.model.runs[run]
        self.ended_unwanted[how] += 1
        if how == "lose":
            self.lose(run)
        else:
            call = transitions.cancelled if how == "stop" else self.ends()[how][0]
            with self.ledger.begin() as session:
                call(session, run, before.attempt)
            self.model.put(run, replace(before, state=State.CANCELLED))
        assert self.model.runs[run].state is State.CANCELLED

    def change_nothing(self, chance: Random) -> None:
        """A heartbeat, a claim of what may not be claimed, and a look for what to ring."""
        run, age = self.any_run(chance), chance.choice(AGES)
        before, due = self.model.runs[run], self.model.due()
        with self.ledger.begin() as session:
            beat = transitions.heartbeat(session, run, before.attempt - age, lease_s=600.0, progress={"phase": "p"})
        assert beat.alive == (age == 0 and before.state is State.RUNNING)
        assert beat.cancel_requested == (beat.alive and before.unwanted)
        if run not in due:
            with self.ledger.begin() as session:
                assert transitions.claim(session, run, worker="w", lease_s=600.0, deadline_s=600.0) is None
        with self.ledger.begin() as session:
            rung = {
                found.run_id for found in rings.due_runs(session, ring_again_s=0.0, again=(self.example,), limit=999)
            }
        assert rung & set(self.model.runs) <= set(due)

    def lose_the_worker(self, chance: Random) -> None:
        self.lose(self.any_run(chance))

    def lose(self, run: UUID) -> None:
        before = self.model.runs[run]
        with self.ledger.begin() as session:
            expired = transitions.expire_lease(session, f"w/{run}")
        assert (expired == run) == (before.state is State.RUNNING)
        with self.ledger.begin() as session:
            taken = transitions.reap_expired(session, attempts_of=lambda _kind: Attempts(MOST, 0.0))
        assert (taken is None) == (expired is None)
        if taken is not None:
            self.model.put(run, Model.requeued(before))
            assert taken == (run, self.model.runs[run].state)

    @invariant()
    def rows_are_what_the_model_says(self) -> None:
        with self.ledger.read() as session:
            rows = session.execute(
                text("""SELECT id, state, attempt, charged_attempts, cancel_requested, priority FROM runs
                        WHERE queue = :queue"""),
                {"queue": self.example},
            ).all()
            states = session.execute(
                text("SELECT id, state FROM audits WHERE id = ANY(:ids)"), {"ids": list(self.model.audits)}
            ).all()
        assert {row.id: tuple(row)[1:] for row in rows} == {
            key: (run.state, run.attempt, run.charged, run.unwanted, run.priority)
            for key, run in self.model.runs.items()
        }
        assert {row.id: row.state for row in states} == {key: state for key, (state, _) in self.model.audits.items()}

    def teardown(self) -> None:
        """From here on every worker does its work: then every acknowledged audit ends."""
        for run in self.working():
            self.lose(run)
        while due := self.model.due():
            with self.ledger.begin() as session:
                assert transitions.fail_orphans(session) == []
                rings.due_runs(session, ring_again_s=0.0, again=(), limit=999)
                best = rings.next_run(session, due[0])
                assert best is not None
                claimed = transitions.claim(session, best.run_id, worker="w/last", lease_s=600.0, deadline_s=600.0)
                assert claimed is not None
                transitions.succeed(session, claimed.run_id, claimed.attempt, self.result_of(claimed.run_id))
            self.claimed(claimed, due)
            self.model.put(claimed.run_id, self.succeeded(self.model.runs[claimed.run_id]))
        self.rows_are_what_the_model_says()
        assert not [run for run in self.model.runs.values() if run.state in IN_FLIGHT]
        assert not [state for state, _ in self.model.audits.values() if state in IN_FLIGHT]
        with self.ledger.read() as session:
            assert violations(session) == {}


def test_transitions_do_what_the_model_says(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    made = fabricated.trace("local:x", 2, 8, digest="b" * 64)
    digest = trace_digest("a" * 64, "b" * 64, made.fingerprint, PRESENT.engine)
    trace = made.model_copy(
        update={
            "digest": digest,
            "model": made.model.model_copy(update={"weights_digest": "a" * 64}),
            "engine": made.engine.model_copy(update={"version": PRESENT.engine}),
        }
    )
    with ledger.begin() as session:
        store_trace(session, trace, capture_uri="c", capture_bytes=1)
        session.execute(
            text("""INSERT INTO comparisons
                      (digest, reference_digest, candidate_digest, comparison_fingerprint, document)
                    VALUES (:digest, :trace, :trace, 'f', '{"verdict": {"outcome": "pass"}}')"""),
            {"digest": COMPARISON, "trace": digest},
        )
    monkeypatch.setattr(Transitions, "ledger", ledger, raising=False)
    monkeypatch.setattr(Transitions, "result", digest, raising=False)
    monkeypatch.setattr(Transitions, "ended_unwanted", Counter(), raising=False)
    run_state_machine_as_test(
        Transitions,
        settings=settings(
            max_examples=30,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    # The sequences met what they are here for.
    assert set(Transitions.ended_unwanted) == set(HOW_UNWANTED_RUNS_END)
    with ledger.read() as session:
        ends = {
            row.state: row.n for row in session.execute(text("SELECT state, count(*) AS n FROM audits GROUP BY state"))
        }
    assert min(ends[state] for state in ("SUCCEEDED", "FAILED", "CANCELLED")) >= 20
