"""Every statement on series and their members, and what a kept document covers. One transaction a test, as in
``test_run_statements.py``."""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import exc, text
from sqlalchemy.orm import Session

from service.operations.retained import count_idempotency_keys, delete_idempotency_keys
from service.policies.store import delete_policy, insert_policy, stored_form
from service.series import store
from service.series.assessed import find_assessed
from service.series.store import Covered, NewSeries, SeriesFilter
from service.traces.store import store_comparison
from spinal.documents.policy import Policy
from spinal.policy.shipped import default_policy
from tests.ledger.rows import MINUTE, OF_STATE, put, put_member, put_series, put_trace, row
from tests.support.fabricated import changed_pair

NOW = timedelta(0)
DOCUMENT = {"status": "watch", "onset_step": 3, "alarmed": ["nll"], "reasons": ["because"]}


def found(session: Session, series: UUID, tenant: str = "t") -> store.Series:
    made = store.find_series(session, tenant, series)
    assert made is not None
    return made


def kept(session: Session, series: UUID) -> tuple[Any, ...]:
    members = row(session, "series", series)
    return tuple(members[name] for name in ("status", "covers_members", "covers_settled", "covers_closed"))


def test_a_series_is_stored_with_everything_that_was_said(session: Session) -> None:
    policy = stored_form(default_policy(), builtin=True)
    insert_policy(session, "t", policy)
    made = NewSeries(
        id=uuid4(), tenant="t", reference="local:r", policy=policy.digest, spec={"a": 1}, description="d",
        settings={"plateau_from_step": 7}, labels={"run": "a"}, idempotency_key="k", body_digest="b", request_id="q",
    )  # fmt: skip
    store.insert_series(session, made)
    stored = row(session, "series", made.id)
    assert {name: stored[name] for name in vars(made)} == vars(made)
    read = found(session, made.id)
    assert {name: getattr(read, name) for name in vars(made) if hasattr(read, name)} == {
        name: value for name, value in vars(made).items() if hasattr(read, name)
    }
    assert (read.closed_at, read.cancelled_at, read.summary, read.states) == (None, None, None, {})
    assert (read.now, read.current) == (Covered(0, 0, False), False)


def test_a_series_is_found_by_its_own_tenant_alone(session: Session) -> None:
    series = put_series(session)
    assert store.find_series(session, "other", series) is None
    assert found(session, series).id == series


def test_a_key_belongs_to_its_tenant(session: Session) -> None:
    series = put_series(session, idempotency_key="k", body_digest="b")
    put_series(session, idempotency_key="other", body_digest="c")
    put_series(session, tenant="u", idempotency_key="k", body_digest="d")
    assert store.find_idempotent(session, "t", "k") == (series, "b")
    assert store.find_idempotent(session, "t", "none") is None
    with pytest.raises(exc.IntegrityError, match="uq_series_idempotency"), session.begin_nested():
        put_series(session, idempotency_key="k", body_digest="b")


def test_members_are_counted_by_the_state_of_their_audits(session: Session) -> None:
    series, other = put_series(session), put_series(session)
    for step, state in enumerate((*OF_STATE, "RUNNING")):
        put_member(session, series, step, state)
    put_member(session, other, 0, "FAILED")
    read = found(session, series)
    assert read.states == dict.fromkeys(OF_STATE, 1) | {"RUNNING": 2}
    assert read.now == Covered(6, 3, False)
    assert store.count_members(session, series) == 6
    assert store.count_members(session, other) == 1


def test_members_are_listed_by_step_and_found_by_it(session: Session) -> None:
    series, other = put_series(session), put_series(session)
    audits = {step: put_member(session, series, step, state) for step, state in ((9, "QUEUED"), (2**40, "FAILED"), (1, "SUCCEEDED"))}  # fmt: skip  # noqa: E501  one line says it
    put_member(session, other, 5)
    listed = store.list_members(session, series)
    assert [(each.step, each.model, each.audit_id, each.state) for each in listed] == [
        (1, "local:1", audits[1], "SUCCEEDED"), (9, "local:9", audits[9], "QUEUED"),
        (2**40, f"local:{2**40}", audits[2**40], "FAILED"),
    ]  # fmt: skip
    assert store.find_member(session, series, 9) == listed[1]
    assert store.find_member(session, series, 5) is None


def test_a_step_and_an_audit_are_taken_once(session: Session) -> None:
    series = put_series(session)
    audit = put_member(session, series, 1)
    for step, same in ((1, put_member(session, put_series(session), 1)), (2, audit)):
        with pytest.raises(exc.IntegrityError, match="_series_members"), session.begin_nested():
            store.insert_member(session, series, step, "m", same)
    with pytest.raises(exc.IntegrityError, match="ck_series_members_step"), session.begin_nested():
        store.insert_member(session, series, -1, "m", audit)


