"""Whose turn it is: the ledger beside a small model of the rule, and what the rule promises to tenants."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from service.audits import store
from service.audits.store import NewAudit
from service.database.ids import new_id
from service.database.unit_of_work import Ledger
from service.runs import rings, transitions
from service.runs.demand import find_or_create_run, need_runs
from service.runs.settle import settle_audit
from tests.ledger.rows import MINUTE, put_attempt, put_dependency, put_run, row
from tests.support.waiting import until

A, B, C = "a", "b", "c"
PROBLEM = {"code": "c", "detail": "d"}


@pytest.fixture
def ended(ledger: Ledger) -> Iterator[None]:
    """What a test leaves behind has no audits and no traces."""
    yield
    with ledger.begin() as session:
        session.execute(text("TRUNCATE runs, audits CASCADE"))


def put_runs(session: Session, tenant: str, count: int, **members: Any) -> None:
    for number in range(count):
        put_run(session, tenants=[tenant], created_at=-MINUTE * (count - number) / 60, **members)


def tenant_of(session: Session, run: UUID) -> str:
    [tenant] = row(session, "runs", run)["tenants"]
    return str(tenant)


def bell(session: Session, queue: str = "cpu") -> UUID | None:
    """Any doorbell of a queue, after everything was rung."""
    while rings.due_runs(session, ring_again_s=60.0, again=()):
        pass
    found = session.execute(
        text("SELECT id FROM runs WHERE state = 'QUEUED' AND rung_at IS NOT NULL AND queue = :queue LIMIT 1"),
        {"queue": queue},
    ).scalar()
    return None if found is None else UUID(str(found))


def start(session: Session, queue: str = "cpu") -> UUID | None:
    """What a worker that is rung starts."""
    rung = bell(session, queue)
    return None if rung is None else answer(session, rung)


def answer(session: Session, rung: UUID) -> UUID | None:
    best = rings.next_run(session, rung)
    if best is None:
        return None
    held = transitions.claim(session, best.run_id, worker=f"w/{uuid4()}", lease_s=60.0, deadline_s=60.0)
    return None if held is None else held.run_id


def served(session: Session, times: int, queue: str = "cpu") -> list[str]:
    return [tenant_of(session, run) for _ in range(times) if (run := start(session, queue)) is not None]


# what it promises


def test_one_audit_after_a_thousand_of_another_tenant_starts_next(session: Session) -> None:
    put_runs(session, A, 1000)
    assert served(session, 3) == [A, A, A]
    put_runs(session, B, 1)
    assert served(session, 3) == [B, A, A]


def test_it_is_rung_next_as_well(session: Session) -> None:
    put_runs(session, A, 1000)
    late = put_run(session, tenants=[B])
    assert late in [due.run_id for due in rings.due_runs(session, ring_again_s=60.0, again=(), limit=4)][:2]


def test_tenants_take_turns_within_a_priority_and_in_each_queue(session: Session) -> None:
    for tenant, count in ((A, 30), (B, 3), (C, 3)):
        put_runs(session, tenant, count)
    put_runs(session, A, 2, priority=1)
    put_runs(session, B, 1, priority=1)
    put_runs(session, A, 2, queue="gpu")
    put_runs(session, B, 1, queue="gpu")
    # The higher priority first, there A before B by name; then C, which was not served yet.
    assert served(session, 3) == [A, B, A]
    assert served(session, 12) == [C, B, A, C, B, A, C, B, A, A, A, A]
    # What is served in another queue is another turn.
    assert served(session, 9, "gpu") == [A, B, A]


def test_within_a_tenant_the_oldest_goes_first(session: Session) -> None:
    new, old = put_run(session, tenants=[A]), put_run(session, tenants=[A], created_at=-MINUTE)
    other = put_run(session, tenants=[B], created_at=-MINUTE / 2)
    assert [start(session) for _ in range(4)] == [old, other, new, None]


@pytest.mark.parametrize("spec", [{}, {"tenant": A}])
def test_rows_of_code_from_before_say_it_by_their_specification(session: Session, spec: dict[str, Any]) -> None:
    """Once a trigger has seen them: such code does not name the column."""
    assert row(session, "runs", put_run(session, spec=spec))["tenants"] == [spec.get("tenant", "")]


# shared runs


def ask(session: Session, tenant: str, name: str, priority: int = 0) -> UUID:
    return find_or_create_run(session, {"kind": "trace", "n": name}, queue="cpu", priority=priority, tenant=tenant)


def test_a_shared_run_is_served_at_the_turn_of_whoever_comes_first(session: Session) -> None:
    for name in range(20):
        shared = ask(session, A, str(name))
    assert served(session, 2) == [A, A]
    assert ask(session, B, "19") == shared
    # B, which was never served, waits for none of A's, and A pays nothing for what B was served.
    before = row(session, "turns", "cpu", "queue", tenant=A)["served_at"]
    assert start(session) == shared
    assert row(session, "runs", shared)["turn_of"] == B
    assert row(session, "turns", "cpu", "queue", tenant=A)["served_at"] == before
    assert ask(session, C, "18") != shared
    assert row(session, "runs", start(session) or uuid4())["turn_of"] == C


def test_a_tenant_that_needs_a_shared_run_no_more_lets_it_go(session: Session) -> None:
    audits: dict[str, list[UUID]] = {}
    for tenant in (A, A, B):
        audit = NewAudit(id=new_id(), tenant=tenant, candidate="m", reference=None)
        runs = need_runs(
            session,
            {"candidate": {"kind": "trace"}},
            queue_of=lambda _kind: "cpu",
            priority=0,
            traceparent=None,
            tenant=tenant,
        )
        store.insert_audit(session, audit, runs)
        settle_audit(session, audit.id)
        audits.setdefault(tenant, []).append(audit.id)
    run = runs["candidate"]
    assert row(session, "runs", run)["tenants"] == [A, B]
    for held, left in ((audits[A][0], [A, B]), (audits[A][1], [B])):
        store.cancel_audit(session, A, held)
        assert row(session, "runs", run)["tenants"] == left
    store.cancel_audit(session, B, audits[B][0])
    assert row(session, "runs", run)["state"] == "CANCELLED"


# what is handed back


def begun(session: Session) -> UUID:
    """A and B have two runs each, and A's first has begun."""
    put_runs(session, A, 2)
    put_runs(session, B, 2)
    run = start(session)
    assert run is not None
    assert tenant_of(session, run) == A
    return run


