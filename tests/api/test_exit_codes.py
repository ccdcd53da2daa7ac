"""Exit codes of ``spinal audit --wait``, the command itself, against a service behind a socket."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.settings import Settings
from spinal.errors import ExitCode
from tests.cli.test_cli import spinal
from tests.support.served import at_work, served

RULES = {
    "pass": "{name: moved, value: damage.gap, bad: above, limit: 3.0, severity: fail}",
    "warn": "{name: moved, value: damage.gap, bad: above, limit: 0.0, severity: warn, decides: value}",
    "fail": "{name: moved, value: damage.gap, bad: above, limit: 0.0, severity: fail, decides: value}",
    "inconclusive": "{name: former, value: former.damage.gap, bad: above, limit: 0.0, severity: fail}",
}
"""Outcome -> the rule that makes it, of one comparison."""


@pytest.fixture
def url(api_settings: Settings, drain: Callable[[], int]) -> Iterator[str]:
    with served(api_settings) as address, at_work(drain):
        yield address


def test_each_verdict_has_its_exit_code_with_and_without_warnings_that_fail(url: str, tmp_path: Path) -> None:
    """And the reports say the same: JUnit has failures where the code is not 0, and never an error."""
    pair = ("audit", "local:dpo-short", "--reference", "local:sft", "--prompt-set", "hh-harmless-64", "--wait", "2m")
    expected: dict[tuple[str, str], int] = {
        ("pass", "fail"): ExitCode.PASS, ("pass", "warn"): ExitCode.PASS,
        ("warn", "fail"): ExitCode.PASS, ("warn", "warn"): ExitCode.FAILED,
        ("fail", "fail"): ExitCode.FAILED, ("fail", "warn"): ExitCode.FAILED,
        ("inconclusive", "fail"): ExitCode.INCONCLUSIVE, ("inconclusive", "warn"): ExitCode.INCONCLUSIVE,
    }  # fmt: skip
    found: dict[tuple[str, str], int] = {}
    for number, (outcome, rule) in enumerate(RULES.items(), start=1):
        policy = tmp_path / f"{outcome}.yaml"
        policy.write_text(f"name: acme/{number}\nrules:\n  - {rule}\n")
        for fail_on in ("fail", "warn"):
            junit = tmp_path / f"{outcome}-{fail_on}.xml"
            done = spinal(*pair, "--policy", str(policy), "--fail-on", fail_on, "-o", str(junit), SPINAL_SERVER=url)
            found[outcome, fail_on] = done.returncode
            assert outcome.upper() in done.stdout, done.stderr
            assert ('failures="0"' in junit.read_text()) == (done.returncode == 0)
            assert 'errors="0"' in junit.read_text()
    assert found == expected