def test_a_member_never_changes(session: Session) -> None:
    put_member(session, put_series(session), 1)
    with pytest.raises(exc.DatabaseError, match="the row is final"), session.begin_nested():
        session.execute(text("UPDATE series_members SET model = 'other'"))


def test_a_member_is_inserted_as_it_was_asked_for(session: Session) -> None:
    series = put_series(session)
    audit = put_member(session, put_series(session), 1)
    session.execute(text("DELETE FROM series_members"))
    store.insert_member(session, series, 4, "local:m", audit)
    stored = row(session, "series_members", series, "series_id")
    assert (stored["step"], stored["model"], stored["audit_id"]) == (4, "local:m", audit)


@pytest.mark.parametrize("closed", [None, -MINUTE])
def test_whoever_holds_a_series_knows_whether_it_is_open(session: Session, closed: timedelta | None) -> None:
    series = put_series(session, **({} if closed is None else {"closed_at": closed}))
    assert store.lock_series(session, "t", series) is (closed is None)


def test_closing_counts_the_first_time(session: Session) -> None:
    early, late, other = put_series(session, closed_at=-MINUTE), put_series(session), put_series(session)
    for series in (early, late):
        store.close_series(session, "t", series)
    store.close_series(session, "u", other)
    closed = [row(session, "series", series) for series in (early, late, other)]
    assert [(each["closed_at"], each["cancelled_at"]) for each in closed] == [
        (-MINUTE, None),
        (NOW, None),
        (None, None),
    ]


def test_cancelling_closes_and_counts_the_first_time(session: Session) -> None:
    series = [
        put_series(session),
        put_series(session, closed_at=-MINUTE),
        put_series(session, closed_at=-2 * MINUTE, cancelled_at=-MINUTE),
    ]
    for each in series:
        store.close_series(session, "t", each, cancel=True)
    found = [row(session, "series", each) for each in series]
    assert [(each["closed_at"], each["cancelled_at"]) for each in found] == [
        (NOW, NOW), (-MINUTE, NOW), (-2 * MINUTE, -MINUTE),
    ]  # fmt: skip


def test_a_list_is_narrowed_by_each_member_and_by_all(session: Session) -> None:
    wanted = put_series(
        session, reference="a", labels={"x": "1", "y": "2"}, closed_at=NOW, status="watch", document=DOCUMENT,
        created_at=-MINUTE,
    )  # fmt: skip
    newer = put_series(session, reference="b", labels={"x": "1"})
    put_series(session, tenant="u")

    def listed(after: Any = None, limit: int = 10, **by: Any) -> list[UUID]:
        return [each.id for each in store.list_series(session, "t", SeriesFilter(**by), after=after, limit=limit)]

    assert listed() == [newer, wanted]
    assert listed(limit=1) == [newer]
    present = found(session, newer)
    assert listed(after=(present.created_at, present.id)) == [wanted]
    for by in ({"status": "watch"}, {"reference": "a"}, {"closed": True}, {"labels": (("y", "2"), ("x", "1"))}):
        assert listed(**by) == [wanted], by
    assert listed(closed=False) == [newer]
    assert listed(status="watch", reference="a", closed=True, labels=(("x", "1"),)) == [wanted]
    assert listed(status="watch", reference="b") == []


def test_a_list_tells_what_the_kept_document_says(session: Session) -> None:
    series = put_series(session, status="watch", document=DOCUMENT)
    [listed] = store.list_series(session, "t", SeriesFilter(), after=None, limit=1)
    assert listed.summary == dict.fromkeys(store.SUMMARY) | DOCUMENT
    assert store.kept_document(session, series) == DOCUMENT
    assert store.kept_document(session, put_series(session)) is None


def test_a_document_is_kept_unless_one_is_there_that_knows_as_much(session: Session) -> None:
    series, other = put_series(session), put_series(session)
    assert store.keep_document(session, series, DOCUMENT, Covered(2, 1, False))
    assert kept(session, series) == ("watch", 2, 1, False)
    for older in (Covered(2, 1, False), Covered(1, 1, False), Covered(2, 0, False), Covered(3, 0, False)):
        assert not store.keep_document(session, series, DOCUMENT | {"status": "healthy"}, older)
    assert kept(session, series) == ("watch", 2, 1, False)
    for newer in (Covered(3, 1, False), Covered(3, 2, False), Covered(3, 2, True)):
        assert store.keep_document(session, series, DOCUMENT | {"status": "healthy"}, newer)
        assert kept(session, series) == ("healthy", newer.members, newer.settled, newer.closed)
    assert not store.keep_document(session, series, DOCUMENT, Covered(4, 4, False))
    assert kept(session, other) == (None, 0, 0, False)