def test_what_a_worker_that_goes_away_hands_back_was_no_turn(session: Session) -> None:
    run = begun(session)
    transitions.release(session, run, 1)
    assert start(session) == run
    assert served(session, 3) == [B, A, B]


def test_a_turn_that_was_followed_by_another_is_not_given_back(session: Session) -> None:
    run = begun(session)
    assert served(session, 2) == [B, A]
    last = row(session, "turns", "cpu", "queue", tenant=A)["served_at"]
    transitions.release(session, run, 1)
    assert row(session, "turns", "cpu", "queue", tenant=A)["served_at"] == last
    assert served(session, 2) == [B, A]


@pytest.mark.parametrize(
    "end",
    [
        lambda session, run: transitions.release(session, run, 1, pause_s=60.0),
        lambda session, run: transitions.fail(session, run, 1, PROBLEM, retryable=True, max_attempts=3, backoff_s=0.0),
    ],
)
def test_what_is_tried_again_has_had_its_turn_and_keeps_its_tenants_place(
    session: Session, end: Callable[[Session, UUID], Any]
) -> None:
    run = begun(session)
    end(session, run)
    session.execute(text("UPDATE runs SET not_before = now() WHERE id = :id"), {"id": run})
    first = start(session)
    assert first is not None
    assert tenant_of(session, first) == B
    # Of its tenant's it is the oldest still.
    assert start(session) == run
    assert served(session, 2) == [B, A]


def test_what_waited_for_another_comes_at_the_turn_of_its_tenant(session: Session) -> None:
    needed = put_run(session, "RUNNING", tenants=[A])
    put_attempt(session, needed, 1)
    waiting = put_run(session, tenants=[A], created_at=-MINUTE)
    put_dependency(session, waiting, needed)
    put_runs(session, A, 1)
    put_runs(session, B, 2)
    assert served(session, 2) == [A, B]
    transitions.succeed(session, needed, 1, "0" * 64)
    assert start(session) == waiting
    assert served(session, 2) == [B]


# what waits


