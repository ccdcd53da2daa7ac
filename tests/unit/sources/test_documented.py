"""What docs/sources.md shows is what the sources read."""

import re

import pytest
from pydantic import BaseModel

from spinal.checkpoints.sources import SOURCES
from spinal.checkpoints.sources.reach import load_source_settings
from spinal.errors import UsageError
from tests.support.places import ROOT

TEXT = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")
EXAMPLES: list[tuple[str, str]] = re.findall(r"^```(yaml|json)\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)
REMOTE = {scheme: made for scheme, kind in SOURCES.items() if (made := kind.load().settings) is not None}


def section_of(scheme: str) -> str:
    found = re.search(rf"^## {scheme}: .*?(?=^## |\Z)", TEXT, flags=re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/sources.md has no section on {scheme}"
    return found[0]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_every_example_is_read_with_no_member_left_to_a_default_by_mistake(number: int) -> None:
    found = load_source_settings(EXAMPLES[number][1])
    assert found.everybody
    for settings in [*found.everybody.values(), *(each for own in found.tenants.values() for each in own.values())]:
        assert settings.model_fields_set > {"allow"}


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_with_a_member_that_nobody_knows_is_refused(number: int) -> None:
    text = EXAMPLES[number][1]
    spoiled = text.replace('"allow":', '"alow":', 1) if text.startswith("{") else text.replace("allow:", "alow:", 1)
    with pytest.raises(UsageError, match="settings of model sources"):
        load_source_settings(spoiled)


@pytest.mark.parametrize("scheme", REMOTE)
def test_a_source_is_shown_in_both_forms(scheme: str) -> None:
    shown = {
        kind for kind, text in EXAMPLES if text in section_of(scheme) and scheme in load_source_settings(text).everybody
    }
    assert shown == {"yaml", "json"}


def _members() -> list[tuple[str, str]]:
    made: dict[str, type[BaseModel]] = REMOTE
    return [(scheme, name) for scheme, settings in made.items() for name in settings.model_fields]


@pytest.mark.parametrize(("scheme", "name"), _members())
def test_every_member_of_the_settings_is_named_where_its_source_is_described(scheme: str, name: str) -> None:
    assert re.search(rf"\b{name.removesuffix('_file')}\b|\b{name}\b", section_of(scheme))


@pytest.mark.parametrize("scheme", SOURCES)
def test_every_source_says_what_is_pinned_verified_and_refused(scheme: str) -> None:
    said = section_of(scheme).lower()
    assert all(word in said for word in ("pinned", "refused", "hashed" if scheme == "local" else "verified"))
    assert f"[{scheme}](#" in TEXT
