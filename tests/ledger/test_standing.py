"""Where an audit stands: what it is told against what happens when the queue is really served, and how little of it
may be read."""

from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from service.database.unit_of_work import allow
from service.runs import rings, standing, transitions, workers
from service.runs.standing import MOST, SECONDS, STEPS, Signs, Standing, estimate, find_standing, round_up, workers_of
from service.runs.workers import Presence
from tests.ledger.rows import MINUTE, put_attempt, put_audit, put_run, put_trace

S = timedelta(seconds=1)
HERE = Presence(UUID(int=1), "celery@a-host", ["cpu"], 2, "cpu", "0.1.0")


def waiting(session: Session, tenant: str = "t", **members: Any) -> UUID:
    """A rung run of a tenant, with an audit of its own; returns the audit."""
    defaults: dict[str, Any] = {"tenants": [tenant], "rung_at": timedelta(0)}
    run = put_run(session, **(defaults | members))
    return put_audit(session, "QUEUED", {"candidate": run}, tenant=tenant)


def found(session: Session, audit: UUID) -> Standing:
    standing = find_standing(session, audit)
    assert standing is not None
    return standing


def run_of(session: Session, audit: UUID) -> UUID:
    run: UUID = session.execute(
        text("SELECT run_id FROM audit_runs WHERE audit_id = :audit"), {"audit": audit}
    ).scalar_one()
    return run


def served(session: Session) -> list[UUID]:
    """The runs in the order in which workers take them, each ended at once."""
    order: list[UUID] = []
    any_run = session.execute(text("SELECT id FROM runs LIMIT 1")).scalar_one()
    while (best := rings.next_run(session, any_run)) is not None:
        claim = transitions.claim(session, best.run_id, worker=f"w/{len(order)}", lease_s=60.0, deadline_s=60.0)
        assert claim is not None
        digest = uuid4().hex
        put_trace(session, digest)
        transitions.succeed(session, claim.run_id, claim.attempt, digest)
        order.append(best.run_id)
    return order


@pytest.mark.parametrize("seed", range(12))
def test_no_more_runs_go_first_than_an_audit_is_told_however_the_queue_is_mixed(session: Session, seed: int) -> None:
    draw = Random(seed)
    sets = [["a"], ["b"], ["c"], ["d"], ["a", "b"], ["c", "d"]][: draw.choice([1, 4, 6])]
    audits = []
    for n in range(draw.randrange(5, 25)):
        tenants = draw.choice(sets)
        run = put_run(
            session, tenants=tenants, priority=draw.choice([0, 0, 0, 1, -1]), created_at=-draw.randrange(60) * S,
            rung_at=timedelta(0), spec_digest=f"{n:064x}",
        )  # fmt: skip
        audits.append((run, put_audit(session, "QUEUED", {"candidate": run}, tenant=tenants[0])))
    # Some have been served before, so that turns differ.
    for tenant in draw.sample("abcd", draw.randrange(4)):
        session.execute(
            text("INSERT INTO turns (queue, tenant, served_at) VALUES ('cpu', :t, now() - :n * interval '1 min')"),
            {"t": tenant, "n": draw.randrange(100)},
        )
    told = {run: found(session, audit) for run, audit in audits}
    order = served(session)
    assert sorted(order) == sorted(told)
    for place, run in enumerate(order):
        ahead = told[run].ahead
        assert ahead is not None
        assert place <= ahead, (place, told[run])


def test_alone_a_place_is_exact_and_a_line_of_others_counts_no_more_than_turns(session: Session) -> None:
    mine = [waiting(session, "a", created_at=n * S) for n in range(4)]
    assert [found(session, audit).ahead for audit in mine] == [0, 1, 2, 3]
    assert {found(session, audit).others for audit in mine} == {0}
    for n in range(300):
        waiting(session, "b", created_at=-n * S)
    # Each turn of this tenant comes after at most one of the other, which wants a hundred times as much.
    assert [(s.own, s.others) for s in (found(session, audit) for audit in mine)] == [(0, 1), (1, 2), (2, 3), (3, 5)]
    assert found(session, mine[0]).summary is not None
    assert "300" not in str([found(session, audit) for audit in mine])


def test_what_others_want_is_told_in_steps(session: Session) -> None:
    mine = waiting(session, "a")
    told = []
    for n in range(14):
        told.append(found(session, mine).others)
        waiting(session, f"other-{n}")
    assert told == [0, 1, 2, 3, 5, 5, 10, 10, 10, 10, 10, 20, 20, 20]
    assert set(told) <= set(STEPS)