def test_a_first_document_of_a_series_without_members_is_kept(session: Session) -> None:
    series = put_series(session)
    assert store.keep_document(session, series, DOCUMENT, Covered(0, 0, False))
    assert not store.keep_document(session, series, DOCUMENT, Covered(0, 0, False))
    assert found(session, series).current


def test_series_are_stale_until_their_document_knows_all(session: Session) -> None:
    def stale() -> list[UUID]:
        return [series for series, _ in store.stale_series(session)]

    def keep(series: UUID) -> None:
        assert store.keep_document(session, series, DOCUMENT, found(session, series).now)
        assert found(session, series).current

    series, other = put_series(session), put_series(session)
    keep(other)
    assert store.stale_series(session) == [(series, "t")]
    keep(series)
    assert stale() == []
    audit = put_member(session, series, 1, "RUNNING")
    assert stale() == [series]
    assert not found(session, series).current
    keep(series)
    assert stale() == []
    # Settled by whom ever, with no word of the series.
    session.execute(text("UPDATE audits SET state = 'CANCELLED', finished_at = now() WHERE id = :a"), {"a": audit})
    assert stale() == [series]
    keep(series)
    store.close_series(session, "t", series)
    assert stale() == [series]
    keep(series)
    assert stale() == []


def test_members_come_with_their_comparison_their_verdict_and_their_error(session: Session) -> None:
    made = changed_pair().compare()
    for side in (made.reference, made.candidate):
        put_trace(session, side.digest)
    store_comparison(session, made)
    series = put_series(session)
    verdict = made.verdict.model_dump(mode="json")
    put_member(
        session, series, 3, "SUCCEEDED", comparison=made.digest, verdict=made.verdict.outcome, verdict_document=verdict
    )
    put_member(session, series, 1, "FAILED", error={"code": "c", "detail": "because", "worker": "w"})
    put_member(session, series, 2, "RUNNING")
    rows = store.members_with_results(session, series)
    assert [each.step for each in rows] == [1, 2, 3]
    assert [each.document is None for each in rows] == [True, True, False]
    assert rows[2].document["layers"] == []
    assert rows[2].verdict_document == verdict
    assessed = find_assessed(session, found(session, series)).assess()
    assert assessed.covered == Covered(3, 2, False)
    members = assessed.document.members
    assert [(each.state, each.reason) for each in members] == [
        ("failed", "because"), ("waiting", None), ("measured", None),
    ]  # fmt: skip
    assert (members[2].comparison, members[2].verdict) == (made.digest, made.verdict.outcome)


def test_a_comparison_of_newer_code_is_a_member_that_could_not_be_read(session: Session) -> None:
    put_trace(session, "1" * 64)
    put(session, "comparisons", digest="c", reference_digest="1" * 64, candidate_digest="1" * 64,
        comparison_fingerprint="f", document={"of": "another form"})  # fmt: skip
    series = put_series(session)
    put_member(session, series, 1, "SUCCEEDED", comparison="c", verdict="pass")
    [member] = find_assessed(session, found(session, series)).assess().document.members
    assert (member.state, member.comparison) == ("failed", None)
    assert "newer code" in str(member.reason)


def test_a_policy_that_a_series_names_is_not_deleted(session: Session) -> None:
    rule = {"name": "n", "value": "damage.gap", "bad": "above", "limit": 0.5, "severity": "fail"}
    named, other = (stored_form(Policy.model_validate({"name": f"acme/{n}", "rules": [rule]})) for n in (1, 2))
    for policy in (named, other):
        assert insert_policy(session, "t", policy)
        assert insert_policy(session, "u", policy)
    put_series(session, policy=named.digest)
    assert not delete_policy(session, "t", named.digest)
    assert delete_policy(session, "t", other.digest)
    assert delete_policy(session, "u", named.digest)


def test_old_keys_of_series_are_forgotten_and_the_series_stay(session: Session) -> None:
    old = put_series(session, idempotency_key="o", body_digest="b", created_at=-2 * MINUTE)
    young = put_series(session, idempotency_key="y", body_digest="b", created_at=-MINUTE)
    put_series(session, created_at=-2 * MINUTE)
    assert count_idempotency_keys(session, older_than_s=90.0) == 1
    assert delete_idempotency_keys(session, older_than_s=90.0) == 1
    assert count_idempotency_keys(session, older_than_s=90.0) == 0
    assert [row(session, "series", each)["idempotency_key"] for each in (old, young)] == [None, "y"]
