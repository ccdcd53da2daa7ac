"""The dispatcher keeps documents of series: one that cannot be made stops no other, and is left alone for a while."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest

from service.settings import Settings
from spinal.errors import DatabaseUnavailable, NotReady
from worker import dispatcher

BAD, GOOD = uuid4(), uuid4()


class Making:
    """What making each document comes to."""

    def __init__(self) -> None:
        self.tried: list[UUID] = []
        self.error: Exception | None = None

    def __call__(self, _ledger: object, _tenant: str, series: UUID) -> bool:
        self.tried.append(series)
        if series == BAD and self.error is not None:
            raise self.error
        return True


@pytest.fixture
def making(monkeypatch: pytest.MonkeyPatch) -> Making:
    made = Making()
    monkeypatch.setattr(dispatcher, "keep_assessed", made)
    monkeypatch.setattr(dispatcher.series_store, "stale_series", lambda _session: [(BAD, "t"), (GOOD, "t")])
    return made


@pytest.fixture
def assessing(api_settings: Settings) -> Iterator[dispatcher.Dispatcher]:
    made = dispatcher.Dispatcher(api_settings)
    yield made
    made.close()


@pytest.mark.parametrize("error", [NotReady("newer code stored its policy"), RuntimeError("a defect")])
def test_a_series_without_a_document_stops_no_other_and_waits(
    assessing: dispatcher.Dispatcher, making: Making, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    making.error = error
    assessing.assess()
    assessing.assess()
    assert making.tried == [BAD, GOOD, GOOD]
    making.error = None
    late = dispatcher.time.monotonic() + dispatcher.ASSESS_AGAIN_S
    monkeypatch.setattr(dispatcher.time, "monotonic", lambda: late)
    assessing.assess()
    assert making.tried[3:] == [BAD, GOOD]


def test_an_absent_database_is_nobodys_fault(assessing: dispatcher.Dispatcher, making: Making) -> None:
    making.error = DatabaseUnavailable("restarting")
    assessing.assess()
    assessing.assess()
    assert making.tried == [BAD, GOOD] * 2
