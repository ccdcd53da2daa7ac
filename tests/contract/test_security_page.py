"""What ``docs/security.md`` says is tried by a test: the test is there, and attacks something."""

import re

import pytest

from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)`", TEXT)))


def tables() -> list[tuple[str, list[list[str]]]]:
    """Sections with a table of threats, and the rows of each."""
    found = []
    for section in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]:
        rows = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", section, re.M)
        ]
        if rows and rows[0][0] == "threat":
            found.append((section.splitlines()[0], rows[2:]))
    return found


def test_there_are_threats_of_everybody_who_is_named() -> None:
    assert len(tables()) >= 7
    assert "## What is not defended" in TEXT


@pytest.mark.parametrize(("section", "rows"), tables(), ids=[section for section, _ in tables()])
def test_every_threat_names_what_stands_against_it_and_who_tries_it(section: str, rows: list[list[str]]) -> None:
    assert rows
    for row in rows:
        assert len(row) == 3, f"{section}: {row[0]}"
        threat, against, tried = row
        assert threat
        assert against, f"{section}: nothing stands against {threat!r}"
        assert re.findall(r"`tests/[\w/]+\.py`", tried), f"{section}: no test tries {threat!r}"


@pytest.mark.parametrize("path", NAMED)
def test_a_named_test_is_there(path: str) -> None:
    assert re.search(
        r"^(?:async )?def test_|^    (?:async )?def test_", (ROOT / path).read_text(encoding="utf-8"), re.M
    )
