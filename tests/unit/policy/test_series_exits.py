"""One table of statuses and exit codes: whole, and the one that ``docs/series.md`` shows."""

import re

import pytest

from spinal.documents.series import STATUSES, Status
from spinal.errors import ExitCode
from spinal.policy.series.exits import EXITS, series_exit
from tests.support.places import ROOT


def test_every_status_has_an_exit_code() -> None:
    assert set(EXITS) == set(STATUSES)


def test_the_page_shows_the_table() -> None:
    text = (ROOT / "docs" / "series.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^\| `(\w+)` \|.*\| (\d) \|$", text, flags=re.MULTILINE))
    assert shown == {status: str(int(code)) for status, code in EXITS.items()}
    assert list(shown) == list(STATUSES), "worst first, as a pipeline reads them"


@pytest.mark.parametrize("status", STATUSES)
def test_failing_on_early_warning_changes_the_code_of_nothing_else(status: Status) -> None:
    mild, strict = series_exit(status), series_exit(status, "warn")
    assert mild == EXITS[status]
    assert (strict == ExitCode.FAILED) if status == "watch" else (strict == mild)