def test_what_is_not_rung_yet_counts_and_what_waits_for_others_does_not(session: Session) -> None:
    mine = waiting(session, "a")
    waiting(session, "a", created_at=-2 * S, not_before=-2 * S, rung_at=None)
    waiting(session, "a", created_at=-2 * S, waits=True)
    waiting(session, "a", created_at=-2 * S, queue="gpu")
    put_run(session, "RUNNING", tenants=["a"], created_at=-2 * S)
    assert found(session, mine).ahead == 1


def test_a_run_that_waits_for_another_has_no_place_and_an_ended_audit_no_standing(session: Session) -> None:
    compare = put_run(session, tenants=["a"], waits=True)
    measured = put_run(session, "RUNNING", tenants=["a"])
    audit = put_audit(session, "RUNNING", {"candidate": measured, "compare": compare}, tenant="a")
    standing = found(session, audit)
    assert (standing.ahead, standing.summary, standing.workers) == (None, None, "alive")
    assert find_standing(session, put_audit(session, "SUCCEEDED", {"candidate": put_run(session, "SUCCEEDED")})) is None


def test_a_long_queue_is_counted_no_further_than_it_is_told(session: Session) -> None:
    insert = """INSERT INTO runs (id, kind, spec, spec_digest, queue, tenants, rung_at, created_at)
        SELECT gen_random_uuid(), 'trace', '{}', md5(:salt || n), 'cpu', ARRAY['t' || n % :tenants], now(),
          now() - n * interval '1 ms' FROM generate_series(1, :n) n"""
    allow(session, 120.0)
    session.execute(text(insert), {"n": 6_000, "tenants": 5, "salt": "x"})
    session.execute(text("ANALYZE runs"))
    mine = waiting(session, "t0")
    alone = waiting(session, "somebody else", created_at=-S)
    first, second = found(session, mine), found(session, alone)
    assert first.summary == f"more than {MOST:,} before it, no worker of queue 'cpu' has said that it is alive"
    assert (second.own, second.others) == (0, 5)
    assert second.summary is not None
    assert second.summary.startswith("at most 5 before it")


# who is there


def test_a_worker_that_tells_is_alive_and_one_that_leaves_or_falls_silent_is_not(session: Session) -> None:
    audit = waiting(session)
    assert found(session, audit).workers == "unknown"
    for _ in range(2):
        workers.tell(session, HERE)
    assert found(session, audit).workers == "alive"
    elsewhere = waiting(session, queue="gpu")
    assert found(session, elsewhere).workers == "unknown"
    session.execute(text("UPDATE workers SET seen_at = now() - interval '36 s'"))
    assert found(session, audit).workers == "unknown"
    workers.tell(session, HERE)
    assert found(session, audit).workers == "alive"
    workers.leave(session, HERE.id)
    assert session.execute(text("SELECT count(*) FROM workers")).scalar_one() == 0


def test_workers_of_long_ago_are_forgotten_when_another_begins(session: Session) -> None:
    workers.tell(session, HERE)
    session.execute(text("UPDATE workers SET seen_at = now() - interval '59 min'"))
    workers.tell(session, replace(HERE, id=UUID(int=2)))
    assert session.execute(text("SELECT count(*) FROM workers")).scalar_one() == 2
    session.execute(text("UPDATE workers SET seen_at = now() - interval '61 min' WHERE id = :id"), {"id": HERE.id})
    workers.tell(session, replace(HERE, id=UUID(int=2)))
    assert session.execute(text("SELECT count(*) FROM workers")).scalar_one() == 2, "nothing grows here"
    workers.tell(session, replace(HERE, id=UUID(int=3)))
    assert session.execute(text("SELECT count(*) FROM workers")).scalar_one() == 2


def test_a_silent_worker_of_the_release_before_shows_life_by_what_it_does(session: Session) -> None:
    audit = waiting(session)
    busy = put_run(session, "RUNNING")
    assert found(session, audit).workers == "alive"
    session.execute(text("UPDATE runs SET lease_until = now() - interval '1 s' WHERE id = :id"), {"id": busy})
    assert found(session, audit).workers == "unknown"
    for outcome, ago_s in (("lost", 1), ("succeeded", 121)):
        put_attempt(session, put_run(session, "SUCCEEDED"), 1, outcome, ended_at=-ago_s * S)
    assert found(session, audit).workers == "unknown", "what was lost shows no life, nor what was long ago"
    put_attempt(session, put_run(session, "SUCCEEDED"), 1, "succeeded", ended_at=-100 * S)
    assert found(session, audit).workers == "alive"


