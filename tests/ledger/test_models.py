"""Versions and aliases of registered models: every condition of their statements, and who gets in whose way."""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import exc, text
from sqlalchemy.orm import Session

from service.database.unit_of_work import Ledger
from service.models import store, verbs
from service.models.names import Named
from service.settings import Settings
from spinal.errors import ModelNameTaken, ModelVersionInUse, ModelVersionNotFound, ModelVersionTaken, SpinalError
from tests.ledger.rows import row
from tests.support.waiting import until

FORMER_INSERT = """INSERT INTO models (id, tenant, name, reference, description, labels)
  VALUES (:id, :tenant, :name, :reference, :description, CAST(:labels AS jsonb))
  ON CONFLICT ON CONSTRAINT uq_models_tenant_name DO NOTHING RETURNING id"""
FORMER_FIND = """SELECT id, name, reference, description, labels, created_at FROM models
  WHERE tenant = :tenant AND (name = :name OR id = CAST(:id AS uuid)) ORDER BY name = :name DESC LIMIT 1"""
"""As the release before says them."""


def put_model(session: Session, name: str = "m", version: str = "1", tenant: str = "t", /) -> UUID:
    made = store.insert_model(
        session, tenant, name, reference=f"local:{version}", version=version, description=None, labels={}
    )
    assert made is not None
    return made


def add(session: Session, model: UUID, *versions: str) -> None:
    for version in versions:
        store.insert_version(session, model, version, reference=f"local:{version}", labels={"is": version})


def meant(session: Session, name: str = "m", tenant: str = "t", **which: str) -> Any:
    """The version that is named; None without one, "nothing" without the model."""
    found = store.find_meaning(session, tenant, Named(name, **which))
    if found is None:
        return "nothing"
    return None if found.version is None else found.version.version


def former_read(session: Session, name: str) -> Any:
    return session.execute(text(FORMER_FIND), {"tenant": "t", "name": name, "id": None}).one()


def former_register(session: Session, name: str, reference: str) -> UUID | None:
    given = {"id": uuid4(), "tenant": "t", "name": name, "reference": reference, "description": None, "labels": "{}"}
    found: UUID | None = session.execute(text(FORMER_INSERT), given).scalar()
    return found


# beside the release before


def test_a_model_of_the_release_before_has_its_reference_as_version_1(session: Session) -> None:
    model = former_register(session, "m", "local:x")
    assert model is not None
    [only] = store.list_versions(session, model, before=None, limit=9)
    assert (only.version, only.number, only.reference, only.labels, only.aliases) == ("1", 1, "local:x", {}, [])
    assert only.created_at == former_read(session, "m").created_at
    # Once more, it inserts nothing, and leaves what is there.
    assert former_register(session, "m", "local:y") is None
    assert [each.reference for each in store.list_versions(session, model, before=None, limit=9)] == ["local:x"]


def test_a_first_version_with_another_name_is_the_only_one(session: Session) -> None:
    model = put_model(session, "acme/chat", "2026-11")
    assert [each.version for each in store.list_versions(session, model, before=None, limit=9)] == ["2026-11"]


def test_the_release_before_reads_the_newest_version(session: Session) -> None:
    model = put_model(session)
    for change, reference in (
        (lambda: add(session, model, "2"), "local:2"),
        (lambda: add(session, model, "0"), "local:0"),
        (lambda: store.delete_version(session, model, "0"), "local:2"),
        (lambda: store.delete_version(session, model, "1"), "local:2"),
    ):
        change()
        assert former_read(session, "m").reference == reference
        found = store.find_model(session, "t", "m")
        assert found is not None
        assert found.reference == reference


# versions


def test_a_version_is_never_changed(session: Session) -> None:
    put_model(session)
    with pytest.raises(exc.DBAPIError, match="on model_versions refused"):
        session.execute(text("UPDATE model_versions SET reference = 'local:y'"))


def test_what_is_named_is_the_newest_version_one_by_name_or_one_by_alias(session: Session) -> None:
    model, theirs = put_model(session), put_model(session, "m", "9", "other")
    add(session, model, "10", "2", "v3")
    store.set_alias(session, model, "champion", "10")
    add(session, theirs, "1", "8")
    store.set_alias(session, theirs, "theirs", "1")
    # Whichever sorts how: the last that was registered.
    assert meant(session) == meant(session, str(model)) == "v3"
    assert [meant(session, version=each) for each in ("1", "2", "10", "v3", "9", "champion")] == [
        "1", "2", "10", "v3", None, None,
    ]  # fmt: skip
    assert [meant(session, alias=each) for each in ("champion", "theirs", "v3")] == ["10", None, None]
    assert meant(session, str(model), alias="champion") == "10"
    assert meant(session, "m", "other") == "8"
    assert meant(session, str(theirs)) == meant(session, "n") == "nothing"