@pytest.mark.parametrize("first", [0, 1])
def test_two_that_succeed_at_once_set_free_what_waits_for_both(ledger: Ledger, ended: None, first: int) -> None:
    with ledger.begin() as session:
        needed = [put_run(session, "RUNNING") for _ in range(2)]
        for run in needed:
            put_attempt(session, run, 1)
        waiting = put_run(session, depth=1)
        for run in needed:
            put_dependency(session, waiting, run)
        assert row(session, "runs", waiting)["waits"] is True

    def succeed_other() -> None:
        with ledger.begin() as session:
            transitions.succeed(session, needed[1 - first], 1, "0" * 64)

    thread = threading.Thread(target=succeed_other)
    with ledger.begin() as session:
        transitions.succeed(session, needed[first], 1, "0" * 64)
        thread.start()
        until(lambda: waits_for_a_lock(ledger), "the other to wait for what waits for both")
    thread.join(30.0)
    with ledger.read() as session:
        assert row(session, "runs", waiting)["waits"] is False


def test_a_dependency_that_is_said_while_it_succeeds_is_not_waited_for(ledger: Ledger, ended: None) -> None:
    with ledger.begin() as session:
        needed, waiting = put_run(session, "RUNNING"), put_run(session, depth=1)
        put_attempt(session, needed, 1)

    def say() -> None:
        with ledger.begin() as session:
            put_dependency(session, waiting, needed)

    thread = threading.Thread(target=say)
    with ledger.begin() as session:
        transitions.succeed(session, needed, 1, "0" * 64)
        thread.start()
        until(lambda: waits_for_a_lock(ledger), "the dependency to wait for what it names")
    thread.join(30.0)
    with ledger.read() as session:
        assert row(session, "runs", waiting)["waits"] is False


def waits_for_a_lock(ledger: Ledger) -> bool:
    with ledger.read() as session:
        return bool(
            session.execute(
                text("""SELECT count(*) FROM pg_stat_activity
                        WHERE wait_event_type = 'Lock' AND datname = current_database()""")
            ).scalar_one()
        )


# at once


THREADS, EACH = 6, 30


@dataclass(frozen=True)
class Claimed:
    tenant: str
    began: float
    """Before it chose, and ``ended`` when others could see it: seconds of the monotonic clock."""
    ended: float
    turn_at: datetime | None
    """As it wrote it; None where another was writing the turn of the same tenant."""


def test_workers_that_claim_at_once_share_out_turns(ledger: Ledger, ended: None) -> None:
    """Whoever chose a tenant could see of no other that it was served longer ago."""
    with ledger.begin() as session:
        for tenant in (A, B, C):
            put_runs(session, tenant, EACH if tenant != A else 10 * EACH)
        rung = bell(session)
    assert rung is not None
    claims: list[Claimed] = []
    wrong: list[Exception] = []

    def work() -> None:
        try:
            while len(claims) < 3 * EACH:
                began = time.monotonic()
                with ledger.begin() as session:
                    best = rings.next_run(session, rung)
                    assert best is not None
                    held = transitions.claim(session, best.run_id, worker=f"w/{uuid4()}", lease_s=60.0, deadline_s=60.0)
                    turn = session.execute(
                        text("SELECT turn_of, turn_at FROM runs WHERE id = :id"), {"id": best.run_id}
                    ).one()
                if held is not None:
                    claims.append(Claimed(turn.turn_of, began, time.monotonic(), turn.turn_at))
        except Exception as error:  # noqa: BLE001  whatever it is, the test shows it
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert wrong == []
    judged = 0
    for chosen in claims:
        seen = [c.turn_at for c in claims if c.tenant == chosen.tenant and c.ended < chosen.began and c.turn_at]
        for other in {A, B, C} - {chosen.tenant}:
            theirs = [c for c in claims if c.tenant == other and c.began <= chosen.ended]
            if seen and len(theirs) < EACH:
                judged += 1
                assert max(seen) <= max(c.turn_at for c in theirs if c.turn_at), (chosen, claims)
    # By age it would have been A alone.
    assert judged > 0
    assert {c.tenant for c in claims} == {A, B, C}