def test_what_was_rung_and_lies_says_that_nobody_takes_it_and_what_was_not_rung_says_nothing(session: Session) -> None:
    waiting(session, "b", created_at=-2 * MINUTE, not_before=-2 * MINUTE, rung_at=None)
    audit = waiting(session, "a")
    assert found(session, audit).workers == "unknown", "the dispatcher may be away"
    waiting(session, "b", created_at=-2 * MINUTE, not_before=-2 * MINUTE)
    standing = found(session, audit)
    assert standing.workers == "none"
    assert standing.summary == "no worker of queue 'cpu' is alive"


def test_workers_that_do_not_know_a_run_do_not_count_for_it(session: Session) -> None:
    workers.tell(session, HERE)
    put_run(session, "RUNNING")
    audit = waiting(session, spec_version=99)
    standing = found(session, audit)
    assert (standing.workers, standing.too_old) == ("none", True)
    assert "older release" in str(standing.summary)
    assert found(session, waiting(session, kind="unheard_of")).workers == "none"
    session.execute(text("UPDATE runs SET spec_version = 99 WHERE state = 'RUNNING'"))
    assert found(session, audit).workers == "alive", "somebody carries out just such a one"


# how long


def test_an_estimate_follows_from_recent_runs_and_the_children_that_are_there(session: Session) -> None:
    workers.tell(session, HERE)
    audits = [waiting(session, "a", created_at=n * S) for n in range(9)]
    assert found(session, audits[0]).at_most_s is None, "nothing is known of how long runs take"
    for n in range(10):
        done = put_run(session, "SUCCEEDED")
        put_attempt(session, done, 1, "succeeded", started_at=-(100 + n) * S, ended_at=-(60 + n) * S)
    first, last = found(session, audits[0]), found(session, audits[-1])
    assert (first.at_least_s, first.at_most_s, first.summary) == (0, 0, "nothing before it, it starts in a moment")
    # Two are free, two go at a time, 40 s each: four rounds before the ninth.
    assert (last.at_least_s, last.at_most_s) == (120, 180)
    assert last.summary == "8 before it, it starts in 2 min to 3 min"
    put_attempt(session, put_run(session, "SUCCEEDED", queue="gpu"), 1, "succeeded", started_at=-9000 * S)
    assert found(session, audits[-1]) == last, "another queue tells nothing"


@pytest.mark.parametrize("children", [1, 2, 8])
@pytest.mark.parametrize("busy", [0, 1, 8])
@pytest.mark.parametrize("own", [0, 1, 7])
@pytest.mark.parametrize("others", [0, 2, 10])
def test_an_estimate_holds_where_every_run_takes_equally_long(children: int, busy: int, own: int, others: int) -> None:
    busy = min(busy, children)
    took = 100.0
    span = estimate(Signs(1, children, busy, True, False, took, took), own=own, others=others)
    assert span is not None
    # Busy children end at any time within one run; those before it are all, or its own alone.
    for before in (own, own + others):
        for end in (0.0, took):
            free_at = sorted([0.0] * (children - busy) + [end] * busy)
            for _ in range(before):
                free_at = sorted([*free_at[1:], free_at[0] + took])
            assert span[0] <= free_at[0] <= span[1]
    assert set(span) <= set(SECONDS)


def test_one_that_is_tried_again_later_says_when(session: Session) -> None:
    workers.tell(session, HERE)
    audit = waiting(session, not_before=7 * MINUTE)
    standing = found(session, audit)
    assert (standing.again_s, standing.at_most_s) == (600, None)
    assert standing.summary == "nothing before it, it is tried again in 10 min"


def test_unknown_is_not_none_and_present_is_not_able() -> None:
    nothing = Signs(0, 0, 0, False, False, None, None)
    assert workers_of(nothing) == "unknown"
    assert workers_of(replace(nothing, untaken=True)) == "none"
    assert workers_of(replace(nothing, present=1)) == "none"
    assert workers_of(replace(nothing, present=1, children=1, untaken=True)) == "alive"
    assert workers_of(replace(nothing, life=True, untaken=True)) == "alive"


def test_times_are_told_in_steps_that_a_person_reads() -> None:
    assert [standing.in_words(s) for s in (10, 60, 2700, 5400, 86400, 604800)] == [
        "10 s", "1 min", "45 min", "1.5 h", "1 day", "7 days",
    ]  # fmt: skip
    assert [round_up(s, SECONDS) for s in (0.0, 0.1, 60.0, 61.0, 10.0**9)] == [0, 10, 60, 120, SECONDS[-1]]
