"""Policies in the ledger: an audit is judged by its own, whoever settles it; what is named stays."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import exc, text
from sqlalchemy.orm import Session

from service.audits import store as audits
from service.database.unit_of_work import Ledger
from service.policies import store
from service.policies.store import stored_form
from service.runs.settle import UNREADABLE, UNREADABLE_POLICY, settle, settle_audit, settle_overlooked
from service.traces.store import store_comparison
from spinal.documents.canonical import digest_of
from spinal.documents.policy import Policy
from spinal.policy.shipped import default_policy
from tests.ledger.rows import MINUTE, put, put_audit, put_comparison, put_run, put_trace, row
from tests.support.fabricated import changed_pair
from tests.support.waiting import until

QUIET = changed_pair().compare()


def policy(name: str = "acme/1", value: str = "damage.gap", **rule: Any) -> store.StoredPolicy:
    """One rule that fails whatever has the value."""
    of = {"name": "strict", "value": value, "bad": "above", "limit": 0.0, "severity": "fail", "decides": "value"}
    return stored_form(Policy.model_validate({"name": name, "rules": [of | rule]}))


def put_policy(session: Session, made: store.StoredPolicy, tenant: str = "t") -> str:
    assert store.insert_policy(session, tenant, made)
    return made.digest


def finished(session: Session, comparison: str | None = None) -> dict[str, UUID]:
    """Runs that have made a comparison, by role."""
    if comparison is None:
        for side in (QUIET.reference, QUIET.candidate):
            put_trace(session, side.digest)
        store_comparison(session, QUIET)
    results = {"reference": QUIET.reference.digest, "candidate": QUIET.candidate.digest,
               "compare": comparison or QUIET.digest}  # fmt: skip
    return {role: put_run(session, "SUCCEEDED", result_digest=digest) for role, digest in results.items()}


def settled(session: Session, audit: UUID) -> dict[str, Any]:
    settle_audit(session, audit)
    return row(session, "audits", audit)


def test_audits_of_one_comparison_are_judged_each_by_its_own_policy(session: Session) -> None:
    runs = finished(session)
    asked = [default_policy().digest, put_policy(session, policy()), put_policy(session, policy("acme/2", limit=0.9))]
    put_policy(session, stored_form(default_policy()))
    made = [put_audit(session, "RUNNING", runs, reference="r", policy=digest) for digest in (*asked, asked[1], None)]
    settle(session, [runs["compare"]])
    found = [row(session, "audits", audit) for audit in made]
    assert [each["verdict"] for each in found] == ["pass", "fail", "pass", "fail", "pass"]
    judged = [each["verdict_document"]["policy_digest"] for each in found]
    assert judged == [*asked, asked[1], default_policy().digest]
    assert found[1]["verdict_document"]["rules"][0]["limit"] == 0.0


FORMER: dict[str, Any] = {"value": "former.damage.gap", "limit": 0.0}


def test_a_former_audit_is_read_where_the_policy_asks_for_it(session: Session) -> None:
    runs = finished(session)
    digests = [put_policy(session, policy("acme/1", **FORMER)), put_policy(session, policy("acme/2"))]
    former = put_audit(session, "SUCCEEDED", runs, comparison=QUIET.digest, verdict="pass")
    found = [
        settled(session, put_audit(session, "RUNNING", runs, reference="r", policy=digest, former=former))
        for digest in digests
    ]
    documents = [each["verdict_document"] for each in found]
    assert [each["former"] for each in documents] == [QUIET.digest, None]
    assert documents[0]["rules"][0]["value"] == 0.0
    alone = settled(session, put_audit(session, "RUNNING", runs, reference="r", policy=digests[0]))
    assert (alone["verdict"], alone["verdict_document"]["former"]) == ("inconclusive", None)


def test_what_newer_code_wrote_is_not_decided_by_other_rules_than_the_audits(session: Session) -> None:
    put_trace(session, "1")
    put_comparison(session, "2" * 64, "1", "1", document={"schema": "spinal.comparison/9", "verdict": {
        "outcome": "pass", "policy": "spinal-default/2", "reasons": []}})  # fmt: skip
    newer = put_run(session, "SUCCEEDED", result_digest="2" * 64)
    ours, theirs = put_policy(session, policy()), "f" * 64
    put(session, "policies", tenant="t", digest=theirs, name="acme/9", document={"name": "acme/9", "rules": {}})
    runs = finished(session)
    luck = put_policy(session, policy("acme/8", value="damage.luck"))
    unread = settled(session, put_audit(session, "RUNNING", {"compare": newer}, reference="r", policy=ours))
    unknown = settled(session, put_audit(session, "RUNNING", runs, reference="r", policy=theirs))
    valueless = settled(session, put_audit(session, "RUNNING", runs, reference="r", policy=luck))
    for found, name, digest, why in (
        (unread, "acme/1", ours, UNREADABLE),
        (unknown, "acme/9", theirs, UNREADABLE_POLICY),
        (valueless, "acme/8", luck, UNREADABLE_POLICY),
    ):
        document = found["verdict_document"]
        assert (found["verdict"], document["policy"], document["policy_digest"]) == ("inconclusive", name, digest)
        assert document["reasons"] == [why]


SETTLED_BEFORE = """UPDATE audits SET state = 'SUCCEEDED', version = version + 1, comparison = :comparison,
  verdict = 'pass', finished_at = now() {document} WHERE id = :id"""
DOCUMENT = """, verdict_document = '{"outcome": "pass", "policy": "spinal-default/2"}'"""


@pytest.mark.parametrize("document", ["", DOCUMENT])
def test_where_the_release_before_ends_an_audit_it_knows_no_policy_but_its_own(session: Session, document: str) -> None:
    """It fails no run by that: the audit waits for code that knows its policy."""
    runs = finished(session)
    plain, strict = put_policy(session, stored_form(default_policy())), put_policy(session, policy())
    by_default, by_ours, by_none = (
        put_audit(session, "RUNNING", runs, reference="r", policy=digest) for digest in (plain, strict, None)
    )
    for audit in (by_default, by_ours, by_none):
        session.execute(
            text(SETTLED_BEFORE.format(document=document.replace(":", r"\:"))),
            {"id": audit, "comparison": QUIET.digest},
        )
    states = [row(session, "audits", audit)["state"] for audit in (by_default, by_ours, by_none)]
    assert states == ["SUCCEEDED", "RUNNING", "SUCCEEDED"]
    waiting = put_audit(session, "RUNNING", runs | {"control": put_run(session)}, reference="r", policy=strict)
    assert settle_overlooked(session) == [by_ours]
    found = row(session, "audits", by_ours)
    assert (found["state"], found["verdict"], found["version"]) == ("SUCCEEDED", "fail", 2)
    assert row(session, "audits", waiting)["version"] == 1
    assert settle_overlooked(session) == []


def test_a_verdict_names_its_policy_as_it_was_stored(session: Session) -> None:
    """Code that knows another member of policies would spell it out to another digest, and the ledger hold it for a
    verdict of other rules."""
    made = policy()
    document = {name: member for name, member in made.document.items() if name != "quiet"}
    digest = put_policy(session, replace(made, digest=digest_of(document), document=document))
    found = settled(session, put_audit(session, "RUNNING", finished(session), reference="r", policy=digest))
    assert (found["state"], found["verdict"]) == ("SUCCEEDED", "fail")
    assert found["verdict_document"]["policy_digest"] == digest != made.digest


def test_an_audit_that_has_failed_or_was_cancelled_needs_no_verdict(session: Session) -> None:
    strict = put_policy(session, policy())
    failed = put_run(session, "FAILED", error={"code": "c"})
    found = settled(session, put_audit(session, "RUNNING", {"candidate": failed}, reference="r", policy=strict))
    assert (found["state"], found["verdict"]) == ("FAILED", None)
    open_audit = put_audit(session, "RUNNING", {"candidate": put_run(session)}, reference="r", policy=strict)
    assert audits.cancel_audit(session, "t", open_audit)


def test_a_stored_policy_never_changes_and_is_named_by_its_own_tenant_alone(session: Session) -> None:
    digest = put_policy(session, policy())
    assert not store.insert_policy(session, "t", policy(limit=0.5))
    assert store.insert_policy(session, "other", policy(limit=0.5))
    row_of = "INSERT INTO policies (tenant, digest, name, document) VALUES ('t', '{digest}', 'a/1', '{document}')"
    for change in (
        """UPDATE policies SET document = '{"name": "acme/1"}'""",
        row_of.format(digest="x", document='{"name": "a/1"}'),
        row_of.format(digest="0" * 64, document="{}"),
        row_of.format(digest="0" * 64, document='{"name": "a/2"}'),
    ):
        with pytest.raises(exc.DBAPIError), session.begin_nested():
            session.execute(text(change.replace(":", r"\:")))
    session.execute(text(row_of.format(digest="0" * 64, document='{"name"\\: "a/1"}')))
    with pytest.raises(exc.IntegrityError), session.begin_nested():
        put_audit(session, tenant="other", policy=digest)
    audit = put_audit(session, policy=digest)
    with pytest.raises(exc.IntegrityError), session.begin_nested():
        session.execute(text("DELETE FROM policies WHERE tenant = 't'"))
    assert not store.delete_policy(session, "t", digest)
    assert row(session, "audits", audit)["policy"] == digest
    assert store.delete_policy(session, "other", policy(limit=0.5).digest)
    assert store.delete_policy(session, "other", "0" * 64)


def name_it(ledger: Ledger, tenant: str, made: store.StoredPolicy) -> bool:
    """Accept an audit under a policy; False where it is gone."""
    with ledger.begin() as session:
        if not store.hold_policy(session, tenant, made):
            return False
        put_audit(session, "CANCELLED", id=uuid4(), tenant=tenant, policy=made.digest)
        return True


def delete_it(ledger: Ledger, tenant: str, made: store.StoredPolicy) -> bool:
    with ledger.begin() as session:
        return store.delete_policy(session, tenant, made.digest)


def waits_for_a_lock(ledger: Ledger) -> bool:
    with ledger.read() as session:
        found = session.execute(
            text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        )
        return bool(found.scalar_one())


@pytest.mark.parametrize("first", ["an audit is accepted", "the policy is deleted"])
def test_an_audit_and_the_deletion_of_its_policy_wait_for_each_other(ledger: Ledger, first: str) -> None:
    """Whoever came first is through; the other sees what was done."""
    made, answers = policy(), list[bool]()
    with ledger.begin() as session:
        put_policy(session, made)
    second: Callable[..., bool] = delete_it if first == "an audit is accepted" else name_it
    with ledger.begin() as session:
        if second is delete_it:
            assert store.hold_policy(session, "t", made)
            put_audit(session, "CANCELLED", policy=made.digest)
        else:
            assert store.delete_policy(session, "t", made.digest)
        thread = threading.Thread(target=lambda: answers.append(second(ledger, "t", made)))
        thread.start()
        until(lambda: waits_for_a_lock(ledger), "the second to wait for the first", timeout=20.0)
    thread.join(timeout=20.0)
    assert answers == [False]
    with ledger.read() as session:
        assert (store.find_policy(session, "t", "acme/1") is not None) == (second is delete_it)


def test_many_who_store_name_and_delete_at_once_leave_no_audit_without_its_policy(ledger: Ledger) -> None:
    tenants, turns = ("t", "u"), range(12)
    errors: list[BaseException] = []

    def work(tenant: str, verb: Callable[[Ledger, str, store.StoredPolicy], Any], numbers: range) -> None:
        try:
            for number in numbers:
                verb(ledger, tenant, policy(f"acme/{number + 1}"))
        except BaseException as error:  # noqa: BLE001  told in the test's own thread
            errors.append(error)

    def keep_it(ledger: Ledger, tenant: str, made: store.StoredPolicy) -> None:
        with ledger.begin() as session:
            store.insert_policy(session, tenant, made)

    threads = [
        threading.Thread(target=work, args=(tenant, verb, numbers))
        for tenant in tenants
        for verb in (keep_it, name_it, delete_it)
        for numbers in (turns, turns[::-1])
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join(timeout=60.0)
    assert errors == []
    with ledger.read() as session:
        named = set(session.execute(text("SELECT tenant, policy FROM audits")).all())
        kept = set(session.execute(text("SELECT tenant, digest FROM policies")).all())
    assert named <= kept


def test_the_newest_comparable_audit_of_the_name_is_the_former_one(session: Session) -> None:
    spec = {"prompt_set": {"digest": "p"}, "comparison_fingerprint": "f", "candidate": {"snapshot": "now"},
            "reference": {"snapshot": "r"}}  # fmt: skip
    put_trace(session, "1")
    compared = put_comparison(session, "2" * 64, "1", "1")

    def put_former(minutes: int, **members: Any) -> UUID:
        own = {"candidate": {"snapshot": "then"}} | members.pop("spec", {})
        of = {"comparison": compared, "verdict": "pass", "labels": {"name": "chat"}, "spec": spec | own}
        return put_audit(session, members.pop("state", "SUCCEEDED"), created_at=-minutes * MINUTE, **of | members)

    put_former(9)
    expected = put_former(8, verdict="inconclusive")
    put_former(7, verdict="fail")
    put_former(6, tenant="other")
    put_former(5, labels={"name": "else"})
    put_former(4, labels={})
    put_former(3, state="FAILED", verdict=None)
    put_former(2, comparison=None, verdict=None)
    for part in ({"prompt_set": {"digest": "q"}}, {"comparison_fingerprint": "g"}, {"reference": {"snapshot": "s"}},
                 {"candidate": {"snapshot": "now"}}):  # fmt: skip
        put_former(1, spec=part)
    # It ended while the transaction that asks was under way: not before the audit that this writes.
    put_former(1, finished_at=MINUTE)
    assert audits.find_former(session, "t", {"name": "chat"}, spec) == expected
    assert audits.find_former(session, "t", {"name": "chat"}, spec | {"reference": None}) is None
    assert audits.find_former(session, "t", {"other": "chat"}, spec) is None
    assert audits.find_former(session, "t", {"name": "new"}, spec) is None


def test_a_former_audit_is_found_by_an_index(session: Session) -> None:
    for way in ("seqscan", "bitmapscan", "sort"):
        session.execute(text(f"SET LOCAL enable_{way} = off"))
    plan = "\n".join(session.execute(
        text("EXPLAIN SELECT id FROM audits WHERE tenant = 't' AND labels->>'name' = 'x' AND state = 'SUCCEEDED'"
             " ORDER BY created_at DESC, id DESC LIMIT 1")
    ).scalars())  # fmt: skip
    assert "ix_audits_tenant_name" in plan
    assert "Sort  (" not in plan