def test_a_version_is_read_with_the_aliases_that_point_at_it(session: Session) -> None:
    model, other = put_model(session), put_model(session, "n")
    add(session, model, "2")
    for alias, of, version in (("b", model, "1"), ("a", model, "1"), ("c", model, "2"), ("z", other, "1")):
        store.set_alias(session, of, alias, version)
    first, second = (store.find_version(session, model, version) for version in "12")
    assert first is not None
    assert second is not None
    assert (first.aliases, second.aliases, second.labels) == (["a", "b"], ["c"], {"is": "2"})
    found = store.find_model(session, "t", "m")
    assert found is not None
    assert (found.version, found.aliases) == ("2", {"a": "1", "b": "1", "c": "2"})
    assert store.find_version(session, model, "3") is None


def test_versions_are_listed_newest_first_from_where_the_last_page_ended(session: Session) -> None:
    model = put_model(session)
    add(session, model, "b", "a")
    add(session, put_model(session, "n"), "x")

    def names(before: int | None = None, limit: int = 9) -> list[tuple[str, int]]:
        listed = store.list_versions(session, model, before=before, limit=limit)
        return [(each.version, each.number) for each in listed]

    assert names() == [("a", 3), ("b", 2), ("1", 1)]
    assert (names(3), names(3, 1), names(1)) == ([("b", 2), ("1", 1)], [("b", 2)], [])


def test_the_only_version_stays_and_others_go(session: Session) -> None:
    model, other = put_model(session), put_model(session, "n")
    add(session, other, "2")
    assert store.delete_version(session, model, "1") is False
    add(session, model, "2")
    assert store.delete_version(session, model, "3") is False
    assert store.delete_version(session, model, "1") is True
    assert [each.version for each in store.list_versions(session, model, before=None, limit=9)] == ["2"]
    assert len(store.list_versions(session, other, before=None, limit=9)) == 2


def test_a_deleted_model_takes_its_own_versions_and_aliases_with_it(session: Session) -> None:
    model, other = put_model(session), put_model(session, "n")
    for each in (model, other):
        add(session, each, "2")
        store.set_alias(session, each, "champion", "2")
    store.delete_model(session, model)
    assert store.find_model(session, "t", "m") is None
    for table in ("models", "model_aliases"):
        assert session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() == 1, table
    assert session.execute(text("SELECT count(*) FROM model_versions")).scalar_one() == 2
    assert meant(session, "n", alias="champion") == "2"


def test_what_is_not_given_is_not_changed(session: Session) -> None:
    model, other = put_model(session), put_model(session, "n")
    for changes, expected in (
        ({"description": "d"}, ("d", {})),
        ({"labels": {"a": "b"}}, ("d", {"a": "b"})),
        ({"description": None}, (None, {"a": "b"})),
        ({"labels": {}}, (None, {})),
        ({}, (None, {})),
    ):
        store.update_model(session, model, changes)
        found = row(session, "models", model)
        assert (found["description"], found["labels"]) == expected, changes
    store.update_model(session, model, {"description": "d", "labels": {"a": "b"}})
    assert row(session, "models", other)["labels"] == {}


# aliases


def test_an_alias_moves_and_is_as_it_was_where_it_pointed_there(ledger: Ledger) -> None:
    with ledger.begin() as session:
        model = put_model(session)
        add(session, model, "2")
        made = store.set_alias(session, model, "champion", "1")
    with ledger.begin() as session:
        assert store.set_alias(session, model, "champion", "1") == made
    with ledger.begin() as session:
        moved = store.set_alias(session, model, "champion", "2")
    assert (moved.alias, moved.version, moved.moved_at > made.moved_at) == ("champion", "2", True)


def test_an_alias_of_one_model_is_none_of_another(session: Session) -> None:
    model, other = put_model(session), put_model(session, "n")
    store.set_alias(session, model, "champion", "1")
    store.set_alias(session, model, "second", "1")
    counts = [store.count_other_aliases(session, of, alias) for of in (model, other) for alias in ("champion", "x")]
    assert counts == [1, 2, 0, 0]
    assert [store.delete_alias(session, of, "champion") for of in (other, model, model)] == [False, True, False]
    assert meant(session, alias="champion") is None


def test_an_alias_points_at_a_version_that_is_there(session: Session) -> None:
    model, other = put_model(session), put_model(session, "n")
    add(session, other, "2")
    with pytest.raises(exc.IntegrityError, match="fk_model_aliases_version"):
        store.set_alias(session, model, "champion", "2")


# who gets in whose way


class Folder:
    """In the place of inspectors: what is asked for is there, and is called what it is called."""

    def survey(self, references: Mapping[str, str], _roots: Sequence[Path]) -> dict[str, Any]:
        return {role: SimpleNamespace(source=reference) for role, reference in references.items()}


@pytest.fixture
def register(ledger: Ledger, settings: Settings) -> Callable[..., verbs.Kept]:
    inspectors: Any = Folder()

    def carry_out(version: str, reference: str, **labels: str) -> verbs.Kept:
        return verbs.register_version(
            ledger, settings, inspectors, tenant="t", name="m", reference=reference, version=version, labels=labels
        )

    return carry_out


def waits_for_a_lock(ledger: Ledger) -> bool:
    with ledger.read() as session:
        found = session.execute(
            text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        )
        return bool(found.scalar_one())