def test_a_claim_waits_for_no_other_of_the_same_tenant(ledger: Ledger, ended: None) -> None:
    with ledger.begin() as session:
        put_runs(session, A, 3)
        rung = bell(session)
    assert rung is not None
    with ledger.begin() as one, ledger.begin() as other:
        other.execute(text("SET LOCAL lock_timeout = '100ms'"))
        begun = [answer(one, rung), answer(other, rung)]
    assert len({*begun, None}) == 3
    with ledger.read() as session:
        assert session.execute(text("SELECT tenant FROM turns")).scalars().all() == [A]


# any sequence


@dataclass
class Run:
    tenants: set[str]
    priority: int
    born: int
    needs: list[str] = field(default_factory=list)
    state: str = "QUEUED"
    paused: bool = False
    turn: tuple[str, int, int] | None = None
    """Whose, which, and which that tenant had before."""


@dataclass
class Model:
    """The rule: of what could start, the highest priority; of those, whoever was served longest ago (0 is never); of
    those, the oldest."""

    runs: dict[str, Run] = field(default_factory=dict)
    turns: dict[str, int] = field(default_factory=dict)
    now: int = 0

    def due(self) -> list[str]:
        return [
            name
            for name, run in self.runs.items()
            if run.state == "QUEUED" and not run.paused and all(self.runs[n].state == "SUCCEEDED" for n in run.needs)
        ]

    def holder(self, run: Run) -> tuple[int, str]:
        return min((self.turns.get(tenant, 0), tenant) for tenant in run.tenants)

    def first(self) -> str | None:
        return min(
            self.due(),
            key=lambda name: (-self.runs[name].priority, self.holder(self.runs[name]), self.runs[name].born),
            default=None,
        )

    def claim(self, name: str) -> None:
        run, self.now = self.runs[name], self.now + 1
        before, tenant = self.holder(run)
        run.state, run.turn, self.turns[tenant] = "RUNNING", (tenant, self.now, before), self.now

    def hand_back(self, name: str, paused: bool) -> None:
        run = self.runs[name]
        assert run.turn is not None
        tenant, turn, before = run.turn
        run.state, run.paused = "QUEUED", paused
        if not paused and self.turns[tenant] == turn:
            self.turns[tenant] = before


