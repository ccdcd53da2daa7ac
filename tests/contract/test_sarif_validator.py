"""SARIF under the official validator, with GitHub's rules."""

from pathlib import Path

import pytest

from spinal.report.formats import FORMATS
from spinal.report.formats.format import Reader
from spinal.report.reported import Judged
from tests.conftest import Without
from tests.support.fabricated_series import hostile, series
from tests.support.verdicts import EVERY, FORMER, LIMITED, PASSED, verdict, with_verdict
from tools.sarif import Unavailable, findings, validator

SLY = LIMITED.model_copy(
    update={"rule": "a b/ü", "asks": "x" * 5000, "reasons": ("</x> \x00 ]]> \udc80 \U0001f600 [a](b)",), "of": "💥"}
)
FILES: dict[str, Judged] = {
    "every": with_verdict(verdict("fail", EVERY)),
    "pass": with_verdict(verdict("pass", (PASSED,))),
    "former": with_verdict(verdict("fail", FORMER)),
    "without_rules": with_verdict(verdict("inconclusive")),
    "sly": with_verdict(verdict("fail", (SLY,)), reference="hf:acme/x@main", candidate='local:../%/"\n💥 b'),
    "run": series("limit"),
    "watched_run": series("watch"),
    "sly_run": hostile(),
}


@pytest.fixture(scope="module")
def _at_hand(without: Without) -> None:
    try:
        validator()
    except Unavailable as error:
        without("the official validator of SARIF", f"it comes by npm ({error})")


@pytest.mark.usefixtures("_at_hand")
def test_the_official_validator_finds_nothing(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.sarif" for name in FILES]
    linked = Reader(links={"report": "https://spinal.example/x"})
    for path, document in zip(paths, FILES.values(), strict=True):
        path.write_text(FORMATS["sarif"].written(document, linked), encoding="utf-8")
    assert findings(paths) == []


@pytest.mark.usefixtures("_at_hand")
@pytest.mark.parametrize(("member", "rule"), [('"help": {', "GH"), ('"locations": [', "GH"), ('"runs": [', "JSON")])
def test_the_official_validator_is_asked(member: str, rule: str, tmp_path: Path) -> None:
    path = tmp_path / "x.sarif"
    text = FORMATS["sarif"].written(FILES["every"])
    assert member in text
    path.write_text(text.replace(member, f'"not{member[1:]}'), encoding="utf-8")
    assert any(rule in line for line in findings([path]))
