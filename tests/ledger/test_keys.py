"""The life of an API key: how it ends, what takes its place, when it was used, and who gets in whose way."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from service.database.unit_of_work import Ledger
from service.keys import store
from service.keys.lifetime import end_of, read_duration, read_expiry
from service.keys.uses import Uses
from service.settings import Settings
from spinal.errors import UsageError
from tests.support.former import environment_of
from tests.support.waiting import until

DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)
MINUTE = timedelta(minutes=1)


def put(session: Session, **members: Any) -> str:
    return store.create_key(session, **{"tenant": "t", "scopes": ("read",), "pepper": "p"} | members)


def id_of(key: str) -> str:
    return key.split("_")[1]


def opens(session: Session, key: str) -> bool:
    return store.authenticate(session, key, pepper="p") is not None


def row_of(session: Session, key: str) -> Any:
    (found,) = (row for row in store.list_keys(session) if row.id == id_of(key))
    return found


# how it ends


@pytest.mark.parametrize(("left", "state"), [(MICROSECOND, "live"), (timedelta(0), "expired"), (-DAY, "expired")])
def test_a_list_and_the_door_agree_on_the_moment_at_which_a_key_ends(
    session: Session, left: timedelta, state: str
) -> None:
    key = put(session, expires_at=store.database_time(session) + left)
    assert row_of(session, key).state == state
    assert opens(session, key) == (state == "live")


def test_keys_are_listed_with_all_but_their_secret(session: Session) -> None:
    key, other = put(session, description="for CI"), put(session, tenant="other")
    store.revoke_key(session, id_of(other))
    assert {row.id for row in store.list_keys(session, "t")} == {id_of(key)}
    assert store.list_keys(session, "nobody") == []
    found = row_of(session, key)
    assert (found.tenant, found.scopes, found.description, found.state) == ("t", ["read"], "for CI", "live")
    assert row_of(session, other).state == "revoked"
    assert not {"secret_hmac", "bound_hmac"} & set(found._fields)


def test_the_former_release_lets_no_expired_key_in_and_makes_keys_beside_this_one(
    settings: Settings, ledger: Ledger, former_code: Path
) -> None:
    with ledger.begin() as session:
        now = store.database_time(session)
        live, expired = put(session, expires_at=now + DAY), put(session, expires_at=now)
        rotated = store.rotate_key(session, id_of(put(session)), overlap=timedelta(0), pepper="p")
    asked = (
        "import sys\n"
        "from sqlalchemy import create_engine\n"
        "from sqlalchemy.orm import Session\n"
        "from service.ledger.api_keys import authenticate, create_key\n"
        "with Session(create_engine(sys.argv[1])) as session:\n"
        "    for key in sys.argv[2:]:\n"
        "        print(authenticate(session, key, pepper='p') is not None)\n"
        "    print(create_key(session, tenant='t', scopes=('read',), pepper='p'))\n"
        "    session.commit()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", asked, settings.database_url.get_secret_value(), live, expired, rotated.key],
        capture_output=True, text=True, check=False, env=environment_of(former_code, dict(os.environ)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *opened, theirs = done.stdout.split()
    assert opened == ["True", "False", "True"]
    with ledger.read() as session:
        assert opens(session, theirs)
        assert row_of(session, theirs).state == "live"


# what it is bound to


def of_the_former_release(session: Session, **members: Any) -> str:
    """A key as that release makes it: its HMAC is of the secret alone."""
    key = put(session, **members)
    secret = key.split("_", 2)[2].removeprefix(store.BOUND)
    session.execute(
        text("UPDATE api_keys SET bound_hmac = NULL, secret_hmac = :hmac WHERE id = :id"),
        {"id": id_of(key), "hmac": store._hmac(secret, "p")},
    )
    return f"spk_{id_of(key)}_{secret}"


EDITS = {
    "tenant": "tenant = 'other'",
    "more scopes": """scopes = '["read", "admin"]'""",
    "fewer scopes": "scopes = '[]'",
    "id": "id = 'feedfeedfeedfeed'",
    "bound taken away": "bound_hmac = NULL",
    "tenant, and bound taken away": "tenant = 'other', bound_hmac = NULL",
    "bound emptied": "bound_hmac = ''",
    "the HMAC of the secret in both": "tenant = 'other', bound_hmac = secret_hmac",
    "each in the other's place": "bound_hmac = secret_hmac, secret_hmac = bound_hmac",
}


@pytest.mark.parametrize("edit", list(EDITS))
def test_a_row_that_was_edited_opens_nothing(session: Session, edit: str) -> None:
    key = put(session)
    assert opens(session, key)
    session.execute(text(f"UPDATE api_keys SET {EDITS[edit]} WHERE id = :id"), {"id": id_of(key)})
    presented = key.replace(id_of(key), "feedfeedfeedfeed") if edit == "id" else key
    assert not opens(session, presented)
    # Nor without what says that it is a bound one.
    assert not opens(session, presented.replace(store.BOUND, ""))


def test_no_row_takes_the_hmacs_of_another(session: Session) -> None:
    mine, theirs = put(session), put(session, tenant="other", scopes=("admin",))
    session.execute(
        text("""UPDATE api_keys SET (secret_hmac, bound_hmac) =
                  (SELECT secret_hmac, bound_hmac FROM api_keys WHERE id = :mine) WHERE id = :theirs"""),
        {"mine": id_of(mine), "theirs": id_of(theirs)},
    )
    assert not opens(session, mine.replace(id_of(mine), id_of(theirs)))


def test_an_hmac_that_binds_is_none_of_any_secret_alone(session: Session) -> None:
    """Otherwise a row without it could be given one, for a secret that spells out what was bound."""
    key = put(session)
    bound = session.execute(text("SELECT bound_hmac FROM api_keys WHERE id = :id"), {"id": id_of(key)}).scalar_one()
    secret = key.split("_", 2)[2]
    said = f'["t", "{id_of(key)}", ["read"]]'
    spelled = "".join(chr(0) * 7 + chr(len(part)) + part for part in (said, secret))
    other = of_the_former_release(session, tenant="other", scopes=("admin",))
    session.execute(text("UPDATE api_keys SET secret_hmac = :hmac WHERE id = :id"), {"hmac": bound, "id": id_of(other)})
    for tried in (spelled, secret, said + secret):
        assert not opens(session, f"spk_{id_of(other)}_{tried}")


def test_a_key_of_the_former_release_is_bound_by_its_next_use(ledger: Ledger) -> None:
    with ledger.begin() as session:
        key = of_the_former_release(session, scopes=("write", "read"))
        assert not row_of(session, key).bound
        assert store.authenticate(session, key, pepper="p", unbound=False) is None
    uses = Uses()
    with ledger.read() as session:
        caller = store.authenticate(session, key, pepper="p")
    assert caller is not None
    uses.add(caller)
    # Of another use at the same moment, by a request that saw no need to bind it.
    uses.add(store.Caller("t", caller.scopes, id_of(key)))
    uses.tell(ledger)
    with ledger.begin() as session:
        assert row_of(session, key).bound
        assert row_of(session, key).last_used_at is not None
        assert store.authenticate(session, key, pepper="p", unbound=False) is not None
        session.execute(text("UPDATE api_keys SET tenant = 'other' WHERE id = :id"), {"id": id_of(key)})
        assert not opens(session, key)


def test_what_was_edited_between_its_use_and_its_binding_is_not_bound(ledger: Ledger) -> None:
    uses = Uses()
    with ledger.begin() as session:
        key = of_the_former_release(session)
        caller = store.authenticate(session, key, pepper="p")
        session.execute(text("UPDATE api_keys SET tenant = 'other' WHERE id = :id"), {"id": id_of(key)})
    assert caller is not None
    uses.add(caller)
    uses.tell(ledger)
    with ledger.read() as session:
        assert not row_of(session, key).bound


# what takes its place


def test_a_rotated_key_has_a_successor_and_ends_after_the_overlap(session: Session) -> None:
    old = put(session, tenant="mine", scopes=("read", "write"), description="for CI")
    now = store.database_time(session)
    made = store.rotate_key(session, id_of(old), overlap=DAY, pepper="p")
    assert (made.expires_at, made.old_expires_at) == (None, now + DAY)
    assert opens(session, old)
    assert store.authenticate(session, made.key, pepper="p") == store.Caller(
        "mine", frozenset({"read", "write"}), id_of(made.key)
    )
    assert row_of(session, made.key).description == "for CI"
    assert (row_of(session, old).expires_at, row_of(session, old).replaced_by) == (now + DAY, id_of(made.key))


def test_without_an_overlap_the_old_key_ends_at_once(session: Session) -> None:
    old = put(session)
    made = store.rotate_key(session, id_of(old), overlap=timedelta(0), pepper="p")
    assert (opens(session, old), opens(session, made.key)) == (False, True)


def test_a_rotation_never_lengthens_the_life_of_the_old_key_nor_makes_one_that_never_ends(session: Session) -> None:
    now = store.database_time(session)
    old = put(session, expires_at=now + timedelta(hours=1))
    session.execute(text("UPDATE api_keys SET created_at = now() - interval '29 days'"))
    made = store.rotate_key(session, id_of(old), overlap=DAY, pepper="p")
    assert made.old_expires_at == now + timedelta(hours=1)
    assert made.expires_at == now + timedelta(days=29, hours=1)
    other = store.rotate_key(session, id_of(made.key), overlap=DAY, pepper="p", expires_at=now + 2 * DAY)
    assert row_of(session, other.key).expires_at == now + 2 * DAY


def test_what_is_not_live_is_not_rotated(session: Session) -> None:
    revoked, expired = put(session), put(session, expires_at=store.database_time(session))
    store.revoke_key(session, id_of(revoked))
    for key_id in (id_of(revoked), id_of(expired), "unknown"):
        with pytest.raises(UsageError, match=f"no live key {key_id}"):
            store.rotate_key(session, key_id, overlap=DAY, pepper="p")
    assert len(store.list_keys(session)) == 2


def test_a_key_is_rotated_once_unless_its_successor_is_no_more(session: Session) -> None:
    old = put(session)
    first = store.rotate_key(session, id_of(old), overlap=DAY, pepper="p")
    with pytest.raises(UsageError, match=f"rotated already: key {id_of(first.key)} has taken its place"):
        store.rotate_key(session, id_of(old), overlap=DAY, pepper="p")
    store.revoke_key(session, id_of(first.key))
    second = store.rotate_key(session, id_of(old), overlap=DAY, pepper="p")
    assert row_of(session, old).replaced_by == id_of(second.key)


# who gets in whose way


@pytest.fixture
def racers(ledger: Ledger) -> Callable[[Callable[[Session], Any], Callable[[Session], Any]], list[Any]]:
    """``racers(first, second)``: what both came to, the second having waited for the first to commit."""

    def blocked() -> bool:
        with ledger.read() as session:
            return bool(
                session.execute(
                    text("""SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
                            AND datname = current_database()""")
                ).scalar_one()
            )

    def race(first: Callable[[Session], Any], second: Callable[[Session], Any]) -> list[Any]:
        came: list[Any] = []

        def follow() -> None:
            try:
                with ledger.begin() as session:
                    came.append(second(session))
            except UsageError as error:
                came.append(error)

        with ledger.begin() as session:
            done = first(session)
            other = threading.Thread(target=follow)
            other.start()
            until(blocked, "the second to wait for the first")
        other.join(30)
        assert not other.is_alive()
        return [done, *came]

    return race


def test_of_two_who_rotate_a_key_at_once_one_gets_a_new_key(ledger: Ledger, racers: Any) -> None:
    with ledger.begin() as session:
        old = put(session)

    def rotate(session: Session) -> store.Rotated:
        return store.rotate_key(session, id_of(old), overlap=DAY, pepper="p")

    first, second = racers(rotate, rotate)
    assert isinstance(second, UsageError)
    assert id_of(first.key) in second.detail
    with ledger.read() as session:
        assert {row.id for row in store.list_keys(session)} == {id_of(old), id_of(first.key)}


def test_a_key_that_is_being_revoked_is_not_rotated(ledger: Ledger, racers: Any) -> None:
    with ledger.begin() as session:
        old = put(session)
    revoked, refused = racers(
        lambda session: store.revoke_key(session, id_of(old)),
        lambda session: store.rotate_key(session, id_of(old), overlap=DAY, pepper="p"),
    )
    assert revoked
    assert isinstance(refused, UsageError)
    with ledger.read() as session:
        assert [row.id for row in store.list_keys(session)] == [id_of(old)]


def test_a_key_that_is_being_rotated_can_be_revoked_and_its_successor_lives(ledger: Ledger, racers: Any) -> None:
    with ledger.begin() as session:
        old = put(session)
    made, revoked = racers(
        lambda session: store.rotate_key(session, id_of(old), overlap=DAY, pepper="p"),
        lambda session: store.revoke_key(session, id_of(old)),
    )
    assert revoked
    with ledger.read() as session:
        assert (opens(session, old), opens(session, made.key)) == (False, True)


# when it was used


def test_a_use_is_written_down_once_in_a_while(session: Session) -> None:
    key, other = put(session), put(session)
    now = store.database_time(session)
    for last, expected in ((None, now), (now - MINUTE, now), (now - MINUTE + MICROSECOND, now - MINUTE + MICROSECOND)):
        session.execute(
            text("UPDATE api_keys SET last_used_at = :last WHERE id = :id"), {"last": last, "id": id_of(key)}
        )
        store.say_used(session, {id_of(key), "unknown"}, at_most_every=MINUTE)
        assert row_of(session, key).last_used_at == expected
    assert row_of(session, other).last_used_at is None


def test_telling_of_a_use_waits_for_nobody(ledger: Ledger) -> None:
    with ledger.begin() as session:
        held, free = put(session), put(session)
    with ledger.begin() as other:
        other.execute(text("SELECT 1 FROM api_keys WHERE id = :id FOR UPDATE"), {"id": id_of(held)})
        with ledger.begin() as session:
            session.execute(text("SET LOCAL lock_timeout = '1ms'"))
            store.say_used(session, {id_of(held), id_of(free)}, at_most_every=MINUTE)
    with ledger.read() as session:
        assert row_of(session, held).last_used_at is None
        assert row_of(session, free).last_used_at is not None


def test_uses_are_told_in_one_statement_and_kept_where_the_database_is_away(ledger: Ledger) -> None:
    with ledger.begin() as session:
        keys = [put(session) for _ in range(3)]
    uses, said = Uses(), []
    for key in keys * 4:
        uses.add(store.Caller("t", frozenset({"read"}), id_of(key)))
    away = Ledger(Settings(database_url="postgresql+psycopg://x:y@127.0.0.1:1/z"))
    uses.tell(away)
    away.close()
    event.listen(ledger.engine, "before_cursor_execute", lambda *told: said.append(told[2]))
    uses.tell(ledger)
    uses.tell(ledger)
    assert len(said) == 1
    with ledger.read() as session:
        assert all(row.last_used_at is not None for row in store.list_keys(session))


# how its end is written


@pytest.mark.parametrize(
    ("given", "expected"),
    [("90d", timedelta(days=90)), ("24h", DAY), ("2w", 14 * DAY), ("30m", timedelta(minutes=30)),
     ("2027-01-31", datetime(2027, 1, 31, tzinfo=UTC)),
     ("2027-01-31T12:00:00+02:00", datetime(2027, 1, 31, 10, tzinfo=UTC)),
     ("2027-01-31T12:00:00Z", datetime(2027, 1, 31, 12, tzinfo=UTC))],
)  # fmt: skip
def test_an_end_is_a_duration_or_a_date(given: str, expected: object) -> None:
    assert read_expiry(given) == expected


@pytest.mark.parametrize(
    "given",
    ["", "soon", "90", "-1d", "1.5d", "90d ", "9999999d", "40000d", "2027-02-30", "2027-01-31T12:00:00", "٣d",
     "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"],
)  # fmt: skip
def test_what_is_no_end_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="--expires"):
        read_expiry(given)


def test_a_key_ends_in_the_future_and_within_a_century() -> None:
    now = datetime(2027, 1, 1, tzinfo=UTC)
    assert end_of(now + MICROSECOND, now) == now + MICROSECOND
    for end, says in ((now, "past"), (timedelta(0), "past"), (now + timedelta(days=40_000), "century")):
        with pytest.raises(UsageError, match=says):
            end_of(end, now)
    with pytest.raises(UsageError, match="--overlap 'soon'"):
        read_duration("soon", "--overlap")