class Sequence:
    """Random calls of tenants and workers, on the ledger and on the model."""

    def __init__(self, session: Session, seed: int) -> None:
        self.session, self.chance = session, Random(f"turns {seed}")
        self.queue = f"queue {seed} {uuid4().hex}"
        self.model = Model()
        self.ids: dict[str, UUID] = {}
        self.audits: list[tuple[UUID, str, set[str]]] = []
        self.passed_by: dict[str, Counter[str]] = {A: Counter(), B: Counter(), C: Counter()}
        """How often another was served while a tenant could have been, since that was served itself."""
        self.met: Counter[str] = Counter()

    def of_state(self, state: str) -> list[str]:
        return [name for name, run in self.model.runs.items() if run.state == state]

    def spec(self, name: str) -> dict[str, Any]:
        made: dict[str, Any] = {"kind": "trace", "of": name, "queue": self.queue}
        if "+" in name:
            made = {"kind": "compare", "needs": {n: self.spec(n) for n in name.split("+")}, "queue": self.queue}
        return made

    def submit(self) -> None:
        """Mostly what nobody has asked for, and now and then what another tenant waits for."""
        tenant = self.chance.choice([A, A, A, B, C])
        known = [name for name in self.of_state("QUEUED") if "+" not in name]
        fresh = [f"{len(self.model.runs)}.{n}" for n in range(2)]
        names = self.chance.choice(
            [fresh[:1], fresh[:1], [self.chance.choice(known)] if known else fresh[:1], [*fresh, "+".join(fresh)]]
        )
        priority = self.chance.choice([0, 0, 0, 1])
        found = need_runs(
            self.session, {name: self.spec(name) for name in names}, queue_of=lambda _kind: self.queue,
            priority=priority, traceparent=None, tenant=tenant,
        )  # fmt: skip
        audit = NewAudit(id=new_id(), tenant=tenant, candidate="m", reference=None)
        store.insert_audit(self.session, audit, {f"role_{'abc'[n]}": found[name] for n, name in enumerate(names)})
        self.audits.append((audit.id, tenant, set(names)))
        for name in names:
            if name in self.model.runs:
                run = self.model.runs[name]
                run.tenants.add(tenant)
                run.priority = max(run.priority, priority)
                continue
            needs = name.split("+") if "+" in name else []
            self.model.runs[name] = Run({tenant}, priority, len(self.model.runs), needs)
            self.ids[name] = found[name]
            # One transaction has one time: here each run has its own.
            self.session.execute(
                text(
                    "UPDATE runs SET created_at = now() - interval '1 hour' + make_interval(secs => :n) WHERE id = :id"
                ),
                {"n": self.model.runs[name].born, "id": found[name]},
            )

    def cancel(self) -> None:
        if not self.audits:
            return
        audit, tenant, names = self.audits.pop(self.chance.randrange(len(self.audits)))
        if not store.cancel_audit(self.session, tenant, audit):
            return
        for name in names:
            run = self.model.runs[name]
            others = [other for _, other, needed in self.audits if name in needed]
            if run.state in ("QUEUED", "RUNNING"):
                if others:
                    run.tenants = run.tenants if tenant in others else run.tenants - {tenant}
                elif run.state == "QUEUED":
                    run.state = "CANCELLED"
                else:
                    run.state = "UNWANTED"

    def claim(self) -> None:
        while rings.due_runs(self.session, ring_again_s=60.0, again=()):
            pass
        first, due = self.model.first(), self.model.due()
        known = list(self.ids.values())
        best = rings.next_run(self.session, self.chance.choice(known)) if known else None
        assert (None if best is None else best.run_id) == (None if first is None else self.ids[first])
        if first is not None:
            given: dict[str, Any] = {"worker": f"w/{uuid4()}", "lease_s": 60.0, "deadline_s": 60.0}
            assert transitions.claim(self.session, self.ids[first], **given) is not None
            self.model.claim(first)
            self.count(first, due)

    def count(self, claimed: str, due: list[str]) -> None:
        """Whoever could be served at the same priority is passed by once at most."""
        run = self.model.runs[claimed]
        assert run.turn is not None
        tenant = run.turn[0]
        assert row(self.session, "runs", self.ids[claimed])["turn_of"] == tenant
        self.met["shared"] += len(run.tenants) > 1
        for other, passed in self.passed_by.items():
            could = any(
                other in self.model.runs[n].tenants and self.model.runs[n].priority == run.priority for n in due
            )
            if other == tenant or not could:
                passed.clear()
            else:
                passed[tenant] += 1
                assert passed[tenant] <= 1

    def end(self) -> None:
        working = self.of_state("RUNNING")
        if not working:
            return
        name = self.chance.choice(working)
        run, attempt = self.ids[name], row(self.session, "runs", self.ids[name])["attempt"]
        how = self.chance.choice(["succeed", "succeed", "try again", "hand back", "hand back", "pause"])
        if how == "succeed":
            transitions.succeed(self.session, run, attempt, "0" * 64)
            self.model.runs[name].state = "SUCCEEDED"
            self.audits = [each for each in self.audits if any(self.waits(n) for n in each[2])]
        elif how == "try again":
            transitions.fail(self.session, run, attempt, PROBLEM, retryable=True, max_attempts=99, backoff_s=0.0)
            self.model.runs[name].state = "QUEUED"
        else:
            transitions.release(self.session, run, attempt, pause_s=60.0 if how == "pause" else 0.0)
            self.model.hand_back(name, how == "pause")
            if how == "hand back":
                # It was no turn: whoever was passed by for it is as before.
                self.met["handed back"] += 1
                for passed in self.passed_by.values():
                    passed.clear()

    def waits(self, name: str) -> bool:
        return self.model.runs[name].state in ("QUEUED", "RUNNING")

    def let_time_pass(self) -> None:
        self.session.execute(
            text("UPDATE runs SET not_before = now() WHERE queue = :queue AND state = 'QUEUED'"), {"queue": self.queue}
        )
        for run in self.model.runs.values():
            run.paused = False

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.chance.choice(
                [self.submit] * 4 + [self.claim] * 4 + [self.end] * 2 + [self.cancel, self.let_time_pass]
            )()
        self.let_time_pass()
        while self.model.first() is not None:
            self.claim()
        self.claim()


def test_what_goes_first_is_what_the_rule_says(session: Session) -> None:
    met: Counter[str] = Counter()
    for seed in range(8):
        sequence = Sequence(session, seed)
        sequence.run(60)
        met += sequence.met
    assert min(met["shared"], met["handed back"]) > 5, met