def second_of(ledger: Ledger, first: Callable[[Session, UUID], Any], second: Callable[[], Any]) -> Any:
    """What the second came to, which began when the first had done its work and had not committed it."""
    came: list[Any] = []

    def follow() -> None:
        try:
            came.append(second())
        except SpinalError as error:
            came.append(error)

    with ledger.begin() as session:
        held = store.hold_model(session, "t", "m")
        assert held is not None
        first(session, held)
        thread = threading.Thread(target=follow)
        thread.start()
        until(lambda: waits_for_a_lock(ledger), "the second to wait for the first", timeout=20.0)
    thread.join(timeout=20.0)
    return came[0]


@pytest.fixture
def model(ledger: Ledger) -> UUID:
    with ledger.begin() as session:
        made = put_model(session)
        add(session, made, "2")
    return made


@pytest.mark.usefixtures("model")
def test_an_alias_that_comes_keeps_the_version_that_somebody_wants_to_delete(ledger: Ledger) -> None:
    came = second_of(
        ledger,
        lambda session, model: store.set_alias(session, model, "champion", "1"),
        lambda: verbs.delete_version(ledger, "t", "m", "1"),
    )
    assert isinstance(came, ModelVersionInUse)
    assert "champion" in came.detail
    with ledger.read() as session:
        assert meant(session, alias="champion") == "1"


@pytest.mark.usefixtures("model")
def test_no_alias_comes_to_point_at_a_version_that_goes(ledger: Ledger) -> None:
    came = second_of(
        ledger,
        lambda session, model: store.delete_version(session, model, "1"),
        lambda: verbs.move_alias(ledger, "t", "m", "champion", "1"),
    )
    assert isinstance(came, ModelVersionNotFound)


@pytest.mark.usefixtures("model")
def test_of_two_versions_deleted_at_once_one_stays(ledger: Ledger) -> None:
    came = second_of(
        ledger,
        lambda session, model: store.delete_version(session, model, "1"),
        lambda: verbs.delete_version(ledger, "t", "m", "2"),
    )
    assert isinstance(came, ModelVersionInUse)


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("reference", "labels", "outcome"),
    [
        ("local:3", {"is": "3"}, None),
        ("local:4", {"is": "3"}, ModelVersionTaken),
        ("local:3", {"is": "4"}, ModelVersionTaken),
        ("local:3", {}, ModelVersionTaken),
    ],
)
def test_the_second_to_register_a_version_finds_that_of_the_first(
    ledger: Ledger, register: Callable[..., verbs.Kept], reference: str, labels: dict[str, str], outcome: Any
) -> None:
    came = second_of(
        ledger,
        lambda session, model: add(session, model, "3"),
        lambda: register("3", reference, **labels),
    )
    if outcome is None:
        assert (came.fresh, came.version.reference, came.version.number) == (False, "local:3", 3)
    else:
        assert isinstance(came, outcome)


@pytest.mark.usefixtures("model")
def test_many_who_register_one_version_at_once_make_one(ledger: Ledger, register: Callable[..., verbs.Kept]) -> None:
    def attempt(number: int) -> str:
        try:
            return "made" if register("3", f"local:{number % 2}").fresh else "there"
        except ModelVersionTaken:
            return "taken"

    with ThreadPoolExecutor(8) as pool:
        came = sorted(pool.map(attempt, range(16)))
    assert came == ["made"] + ["taken"] * 8 + ["there"] * 7


def test_of_two_who_register_a_name_at_once_one_has_it(ledger: Ledger, settings: Settings) -> None:
    inspectors: Any = Folder()

    def attempt(number: int) -> str:
        try:
            verbs.register_model(
                ledger, settings, inspectors, tenant="t", name="m", reference=f"local:{number}", version=f"v{number}",
                aliases=["champion"], description=None, labels={},
            )  # fmt: skip
        except ModelNameTaken:
            return "taken"
        return "made"

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(attempt, range(8))) == ["made", *["taken"] * 7]
    with ledger.read() as session:
        found = store.find_model(session, "t", "m")
        assert found is not None
        assert found.reference == f"local:{found.version[1:]}"
        assert found.aliases == {"champion": found.version}
        assert len(store.list_versions(session, found.id, before=None, limit=9)) == 1


def test_a_name_means_one_version_at_any_moment_while_its_alias_moves(ledger: Ledger, model: UUID) -> None:
    """Whoever resolves an alias gets the version before or the one after, and never none: also while the version that
    it left is deleted at once."""
    seen: list[Any] = []
    done = threading.Event()
    with ledger.begin() as session:
        store.set_alias(session, model, "champion", "2")

    def look() -> None:
        while not done.is_set():
            with ledger.read() as session:
                seen.append(meant(session, alias="champion"))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for number in range(3, 40):
            with ledger.begin() as session:
                add(session, model, str(number))
            verbs.move_alias(ledger, "t", "m", "champion", str(number))
            verbs.delete_version(ledger, "t", "m", str(number - 1))
    finally:
        done.set()
        looking.join(20)
    assert len(seen) > 5
    assert None not in seen
    assert [int(each) for each in seen] == sorted(int(each) for each in seen)
